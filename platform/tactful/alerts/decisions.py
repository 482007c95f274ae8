"""Decisions of rollouts, experiments and flags, from the audit trail to the routes of alerts.

A rule of kind `decision` names actions of the audit trail. Each entry that it matches becomes an
alert that has cleared already, and a message for each route, in the fenced transaction of the
evaluator: of several servers one writes it, and a restart does not repeat it, since the key of the
alert follows from rule and entry. Entries are read again for three days, because another server may
commit one late or have a clock that is behind.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import sqlalchemy as sa

from tactful.metadata.audit import AuditTrail, RecordedEntry
from tactful.metadata.tables import alerts
from tactful.schemas.alerts import AlertRule, DecisionRule

logger = logging.getLogger(__name__)

READ_AGAIN_MS = 3 * 86_400_000
"""Span for which entries of the audit trail are read again."""

_RULES_DECIDE = "system"  # author of the entries that a rule of a rollout caused
_MOST_REASON = 500
_MOST_NEW = 100  # in one evaluation; the others follow in the next


class Decision(NamedTuple):
    """An entry of the audit trail that a rule matches."""

    key: str  # of its alert: one for each rule and entry
    rule: DecisionRule
    at: int  # epoch milliseconds
    labels: dict[str, str]
    message: str


def read_decisions(trail: AuditTrail, rules: Iterable[AlertRule], since: int) -> list[Decision]:
    """Read the decisions that enabled rules match, recorded at `since` or later, oldest first."""
    deciding = [rule for rule in rules if isinstance(rule, DecisionRule) and rule.enabled]
    kinds = {pattern.partition(".")[0] for rule in deciding for pattern in rule.actions}
    return [
        _decision(rule, recorded)
        for recorded in (trail.recorded(kinds, since) if kinds else ())
        for rule in deciding
        if any(fnmatchcase(recorded.entry.action, pattern) for pattern in rule.actions)
    ]


def record_new(connection: sa.Connection, decisions: Sequence[Decision]) -> list[sa.Row[Any]]:
    """Store the decisions that no alert stands for, as cleared alerts; return those."""
    keys = [decision.key for decision in decisions]
    query = sa.select(alerts.c.key).where(alerts.c.key.in_(keys))
    known = {row.key for row in connection.execute(query)} if keys else set()
    new = [decision for decision in decisions if decision.key not in known][:_MOST_NEW]
    return [_insert(connection, decision) for decision in new]


def _insert(connection: sa.Connection, decision: Decision) -> sa.Row[Any]:
    values = {
        "key": decision.key,
        "rule": decision.rule.name,
        "labels": json.dumps(decision.labels),
        "severity": decision.rule.severity,
        "message": decision.message,
        "opened_at": decision.at,
        "cleared_at": decision.at,
        "acknowledged_by": "",
        "note": "",
        "routed": "",
    }
    made = connection.execute(sa.insert(alerts).values(**values))
    number = int(made.inserted_primary_key[0])  # type: ignore[index]
    logger.info("decision %d: %s", number, decision.rule.name)
    return connection.execute(sa.select(alerts).where(alerts.c.id == number)).one()


def _decision(rule: DecisionRule, recorded: RecordedEntry) -> Decision:
    """Describe an entry without its author, whom only the audit trail names."""
    entry = recorded.entry
    author = "by a rule" if entry.actor == _RULES_DECIDE else "by hand"
    words = [f"{rule.summary}: {entry.target} ({author})"]
    if entry.detail:
        words.append(f"reason: {entry.detail[:_MOST_REASON]}")
    if recorded.share is not None:
        words.append(f"share of the users with the change: {recorded.share:.4g}")
    return Decision(
        key=hashlib.sha256(f"decision:{rule.name}:{recorded.id}".encode()).hexdigest(),
        rule=rule,
        at=entry.at,
        labels={"name": entry.target},
        message="; ".join(words),
    )

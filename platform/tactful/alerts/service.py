"""The alert engine of one server: evaluates while it holds the lease, and sends messages.

```text
 sources ─▶ evaluate ─────┐
                          ├─▶ one transaction, fenced: alerts, messages, memory ─▶ outbox ─▶ sinks
 audit trail ─▶ decisions ┘
```

The tables follow the memory at each evaluation, not the single transitions, so a write that failed
is made up for by the next one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from tactful.alerts.decisions import READ_AGAIN_MS, read_decisions, record_new
from tactful.alerts.evaluate import Transition, evaluate
from tactful.alerts.memory import AlertState, Memory, dump_memory, load_memory, series_key
from tactful.alerts.outbox import Outbox, enqueue, withdraw
from tactful.alerts.rules import AlertFile, merged
from tactful.alerts.sinks import AlertMessage, send
from tactful.alerts.sources import Sources
from tactful.alerts.store import AlertStore, is_silenced
from tactful.metadata.audit import AuditTrail
from tactful.metadata.lease import Lease, LeaseLost
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import alert_evaluator, alerts
from tactful.schemas.alert_routes import AlertRoute
from tactful.schemas.alerts import AlertRule, AlertRuleInfo, Silence

logger = logging.getLogger(__name__)

_SAVE_MS = 60_000
_PRUNE_MS = 3_600_000
_DAY_MS = 86_400_000


class AlertService:
    """Evaluates rules and sends messages; all methods raise StorageError.

    Attributes:
        store: what people read and change.
        outbox: messages on their way.
        routes: routes of messages.
    """

    def __init__(
        self,
        metadata: MetadataStore,
        file: AlertFile,
        sources: Sources,
        *,
        lease: Lease,
        clock: Callable[[], int],
        runbook: str,
        history_days: float = 400.0,
    ) -> None:
        """Evaluate the rules of `file`, and those edited in `metadata`, while `lease` is held."""
        self._packaged = {rule.name for rule in file.rules} - {*file.own}
        self.store = AlertStore(metadata, clock=clock, runbook=runbook)
        self.outbox = Outbox(metadata, lease=lease)
        self.routes: Sequence[AlertRoute] = file.routes
        self._metadata = metadata
        self._file = file
        self._sources = sources
        self._lease = lease
        self._trail = AuditTrail(metadata, clock=clock)
        self._clock = clock
        self._history_ms = int(history_days * _DAY_MS)
        self._memory: Memory | None = None
        self._fence: int | None = None  # of the lease under which the memory was read
        self._saved = self._pruned = 0

    def rules(self) -> list[AlertRule]:
        """Return the rules as they are evaluated now."""
        edited = (info.rule for info in self.store.edited_rules().values())
        return merged(self._file.rules, edited)

    def described(self) -> list[AlertRuleInfo]:
        """Return the rules as they are evaluated now, by name, with their sources."""
        edited = self.store.edited_rules()
        infos = {
            rule.name: AlertRuleInfo(
                rule=rule,
                source="packaged" if rule.name in self._packaged else "file",
                runbook=self.store.runbook(rule.name),
            )
            for rule in self._file.rules
        }
        return [info for _, info in sorted((infos | edited).items())]

    def run(self) -> bool:
        """Evaluate once and send what is due; False while another server does."""
        now, fence = self._clock(), self._lease.fence
        if fence is None:
            self._memory = None
            return False
        if self._memory is None or fence != self._fence:
            self._memory = self._restored(self._lease.write(_load))
            self._fence = fence
        rules = self.rules()
        transitions = evaluate(rules, self._sources.scrape(rules, now), now, self._memory)
        try:
            self._write(rules, transitions, self._memory, now)
            self.outbox.deliver(self.routes, now)
        except LeaseLost:
            self._memory = None
            return False
        if now - self._pruned >= _PRUNE_MS:
            self._prune(now)
        return True

    def close(self) -> None:
        """Save the memory for the next server that evaluates."""
        if self._memory is not None:
            memory, self._memory = self._memory, None
            self._lease.write(lambda connection: _save(connection, memory))

    def test(self, route: AlertRoute) -> dict[str, str]:
        """Send a test message to each sink of a route; return the problems by sink."""
        now = self._clock()
        message = AlertMessage(
            event="test",
            id=0,
            rule="test",
            severity="info",
            message="This is a test message: nothing is wrong.",
            labels={},
            at=now,
            runbook=self.store.runbook("test"),
        )
        return {
            name: send(sink, name, message, key=f"alert-test-{now}")
            for name, sink in zip(route.sink_names(), route.sinks, strict=True)
        }

    def _restored(self, stored: bytes | None) -> Memory:
        """Return the stored memory, which knows every alert that is open in the table."""
        memory = load_memory(stored)
        memory.rebase()
        query = sa.select(alerts).where(alerts.c.cleared_at.is_(None))
        for row in self._metadata.fetch(query):
            labels = tuple(sorted(msgspec.json.decode(row.labels, type=dict[str, str]).items()))
            state = memory.states.setdefault(series_key(row.rule, labels), AlertState())
            state.opened = state.opened or row.opened_at
        return memory

    def _write(
        self,
        rules: Sequence[AlertRule],
        transitions: Sequence[Transition],
        memory: Memory,
        now: int,
    ) -> None:
        """Bring the tables in line with the memory, in one transaction."""
        silences = self.store.silences()
        routes_of = {rule.name: rule.route for rule in rules}
        # A new installation, or one that was updated, sends no earlier decisions.
        memory.decided_since = memory.decided_since or now
        since = max(memory.decided_since, now - min(READ_AGAIN_MS, self._history_ms))
        decisions = read_decisions(self._trail, rules, since)
        changed = any(it.change != "open" for it in transitions)

        def write(connection: sa.Connection) -> None:
            query = sa.select(alerts).where(alerts.c.cleared_at.is_(None))
            rows = {row.key: row for row in connection.execute(query)}
            wanted = {_digest(key) for key, state in memory.states.items() if state.opened}
            for key, row in rows.items():
                if key not in wanted:
                    self._clear(connection, row, now)
            for transition in transitions:
                if transition.change == "cleared":
                    continue
                row = rows.get(_digest(transition.key)) or _insert(connection, transition, now)
                self._notify(connection, row, routes_of.get(row.rule, ""), silences, now)
            for row in record_new(connection, decisions):
                only = routes_of.get(row.rule, "")
                self._notify(connection, row, only, silences, now, event="decision")
            connection.execute(
                sa.update(alert_evaluator).where(alert_evaluator.c.id == 1).values(evaluated_at=now)
            )
            if changed or now - self._saved >= _SAVE_MS:
                _save(connection, memory)

        self._lease.write(write)
        if changed or now - self._saved >= _SAVE_MS:
            self._saved = now

    def _notify(
        self,
        connection: sa.Connection,
        row: sa.Row[Any],
        only: str,
        silences: Sequence[Silence],
        now: int,
        event: str = "opened",
    ) -> None:
        """Store the messages of an alert for the routes that have none yet."""
        labels = msgspec.json.decode(row.labels, type=dict[str, str])
        if row.acknowledged_at is not None or is_silenced(row.rule, labels, silences):
            return
        routed = set(filter(None, row.routed.split(",")))
        for route in self.routes:
            takes = route.name == only if only else row.severity in route.severities
            if takes and route.name not in routed:
                enqueue(connection, route, self._message(event, row, labels, now), now)
                routed.add(route.name)
        text = ",".join(sorted(routed))
        if text != row.routed:
            statement = sa.update(alerts).where(alerts.c.id == row.id).values(routed=text)
            connection.execute(statement)

    def _clear(self, connection: sa.Connection, row: sa.Row[Any], now: int) -> None:
        """Clear an alert, and tell those who were told that it opened."""
        connection.execute(sa.update(alerts).where(alerts.c.id == row.id).values(cleared_at=now))
        labels = msgspec.json.decode(row.labels, type=dict[str, str])
        for route in self.routes:
            told = route.name in row.routed.split(",")
            if told and not withdraw(connection, row.id, route):
                enqueue(connection, route, self._message("cleared", row, labels, now), now)

    def _message(
        self, event: str, row: sa.Row[Any], labels: dict[str, str], now: int
    ) -> AlertMessage:
        return AlertMessage(
            event=event,
            id=row.id,
            rule=row.rule,
            severity=row.severity,
            message=row.message,
            labels=labels,
            at=now,
            runbook=self.store.runbook(row.rule),
        )

    def _prune(self, now: int) -> None:
        self._pruned = now
        self.outbox.prune(now)
        old = sa.delete(alerts).where(alerts.c.cleared_at < now - self._history_ms)
        self._metadata.change(lambda connection: connection.execute(old))


def _insert(connection: sa.Connection, transition: Transition, now: int) -> sa.Row[Any]:
    values = {
        "key": _digest(transition.key),
        "rule": transition.rule,
        "labels": json.dumps(dict(transition.labels)),
        "severity": transition.severity,
        "message": transition.message,
        "opened_at": now,
        "acknowledged_by": "",
        "note": "",
        "routed": "",
    }
    made = connection.execute(sa.insert(alerts).values(**values))
    number = int(made.inserted_primary_key[0])  # type: ignore[index]
    logger.warning("alert %d opened: %s", number, transition.message)
    return connection.execute(sa.select(alerts).where(alerts.c.id == number)).one()


def _load(connection: sa.Connection) -> bytes | None:
    """Return the stored memory, from a row that is made where there is none."""
    row = connection.execute(sa.select(alert_evaluator.c.memory)).first()
    if row is None:
        lease = {"holder": "", "fence": 0, "until": 0}
        values = {"id": 1, "evaluated_at": 0, "memory": None, **lease}
        connection.execute(sa.insert(alert_evaluator).values(**values))
        return None
    return None if row.memory is None else bytes(row.memory)


def _save(connection: sa.Connection, memory: Memory) -> None:
    connection.execute(
        sa.update(alert_evaluator)
        .where(alert_evaluator.c.id == 1)
        .values(memory=dump_memory(memory))
    )


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()

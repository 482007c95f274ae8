"""Alerts, edited rules, silences and the audit log, in the metadata database."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec
import sqlalchemy as sa

from tactful.metadata.audit import note_change
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import (
    alert_evaluator,
    alert_messages,
    alert_rules,
    alert_silences,
    alerts,
)
from tactful.schemas.alerts import AlertInfo, AlertRule, AlertRuleInfo, NewSilence, Silence

_rule_decoder = msgspec.json.Decoder(AlertRule)
_LABELS = dict[str, str]


class AlertStore:
    """Alerts, edited rules, silences and the audit log; all methods raise StorageError.

    Every change is one transaction with its entry of the audit log.
    """

    def __init__(self, metadata: MetadataStore, *, clock: Callable[[], int], runbook: str) -> None:
        """Use a metadata store and a clock, epoch milliseconds; `runbook` is its address."""
        self._metadata = metadata
        self._clock = clock
        self._runbook = runbook

    def runbook(self, rule: str) -> str:
        """Return the address of the section of a rule."""
        return f"{self._runbook}#{rule}"

    def find(self, number: int) -> AlertInfo | None:
        """Return one alert, or None."""
        rows = self._metadata.fetch(sa.select(alerts).where(alerts.c.id == number))
        return self._infos(rows)[0] if rows else None

    def page(
        self, state: str, *, limit: int, before: int | None = None, rule: str | None = None
    ) -> list[AlertInfo]:
        """Return alerts, newest first: those of a state (`open`, `cleared` or `all`) and a rule."""
        query = sa.select(alerts).order_by(alerts.c.id.desc()).limit(limit)
        if state != "all":
            is_open = alerts.c.cleared_at.is_(None)
            query = query.where(is_open if state == "open" else sa.not_(is_open))
        if before is not None:
            query = query.where(alerts.c.id < before)
        if rule is not None:
            query = query.where(alerts.c.rule == rule)
        return self._infos(self._metadata.fetch(query))

    def count_open(self) -> int:
        """Return the number of open alerts."""
        query = sa.select(sa.func.count()).where(alerts.c.cleared_at.is_(None))
        return int(self._metadata.fetch(query.select_from(alerts))[0][0])

    def evaluated_at(self) -> int | None:
        """Return the time of the last evaluation by any server; None if there was none."""
        rows = self._metadata.fetch(sa.select(alert_evaluator.c.evaluated_at))
        return rows[0][0] or None if rows else None

    def acknowledge(self, number: int, *, by: str, note: str) -> bool:
        """Record who takes care of an alert; False if there is no such alert."""
        now = self._clock()
        statement = (
            sa.update(alerts)
            .where(alerts.c.id == number)
            .values(acknowledged_at=now, acknowledged_by=by, note=note)
        )

        def change(connection: sa.Connection) -> bool:
            known = sa.select(alerts.c.id).where(alerts.c.id == number)
            if connection.execute(known).first() is None:
                return False
            connection.execute(statement)
            note_change(connection, now, by, "alert.acknowledge", str(number), note)
            return True

        return self._metadata.change(change)

    def edited_rules(self) -> dict[str, AlertRuleInfo]:
        """Return the rules that were edited, by name."""
        return {
            row.name: AlertRuleInfo(
                rule=_rule_decoder.decode(row.rule),
                source="edited",
                changed_by=row.changed_by,
                changed_at=row.changed_at,
                runbook=self.runbook(row.name),
            )
            for row in self._metadata.fetch(sa.select(alert_rules).order_by(alert_rules.c.name))
        }

    def put_rule(self, rule: AlertRule, *, by: str) -> None:
        """Store a rule in the place of one of the same name."""
        now, encoded = self._clock(), msgspec.json.encode(rule).decode()

        def change(connection: sa.Connection) -> None:
            connection.execute(sa.delete(alert_rules).where(alert_rules.c.name == rule.name))
            row = {"name": rule.name, "rule": encoded, "changed_at": now, "changed_by": by}
            connection.execute(sa.insert(alert_rules).values(**row))
            note_change(connection, now, by, "alert.put_rule", rule.name, encoded)

        self._metadata.change(change)

    def delete_rule(self, name: str, *, by: str) -> bool:
        """Delete an edited rule: the one of the file holds again; False if there is none."""
        now = self._clock()

        def change(connection: sa.Connection) -> bool:
            statement = sa.delete(alert_rules).where(alert_rules.c.name == name)
            if not connection.execute(statement).rowcount:
                return False
            note_change(connection, now, by, "alert.delete_rule", name, "")
            return True

        return self._metadata.change(change)

    def silences(self) -> list[Silence]:
        """Return the silences that have not ended, newest first."""
        table = alert_silences
        query = sa.select(table).where(table.c.ends_at > self._clock())
        return [_silence(row) for row in self._metadata.fetch(query.order_by(table.c.id.desc()))]

    def silence(self, new: NewSilence, *, by: str) -> Silence:
        """Begin a silence now."""
        now = self._clock()
        values = {
            "rule": new.rule,
            "labels": json.dumps(new.labels),
            "begins_at": now,
            "ends_at": now + new.minutes * 60_000,
            "made_by": by,
            "reason": new.reason,
        }

        def change(connection: sa.Connection) -> int:
            made = connection.execute(sa.insert(alert_silences).values(**values))
            number = int(made.inserted_primary_key[0])  # type: ignore[index]
            note_change(connection, now, by, "alert.silence", str(number), json.dumps(values))
            return number

        return _silence_of({"id": self._metadata.change(change), **values})

    def end_silence(self, number: int, *, by: str) -> bool:
        """End a silence now; False if there is none that has not ended."""
        now, table = self._clock(), alert_silences
        statement = (
            sa.update(table).where(table.c.id == number, table.c.ends_at > now).values(ends_at=now)
        )

        def change(connection: sa.Connection) -> bool:
            if not connection.execute(statement).rowcount:
                return False
            note_change(connection, now, by, "alert.end_silence", str(number), "")
            return True

        return self._metadata.change(change)

    def _infos(self, rows: Sequence[sa.Row[Any]]) -> list[AlertInfo]:
        silences, numbers = self.silences(), [row.id for row in rows]
        table = alert_messages.c
        failed = sa.select(table.alert, table.sink, table.problem)
        failed = failed.where(table.alert.in_(numbers), table.problem != "")
        problems: dict[int, list[str]] = {}
        for row in self._metadata.fetch(failed) if numbers else []:
            problems.setdefault(row.alert, []).append(f"{row.sink}: {row.problem}")
        return [self._info(row, silences, problems.get(row.id, [])) for row in rows]

    def _info(
        self, row: sa.Row[Any], silences: Sequence[Silence], undelivered: list[str]
    ) -> AlertInfo:
        labels = msgspec.json.decode(row.labels, type=_LABELS)
        is_open = row.cleared_at is None
        return AlertInfo(
            id=row.id,
            rule=row.rule,
            labels=labels,
            severity=row.severity,
            state="open" if is_open else "cleared",
            message=row.message,
            opened_at=row.opened_at,
            cleared_at=row.cleared_at,
            acknowledged_at=row.acknowledged_at,
            acknowledged_by=row.acknowledged_by,
            note=row.note,
            silenced=is_open and is_silenced(row.rule, labels, silences),
            undelivered=undelivered,
            runbook=self.runbook(row.rule),
        )


def is_silenced(rule: str, labels: _LABELS, silences: Sequence[Silence]) -> bool:
    """Return whether one of the silences is for an alert."""
    return any(
        fnmatchcase(rule, silence.rule)
        and all(fnmatchcase(labels.get(name, ""), value) for name, value in silence.labels.items())
        for silence in silences
    )


def _silence(row: sa.Row[Any]) -> Silence:
    return _silence_of(dict(row._mapping))


def _silence_of(values: dict[str, Any]) -> Silence:
    labels = msgspec.json.decode(values["labels"], type=_LABELS)
    return Silence(**(values | {"labels": labels}))

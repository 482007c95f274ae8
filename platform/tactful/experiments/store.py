"""Store the rollouts of an installation in its metadata, with an audit log.

Each change of a rollout is one transaction with its entry of the audit log, and a look with its
released counts. A process that is killed leaves either all of it or nothing, so no look is decided
twice or in part.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from tactful.errors import ConfigError, ModelError
from tactful.experiments.definitions import RolloutDefinition
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import (
    bandits,
    model_changes,
    rollout_changes,
    rollout_looks,
    rollouts,
)
from tactful.rerank.tuned_objective import require_better
from tactful.schemas.experiments.rollouts import LookRecord, RolloutChange, Waiting
from tactful_bandits.errors import LifecycleError
from tactful_bandits.rollouts.lifecycle import (
    SYSTEM,
    Rollout,
    RolloutLook,
    dump_rollout,
    load_rollout,
    start_rollout,
)
from tactful_bandits.rollouts.proof import Wait

_DAY_MS = 86_400_000
HARM_FOUND = "harm found"
"""Action of the audit log: a guardrail that only warns shows harm."""

_ABANDONED_MS = 600_000  # an unfinished change of models older than this was killed

_table = rollouts.c


@dataclass(frozen=True)
class StoredRollout:
    """A stored rollout."""

    definition: RolloutDefinition  # the applied definition
    rollout: Rollout  # its state
    version: int  # grows with every change
    archived: bool  # whether it is archived: no user gets its change any more
    looks: int  # number of looks taken
    looked_at: int  # time of the last look, epoch milliseconds; 0 for never
    run_id: str  # MLflow run that records its end; empty until then

    @property
    def key(self) -> str:
        """Its name."""
        return self.definition.key

    def means(self, definition: RolloutDefinition) -> bool:
        """Return whether it follows a definition.

        `proof` and `accept_low_power` count in drafts only: a rollout that began keeps its proof,
        also if the default has changed since.
        """
        if self.rollout.state == "draft":
            return self.definition == definition
        kept = {name: getattr(self.definition, name) for name in ("proof", "accept_low_power")}
        return self.definition == msgspec.structs.replace(definition, **kept)

    @property
    def replaceable(self) -> bool:
        """Whether another definition may take its place."""
        return self.rollout.state == "draft" and not self.archived

    @property
    def ended(self) -> bool:
        """Whether it is rolled back or decided."""
        return self.rollout.state in ("rolled back", "decided")


class Judged(NamedTuple):
    """A look and its released counts, stored in one transaction, so nothing is drawn twice."""

    look: RolloutLook
    released: dict[str, tuple[int, int]] | None = None


class RolloutStore:
    """The rollouts of one installation, in three tables.

    ```text
    rollouts         key → definition, rollout, version, archived, looks, looked_at, run_id
    rollout_changes  key, number → at, action, share, changed_by, reason
    rollout_looks    key, number → at, stage, said (a `LookRecord`)
    ```

    All methods raise StorageError if the database cannot be used; nothing was changed then.
    """

    def __init__(self, metadata: MetadataStore, *, clock: Callable[[], int]) -> None:
        """Use a metadata store and a clock, epoch milliseconds."""
        self._metadata = metadata
        self._clock = clock

    def all(self) -> list[StoredRollout]:
        """Return all rollouts, by key."""
        return [_stored(row) for row in self._metadata.fetch(sa.select(rollouts).order_by("key"))]

    def find(self, key: str) -> StoredRollout | None:
        """Return one rollout, or None."""
        rows = self._metadata.fetch(sa.select(rollouts).where(_table.key == key))
        return _stored(rows[0]) if rows else None

    def changes(self, key: str) -> list[RolloutChange]:
        """Return the audit log of a rollout, oldest first."""
        query = sa.select(rollout_changes).where(rollout_changes.c.key == key)
        return [
            msgspec.convert(row, RolloutChange, from_attributes=True)
            for row in self._metadata.fetch(query.order_by(rollout_changes.c.number))
        ]

    def unchanged(self, definition: RolloutDefinition) -> bool:
        """Return whether applying a definition would change nothing."""
        stored = self.find(definition.key)
        return stored is not None and stored.means(definition)

    def looks(
        self, key: str, *, limit: int | None = 20, since: int | None = None
    ) -> list[LookRecord]:
        """Return the latest looks, newest first: those after a time, and at most `limit`."""
        table = rollout_looks
        query = sa.select(table).where(table.c.key == key).order_by(table.c.number.desc())
        if since is not None:
            query = query.where(table.c.at > since)
        return [
            msgspec.json.decode(row.said, type=LookRecord)
            for row in self._metadata.fetch(query.limit(limit))
        ]

    def apply(self, definition: RolloutDefinition, *, by: str, reason: str) -> bool:
        """Store a definition, and start its rollout if it is defined to start.

        Return whether that changed anything. Raise ConfigError if a rollout of that key has begun
        with another definition, or it cannot start.
        """
        rollout = Rollout(definition.plan())

        def apply(connection: sa.Connection) -> bool:
            held = _held(connection, definition.key)
            if held is not None and held.means(definition):
                return False
            if held is not None and not held.replaceable:
                raise ConfigError(
                    f"rollout {definition.key!r} has begun with another plan: give the changed one "
                    "another key"
                )
            _require_bandit(connection, definition)
            values = _columns(definition, rollout)
            if held is None:
                row = {"version": 1, "archived": 0, "looks": 0, "looked_at": 0, "run_id": ""}
                connection.execute(sa.insert(rollouts).values(key=definition.key, **row, **values))
            else:
                _update(connection, held, **values)
            self._log(connection, definition.key, "applied", 0.0, by, reason)
            if definition.start:
                self._move(connection, definition.key, start_rollout, at=self._clock(), by=by)
            return True

        return self._metadata.change(apply)

    def move(
        self, key: str, step: Callable[..., Rollout], *, by: str, **about: Any
    ) -> StoredRollout:
        """Move a rollout by a step of `tactful_bandits`, such as `roll_back`, and return it.

        The step is called with the rollout, the time, the author and `about`. Raise ConfigError if
        there is no such rollout, or the step is not possible now.
        """
        now = self._clock()
        return self._metadata.change(
            lambda connection: self._move(connection, key, step, at=now, by=by, **about)
        )

    def look(
        self, seen: StoredRollout, judge: Callable[[Rollout, int], Judged], *, every_ms: int
    ) -> LookRecord | None:
        """Decide one look, unless another process did, or the rollout was moved meanwhile.

        `judge` is called while no other process can change the rollout whose users were counted.
        Return None where no look was due, `every_ms` after the look before.
        """
        now = self._clock()

        def decide(connection: sa.Connection) -> LookRecord | None:
            held = _held(connection, seen.key)
            if held is None or held.version != seen.version:
                return None
            if held.archived or now - held.looked_at < every_ms:
                return None
            try:
                look, released = judge(held.rollout, now)
            except LifecycleError as error:
                raise ConfigError(str(error)) from error
            record = LookRecord(
                number=held.looks + 1,
                at=now,
                stage=held.rollout.stage,
                sample_ratio=_ratio_verdict(look),
                guardrails={guard.guardrail.metric: guard.verdict for guard in look.guardrails},
                state=look.rollout.state,
                released=released,
                waits=tuple(_waiting(wait) for wait in look.waits),
            )
            row = {"key": seen.key, "number": record.number, "at": now, "stage": record.stage}
            said = msgspec.json.encode(record).decode()
            connection.execute(sa.insert(rollout_looks).values(**row, said=said))
            self._log_warnings(connection, held.rollout, look)
            self._log_transitions(connection, held.rollout, look.rollout)
            columns = _columns(held.definition, look.rollout)
            _update(connection, held, looks=record.number, looked_at=now, **columns)
            return record

        return self._metadata.change(decide)

    def archive(self, key: str, *, by: str, reason: str) -> StoredRollout:
        """Archive a rollout that has ended: no user gets its change any more.

        Raise ConfigError if there is no such rollout, or it goes on.
        """

        def archive(connection: sa.Connection) -> StoredRollout:
            held = _existing(connection, key)
            if not held.ended and held.rollout.state != "draft":
                raise ConfigError(f"rollout {key!r} goes on: roll it back or decide it first")
            _update(connection, held, archived=1)
            self._log(connection, key, "archived", 0.0, by, reason)
            return _existing(connection, key)

        return self._metadata.change(archive)

    def note(self, key: str, action: str, reason: str) -> None:
        """Add an entry to the audit log, unless it is the last one and no look came after it."""

        def add(connection: sa.Connection) -> None:
            held, table = _existing(connection, key), rollout_changes
            query = sa.select(table).where(table.c.key == key).order_by(table.c.number.desc())
            last = connection.execute(query.limit(1)).first()
            repeated = last is not None and (
                (last.action, last.reason) == (action, reason) and last.at >= held.looked_at
            )
            if not repeated:
                self._log(connection, key, action, held.rollout.share, SYSTEM, reason)

        self._metadata.change(add)

    def record_run(self, key: str, run_id: str) -> None:
        """Store the id of the MLflow run that records the end of a rollout."""
        statement = sa.update(rollouts).where(_table.key == key).values(run_id=run_id)
        self._metadata.change(lambda connection: connection.execute(statement))

    def _move(
        self,
        connection: sa.Connection,
        key: str,
        step: Callable[..., Rollout],
        *,
        at: int,
        by: str,
        **about: Any,
    ) -> StoredRollout:
        held = _existing(connection, key)
        if held.archived:
            raise ConfigError(f"rollout {key!r} is archived")
        try:
            after = step(held.rollout, at=at, by=by, **about)
        except LifecycleError as error:
            raise ConfigError(str(error)) from error
        begins = held.rollout.state in ("draft", "shadow") and after.state == "canary"
        if held.definition.evaluated and begins:
            require_better(Path(held.definition.tuner))
        if after.active and not held.rollout.active:
            _require_free(connection, held.definition, at)
        self._log_transitions(connection, held.rollout, after)
        _update(connection, held, **_columns(held.definition, after))
        return _existing(connection, key)

    def _log_warnings(self, connection: sa.Connection, before: Rollout, look: RolloutLook) -> None:
        """Log harm of guardrails that only warn, once for each metric and stage."""
        table, key = rollout_changes, before.plan.experiment
        for guard in look.guardrails:
            if guard.verdict != "harm" or guard.rolls_back:
                continue
            known = sa.select(table.c.number).where(
                table.c.key == key,
                table.c.action == HARM_FOUND,
                table.c.reason == guard.guardrail.metric,
                table.c.at >= before.since,
            )
            if connection.execute(known.limit(1)).first() is None:
                metric = guard.guardrail.metric
                self._log(connection, key, HARM_FOUND, before.share, SYSTEM, metric)

    def _log_transitions(self, connection: sa.Connection, before: Rollout, after: Rollout) -> None:
        for line in after.history[len(before.history) :]:
            action = f"{line.before} → {line.after}"
            self._log(connection, after.plan.experiment, action, line.share, line.by, line.reason)

    def _log(
        self, connection: sa.Connection, key: str, action: str, share: float, by: str, reason: str
    ) -> None:
        table = rollout_changes
        count = sa.select(sa.func.count()).select_from(table).where(table.c.key == key)
        number = (connection.execute(count).scalar() or 0) + 1
        row = {"key": key, "number": number, "at": self._clock(), "action": action}
        row |= {"share": share, "changed_by": by, "reason": reason}
        connection.execute(sa.insert(table).values(**row))


def refuse_while_rolled_out(connection: sa.Connection) -> None:
    """Refuse a change of the champion while a rollout compares another model with it.

    The connection has the transaction that is to record the change. Raise ModelError if so.
    """
    query = sa.select(_table.key).where(_table.active == 1, _table.model != "")
    if (key := connection.execute(query.limit(1)).scalar()) is not None:
        raise ModelError(
            f"rollout {key!r} compares a model with the champion: roll it back or decide it "
            "before the champion changes"
        )


def _require_free(connection: sa.Connection, definition: RolloutDefinition, now: int) -> None:
    """Refuse a start beside a rollout of the same parameters, or a change of the champion."""
    others = sa.select(_table.key, _table.definition).where(
        _table.archived == 0, _table.active == 1, _table.key != definition.key
    )
    for key, text in connection.execute(others):
        other = msgspec.json.decode(text, type=RolloutDefinition)
        if shared := sorted(definition.touches & other.touches):
            raise ConfigError(
                f"rollout {definition.key!r} cannot start: {key!r} goes on and changes "
                f"{', '.join(shared)}, too: wait for its end"
            )
    if definition.model:
        table = model_changes.c
        begun = sa.select(table.id).where(
            table.state == "begun",
            table.action.in_(("promote", "rollback")),
            table.begun_at > now - _ABANDONED_MS,
        )
        if connection.execute(begun.limit(1)).first() is not None:
            raise ConfigError(
                f"rollout {definition.key!r} cannot start: the champion is being changed: try "
                "again in a minute"
            )


def _require_bandit(connection: sa.Connection, definition: RolloutDefinition) -> None:
    """Refuse a rollout of a bandit that does not exist or is off."""
    if not definition.bandit:
        return
    query = sa.select(bandits.c.state).where(bandits.c.key == definition.bandit)
    if connection.execute(query).scalar() in (None, "off"):
        raise ConfigError(
            f"rollout {definition.key!r}: there is no bandit {definition.bandit!r}, or it is off: "
            "`tactful bandit apply FILE` applies it in shadow"
        )


def _waiting(wait: Wait) -> Waiting:
    days = None if wait.ms is None else math.ceil(wait.ms / _DAY_MS)
    return Waiting(metric=wait.metric, reason=wait.reason, people=wait.units, days=days)


def _ratio_verdict(look: RolloutLook) -> str:
    if look.sample_ratio is None:
        return "too few data"
    return "mismatch" if look.sample_ratio.mismatch else "ok"


def _columns(definition: RolloutDefinition, rollout: Rollout) -> dict[str, Any]:
    return {
        "definition": msgspec.json.encode(definition).decode(),
        "rollout": json.dumps(dump_rollout(rollout)),
        "model": definition.model,
        "active": int(rollout.active),
    }


def _update(connection: sa.Connection, held: StoredRollout, **values: Any) -> None:
    query = sa.update(rollouts).where(_table.key == held.key)
    connection.execute(query.values(version=_table.version + 1, **values))


def _held(connection: sa.Connection, key: str) -> StoredRollout | None:
    query = sa.select(rollouts).where(_table.key == key).with_for_update()
    rows: Sequence[sa.Row[Any]] = connection.execute(query).all()
    return _stored(rows[0]) if rows else None


def _existing(connection: sa.Connection, key: str) -> StoredRollout:
    held = _held(connection, key)
    if held is None:
        raise ConfigError(f"there is no rollout {key!r}")
    return held


def _stored(row: sa.Row[Any]) -> StoredRollout:
    return StoredRollout(
        definition=msgspec.json.decode(row.definition, type=RolloutDefinition),
        rollout=load_rollout(json.loads(row.rollout)),
        version=row.version,
        archived=bool(row.archived),
        looks=row.looks,
        looked_at=row.looked_at,
        run_id=row.run_id,
    )

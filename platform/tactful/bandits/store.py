"""Store the bandits of an installation in its metadata, with the audit trail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import sqlalchemy as sa

from tactful.bandits.definitions import BanditDefinition, State, load_bandits
from tactful.errors import ConfigError
from tactful.metadata.audit import note_change
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import bandits
from tactful.schemas.experiments.bandits import BanditInfo

_table = bandits.c


@dataclass(frozen=True)
class StoredBandit:
    """A stored bandit."""

    definition: BanditDefinition
    state: State
    changed_at: int  # epoch milliseconds
    changed_by: str  # who changed it last

    @property
    def key(self) -> str:
        """Its name."""
        return self.definition.key

    def info(self) -> BanditInfo:
        """Return its state, without its rollouts."""
        definition = self.definition
        return BanditInfo(
            key=self.key,
            state=self.state,
            policy=definition.policy,
            arms=definition.names,
            default=definition.names[definition.default_index],
            recommends=definition.recommends,
            features=[feature.user or feature.context or "" for feature in definition.features],
            reward=definition.reward.event,
            within_hours=definition.reward.within_hours,
            min_share=definition.min_share,
            rollouts=[],
            changed_at=self.changed_at,
            changed_by=self.changed_by,
        )


class BanditStore:
    """The bandits of one installation; each change is one transaction with its audit entry.

    All methods raise StorageError if the database cannot be used; nothing was changed then.
    """

    def __init__(self, metadata: MetadataStore, *, clock: Callable[[], int]) -> None:
        """Use a metadata store and a clock, epoch milliseconds."""
        self._metadata = metadata
        self._clock = clock

    def all(self) -> list[StoredBandit]:
        """Return all bandits, by key."""
        return [_stored(row) for row in self._metadata.fetch(sa.select(bandits).order_by("key"))]

    def find(self, key: str) -> StoredBandit | None:
        """Return one bandit, or None."""
        rows = self._metadata.fetch(sa.select(bandits).where(_table.key == key))
        return _stored(rows[0]) if rows else None

    def apply(
        self, definition: BanditDefinition, *, by: str, reason: str, keep_state: bool = False
    ) -> bool:
        """Store a definition with its state; return whether that changed anything.

        With `keep_state` a known bandit stays in the state that it has. Raise ConfigError if
        another bandit shapes recommendations already.
        """

        def apply(connection: sa.Connection) -> bool:
            held = _held(connection, definition.key)
            state = held.state if held and keep_state else definition.state
            if held is not None and (held.definition, held.state) == (definition, state):
                return False
            if definition.recommends and state != "off":
                _require_alone(connection, definition.key)
            action = "bandit.apply" if held is None else "bandit.change"
            self._write(connection, held, definition, state, by, action, reason)
            return True

        return self._metadata.change(apply)

    def stop(self, key: str, *, by: str, reason: str) -> StoredBandit:
        """Switch a bandit off: its default arm serves, and nothing is learnt.

        Raise ConfigError if there is no such bandit.
        """

        def stop(connection: sa.Connection) -> StoredBandit:
            held = _held(connection, key)
            if held is None:
                raise ConfigError(f"there is no bandit {key!r}: `tactful bandit list` shows all")
            if held.state != "off":
                self._write(connection, held, held.definition, "off", by, "bandit.stop", reason)
            stopped = _held(connection, key)
            assert stopped is not None
            return stopped

        return self._metadata.change(stop)

    def _write(
        self,
        connection: sa.Connection,
        held: StoredBandit | None,
        definition: BanditDefinition,
        state: State,
        by: str,
        action: str,
        reason: str,
    ) -> None:
        now = self._clock()
        row: dict[str, Any] = {
            "definition": msgspec.json.encode(definition).decode(),
            "state": state,
            "changed_at": now,
            "changed_by": by,
        }
        if held is None:
            connection.execute(sa.insert(bandits).values(key=definition.key, **row))
        else:
            connection.execute(sa.update(bandits).where(_table.key == held.key).values(**row))
        before = "" if held is None or held.state == state else f"{held.state} → "
        detail = ": ".join(filter(None, (f"{before}{state}", reason)))
        note_change(connection, now, by, action, definition.key, detail)


def apply_file(
    store: BanditStore, path: Path, *, check: Callable[[BanditDefinition], None]
) -> None:
    """Apply a file at the start of a server; known bandits stay in their state.

    `check` raises ConfigError for a bandit that this server cannot use. Raise ConfigError if the
    file is wrong; nothing was applied then.
    """
    for definition in load_bandits(path, check=check):
        reason = f"applied from {path.name}"
        store.apply(definition, by="tactful serve", reason=reason, keep_state=True)


def _require_alone(connection: sa.Connection, key: str) -> None:
    others = sa.select(bandits).where(_table.key != key, _table.state != "off")
    for other in map(_stored, connection.execute(others)):
        if other.definition.recommends:
            raise ConfigError(
                f"bandit {key!r}: {other.key!r} shapes recommendations already: stop it first, "
                "as one recommendation has one policy"
            )


def _held(connection: sa.Connection, key: str) -> StoredBandit | None:
    query = sa.select(bandits).where(_table.key == key).with_for_update()
    row = connection.execute(query).first()
    return None if row is None else _stored(row)


def _stored(row: sa.Row[Any]) -> StoredBandit:
    return StoredBandit(
        definition=msgspec.json.decode(row.definition, type=BanditDefinition),
        state=cast("State", row.state),
        changed_at=row.changed_at,
        changed_by=row.changed_by,
    )

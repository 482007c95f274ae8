"""Store the versions of the flags in the metadata, with an entry of the audit trail for each.

A version holds all flags: the applied file, the payload made from it, and the killed flags. Adding
one is a single transaction with its entry of the trail, so a process that is killed leaves the
version before or the version after.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec
import sqlalchemy as sa

from tactful.metadata.audit import note_change
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import flag_secrets, flag_uses, flag_versions
from tactful.schemas.experiments.flags import FlagDifference, FlagKill

Action = Literal["apply", "kill", "revive"]
Payload = Mapping[str, Any]

_table = flag_versions.c
_KEPT = 16  # differences that an entry of the audit trail lists


@dataclass(frozen=True)
class Draft:
    """A version that is about to be added."""

    action: Action
    target: str  # killed or revived flag; of an applied file its name
    reason: str
    file: str  # name of the applied file
    definitions: str  # its text
    payload: Payload  # features and saved groups as evaluated, killed flags included
    killed: Mapping[str, FlagKill]  # by flag
    experiments: Mapping[str, str]  # fingerprint of each experiment that ever was in a version
    differences: Sequence[FlagDifference]  # from the version before


@dataclass(frozen=True)
class FlagVersion(Draft):
    """A stored version of all flags."""

    version: int = 0  # number, from 1
    at: int = 0  # time, epoch milliseconds
    author: str = ""


class StoredChange(NamedTuple):
    """Changes of one version."""

    version: int
    at: int  # epoch milliseconds
    author: str
    action: str
    reason: str
    differences: Sequence[FlagDifference]


@dataclass(frozen=True)
class FlagSecrets:
    """Secrets of an installation; constant once made."""

    signing: bytes = field(repr=False)  # Ed25519 seed, 32 bytes
    token: bytes = field(repr=False)  # key of the tokens of units, 32 bytes
    salt: str  # salt of hashed values in public payloads; clients read it


@dataclass(frozen=True)
class FlagUse:
    """Uses of a flag that the server has evaluated."""

    first_at: int  # epoch milliseconds
    last_at: int
    varied_at: int  # time of the last value that differed from the one before
    value: str  # digest of the last value


class FlagStore:
    """The flags of one installation.

    ```text
    flag_versions   version → at, author, action, reason, file, definitions, payload, killed, …
    flag_secrets    signing | token | salt → value
    flag_uses       flag → first_at, last_at, varied_at, value
    ```

    All methods raise StorageError if the database cannot be used; nothing was changed then.
    """

    def __init__(self, metadata: MetadataStore, *, clock: Callable[[], int]) -> None:
        """Use a database whose schema is up to date, and a clock in epoch milliseconds."""
        self._metadata = metadata
        self._clock = clock

    @property
    def number(self) -> int:
        """Number of the latest version; 0 without any."""
        return int(self._metadata.fetch(sa.select(sa.func.max(_table.version)))[0][0] or 0)

    def latest(self) -> FlagVersion | None:
        """Return the latest version; None without any."""
        rows = self._metadata.fetch(_newest(1))
        return _version(rows[0]) if rows else None

    def recent(self, limit: int, *, after: int = 0) -> list[FlagVersion]:
        """Return the latest versions after a number, newest first."""
        query = _newest(limit).where(_table.version > after)
        return [_version(row) for row in self._metadata.fetch(query)]

    def changes(self, limit: int = 1_000) -> list[StoredChange]:
        """Return the changes of the latest versions, newest first."""
        columns = (_table.version, _table.at, _table.author, _table.action, _table.reason)
        query = sa.select(*columns, _table.differences).order_by(_table.version.desc())
        return [
            StoredChange(
                row.version,
                row.at,
                row.author,
                row.action,
                row.reason,
                msgspec.json.decode(row.differences, type=list[FlagDifference]),
            )
            for row in self._metadata.fetch(query.limit(limit))
        ]

    def add(
        self, make: Callable[[FlagVersion | None], Draft | None], *, by: str
    ) -> FlagVersion | None:
        """Add the version that `make` returns for the latest one; None if that is None.

        No other process adds a version meanwhile. Errors of `make` change nothing.
        """

        def add(connection: sa.Connection) -> FlagVersion | None:
            row = connection.execute(_newest(1)).first()
            before = None if row is None else _version(row)
            draft = make(before)
            if draft is None:
                return None
            number, now = 1 if before is None else before.version + 1, self._clock()
            connection.execute(
                sa.insert(flag_versions).values(
                    version=number,
                    at=now,
                    author=by,
                    action=draft.action,
                    reason=draft.reason,
                    file=draft.file,
                    definitions=draft.definitions,
                    **{name: _encoded(getattr(draft, name)) for name in _ENCODED},
                )
            )
            changed = [f"{it.change} {it.flag}" for it in draft.differences[:_KEPT]]
            more = len(draft.differences) - len(changed)
            said = "; ".join([*changed, *([f"{more} more"] if more else [])])
            detail = f"version {number}: {said}" if draft.action == "apply" else draft.reason
            action = f"flag.{draft.action}"
            note_change(connection, now, by, action, draft.target, detail)
            about = {name: getattr(draft, name) for name in Draft.__dataclass_fields__}
            return FlagVersion(**about, version=number, at=now, author=by)

        return self._metadata.change(add)

    def secrets(self) -> FlagSecrets:
        """Return the secrets, which the first call makes."""
        table = flag_secrets
        rows = [*self._metadata.fetch(sa.select(table.c.name, table.c.value))]
        if not rows:
            rows = self._metadata.change(_make_secrets)
        values = {row.name: bytes(row.value) for row in rows}
        return FlagSecrets(values["signing"], values["token"], values["salt"].decode())

    def uses(self) -> dict[str, FlagUse]:
        """Return the uses by flag."""
        rows = self._metadata.fetch(sa.select(flag_uses))
        return {row.flag: FlagUse(*list(row)[1:]) for row in rows}

    def note_uses(self, uses: Mapping[str, FlagUse]) -> None:
        """Store uses; of a flag that another server noted too, both count."""
        table = flag_uses.c

        def note(connection: sa.Connection) -> None:
            present = {row.flag: row for row in connection.execute(sa.select(flag_uses))}
            for flag, use in uses.items():
                values = dict(zip(_USES, (use.first_at, use.last_at, use.varied_at), strict=True))
                row = present.get(flag)
                if row is None:
                    insert = sa.insert(flag_uses).values(flag=flag, value=use.value, **values)
                    connection.execute(insert)
                    continue
                values["first_at"] = min(row.first_at, use.first_at)
                values["last_at"] = max(row.last_at, use.last_at)
                varied = use.first_at if use.value != row.value else row.varied_at
                values["varied_at"] = max(row.varied_at, use.varied_at, varied)
                update = sa.update(flag_uses).where(table.flag == flag)
                connection.execute(update.values(value=use.value, **values))

        if uses:
            self._metadata.change(note)


_ENCODED = ("payload", "killed", "experiments", "differences")
_USES = ("first_at", "last_at", "varied_at")


def _encoded(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _newest(limit: int) -> sa.Select[Any]:
    return sa.select(flag_versions).order_by(_table.version.desc()).limit(limit)


def _version(row: sa.Row[Any]) -> FlagVersion:
    return FlagVersion(
        action=row.action,
        target="",
        reason=row.reason,
        file=row.file,
        definitions=row.definitions,
        payload=msgspec.json.decode(row.payload),
        killed=msgspec.json.decode(row.killed, type=dict[str, FlagKill]),
        experiments=msgspec.json.decode(row.experiments, type=dict[str, str]),
        differences=msgspec.json.decode(row.differences, type=list[FlagDifference]),
        version=row.version,
        at=row.at,
        author=row.author,
    )


def _make_secrets(connection: sa.Connection) -> list[sa.Row[Any]]:
    """Make the secrets unless another process did, and return their rows."""
    query = sa.select(flag_secrets.c.name, flag_secrets.c.value)
    if not connection.execute(query).first():
        made = {
            "signing": secrets.token_bytes(32),
            "token": secrets.token_bytes(32),
            "salt": secrets.token_hex(16).encode(),
        }
        rows = [{"name": name, "value": value} for name, value in made.items()]
        connection.execute(sa.insert(flag_secrets), rows)
    return [*connection.execute(query)]

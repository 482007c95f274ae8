"""API keys of an installation, stored as hashes (`tactful.metadata.key_cache`)."""

from __future__ import annotations

import base64
import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import sqlalchemy as sa

from tactful.errors import ApiKeyError, StorageError
from tactful.metadata.key_cache import (
    DAY_MS,
    LONELY,
    SCOPES,
    ApiKey,
    KeyLimits,
    KeyUse,
    ValidKeys,
    digest,
)
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import api_keys, key_terms, key_uses

__all__ = ["DAY_MS", "SCOPES", "ApiKey", "KeyLimits", "KeyStore", "KeyUse"]

_NO_LIMITS = KeyLimits()
_MOST = 1e15


class KeyStore(ValidKeys):
    """The keys of one installation, in its metadata.

    Valid keys are cached in memory; `refresh` reads the changes of other processes.
    """

    def __init__(
        self,
        metadata: MetadataStore,
        *,
        clock: Callable[[], int],  # epoch milliseconds
        token: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Read the keys."""
        super().__init__(clock=clock)
        self._metadata = metadata
        self._token = token
        self.refresh()

    def create(
        self,
        scopes: Iterable[str],
        *,
        note: str = "",
        lasts_ms: int | None = None,
        limits: KeyLimits | None = None,
    ) -> tuple[str, ApiKey]:
        """Create a key; return it, which cannot be read again, and its stored record.

        It expires after `lasts_ms`. A scope that is unknown, no scope, or another beside one of
        `LONELY` raises ApiKeyError, and so do limits that allow nothing.
        """
        chosen = frozenset(scopes)
        if unknown := sorted(chosen - set(SCOPES)):
            raise ApiKeyError(f"unknown scope {unknown[0]!r}; known are {', '.join(SCOPES)}")
        if not chosen:
            raise ApiKeyError(f"a key needs at least one scope of {', '.join(SCOPES)}")
        for scope, reason in LONELY.items():
            if scope in chosen and len(chosen) > 1:
                raise ApiKeyError(
                    f"a key with the scope {scope!r} {reason}, so it has no other scope: create a "
                    "second key for your server"
                )
        now = self._clock()
        ends = None if lasts_ms is None else now + lasts_ms
        checked = _checked(limits)
        key, about, work = self._made(chosen, note, now, ends, checked)
        self._metadata.change(work)
        self.refresh()
        return key, about

    def rotate(
        self, identifier: str, *, overlap_ms: int, lasts_ms: int | None = None
    ) -> tuple[str, ApiKey]:
        """Create a key with scopes, note and limits of a valid one, which then ends.

        The old key is valid for `overlap_ms` more, or until its own end if that is sooner. The new
        one lasts `lasts_ms`; None: as long as the old one was to last. ApiKeyError if no valid key
        has that id.
        """
        now = self._clock()
        old = self._valid_key(identifier, now)
        lasted = None if old.expires_at is None else old.expires_at - old.created_at
        lasts = lasts_ms if lasts_ms is not None else lasted
        ends = None if lasts is None else now + lasts
        until = min(now + overlap_ms, old.expires_at or now + overlap_ms)
        key, about, work = self._made(old.scopes, old.note, now, ends, old.limits)

        def exchange(connection: sa.Connection) -> None:
            work(connection)
            _set_terms(connection, identifier, until, old.limits)

        self._metadata.change(exchange)
        self.refresh()
        return key, about

    def limit(self, identifier: str, limits: KeyLimits | None) -> None:
        """Replace the limits of a valid key; ApiKeyError if none has that id."""
        old, checked = self._valid_key(identifier, self._clock()), _checked(limits)
        self._metadata.change(
            lambda connection: _set_terms(connection, identifier, old.expires_at, checked)
        )
        self.refresh()

    def _valid_key(self, identifier: str, now: int) -> ApiKey:
        self.refresh()
        for _, key in self.valid:
            if key.id == identifier and (key.expires_at is None or now < key.expires_at):
                return key
        raise ApiKeyError(f"no valid key has the id {identifier!r}; see `tactful keys list`")

    def _made(
        self,
        scopes: frozenset[str],
        note: str,
        now: int,
        ends: int | None,
        limits: KeyLimits | None,
    ) -> tuple[str, ApiKey, Callable[[sa.Connection], None]]:
        """Return a new key, its record, and the work that stores it."""
        identifier = self._token(4).hex()
        secret = base64.urlsafe_b64encode(self._token(32)).rstrip(b"=").decode()
        key = f"tactful_{identifier}_{secret}"
        about = ApiKey(identifier, scopes, note, now, None, expires_at=ends, limits=limits)
        insert = sa.insert(api_keys).values(
            id=identifier,
            digest=digest(key),
            scopes=" ".join(sorted(scopes)),
            note=note,
            created_at=about.created_at,
        )

        def store(connection: sa.Connection) -> None:
            connection.execute(insert)
            if ends is not None or limits is not None:
                _set_terms(connection, identifier, ends, limits)

        return key, about, store

    def revoke(self, identifier: str) -> None:
        """Revoke a key permanently; ApiKeyError if no valid key has that id."""
        update = (
            sa.update(api_keys)
            .where(api_keys.c.id == identifier, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=self._clock())
        )
        if not self._metadata.change(lambda connection: connection.execute(update).rowcount):
            raise ApiKeyError(f"no valid key has the id {identifier!r}; see `tactful keys list`")
        self.refresh()

    def list(self) -> list[ApiKey]:
        """List all keys, oldest first, also revoked ones."""
        return [key for _, key in self._rows()]

    def uses(self) -> dict[str, KeyUse]:
        """Return the last use of each key that was used, by id."""
        found = self._metadata.fetch(sa.select(key_uses))
        return {row.key_id: KeyUse(row.key_id, row.day, row.requests, row.events) for row in found}

    def record_uses(self, uses: Iterable[KeyUse]) -> Sequence[KeyUse]:
        """Add uses to the stored ones; return the sums of these keys, of all servers.

        A use of an earlier day than the stored one, by a clock that was set back, counts for that.
        """
        added = [*uses]

        def add(connection: sa.Connection) -> Sequence[KeyUse]:
            return [_add_use(connection, use) for use in added]

        return self._metadata.change(add) if added else ()

    def refresh(self) -> None:
        """Read the changes of other processes, too; the cache stays if that fails."""
        self.replace(self._rows())

    def adopt(self, path: Path) -> int:
        """Import the keys of ``keys.db`` of an earlier version, and rename it to ``….moved``.

        Running it again adds none. It returns the number of new keys. A file that cannot be read
        raises StorageError; nothing was changed then.
        """
        columns = ("id", "digest", "scopes", "note", "created_at", "revoked_at")
        query = f"SELECT {', '.join(columns)} FROM api_keys"
        address = f"{path.absolute().as_uri()}?mode=rw"
        try:
            # Closing the last connection merges the write-ahead log into the file.
            with contextlib.closing(sqlite3.connect(address, uri=True)) as old:
                rows = old.execute(query).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"{path}: the API keys cannot be read: {error}") from error
        adopted = [dict(zip(columns, row, strict=True)) for row in rows]

        def insert(connection: sa.Connection) -> int:
            known = set(connection.execute(sa.select(api_keys.c.id).with_for_update()).scalars())
            new = [row for row in adopted if row["id"] not in known]
            if new:
                connection.execute(sa.insert(api_keys), new)
            return len(new)

        added = self._metadata.change(insert)
        path.rename(path.with_name(f"{path.name}.moved"))
        self.refresh()
        return added

    def _rows(self) -> Iterator[tuple[bytes, ApiKey]]:
        terms = [column for column in key_terms.c if column is not key_terms.c.key_id]
        query = (
            sa.select(api_keys, *terms)
            .outerjoin(key_terms, key_terms.c.key_id == api_keys.c.id)
            .order_by(api_keys.c.created_at, api_keys.c.id)
        )
        for row in self._metadata.fetch(query):
            limits = KeyLimits(row.rate, row.burst, row.requests_per_day, row.events_per_day)
            yield (
                row.digest,
                ApiKey(
                    row.id,
                    frozenset(row.scopes.split()),
                    row.note,
                    row.created_at,
                    row.revoked_at,
                    expires_at=row.expires_at,
                    limits=None if limits == _NO_LIMITS else limits,
                ),
            )


def _checked(limits: KeyLimits | None) -> KeyLimits | None:
    """Return limits, None for none; raise ApiKeyError if they allow nothing."""
    if limits is None or limits == _NO_LIMITS:
        return None
    for name in ("rate", "burst", "requests_per_day", "events_per_day"):
        value = getattr(limits, name)
        if value is not None and not 0 < value < _MOST:
            raise ApiKeyError(
                f"the limit {name} is {value:g}: it must be above 0; revoke a key that may do "
                "nothing"
            )
    if limits.burst is not None and limits.rate is None:
        raise ApiKeyError("the limit burst needs the limit rate")
    return limits


def _set_terms(
    connection: sa.Connection, identifier: str, ends: int | None, limits: KeyLimits | None
) -> None:
    connection.execute(sa.delete(key_terms).where(key_terms.c.key_id == identifier))
    values = asdict(limits or _NO_LIMITS)
    connection.execute(sa.insert(key_terms).values(key_id=identifier, expires_at=ends, **values))


def _add_use(connection: sa.Connection, use: KeyUse) -> KeyUse:
    same = key_uses.c.key_id == use.key_id
    row = connection.execute(sa.select(key_uses).where(same).with_for_update()).first()
    if row is None:
        connection.execute(sa.insert(key_uses).values(asdict(use)))
        return use
    stored = KeyUse(row.key_id, row.day, row.requests, row.events)
    if use.day > stored.day:
        total = use
    else:
        events = max(0, stored.events + use.events)
        total = KeyUse(use.key_id, stored.day, max(0, stored.requests + use.requests), events)
    if total != stored:
        connection.execute(sa.update(key_uses).where(same).values(asdict(total)))
    return total

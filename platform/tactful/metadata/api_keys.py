"""API keys of an installation, stored as hashes (`tactful.metadata.key_cache`)."""

from __future__ import annotations

import base64
import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import sqlalchemy as sa

from tactful.errors import ApiKeyError, StorageError
from tactful.metadata.key_cache import LONELY, SCOPES, ApiKey, ValidKeys, digest
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import api_keys

__all__ = ["SCOPES", "ApiKey", "KeyStore"]


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
        self._metadata = metadata
        self._clock = clock
        self._token = token
        super().__init__()
        self.refresh()

    def create(self, scopes: Iterable[str], *, note: str = "") -> tuple[str, ApiKey]:
        """Create a key; return it, which cannot be read again, and its stored record.

        A scope that is unknown, no scope, or another beside one of `LONELY` raises ApiKeyError.
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
        identifier = self._token(4).hex()
        secret = base64.urlsafe_b64encode(self._token(32)).rstrip(b"=").decode()
        key = f"tactful_{identifier}_{secret}"
        about = ApiKey(identifier, chosen, note, self._clock(), None)
        insert = sa.insert(api_keys).values(
            id=identifier,
            digest=digest(key),
            scopes=" ".join(sorted(chosen)),
            note=note,
            created_at=about.created_at,
        )
        self._metadata.change(lambda connection: connection.execute(insert))
        self.refresh()
        return key, about

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
        query = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        for row in self._metadata.fetch(query):
            scopes = frozenset(row.scopes.split())
            yield row.digest, ApiKey(row.id, scopes, row.note, row.created_at, row.revoked_at)

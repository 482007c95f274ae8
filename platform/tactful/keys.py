"""API keys: made once, shown once, kept only as a hash.

A key is ``tactful_<id>_<secret>``: eight hexadecimal digits to find it by and 256 random bits. The
store keeps SHA-256 of the whole key. A fast hash is enough here, because a secret of 256 bits
cannot be guessed; slow password hashes protect secrets that can.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tactful.errors import ApiKeyError, StorageError

SCOPES = ("ingest", "recommend", "analyst", "monitor", "admin")
"""What a key may do; ``admin`` may do everything."""

_KEY = re.compile(r"tactful_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NOBODY = bytes(32)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS api_keys (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    scopes TEXT NOT NULL,
    note TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT
"""


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key; the key itself is not.

    Attributes:
        id: public part, for `revoke`.
        scopes: what it may do.
        note: who has it or what for.
        created_at: epoch milliseconds.
        revoked_at: epoch milliseconds; None while it is valid.
    """

    id: str
    scopes: frozenset[str]
    note: str
    created_at: int
    revoked_at: int | None

    def allows(self, scope: str) -> bool:
        """Whether the key may be used where `scope` is needed."""
        return scope in self.scopes or "admin" in self.scopes


class KeyStore:
    """The keys of one installation, in SQLite.

    Valid keys are held in memory, so that a check costs two microseconds; `refresh` picks up
    what other processes changed.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], int],
        token: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Open or make the store.

        Args:
            path: the SQLite file.
            clock: now in epoch milliseconds.
            token: source of random bytes.

        Raises:
            StorageError: if the file cannot be opened.
        """
        self._clock = clock
        self._token = token
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(_SCHEMA)
        except sqlite3.Error as error:
            raise StorageError(f"{path}: the API keys cannot be opened: {error}") from error
        self._valid: dict[str, tuple[bytes, ApiKey]] = {}
        self._version = -1
        self.refresh()

    def create(self, scopes: Iterable[str], *, note: str = "") -> tuple[str, ApiKey]:
        """Make a key.

        Args:
            scopes: one or more of `SCOPES`.
            note: who gets it or what for.

        Returns:
            The key, which is shown here and never again, and what is kept of it.

        Raises:
            ApiKeyError: if a scope is unknown or none is given.
        """
        chosen = frozenset(scopes)
        if unknown := sorted(chosen - set(SCOPES)):
            raise ApiKeyError(f"unknown scope {unknown[0]!r}; known are {', '.join(SCOPES)}")
        if not chosen:
            raise ApiKeyError(f"a key needs at least one scope of {', '.join(SCOPES)}")
        identifier = self._token(4).hex()
        key = f"tactful_{identifier}_{_urlsafe(self._token(32))}"
        about = ApiKey(identifier, chosen, note, self._clock(), None)
        self._db.execute(
            "INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, NULL)",
            (identifier, _digest(key), " ".join(sorted(chosen)), note, about.created_at),
        )
        self._load()
        return key, about

    def revoke(self, identifier: str) -> None:
        """Make a key invalid for good.

        Raises:
            ApiKeyError: if there is no valid key of that id.
        """
        changed = self._db.execute(
            "UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
            (self._clock(), identifier),
        ).rowcount
        if not changed:
            raise ApiKeyError(f"no valid key has the id {identifier!r}; see `tactful keys list`")
        self._load()

    def list(self) -> list[ApiKey]:
        """All keys, oldest first, revoked ones included."""
        return [key for _, key in self._rows()]

    def check(self, key: str) -> ApiKey | None:
        """The valid key that `key` is, or None. Digests are compared in constant time."""
        form = _KEY.fullmatch(key)
        if form is None:
            return None
        digest, about = self._valid.get(form[1], (_NOBODY, None))
        return about if hmac.compare_digest(digest, _digest(key)) else None

    def refresh(self) -> None:
        """Load what other connections changed; costs one pragma when nothing did."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._load()

    def close(self) -> None:
        """Close the store."""
        self._db.close()

    def _load(self) -> None:
        self._valid = {
            key.id: (digest, key) for digest, key in self._rows() if key.revoked_at is None
        }

    def _rows(self) -> Iterator[tuple[bytes, ApiKey]]:
        query = "SELECT digest, id, scopes, note, created_at, revoked_at FROM api_keys"
        with contextlib.closing(self._db.execute(f"{query} ORDER BY created_at, id")) as rows:
            for digest, identifier, scopes, note, created_at, revoked_at in rows:
                yield (
                    digest,
                    ApiKey(identifier, frozenset(scopes.split()), note, created_at, revoked_at),
                )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _urlsafe(token: bytes) -> str:
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()

"""Valid API keys in memory, for every process that serves requests.

A key is ``tactful_<id>_<secret>``: an id of eight hexadecimal digits and 256 random bits. The cache
holds SHA-256 of the whole key. A fast hash is enough, because a secret of 256 bits cannot be
guessed; slow password hashes are for secrets that can. `tactful.metadata.api_keys` stores keys.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tactful.util.clock import now_ms

SOURCE_SCOPE = "source"
"""Permission to send messages of other programs, and nothing else."""

SCOPES = ("ingest", "recommend", "browser", SOURCE_SCOPE, "analyst", "monitor", "admin")
"""Permissions of keys; ``admin`` has all, ``browser`` those of any visitor of a page."""

LONELY = {
    "browser": "is public",
    SOURCE_SCOPE: "is in the settings of other programs, and in addresses",
}
"""Scopes of keys that can have no other, and why."""

_KEY = re.compile(r"tactful_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NO_DIGEST = bytes(32)
DAY_MS = 86_400_000


@dataclass(frozen=True)
class KeyLimits:
    """Limits of one key; None for no limit."""

    rate: float | None = None  # requests a second
    burst: int | None = None  # requests at once; None: those of one second
    requests_per_day: int | None = None  # of a UTC day
    events_per_day: int | None = None

    @property
    def most_at_once(self) -> int:
        """Number of requests that may come at once."""
        return self.burst or max(1, round(self.rate or 0))


@dataclass(frozen=True)
class KeyUse:
    """Use of a key on a day."""

    key_id: str
    day: int  # UTC days since the epoch
    requests: int  # requests and events of that day; counted for keys with limits only
    events: int


@dataclass(frozen=True)
class ApiKey:
    """Record of a key, without its secret."""

    id: str  # public part, for `revoke`
    scopes: frozenset[str]
    note: str  # owner or purpose
    created_at: int  # epoch milliseconds
    revoked_at: int | None  # epoch milliseconds; None while it is valid
    person: str = ""  # name of the person who signed in, instead of by a key; else empty
    expires_at: int | None = None  # epoch milliseconds; None: it does not expire
    limits: KeyLimits | None = None  # None without any

    def allows(self, scope: str) -> bool:
        """Return whether the key has a permission."""
        return scope in self.scopes or "admin" in self.scopes


class ValidKeys:
    """Cache of keys by id; a check takes two microseconds and no database access."""

    def __init__(self, *, clock: Callable[[], int] = now_ms) -> None:
        """Start without valid keys; `clock` returns epoch milliseconds."""
        self._clock = clock
        self._valid: dict[str, tuple[bytes, ApiKey]] = {}
        self._used: dict[str, int] = {}  # day of the last use of each key
        self._new_uses: set[str] = set()

    @property
    def valid(self) -> list[tuple[bytes, ApiKey]]:
        """Every key that is not revoked, with its hash."""
        return [*self._valid.values()]

    def replace(self, valid: Iterable[tuple[bytes, ApiKey]]) -> None:
        """Replace the valid keys."""
        self._valid = {key.id: (hashed, key) for hashed, key in valid if key.revoked_at is None}

    def check(self, key: str) -> ApiKey | None:
        """Return the record of a valid key, or None; compares digests in constant time."""
        about = self._known(key)
        if about is None:
            return None
        now = self._clock()
        if about.expires_at is not None and now >= about.expires_at:
            return None
        day = now // DAY_MS
        if self._used.get(about.id) != day:
            self._used[about.id] = day
            self._new_uses.add(about.id)
        return about

    def expired_at(self, key: str) -> int | None:
        """Return when a key expired that was valid; None for another one."""
        about = self._known(key)
        if about is None or about.expires_at is None or self._clock() < about.expires_at:
            return None
        return about.expires_at

    def knows(self, key: str) -> bool:
        """Return whether this is a key that is not revoked, without counting a use."""
        return self._known(key) is not None

    def take_uses(self) -> list[str]:
        """Return the ids of keys that were used for the first time on a day, once."""
        taken, self._new_uses = self._new_uses, set()
        return sorted(taken)

    def note_uses(self, ids: Iterable[str]) -> None:
        """Keep ids for the next `take_uses`."""
        self._new_uses.update(ids)

    def _known(self, key: str) -> ApiKey | None:
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        hashed, about = self._valid.get(match[1], (_NO_DIGEST, None))
        return about if hmac.compare_digest(hashed, digest(key)) else None


def digest(key: str) -> bytes:
    """Return the stored hash of a key."""
    return hashlib.sha256(key.encode()).digest()

"""Valid API keys in memory, for every process that serves requests.

A key is ``tactful_<id>_<secret>``: an id of eight hexadecimal digits and 256 random bits. The cache
holds SHA-256 of the whole key. A fast hash is enough, because a secret of 256 bits cannot be
guessed; slow password hashes are for secrets that can. `tactful.metadata.api_keys` stores keys.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class ApiKey:
    """Record of a key, without its secret."""

    id: str  # public part, for `revoke`
    scopes: frozenset[str]
    note: str  # owner or purpose
    created_at: int  # epoch milliseconds
    revoked_at: int | None  # epoch milliseconds; None while it is valid
    person: str = ""  # name of the person who signed in, instead of by a key; else empty

    def allows(self, scope: str) -> bool:
        """Return whether the key has a permission."""
        return scope in self.scopes or "admin" in self.scopes


class ValidKeys:
    """Cache of keys by id; a check takes two microseconds and no database access."""

    def __init__(self) -> None:
        """Start without valid keys."""
        self._valid: dict[str, tuple[bytes, ApiKey]] = {}

    @property
    def valid(self) -> list[tuple[bytes, ApiKey]]:
        """Every valid key with its hash."""
        return [*self._valid.values()]

    def replace(self, valid: Iterable[tuple[bytes, ApiKey]]) -> None:
        """Replace the valid keys."""
        self._valid = {key.id: (hashed, key) for hashed, key in valid if key.revoked_at is None}

    def check(self, key: str) -> ApiKey | None:
        """Return the record of a valid key, or None; compares digests in constant time."""
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        hashed, about = self._valid.get(match[1], (_NO_DIGEST, None))
        return about if hmac.compare_digest(hashed, digest(key)) else None


def digest(key: str) -> bytes:
    """Return the stored hash of a key."""
    return hashlib.sha256(key.encode()).digest()

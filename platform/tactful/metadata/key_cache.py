"""The API keys that are valid now, in memory: what every process that answers requests needs.

A key is ``tactful_<id>_<secret>``: eight hexadecimal digits to find it by and 256 random bits. What
is held is SHA-256 of the whole key. A fast hash is enough here, because a secret of 256 bits cannot
be guessed; slow password hashes protect secrets that can. Where keys are kept for good is
`tactful.metadata.api_keys`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

SCOPES = ("ingest", "recommend", "browser", "analyst", "monitor", "admin")
"""What a key may do; ``admin`` may do everything, ``browser`` what any visitor of a page may."""

_KEY = re.compile(r"tactful_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NOBODY = bytes(32)


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


class ValidKeys:
    """Keys by their hashes; a check costs two microseconds and needs no database."""

    def __init__(self) -> None:
        """No key is valid yet."""
        self._valid: dict[str, tuple[bytes, ApiKey]] = {}

    @property
    def valid(self) -> list[tuple[bytes, ApiKey]]:
        """Every valid key with its hash."""
        return [*self._valid.values()]

    def replace(self, valid: Iterable[tuple[bytes, ApiKey]]) -> None:
        """Let exactly these be valid from now on."""
        self._valid = {key.id: (hashed, key) for hashed, key in valid if key.revoked_at is None}

    def check(self, key: str) -> ApiKey | None:
        """The valid key that `key` is, or None. Digests are compared in constant time."""
        form = _KEY.fullmatch(key)
        if form is None:
            return None
        hashed, about = self._valid.get(form[1], (_NOBODY, None))
        return about if hmac.compare_digest(hashed, digest(key)) else None


def digest(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).digest()

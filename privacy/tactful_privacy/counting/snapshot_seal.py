"""Authenticated snapshots: a body behind its HMAC-SHA256 tag (RFC 2104)."""

from __future__ import annotations

import hmac

TAG = 32
"""Bytes of the tag, at the front of a sealed snapshot."""


class SnapshotSeal:
    """Seals snapshots under a key derived from a secret; the content stays readable."""

    def __init__(self, secret: bytes, purpose: bytes) -> None:
        """Derive the key for one purpose, so that snapshots of two kinds cannot be exchanged."""
        self._key = hmac.digest(secret, purpose, "sha256")

    def seal(self, body: bytes) -> bytes:
        """Put the tag before the body."""
        return hmac.digest(self._key, body, "sha256") + body

    def open(self, sealed: bytes) -> bytes | None:
        """Return the body; None if it was changed or sealed under another key."""
        tag, body = sealed[:TAG], sealed[TAG:]
        genuine = hmac.compare_digest(tag, hmac.digest(self._key, body, "sha256"))
        return body if genuine else None

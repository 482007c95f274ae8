"""AES-256-GCM under one key, and data keys wrapped by a master key.

NIST SP 800-38D.
"""

from __future__ import annotations

from collections.abc import Callable

from tactful_privacy.errors import ParameterError

KEY = 32
"""Bytes of a key."""

NONCE = 12
"""Bytes of a nonce: 96 bits, drawn at random."""

TAG = 16
"""Bytes of the authentication tag."""

_PROVES = b"master"


class Cipher:
    """AES-256-GCM under one key."""

    def __init__(self, key: bytes) -> None:
        # Imported late: few processes have a vault.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(key)
        self._changed = InvalidTag

    def seal(self, nonce: bytes, content: bytes, about: bytes) -> bytes:
        """Encrypt content; `about` is authenticated and needed to open it."""
        return self._cipher.encrypt(nonce, content, about)

    def open(self, nonce: bytes, sealed: bytes, about: bytes) -> bytes | None:
        """Decrypt content; None if the key, the bytes or `about` differ."""
        try:
            return self._cipher.decrypt(nonce, sealed, about)
        except self._changed:
            return None


class MasterKey:
    """Wraps data keys, each bound to its reference."""

    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        """Use a key of 32 bytes, and secure random bytes for nonces."""
        if len(key) != KEY:
            raise ParameterError(f"a master key has {KEY} bytes, not {len(key)}")
        self._cipher = Cipher(key)
        self._random = random

    def wrap(self, reference: bytes, key: bytes) -> bytes:
        """Encrypt a data key for storage."""
        nonce = self._random(NONCE)
        return nonce + self._cipher.seal(nonce, key, reference)

    def unwrap(self, reference: bytes, wrapped: bytes) -> bytes | None:
        """Decrypt a data key; None if it was changed or wrapped by another master key."""
        return self._cipher.open(wrapped[:NONCE], wrapped[NONCE:], reference)

    def proof(self) -> bytes:
        """Return an empty message sealed by this key, to recognise the key later."""
        return self.wrap(_PROVES, b"")

    def proved_by(self, proof: bytes) -> bool:
        """Whether a proof was made by this key."""
        return self.unwrap(_PROVES, proof) is not None

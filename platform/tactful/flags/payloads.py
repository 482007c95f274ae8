"""Signed payloads of the flags, for evaluation by clients.

The payload is a JSON text, signed as it is: a client checks the signature of the text's UTF-8 bytes
and parses it only then::

    {"payload": "the text", "signature": "…", "key_id": "9f3c5a77e1020b44"}
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful.schemas.experiments.flags import FlagSigningKey, SignedPayload

_ID_DIGITS = 16


@dataclass(frozen=True)
class Envelope:
    """A signed payload, ready to be sent."""

    body: bytes  # a `SignedPayload` as JSON
    etag: bytes  # entity tag of HTTP, with its quotes


class PayloadSigner:
    """Signs payloads with the key of an installation (Ed25519, RFC 8032)."""

    def __init__(self, seed: bytes) -> None:
        """Use the 32 bytes of a private key."""
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._private.public_key().public_bytes_raw()
        self.public = FlagSigningKey(
            key_id=hashlib.sha256(public).hexdigest()[:_ID_DIGITS],
            algorithm="Ed25519",
            public_key=base64.b64encode(public).decode(),
        )

    def seal(self, payload: Mapping[str, Any]) -> Envelope:
        """Sign a payload."""
        text = msgspec.json.encode(payload)
        signature = base64.b64encode(self._private.sign(text)).decode()
        signed = SignedPayload(
            payload=text.decode(), signature=signature, key_id=self.public.key_id
        )
        body = msgspec.json.encode(signed)
        return Envelope(body, b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode())

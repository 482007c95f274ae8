"""Signed payload of flags in a client: fetched by its entity tag, checked, kept in a file."""

from __future__ import annotations

import base64
import contextlib
import os
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tactful.client.exchange import error_of
from tactful.errors import ClientError, ConnectionFailed, SignatureError
from tactful.schemas.experiments.flags import FlagSigningKey, SignedPayload
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags import Features
from tactful_privacy.decoding import DECODE_ERRORS

_PATH = "/v1/flags/payload"
_KEY_PATH = "/v1/flags/signing-key"

T = TypeVar("T")


class _Kept(msgspec.Struct, frozen=True):
    """Content of the file: an envelope, and the public key that it was checked with."""

    signed: SignedPayload
    public_key: str


class PayloadReader:
    """Reads the flags of one server."""

    def __init__(self, http: httpx.Client, *, signing_key: str | None, file: Path | None) -> None:
        """Use a connection.

        Args:
            http: connection with the address and the key of the server.
            signing_key: public key, 32 bytes in base64; None asks the server for it once.
            file: keeps the last payload for a start without the server; None for nothing.
        """
        self._http = http
        self._pinned = signing_key
        self._asked: str | None = None
        self._file = file
        self._etag: str | None = None

    def fetch(self) -> Features | None:
        """Return the flags, or None if they have not changed since the last call.

        Raises:
            ClientError: no usable answer.
            SignatureError: the payload does not carry the signature of the server's key.
        """
        headers = {} if self._etag is None else {"if-none-match": self._etag}
        response = self._get(_PATH, headers)
        if response.status_code == 304:
            return None
        signed = _decoded(response, SignedPayload)
        key = self._pinned or self._asked
        if key is None:
            key = self._asked = _decoded(self._get(_KEY_PATH, {}), FlagSigningKey).public_key
        try:
            features = _opened(signed, key)
        except SignatureError:
            self._asked = None  # the server may have another key by now
            raise
        self._etag = response.headers.get("etag")
        self._keep(_Kept(signed, key))
        return features

    def restore(self) -> Features | None:
        """Return the flags in the file; None without any that carry the right signature."""
        if self._file is None:
            return None
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
            return _opened(kept.signed, self._pinned or kept.public_key)
        except (OSError, *DECODE_ERRORS, SignatureError, ClientError):
            return None

    def _get(self, path: str, headers: dict[str, str]) -> httpx.Response:
        try:
            response = self._http.get(path, headers=headers)
        except httpx.RequestError as error:
            raise ConnectionFailed(
                f"{self._http.base_url} does not answer ({type(error).__name__}): flags stay as "
                "they are"
            ) from error
        if response.status_code != 304 and not response.is_success:
            raise error_of(response, None)
        return response

    def _keep(self, kept: _Kept) -> None:
        """Replace the file; only its owner may read the values that rules target."""
        if self._file is None:
            return
        beside = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a full disk is no reason to stop evaluation
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(msgspec.json.encode(kept))
            beside.replace(self._file)


def _decoded(response: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except DECODE_ERRORS as error:
        where = response.url.path
        raise ClientError(f"{where}: the response cannot be decoded: {error}") from error


def _opened(signed: SignedPayload, key: str) -> Features:
    """Check a payload and compile its features."""
    text = signed.payload.encode()
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key))
        public.verify(base64.b64decode(signed.signature), text)
    except InvalidSignature:
        raise SignatureError("the flags do not carry the signature of the server's key") from None
    except ValueError as error:
        raise SignatureError(f"the key or the signature of the flags: {error}") from error
    try:
        return Features.from_payload(msgspec.json.decode(text, type=dict))
    except (*DECODE_ERRORS, DefinitionError) as error:
        raise ClientError(f"{_PATH}: the flags cannot be read: {error}") from error

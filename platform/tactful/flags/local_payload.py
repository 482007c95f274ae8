"""Signed payload of flags in a client: fetched by its entity tag, checked, kept in a file."""

from __future__ import annotations

import base64
import logging
import os
from pathlib import Path
from typing import NamedTuple, TypeVar

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

logger = logging.getLogger(__name__)

_PATH = "/v1/flags/payload"
_KEY_PATH = "/v1/flags/signing-key"
_FORMAT = 1

T = TypeVar("T")


class _Made(NamedTuple):
    """Number and time of a version."""

    version: int
    ms: int  # epoch milliseconds

    def is_before(self, other: _Made) -> bool:
        """Return whether this version is older; one from an older backup has a later time."""
        return self.version < other.version and self.ms <= other.ms


class _Kept(msgspec.Struct, frozen=True):
    """Content of the file: an envelope, and the public key that it was checked with."""

    signed: SignedPayload
    public_key: str


class _About(msgspec.Struct, frozen=True):
    """Parts of a payload beside its features."""

    format: int = _FORMAT
    version: int = 0
    generated_ms: int = 0


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
        self._latest = _Made(0, 0)

    @property
    def made_ms(self) -> int:
        """Time of the latest version, epoch milliseconds; 0 before the first one."""
        return self._latest.ms

    def fetch(self) -> Features | None:
        """Return the flags, or None if they have not changed since the last call.

        Raises:
            ClientError: no usable answer, or an older version than that of the last call.
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
            features, made = _opened(signed, key)
        except SignatureError:
            self._asked = None  # the server may have another key by now
            raise
        if made.is_before(self._latest):
            older, newer = made.version, self._latest.version
            raise ClientError(f"{_PATH}: the answer holds version {older}, older than {newer}")
        self._latest = made
        self._etag = response.headers.get("etag")
        self._keep(_Kept(signed, key))
        return features

    def restore(self) -> Features | None:
        """Return the flags in the file; None without any that carry the right signature."""
        if self._file is None:
            return None
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
            return _opened(kept.signed, self._pinned or kept.public_key)[0]
        except (OSError, *DECODE_ERRORS, SignatureError, ClientError):
            return None

    def _get(self, path: str, headers: dict[str, str]) -> httpx.Response:
        try:
            response = self._http.get(path, headers=headers)
        except httpx.HTTPError as error:
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
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(msgspec.json.encode(kept))
            beside.replace(self._file)
        except OSError as error:  # a full disk is no reason to stop evaluation
            logger.warning("flags: a start without the server has no flags: %s", error)
            beside.unlink(missing_ok=True)


def _decoded(response: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except DECODE_ERRORS as error:
        where = response.url.path
        raise ClientError(f"{where}: the response cannot be decoded: {error}") from error


def _opened(signed: SignedPayload, key: str) -> tuple[Features, _Made]:
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
        payload = msgspec.json.decode(text, type=dict)
        about = msgspec.convert(payload, _About)
        if about.format != _FORMAT:
            raise ClientError(
                f"{_PATH}: the flags have format {about.format}, and this program reads format "
                f"{_FORMAT}: update tactful"
            )
        features = Features.from_payload(payload)
    except (*DECODE_ERRORS, DefinitionError) as error:
        raise ClientError(f"{_PATH}: the flags cannot be read: {error}") from error
    return features, _Made(about.version, about.generated_ms)

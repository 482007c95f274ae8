"""Private set intersection: find people that two domains both know, and reveal no other.

The receiving domain asks, the releasing one answers, and only the asking one learns the common
identifiers. Each side learns the number of identifiers of the other. The protocol is that of
`openmined-psi` (ECDH on P-256 with SHA-256; Meadows, 1986), in which both sides follow the rules:
an asking domain that invents identifiers learns which of them the other one has.

::

    asking      ask(own)              -> private key, request
    answering   answer(request, own)  -> answer
    asking      common(key, own, answer) -> identifiers
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Sequence
from typing import Any

import msgspec

from tactful.errors import TactfulError
from tactful_privacy.decoding import DECODE_ERRORS

_NO_ERRORS = 1e-9  # rate of false matches, which the exact structure does not use


class IntersectionError(TactfulError, ValueError):
    """A message of another domain cannot be used."""


class _Answer(msgspec.Struct, frozen=True):
    setup: bytes
    response: bytes


def normalised(pair: str, identifier: str) -> str:
    """Return the form of an identifier that both domains compare, for one ordered pair.

    >>> normalised("shop>magazine", " Ada@Example.com ")
    'shop>magazine ada@example.com'
    """
    return f"{pair} {unicodedata.normalize('NFKC', identifier).strip().casefold()}"


def ask(own: Sequence[str]) -> tuple[bytes, bytes]:
    """Return a new private key and the request about identifiers of the asking domain."""
    psi = _library()
    key = secrets.token_bytes(32)
    return key, psi.client.CreateFromKey(key, True).CreateRequest([*own]).SerializeToString()


def answer(request: bytes, own: Sequence[str], *, most: int) -> bytes:
    """Answer a request from the identifiers of the answering domain.

    Raises:
        IntersectionError: if the request is none, or is about more than `most` identifiers.
    """
    psi = _library()
    asked = _parsed(psi.Request(), request)
    count = len(asked.encrypted_elements)
    if not count or count > most:
        raise IntersectionError(
            f"the request is about {count} identifiers: 1 to {most} are answered"
        )
    server = psi.server.CreateWithNewKey(True)
    # Their order in the message must not be that of the log.
    items = sorted(own)
    try:
        setup = server.CreateSetupMessage(_NO_ERRORS, count, items, psi.DataStructure.RAW)
        response = server.ProcessRequest(asked)
    except (RuntimeError, ValueError) as error:
        raise IntersectionError(f"the request cannot be answered: {error}") from error
    return msgspec.msgpack.encode(_Answer(setup.SerializeToString(), response.SerializeToString()))


def common(key: bytes, own: Sequence[str], answered: bytes) -> list[str]:
    """Return the identifiers that both domains have.

    Args:
        key: private key of the request.
        own: identifiers of the request, in the same order.
        answered: answer of the other domain.

    Raises:
        IntersectionError: if the answer is none, or belongs to another request.
    """
    psi = _library()
    try:
        parts = msgspec.msgpack.decode(answered, type=_Answer)
    except DECODE_ERRORS as error:
        raise IntersectionError("the answer cannot be read") from error
    setup, response = (
        _parsed(psi.ServerSetup(), parts.setup),
        _parsed(psi.Response(), parts.response),
    )
    if len(response.encrypted_elements) != len(own):
        raise IntersectionError("the answer belongs to another request, or people changed since")
    try:
        found = psi.client.CreateFromKey(key, True).GetIntersection(setup, response)
    except (RuntimeError, ValueError) as error:
        raise IntersectionError(f"the answer cannot be used: {error}") from error
    return [own[place] for place in sorted(found)]


def _parsed(message: Any, content: bytes) -> Any:
    try:
        message.ParseFromString(content)
    except Exception as error:  # DecodeError of protobuf, which only this extra needs
        raise IntersectionError("a message of the other domain cannot be read") from error
    return message


def _library() -> Any:
    import private_set_intersection.python as psi

    return psi

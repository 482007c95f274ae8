"""Cursor of a search: the items that follow, so that no page repeats or leaves out one.

    8 bytes      8 bytes              4 bytes each
    the index    query and filters    numbers of the items that follow, the most relevant first

Nothing is kept on the server. A cursor names items of the catalogue and nothing about people: the
hash of the query has a key of the process, so that a reader of cursors can test no guess.
"""

from __future__ import annotations

import binascii
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.schemas.problems import ProblemError
from tactful.schemas.search import SearchRequest

MOST_PAGED = 1_000
"""Items of a search that have pages."""

_LENGTH = 8
_SAME = ("query", "category", "filter", "min_price", "max_price", "unavailable")


class CursorKey(NamedTuple):
    """Random bytes of an index, whose numbers only its own cursors name."""

    identifier: bytes
    secret: bytes

    @classmethod
    def new(cls) -> CursorKey:
        """Draw a key."""
        return cls(secrets.token_bytes(_LENGTH), secrets.token_bytes(16))


def write_cursor(
    key: CursorKey, request: SearchRequest, following: NDArray[np.int64]
) -> str | None:
    """Make the cursor of the next page; None if nothing follows.

    Args:
        key: that of the index that numbered the items.
        request: the search.
        following: numbers of the items that follow.
    """
    if not len(following):
        return None
    numbers = following[:MOST_PAGED].astype("<u4").tobytes()
    return (
        urlsafe_b64encode(key.identifier + _fingerprint(key, request) + numbers)
        .decode()
        .rstrip("=")
    )


def read_cursor(key: CursorKey, request: SearchRequest, known: int) -> NDArray[np.int64]:
    """Return the numbers of the items that follow.

    Args:
        key: that of the present index.
        request: the search, with its cursor.
        known: number of items that the index has.

    Raises:
        ProblemError: if no answer returned the cursor, or one to another search or before a start.
    """
    try:
        content = urlsafe_b64decode(request.cursor + "=" * (-len(request.cursor) % 4))
    except (ValueError, binascii.Error):
        content = b""
    head, numbers = content[: 2 * _LENGTH], content[2 * _LENGTH :]
    if not numbers or len(numbers) % 4 or len(numbers) > 4 * MOST_PAGED:
        raise _wrong("give a cursor as it was returned")
    if head[:_LENGTH] != key.identifier:
        raise _wrong("the server was started again since: search without the cursor")
    if head[_LENGTH:] != _fingerprint(key, request):
        raise _wrong("the cursor is of another query, another picture or other filters")
    following = np.frombuffer(numbers, "<u4").astype(np.int64)
    if following.max() >= known or len(np.unique(following)) != len(following):
        raise _wrong("give a cursor as it was returned")
    return following


def _fingerprint(key: CursorKey, request: SearchRequest) -> bytes:
    parts = msgspec.json.encode([getattr(request, name) for name in _SAME])
    content = parts + (request.picture or b"")
    return blake2b(content, digest_size=_LENGTH, key=key.secret).digest()


def _wrong(detail: str) -> ProblemError:
    return ProblemError("invalid", detail, field="$.cursor")

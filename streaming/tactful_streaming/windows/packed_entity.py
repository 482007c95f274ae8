"""Packed state of one entity: a MessagePack map of its state columns by key.

The empty key holds the time of the newest event; `packed_check` describes the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from tactful_streaming.errors import StateError
from tactful_streaming.windows.shared_aggregate import with_groups

NEWEST: Final = ""
"""Key of the time of the newest event."""

_ARRAY_32: Final = b"\xdd"
"""First byte of a MessagePack array with its length in four bytes."""

_DAMAGED: Final = "the packed state of an entity is damaged"

encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[dict[str, Any]] = msgspec.msgpack.Decoder(dict[str, Any])
_many_decoder: msgspec.msgpack.Decoder[list[dict[str, Any]]] = msgspec.msgpack.Decoder(
    list[dict[str, Any]]
)
_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)


def decode(blob: bytes) -> dict[str, Any]:
    """Decode the packed state of an entity.

    Raises:
        StateError: `blob` is no packed state of an entity.
    """
    try:
        state = _decoder.decode(blob)
    except _DECODE_ERRORS as error:
        raise StateError(f"{_DAMAGED}: {error}") from error
    if not _is_time(state.get(NEWEST)):
        raise StateError(f"{_DAMAGED}: it has no newest time")
    return state


def decode_all(blobs: Sequence[bytes]) -> list[dict[str, Any]]:
    """Like :func:`decode`, for many in one call."""
    try:
        states = _many_decoder.decode(b"".join((_ARRAY_32, len(blobs).to_bytes(4, "big"), *blobs)))
    except _DECODE_ERRORS:
        states = []
    if len(states) == len(blobs) and all(_is_time(state.get(NEWEST)) for state in states):
        return states
    return [decode(blob) for blob in blobs]


def newest_packed(blob: bytes) -> int:
    """Return the time of the newest event of a packed entity, epoch milliseconds.

    Raises:
        StateError: `blob` is no packed state of an entity.
    """
    newest: int = decode(blob)[NEWEST]
    return newest


def combine_packed(blob: bytes | None, other: bytes, keys: Iterable[str]) -> bytes:
    """Replace the state of `keys` in a packed entity by recomputed state.

    Args:
        blob: stored state; None without any.
        other: state of the same entity, recomputed from the log.
        keys: keys of :attr:`EntityTable.spans`; those missing in `other` are removed.

    Raises:
        StateError: one is no packed state of an entity.
    """
    computed = decode(other)
    state = decode(blob) if blob is not None else {NEWEST: 0}
    for key in keys:
        state.pop(key, None)
        if key in computed:
            state[key] = with_groups(key, computed)
    state[NEWEST] = max(state[NEWEST], computed[NEWEST])
    return encode(state)


def _is_time(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63

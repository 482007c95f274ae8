"""Packed state of one entity: a MessagePack map of its state columns by key.

::

    {"": 1700000000000,                                    # time of the newest event
     "k": [["red", "blue"], b"<newest of each, i8>"],      # groups of an aggregate, if any
     "k.panes": b"<records, f8>",                          # column of records, without groups
     "k.panes": [b"<records of each group, u2>", b"<records, f8>"],   # with groups
     "k.recent": [[1700000000000, "shoes"]],               # column of objects, without groups
     "k.recent": [[[[1700000000000, "shoes"]], []], None]} # with groups, one object for each

A column with groups packed apart from its aggregate ends with their names: four elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.errors import StateError
from tactful_streaming.state.key_layout import unpacked
from tactful_streaming.windows.columns import DecayedTotals, LastTimes, RecentValues
from tactful_streaming.windows.pane_columns import AccumulatorPanes
from tactful_streaming.windows.panes import NumberPanes
from tactful_streaming.windows.sessions import Sessions

NEWEST: Final = ""  # key of the time of the newest event
_ARRAY_32: Final = b"\xdd"  # first byte of a MessagePack array with its length in four bytes
encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[dict[str, Any]] = msgspec.msgpack.Decoder(dict[str, Any])
_many_decoder: msgspec.msgpack.Decoder[list[dict[str, Any]]] = msgspec.msgpack.Decoder(
    list[dict[str, Any]]
)
SEPARATOR: Final = "."  # between the key of an aggregate and that of a column
_DAMAGED: Final = "the packed state of an entity is damaged"

Recorded = NumberPanes | DecayedTotals | LastTimes
"""Columns whose packed state is records of numbers."""

AnyColumn = Recorded | AccumulatorPanes | RecentValues | Sessions
NAMES_AT = 2  # position of the names in a column packed apart
_State = Mapping[str, Any]
_Names = tuple[list[str], bytes]
_T = TypeVar("_T")


def decode(blob: bytes) -> dict[str, Any]:
    """Decode the packed state of an entity; StateError if `blob` is none."""
    state = unpacked(_decoder, blob, _DAMAGED)
    if not _is_time(state.get(NEWEST)):
        raise StateError(f"{_DAMAGED}: it has no newest time")
    return state


def decode_all(blobs: Sequence[bytes]) -> list[dict[str, Any]]:
    """Like :func:`decode`, for many in one call."""
    try:
        states = _many_decoder.decode(b"".join((_ARRAY_32, len(blobs).to_bytes(4, "big"), *blobs)))
    except (ValueError, *DECODE_ERRORS):
        states = []
    if len(states) == len(blobs) and all(_is_time(state.get(NEWEST)) for state in states):
        return states
    return [decode(blob) for blob in blobs]


def newest_packed(blob: bytes) -> int:
    """Return the time of the newest event of a packed entity, epoch milliseconds."""
    return int(decode(blob)[NEWEST])


def combine_packed(blob: bytes | None, other: bytes, keys: Iterable[str]) -> bytes:
    """Replace the state of `keys` in a packed entity, if any, by state recomputed from the log.

    `keys` are of :attr:`EntityTable.spans`; those missing in `other` are removed. StateError if one
    is no packed state of an entity.
    """
    computed = decode(other)
    state = decode(blob) if blob is not None else {NEWEST: 0}
    for key in keys:
        state.pop(key, None)
        if key in computed:
            state[key] = _with_groups(key, computed)
    state[NEWEST] = max(state[NEWEST], computed[NEWEST])
    return encode(state)


def _is_time(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def check_rows(columns: Mapping[str, AnyColumn], states: Sequence[_State]) -> None:
    """Raise StateError unless each column without groups has its form."""
    for key, column in columns.items():
        packed = [state[key] for state in states if key in state]
        if not packed:
            continue
        if isinstance(column, Recorded):
            sizes = set(map(len, _converted(packed, list[bytes])))
            _require(not any(size % (8 * column.width) for size in sizes))
        else:
            _converted(packed, list[column.packed_type])  # type: ignore[name-defined]


def check_groups(key: str, columns: Mapping[str, AnyColumn], states: Sequence[_State]) -> None:
    """Raise StateError unless each column with groups has its form.

    The names of the groups are under `key`. States may hold keys of other aggregates.
    """
    shared = _group_counts([state.get(key) for state in states])
    for name, column in columns.items():
        having = [number for number, state in enumerate(states) if name in state]
        packed = [states[number][name] for number in having]
        _require(set(map(type, packed)) <= {list})
        sizes = set(map(len, packed))
        _require(sizes <= {NAMES_AT, NAMES_AT + 2})
        if NAMES_AT + 2 not in sizes:
            own: list[int | None] = [None] * len(packed)
        else:
            own = _group_counts([state[NAMES_AT:] or None for state in packed])
        counts = [shared[n] if k is None else k for n, k in zip(having, own, strict=True)]
        _check_column(column, [state[:NAMES_AT] for state in packed], counts)


def _check_column(column: AnyColumn, packed: Sequence[Any], counts: Sequence[int | None]) -> None:
    if isinstance(column, Recorded):
        pairs = _converted(packed, list[tuple[bytes, bytes]])
        of_groups = [len(numbers) for numbers, _ in pairs]
        _require(all(k in (None, n / 2) for n, k in zip(of_groups, counts, strict=True)))
        _require(not any(n % 2 for n in of_groups))
        numbers = np.frombuffer(b"".join(numbers for numbers, _ in pairs), "<u2")
        ends = np.cumsum([0, *of_groups]) // 2
        records = np.diff(np.concatenate([[0], np.cumsum(numbers, dtype=np.int64)])[ends])
        sizes = np.array([len(data) for _, data in pairs], np.int64)
        _require(np.array_equal(sizes, records * 8 * column.width))
        return
    objects = _converted(packed, list[tuple[list[column.packed_type], None]])  # type: ignore[name-defined]
    numbered = zip(objects, counts, strict=True)
    _require(all(count in (None, len(states)) for (states, _), count in numbered))


def _group_counts(names: Sequence[Any]) -> list[int | None]:
    """Return the number of groups of each state; None where none is named."""
    pairs = _converted([named for named in names if named is not None], list[_Names])
    _require(all(len(newest) == 8 * len(groups) for groups, newest in pairs))
    counts = iter([len(groups) for groups, _ in pairs])
    return [None if named is None else next(counts) for named in names]


def _converted(values: Sequence[Any], kind: type[_T]) -> _T:
    try:
        return msgspec.convert(values, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise StateError(f"{_DAMAGED}: {error}") from error


def _require(holds: bool) -> None:
    if not holds:
        raise StateError(f"{_DAMAGED}: its lengths do not agree")


def _with_groups(key: str, state: Mapping[str, Any]) -> Any:
    """Return the packed state of the column `key`, with the names of its groups."""
    names = state.get(key.partition(SEPARATOR)[0])
    return state[key] if names is None else [*state[key][:NAMES_AT], *names]

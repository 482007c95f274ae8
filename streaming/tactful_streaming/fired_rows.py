"""What engines publish, with what fires in the same rows as Flink's: one JSON object a row.

A row has a key, so that a topic which keeps the last record of each key keeps the last word on each
entity and group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Final

import msgspec
import numpy as np

from tactful_streaming.engine import LateEvent
from tactful_streaming.entries import decode_entry, encode_entry, route_key
from tactful_streaming.firing import Fired
from tactful_streaming.matches import Match
from tactful_streaming.packed_rows import TOGETHER, PackedRows, Row

_encoder = msgspec.json.Encoder()
_LEAST: Final = 16
"""Fewer rows are not worth it: texts have to be made for each window."""


def prepare() -> None:
    """Load the machine code, or compile it the first time on a machine, for some seconds."""
    from tactful_streaming import row_kernel  # noqa: F401


class _Window(msgspec.Struct, frozen=True, gc=False):
    """A row of a feature without groups, in the order in which it is written."""

    feature: str
    entity_key: str
    window_start: int
    window_end: int
    feature_value: Any


class _GroupWindow(msgspec.Struct, frozen=True, gc=False):
    """A row of a feature with groups."""

    feature: str
    entity_key: str
    group_key: str
    window_start: int
    window_end: int
    feature_value: Any


def encode_fired(fired: Iterable[Fired]) -> list[Row]:
    """Rows of windows that fired; the key is ``<entity>|<group>``, without a group ``<entity>|``.

    A value is a number, a list, or null where a number is not finite.
    """
    rows: list[Row] = []
    for one, part in _parts(fired):
        rows += _encode(one, part)
    return rows


def encode_in_turn(fired: Iterable[Fired]) -> Iterator[Sequence[Row]]:
    """The rows of :func:`encode_fired`, some of them at a time: those of everybody may be many.

    Machine code puts them together where no name needs an escape.
    """
    for one, part in _parts(fired):
        yield _pack(one, part) or _encode(one, part)


def _parts(fired: Iterable[Fired]) -> Iterator[tuple[Fired, slice]]:
    for one in fired:
        for begin in range(0, len(one.keys), TOGETHER):
            yield one, slice(begin, begin + TOGETHER)


def _pack(one: Fired, part: slice) -> PackedRows | None:
    """The rows in one text; None where they have to be made one by one."""
    # Imported here, for numba takes most of a second, and few processes write rows.
    from tactful_streaming import row_kernel

    keys = one.keys[part]
    if len(keys) < _LEAST:
        return None
    names = _encoder.encode_lines(keys)
    groups = b"" if one.groups is None else _encoder.encode_lines(one.groups[part])
    if b"\\" in names or b"\\" in groups:
        return None
    values = _encoder.encode_lines(one.values[part])
    head = b'{"feature":%b,"entity_key":' % _encoder.encode(one.feature)
    between = b',"group_key":'
    rest = b',"window_start":%d,"window_end":%d,"feature_value":' % (
        one.window_start,
        one.window_end,
    )
    size = 2 * (len(names) + len(groups)) + len(values)
    size += len(keys) * (len(head) + len(between) + len(rest) + 2)
    slack = bytes(row_kernel.SLACK)
    texts = (names, groups, values, head, between, rest)
    letters, ends = np.empty(size + len(slack), np.uint8), np.zeros(2 * len(keys) + 1, np.int64)
    row_kernel.write_rows(*(np.frombuffer(it + slack, np.uint8) for it in texts), letters, ends)
    return PackedRows(letters, ends)


def _encode(one: Fired, part: slice) -> list[Row]:
    keys, values = one.keys[part], one.values[part]
    feature, ends = repeat(one.feature), (repeat(one.window_start), repeat(one.window_end))
    windows: Iterable[Any]
    if one.groups is None:
        names = map("{}|".format, keys)
        windows = map(_Window, feature, keys, *ends, values)
    else:
        groups = one.groups[part]
        names = map("|".join, zip(keys, groups, strict=True))
        windows = map(_GroupWindow, feature, keys, groups, *ends, values)
    # No JSON text has a line break in it, so one call encodes all.
    lines = _encoder.encode_lines([*windows]).split(b"\n")[:-1]
    return [*zip(map(str.encode, names), lines, strict=True)]


def encode_matches(matches: Iterable[Match]) -> list[Row]:
    """Rows of matches of sequences and of pairs of joins; the key is ``<entity>|<same>``."""
    return [
        (f"{match.key}|{match.same or ''}".encode(), _encoder.encode(match.as_data()))
        for match in matches
    ]


def encode_late(late: Iterable[LateEvent]) -> list[Row]:
    """Rows of events that came too late, with the features that they miss; the key is the person's.

    An event comes as it lies in the log.
    """
    rows: list[Row] = []
    for one in late:
        entry = decode_entry(one.payload)
        row = {
            "features": one.features,
            "partition": one.partition,
            "offset": one.offset,
            "event": msgspec.Raw(encode_entry(entry, "json")),
        }
        rows.append(((route_key(entry) or "").encode(), _encoder.encode(row)))
    return rows

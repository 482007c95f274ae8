"""What engines publish, with what fires in the same rows as Flink's: one JSON object a row.

A row has a key, so that a topic which keeps the last record of each key keeps the last word on each
entity and group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, Final

import msgspec

from tactful_streaming.contract.log_entries import decode_entry, encode_entry, route_key
from tactful_streaming.contract.record_batch import Row
from tactful_streaming.engine.options import LateEvent
from tactful_streaming.patterns.match import Match
from tactful_streaming.windows.triggers import WindowResult

_encoder = msgspec.json.Encoder()
_TOGETHER: Final = 2_000
"""Rows encoded at once: few enough to stay in the processor's cache."""


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


def encode_fired(fired: Iterable[WindowResult]) -> list[Row]:
    """Rows of windows that fired; the key is ``<entity>|<group>``, without a group ``<entity>|``.

    A value is a number, a list, or null where a number is not finite.
    """
    return [row for part in encode_in_turn(fired) for row in part]


def encode_in_turn(fired: Iterable[WindowResult]) -> Iterator[list[Row]]:
    """Yield the rows of :func:`encode_fired` in parts, so that few are in memory at once."""
    for one in fired:
        for begin in range(0, len(one.keys), _TOGETHER):
            yield _encode(one, slice(begin, begin + _TOGETHER))


def _encode(one: WindowResult, part: slice) -> list[Row]:
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

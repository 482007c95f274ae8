"""Rows that workers write: a JSON object each, as written by Flink's jobs.

A row has a key, so that a compacted topic keeps the last result of each entity and group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, Final

import msgspec

from tactful_streaming.contract.log_entries import Row, decode_entry, encode_entry, route_key
from tactful_streaming.engine.options import LateEvent
from tactful_streaming.patterns.match import Match
from tactful_streaming.windows.triggers import WindowResult

_encoder = msgspec.json.Encoder()
_TOGETHER: Final = 2_000  # rows encoded at once: few enough to stay in the processor's cache


class _Window(msgspec.Struct, frozen=True, gc=False):
    """A row of a feature without groups; the fields are in their written order."""

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


def encode_results(results: Iterable[WindowResult]) -> list[Row]:
    """Encode window results; the key is ``<entity>|<group>`` or ``<entity>|``.

    A value is a number, a list, or null where a late event made a number too large for a double.
    """
    return [row for part in encode_in_turn(results) for row in part]


def encode_in_turn(results: Iterable[WindowResult]) -> Iterator[list[Row]]:
    """Yield the rows of :func:`encode_results` in parts, so that few are in memory."""
    for result in results:
        for begin in range(0, len(result.keys), _TOGETHER):
            yield _encode(result, slice(begin, begin + _TOGETHER))


def _encode(result: WindowResult, part: slice) -> list[Row]:
    keys, values = result.keys[part], result.values[part]
    feature = repeat(result.feature)
    ends = repeat(result.window_start), repeat(result.window_end)
    windows: Iterable[Any]
    if result.groups is None:
        names = map("{}|".format, keys)
        windows = map(_Window, feature, keys, *ends, values)
    else:
        groups = result.groups[part]
        names = map("|".join, zip(keys, groups, strict=True))
        windows = map(_GroupWindow, feature, keys, groups, *ends, values)
    # No JSON text has a line break in it, so one call encodes all.
    lines = _encoder.encode_lines([*windows]).split(b"\n")[:-1]
    return [*zip(map(str.encode, names), lines, strict=True)]


def encode_matches(matches: Iterable[Match]) -> list[Row]:
    """Encode matches of sequences and joins; the key is ``<entity>|<same>``."""
    return [
        (f"{match.key}|{match.same or ''}".encode(), _encoder.encode(match.as_data()))
        for match in matches
    ]


def encode_late(late: Iterable[LateEvent]) -> list[Row]:
    """Encode late events, with the features that they miss; the key is the user's.

    The event is written as it is in the log.
    """
    rows: list[Row] = []
    for event in late:
        entry = decode_entry(event.payload)
        row = {
            "features": event.features,
            "partition": event.partition,
            "offset": event.offset,
            "event": msgspec.Raw(encode_entry(entry, "json")),
        }
        rows.append(((route_key(entry) or "").encode(), _encoder.encode(row)))
    return rows

"""What engines publish, with what fires in the same rows as Flink's: one JSON object a row.

A row has a key, so that a topic which keeps the last record of each key keeps the last word on each
entity and group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import msgspec

from tactful_streaming.engine import LateEvent
from tactful_streaming.entries import decode_entry, encode_entry, route_key
from tactful_streaming.firing import Fired
from tactful_streaming.matches import Match

Row = tuple[bytes, bytes]
"""Key and value of a record."""

_encoder = msgspec.json.Encoder()


def encode_fired(fired: Iterable[Fired]) -> list[Row]:
    """Rows of windows that fired; the key is ``<entity>|<group>``, without a group ``<entity>|``.

    A value is a number, a list, or null where a number is not finite.
    """
    rows: list[Row] = []
    for one in fired:
        begin = b'{"feature":%b,"entity_key":' % _encoder.encode(one.feature)
        window = b',"window_start":%d,"window_end":%d,"feature_value":' % (
            one.window_start,
            one.window_end,
        )
        pieces: list[Iterable[bytes]] = [repeat(begin), _each(one.keys)]
        names: Iterable[str] = map("{}|".format, one.keys)
        if one.groups is not None:
            pieces += [repeat(b',"group_key":'), _each(one.groups)]
            names = map("|".join, zip(one.keys, one.groups, strict=True))
        pieces += [repeat(window), _each(one.values), repeat(b"}")]
        # Joined by columns, without a step of Python for each row; only the constants never end.
        rows += zip(map(str.encode, names), map(b"".join, zip(*pieces, strict=False)), strict=True)
    return rows


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


def _each(values: Sequence[Any]) -> list[bytes]:
    """JSON of each value. No JSON text has a line break in it, so one call does for all."""
    return _encoder.encode_lines(values).split(b"\n")[:-1]

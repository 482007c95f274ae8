"""Packed state of a key of a sequence, and the removal of users from it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from itertools import chain

import msgspec

from tactful_streaming.patterns.partial_match import MatchesByState, PartialMatch
from tactful_streaming.patterns.partitions import PartitionKey, same_of
from tactful_streaming.state.key_layout import unpacked

PackedEvent = tuple[int, int, PartitionKey, int, str, str | None]
"""Waiting event: timestamp, place in the log, partition, code of its type, id, user."""

PackedPartition = tuple[str | None, MatchesByState, list[PartialMatch]]
"""The other value in common, the waiting partial matches, and the matches not yet certain."""

PackedKey = tuple[int, list[PackedEvent], list[PackedPartition]]
"""Time of the last match, waiting events, partitions."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PackedKey)


def pack_key(
    last: int, events: list[PackedEvent], partitions: list[PackedPartition]
) -> bytes | None:
    """Encode the state of a key; None without any."""
    return _encoder.encode((last, events, partitions)) if last or events or partitions else None


def unpack_key(blob: bytes, name: str = "a sequence") -> PackedKey:
    """Decode the state of a key of the sequence `name`; StateError if `blob` is none."""
    packed: PackedKey = unpacked(_decoder, blob, f"the packed state of {name} is damaged")
    return packed


def without(
    blob: bytes, drops: Callable[[Iterable[str], str | None], bool], names: Container[str]
) -> bytes | None:
    """Return the packed state of a key without some events; `blob` itself if all stay.

    `drops` decides by the ids of events and the user of the last of them; events with one of
    `names` in common go, too. None if nothing is left.
    """
    last, waiting, partitions = unpack_key(blob)
    events = [
        event
        for event in waiting
        if not (same_of(event[2]) in names or drops((event[4],), event[5]))
    ]
    kept: list[PackedPartition] = []
    for same, by_state, matched in partitions:
        if same in names:
            continue
        left = {
            state: stay
            for state, matches in by_state.items()
            if (stay := [match for match in matches if not drops(match[4], match[5])])
        }
        certain = [match for match in matched if not drops(match[4], match[5])]
        if left or certain:
            kept.append((same, left, certain))
    if events == waiting and kept == partitions:
        return blob
    return pack_key(last, events, kept)


def causes_in(blob: bytes) -> Iterator[tuple[str, str]]:
    """Yield the ids of events in a packed key, each with its user, where known."""
    _, waiting, partitions = unpack_key(blob)
    for event in waiting:
        if event[5] is not None:
            yield event[4], event[5]
    for _, by_state, matched in partitions:
        for match in chain(*by_state.values(), matched):
            if match[5] is not None:
                yield match[4][-1], match[5]

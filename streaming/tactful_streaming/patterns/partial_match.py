"""Partial matches of a sequence in one partition: moved by events and time, packed.

A partial match is one event that may be the first of a match, and the events taken since. Partial
matches in the same state move together: an event costs as much as there are states in use, and
taking it as much as there are partial matches that take it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter

import msgspec

from tactful_streaming.definitions.model import Sequence
from tactful_streaming.patterns.automaton import ENDED, compile_pattern
from tactful_streaming.state.key_layout import unpacked

MAX_EVENTS = 1000  # most events of one match, where a step repeats without limit
PartialMatch = tuple[int, int, int, int, tuple[str, ...], str | None]
"""Timestamp and place of the first and of the last event, ids of all, key of the last one's user:
``(1000, 7, 3000, 9, ("e7", "e9"), "ada")``."""

SequenceEvent = tuple[int, int, int, int, str, str | None]
"""An event: timestamp, place in the log, row of its partition, code of its type, id, user."""

MatchesByState = dict[int, list[PartialMatch]]  # partial matches by state, each list in order
PartitionKey = str | tuple[str, str]
"""Key of the entity, or of the entity and the other value that its events have in common."""

PackedEvent = tuple[int, int, PartitionKey, int, str, str | None]
"""Waiting event: timestamp, place in the log, partition, code of its type, id, user."""

PackedPartition = tuple[str | None, MatchesByState, list[PartialMatch]]
"""The other value in common, the waiting partial matches, and the matches not yet certain."""

PackedKey = tuple[int, list[PackedEvent], list[PackedPartition]]
"""Time of the last match, waiting events, partitions."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PackedKey)
TAKEN = 1  # bit of a transition: the event is taken
_first_time = itemgetter(0)
_first_place = itemgetter(0, 1)


@dataclass(slots=True, eq=False)
class Partition:
    """All partial matches of one partition."""

    waiting: MatchesByState = field(default_factory=dict)  # for events or for time, by state
    # Matches that an earlier partial match can still discard, in order.
    matched: list[PartialMatch] = field(default_factory=list)
    timer: int | None = None  # earliest timer set for the partition

    @property
    def is_empty(self) -> bool:
        """Whether the partition has no partial match."""
        return not self.waiting and not self.matched


class PatternMatcher:
    """Applies events and time to the partitions of one sequence; holds none itself."""

    def __init__(self, sequence: Sequence, max_partial_matches: int) -> None:
        """Prepare; at most `max_partial_matches` of a partition are in the same state."""
        self.automaton = compile_pattern(sequence)
        self.within_ms = sequence.within_ms
        self.evicted = 0
        self._past_last = sequence.skip == "past_last"
        self._most = max_partial_matches

    def apply(self, partition: Partition, event: SequenceEvent) -> None:
        """Apply the next event to every partial match; it may begin one itself."""
        timestamp, place, _, code, event_id, user = event
        automaton, waiting = self.automaton, partition.waiting
        rows, horizon = automaton.rows, timestamp - self.within_ms
        if any(
            rows[state][code] != 2 * state or matches[0][0] <= horizon
            for state, matches in waiting.items()
        ):
            self._move(partition, event, horizon)
            waiting = partition.waiting
        transition = automaton.first[code]
        if transition != ENDED:
            begun = (timestamp, place, timestamp, place, (event_id,), user)
            target = transition >> 1
            if automaton.complete[target]:
                partition.matched.append(begun)
            else:
                add_to(waiting, target, [begun])
                if len(waiting[target]) > self._most:
                    self.evict(partition)

    def expire(self, partition: Partition, now: int) -> None:
        """End each partial match whose time is over at `now`, as a match or without one."""
        horizon = now - self.within_ms
        waiting: MatchesByState = {}
        for state, matches in partition.waiting.items():
            if self.automaton.pending[state]:
                partition.matched += [m for m in matches if self._deadline(m) <= now]
                left = [m for m in matches if self._deadline(m) > now]
            else:
                left = matches[bisect_right(matches, horizon, key=_first_time) :]
            if left:
                waiting[state] = left
        partition.waiting = waiting
        partition.matched.sort()

    def take_certain(self, partition: Partition) -> list[PartialMatch]:
        """Remove and return the matches that no earlier partial match can discard."""
        certain: list[PartialMatch] = []
        while partition.matched:
            match = partition.matched[0]
            earliest = min((those[0] for those in partition.waiting.values()), default=match)
            if earliest < match:
                break
            certain.append(match)
            skipped = match[2:4] if self._past_last else match[:2]
            partition.matched = _after(partition.matched, skipped)
            partition.waiting = {
                state: left
                for state, those in partition.waiting.items()
                if (left := _after(those, skipped))
            }
        return certain

    def due(self, partition: Partition) -> int | None:
        """Return the next time at which a partial match ends without an event, if any."""
        due: list[int] = []
        for state, matches in partition.waiting.items():
            if self.automaton.pending[state]:
                due.append(min(map(self._deadline, matches)))
            elif partition.matched:
                due.append(matches[0][0] + self.within_ms)
        return min(due, default=None)

    def evict(self, partition: Partition) -> None:
        """Drop the oldest partial matches of each state above the limit."""
        for matches in (*partition.waiting.values(), partition.matched):
            if len(matches) > self._most:
                self.evicted += len(matches) - self._most
                del matches[: -self._most]

    def _move(self, partition: Partition, event: SequenceEvent, horizon: int) -> None:
        """Apply an event to every partial match; those begun up to `horizon` are too old."""
        timestamp, place, _, code, event_id, user = event
        automaton = self.automaton
        rows, pending, complete = automaton.rows, automaton.pending, automaton.complete
        waiting: MatchesByState = {}
        for state, matches in partition.waiting.items():
            if matches[0][0] <= horizon:
                cut = bisect_right(matches, horizon, key=_first_time)
                old, matches = matches[:cut], matches[cut:]
                # A complete one still waits for its time.
                after = rows[automaton.closed[state]][code] if pending[state] else ENDED
                if after != ENDED:
                    add_to(waiting, after >> 1, old)
            transition = rows[state][code]
            if transition == ENDED or not matches:
                continue
            target = transition >> 1
            if not transition & TAKEN:
                add_to(waiting, target, matches)
                continue
            if automaton.unbounded:
                short = [match for match in matches if len(match[4]) < MAX_EVENTS]
                self.evicted += len(matches) - len(short)
                matches = short
            if complete[target] and self._past_last:
                # The others are skipped, also if the first one is discarded.
                matches = matches[:1]
            taken: list[PartialMatch] = [
                (first, first_place, timestamp, place, (*ids, event_id), user)
                for first, first_place, _, _, ids, _ in matches
            ]
            if complete[target]:
                partition.matched += taken
            elif taken:
                add_to(waiting, target, taken)
        partition.waiting = waiting
        partition.matched.sort()
        self.evict(partition)

    def _deadline(self, match: PartialMatch) -> int:
        """Return when a partial match completes if no forbidden event comes before."""
        for_ms = self.automaton.for_ms
        return match[0] + self.within_ms if for_ms is None else match[2] + for_ms


def add_to(waiting: MatchesByState, state: int, matches: list[PartialMatch]) -> None:
    """Add partial matches to `state`; the list may be changed afterwards."""
    present = waiting.get(state)
    if present is None:
        waiting[state] = matches
        return
    ordered = present[-1] < matches[0]
    present += matches
    if not ordered:
        present.sort()


def _after(matches: list[PartialMatch], place: tuple[int, int]) -> list[PartialMatch]:
    return matches[bisect_right(matches, place, key=_first_place) :]


def key_of(partition: PartitionKey) -> str:
    """Return the entity of a partition."""
    return partition if isinstance(partition, str) else partition[0]


def same_of(partition: PartitionKey) -> str | None:
    """Return the other value that the events of a partition have in common."""
    return None if isinstance(partition, str) else partition[1]


def partition_key(key: str, same: str | None) -> PartitionKey:
    """Return the partition of an entity and of the other common value, if any."""
    return key if same is None else (key, same)


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

"""Finds sequences of events: each beginning runs through the automaton of the pattern.

Beginnings are taken in the order of event time. Of one beginning there is at most one match, and it
is told only when every earlier beginning of the same key has matched or failed: a match skips those
that begin up to its last event (``past_last``), or only its own (``to_next``). The last event must
come less than ``within`` after the first.

What can only be known by waiting (that nothing came) has a timer in event time. It fires when the
watermark passes it, whoever moved the watermark: other people's events, or a tick of the clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress, islice, repeat
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_streaming.contract.log_entries import Item
from tactful_streaming.decode.event_time_sort import Arrivals, ReorderBuffer, arrivals_of, quoted
from tactful_streaming.definitions import model as definitions
from tactful_streaming.errors import StateError
from tactful_streaming.patterns.match import Happening, Match, Texts
from tactful_streaming.patterns.partial_match import (
    Beginning,
    Groups,
    Partition,
    Search,
    Shown,
    add_to,
)
from tactful_streaming.patterns.partial_match_columns import MOST_SLOTS, Chains, Found
from tactful_streaming.patterns.partitions import (
    PartitionKey,
    Partitions,
    key_of,
    partition_key,
    same_of,
)

REMEMBERED_MS = 30 * 86_400_000
"""How long the time of a key's last match can be read."""

MAX_BEGINNINGS = 1000
"""Most beginnings of one key that wait at the same step; the oldest give way."""

_SWEEP_MS = 60_000
_encoder = msgspec.msgpack.Encoder()

_PackedEvent = tuple[int, int, PartitionKey, int, str, str | None]
"""An event that waits: timestamp, place in the log, partition, code of its type, id, subject."""

_PackedPartition = tuple[str | None, Groups, list[Beginning]]
"""What the events have in common, the beginnings that wait, and the matches that do."""

_PackedKey = tuple[int, list[_PackedEvent], list[_PackedPartition]]
"""Time of the last match, events that wait, and partitions."""

_decoder = msgspec.msgpack.Decoder(_PackedKey)


class SequenceOperator:
    """One sequence; an :class:`~tactful_streaming.Operator`."""

    wants_items = False

    def __init__(
        self,
        sequence: definitions.Sequence,
        *,
        max_beginnings: int = MAX_BEGINNINGS,
        remembered_ms: int = REMEMBERED_MS,
    ) -> None:
        """Begin without events.

        Args:
            sequence: what to find.
            max_beginnings: most beginnings of one key that wait at the same step.
            remembered_ms: how long the time of a key's last match can be read.

        Raises:
            DefinitionError: if the pattern is too large.
        """
        self.name = sequence.name
        self.entity = sequence.entity
        self.sources: tuple[str, ...] = ("event_id",)
        if sequence.same is not None:
            self.sources += (sequence.same,)
        self.late = 0
        self._search = Search(sequence, max_beginnings)
        self._automaton = automaton = self._search.automaton
        self.types = frozenset(automaton.codes) if automaton.other is None else None
        self._same = sequence.same
        self._within = sequence.within_ms
        self._remembered_ms = remembered_ms
        self._needs_time = any(automaton.pending)
        self._buffer = ReorderBuffer()
        taken = sum(step.most or MOST_SLOTS for step in sequence.steps if not step.negated)
        self._partitions = Partitions(
            Chains(
                automaton,
                self._within,
                slots=taken - 1,
                most=max_beginnings,
                past_last=sequence.skip == "past_last",
            )
        )
        self._last: dict[str, int] = {}
        self._timers: list[tuple[int, PartitionKey]] = []
        self._dirty: set[str] = set()
        self._matches: list[Match] = []
        self._place = 0  # of the next event among those of the log
        self._packed_place = 0  # what waits from here on has not been packed
        self._next_sweep = 0

    @property
    def evicted(self) -> int:
        """Beginnings dropped to keep the memory bounded, since the operator was made."""
        return self._search.evicted

    def apply(
        self,
        events: Sequence[Happening],
        keys: Sequence[str | None],
        watermarks: NDArray[np.int64],
        texts: Texts,
    ) -> None:
        """Take accepted events in the order of the log; see :class:`~tactful_streaming.Operator`.

        An event before the watermark is late: it is counted in `late` and does not count.
        """
        if not len(events):
            return
        codes, other = self._automaton.codes, self._automaton.other
        unnamed = -1 if other is None else other
        types = map(attrgetter("type"), events)
        seen = np.fromiter(map(codes.get, types, repeat(unnamed)), np.int64, len(events))
        arrived = self._arrived(events, keys, texts, seen)
        late = arrived.times < watermarks[arrived.places - self._place]
        if late.any():
            self.late += int(late.sum())
            arrived = arrived.take(~late)
        self._place += len(events)
        self._buffer.extend(arrived)
        self.advance(int(watermarks[-1]))

    def apply_items(self, items: Sequence[Item], watermarks: NDArray[np.int64]) -> None:
        """Sequences are made of events only: nothing happens."""

    def advance(self, watermark: int) -> None:
        """Run the events before `watermark`, and what follows from nothing else coming."""
        released = self._buffer.release(watermark)
        if released is not None:
            self._run(*released)
        self._fire(watermark)
        if watermark >= self._next_sweep:
            self._sweep(watermark)

    def next_timer(self) -> int | None:
        """The earliest watermark at which :meth:`advance` has something to do, if any."""
        earliest = self._buffer.earliest()
        due = [] if earliest is None else [earliest + 1]
        if self._timers:
            due.append(self._timers[0][0])
        return min(due, default=None)

    def take(self) -> list[Match]:
        """What was found since the last call, in the order in which it became certain."""
        matches, self._matches = self._matches, []
        return matches

    def read(self, key: str, at: int) -> float:
        """When the last match of `key` ended, epoch milliseconds; 0 if none did of late."""
        last = self._last.get(key, 0)
        return float(last) if at - last < self._remembered_ms else 0.0

    def pack_changes(self) -> dict[str, bytes | None]:
        """Packed state of each key changed since the last call; None for one with none left."""
        dirty, self._dirty = self._dirty, set()
        since, self._packed_place = self._packed_place, self._place
        partitions, waiting = self._partitions, self._buffer.waiting()
        partitions.changed[waiting.rows[waiting.places >= since]] = True
        changed = np.flatnonzero(partitions.changed)
        partitions.changed[changed] = False
        dirty |= partitions.names(changed.tolist())
        if not dirty:
            return {}
        rows = {key: partitions.rows_of(key) for key in dirty}
        wanted = np.zeros(len(partitions.changed), np.bool_)
        wanted[[*chain(*rows.values())]] = True
        events: dict[str, list[_PackedEvent]] = {}
        for event in self._named(waiting.take(wanted[waiting.rows])):
            events.setdefault(key_of(event[2]), []).append(event)
        return self._pack(rows, events)

    def unpack(self, key: str, blob: bytes) -> None:
        """Restore the state of a key that :meth:`pack_changes` gave.

        Raises:
            StateError: if `blob` is something else.
        """
        try:
            last, waiting, partitions = _decoder.decode(blob)
        except msgspec.MsgspecError as error:
            raise StateError(f"the packed state of {self.name} is damaged: {error}") from error
        states, codes = len(self._automaton.rows), len(self._automaton.first)
        if any(not 0 <= event[3] < codes for event in waiting) or any(
            not 0 <= state < states for _, groups, _ in partitions for state in groups
        ):
            raise StateError(f"the packed state of {self.name} is one of another sequence")
        if last:
            self._last[key] = last
        row_of = self._partitions.row_of
        self._buffer.extend(
            arrivals_of((*event[:2], row_of(event[2]), *event[3:]) for event in waiting)
        )
        places = [event[1] for event in waiting]
        for same, groups, matched in partitions:
            row = row_of(partition_key(key, same))
            partition = self._partitions.partition(row)
            partition.groups, partition.matched = groups, matched
            self._set_timer(row, partition)
            self._partitions.put(row, partition)
            places += [run[3] for runs in (*groups.values(), matched) for run in runs]
        after = max([self._place, *(place + 1 for place in places)])
        if self._packed_place == self._place:
            self._packed_place = after
        self._place = after

    def merge(self, source_key: str, target_key: str) -> None:
        """Give what is known of one key to another: they are the same entity.

        The beginnings of both stay as they are, and events from now on count for all of them.
        """
        if source_key == target_key:
            return
        rows, others = self._partitions.rows_of(source_key), list[int]()
        for row in rows:
            key = self._partitions.keys[row]
            assert key is not None
            other = self._partitions.row_of(partition_key(target_key, same_of(key)))
            others.append(other)
            source = self._partitions.partition(row)
            if not source.is_empty:
                target = self._partitions.partition(other)
                for state, runs in source.groups.items():
                    add_to(target.groups, state, runs)
                target.matched = sorted(target.matched + source.matched)
                self._search.bound(target)
                self._set_timer(other, target)
                self._partitions.put(other, target)
            self._partitions.release(row)
        self._buffer.rename(rows, others)
        last = self._last.pop(source_key, 0)
        if last:
            self._last[target_key] = max(last, self._last.get(target_key, 0))
        self._dirty |= {source_key, target_key}

    def detach(self, key: str) -> bytes | None:
        """Remove what is known of a key and give it packed; None if nothing is."""
        rows = self._partitions.rows_of(key)
        waiting = self._named(self._buffer.remove(rows))
        packed = self._pack({key: rows}, {key: waiting})
        for row in rows:
            self._partitions.release(row)
        self._last.pop(key, None)
        self._dirty.add(key)
        return packed[key]

    def _arrived(
        self,
        events: Sequence[Happening],
        keys: Sequence[str | None],
        texts: Texts,
        codes: NDArray[np.int64],
    ) -> Arrivals:
        """The events that are of a type and a partition that count."""
        partitions: Sequence[PartitionKey | None] = keys
        if self._same is not None:
            partitions = [
                (key, same) if key is not None and same is not None else None
                for key, same in zip(keys, texts(self._same), strict=True)
            ]
        subjects = keys if self.entity == "user" else texts("user_id")
        places = np.arange(self._place, self._place + len(events))
        times, ids = _times_and_ids(events)
        named = codes >= 0
        if not named.all():
            shared = subjects is partitions
            times, ids = times[named], ids[named]
            subjects = [*compress(subjects, named.tolist())]
            partitions = subjects if shared else [*compress(partitions, named.tolist())]
            places, codes = places[named], codes[named]
        count = len(places)
        rows = self._partitions.find(partitions)
        arrived = Arrivals(
            times,
            places,
            rows,
            codes,
            ids,
            np.fromiter(subjects, np.object_, count),
        )
        return arrived if count == 0 or rows.min() >= 0 else arrived.take(rows >= 0)

    def _run(self, events: Arrivals, order: NDArray[np.int64]) -> None:
        """Show events, in their order, to the beginnings of their partitions."""
        self._partitions.changed[events.rows] = True
        left, found = self._partitions.move(events, order)
        shown = events.take(order[left])
        self._show(zip(left.tolist(), shown.listed(), strict=True), found)
        self._partitions.put_back(shown.rows)

    def _show(self, left: Iterable[tuple[int, Shown]], found: Iterable[Found]) -> None:
        """Show events to partitions that have to be objects, and tell what others completed.

        Args:
            left: the events, with their places in the order of all.
            found: matches, with the places of the events that completed them.
        """
        waiting = deque(found)
        for at, event in left:
            self._tell_found(waiting, at)
            timestamp, _, row, *_ = event
            if self._timers and self._timers[0][0] <= timestamp:
                self._fire(timestamp)
            self._step(row, self._partitions.partition(row), event)
        self._tell_found(waiting, None)

    def _tell_found(self, found: deque[Found], until: int | None) -> None:
        """Report, and remove, matches whose last events come before the place `until`."""
        while found and (until is None or found[0][0] < until):
            _, row, match = found.popleft()
            now = match[2]
            if self._timers and self._timers[0][0] <= now:
                self._fire(now)
            self._report(row, match, now)

    def _step(self, row: int, partition: Partition, event: Shown) -> None:
        self._search.show(partition, event)
        if partition.matched:
            self._tell(row, partition, event[0])
        if partition.is_empty:
            self._partitions.release(row)
        elif partition.matched or self._needs_time:
            self._set_timer(row, partition)

    def _fire(self, until: int) -> None:
        """Let what waits in vain come to its end: everything with a time up to `until`."""
        timers = self._timers
        while timers and timers[0][0] <= until:
            now, key = heapq.heappop(timers)
            row = self._partitions.known(key)
            partition = self._partitions.held.get(row)
            if partition is None or partition.timer != now:
                continue  # replaced by an earlier one, or its partition is gone
            partition.timer = None
            self._dirty.add(key_of(key))
            self._search.settle(partition, now)
            self._tell(row, partition, now)
            if partition.is_empty:
                self._partitions.release(row)
            else:
                self._set_timer(row, partition)

    def _tell(self, row: int, partition: Partition, now: int) -> None:
        """Report the matches that are certain at event time `now`."""
        for match in self._search.certain(partition):
            self._report(row, match, now)

    def _report(self, row: int, match: Beginning, now: int) -> None:
        of = self._partitions.keys[row]
        assert of is not None
        key = key_of(of)
        start, _, end, _, ids, subject = match
        self._matches.append(
            Match(
                name=self.name,
                entity=self.entity,
                key=key,
                same=same_of(of),
                start=start,
                end=end,
                decided=now,
                events=ids,
                subject=subject,
            )
        )
        self._last[key] = max(end, self._last.get(key, 0))

    def _set_timer(self, row: int, partition: Partition) -> None:
        """Come back when time alone decides something."""
        due = self._search.due(partition)
        if due is not None and (partition.timer is None or due < partition.timer):
            partition.timer = due
            key = self._partitions.keys[row]
            assert key is not None
            heapq.heappush(self._timers, (due, key))

    def _pack(
        self, rows: Mapping[str, list[int]], waiting: Mapping[str, list[_PackedEvent]]
    ) -> dict[str, bytes | None]:
        """All that is known of keys with these rows and events; None if nothing is."""
        every = [*chain(*rows.values())]
        contents = iter(zip(every, self._partitions.contents(every), strict=True))
        packed: dict[str, bytes | None] = {}
        of: list[Any] = self._partitions.keys
        for key, own in rows.items():
            partitions: list[_PackedPartition] = [
                (same_of(of[row]), groups, matched)
                for row, (groups, matched) in islice(contents, len(own))
                if groups or matched
            ]
            last, events = self._last.get(key, 0), waiting.get(key, [])
            some = last or partitions or events
            packed[key] = _encoder.encode((last, events, partitions)) if some else None
        return packed

    def _named(self, events: Arrivals) -> list[_PackedEvent]:
        """Events with their partitions."""
        keys: list[Any] = self._partitions.keys
        return [(*event[:2], keys[event[2]], *event[3:]) for event in events.listed()]

    def _sweep(self, watermark: int) -> None:
        """Forget beginnings that can end in nothing, and matches of long ago."""
        self._next_sweep = watermark + max(self._within // 2, _SWEEP_MS)
        horizon = watermark - self._within
        for row, partition in list(self._partitions.held.items()):
            before = sum(map(len, partition.groups.values()))
            self._search.settle(partition, watermark)
            if sum(map(len, partition.groups.values())) < before:
                self._partitions.changed[row] = True
            if partition.is_empty:
                self._partitions.release(row)
        self._partitions.sweep(horizon, self._buffer.waiting().rows)
        old = [k for k, last in self._last.items() if watermark - last >= self._remembered_ms]
        for key in old:
            del self._last[key]
        self._dirty.update(old)


def without(
    blob: bytes, drops: Callable[[Iterable[str], str | None], bool], names: Container[str]
) -> bytes | None:
    """The packed state of a key without what goes; `blob` itself if all of it stays.

    Args:
        blob: as :meth:`SequenceOperator.pack_changes` gave it.
        drops: whether events go, by their ids and who caused the last of them.
        names: events that have one of these in common go likewise.

    Returns:
        None if nothing is left.

    Raises:
        StateError: if `blob` is something else.
    """
    last, waiting, partitions = _unpacked(blob)
    stay = [
        event
        for event in waiting
        if not (same_of(event[2]) in names or drops((event[4],), event[5]))
    ]
    kept: list[_PackedPartition] = []
    for same, groups, matched in partitions:
        if same in names:
            continue
        those = {
            state: left
            for state, runs in groups.items()
            if (left := [run for run in runs if not drops(run[4], run[5])])
        }
        sure = [run for run in matched if not drops(run[4], run[5])]
        if those or sure:
            kept.append((same, those, sure))
    if stay == waiting and kept == partitions:
        return blob
    return _encoder.encode((last, stay, kept)) if last or stay or kept else None


def causes_in(blob: bytes) -> Iterator[tuple[str, str]]:
    """Ids of events in the packed state of a key, each with the key of who caused it, if known.

    Raises:
        StateError: if `blob` is something else.
    """
    _, waiting, partitions = _unpacked(blob)
    for event in waiting:
        if event[5] is not None:
            yield event[4], event[5]
    for _, groups, matched in partitions:
        for run in chain(*groups.values(), matched):
            if run[5] is not None:
                yield run[4][-1], run[5]


def _unpacked(blob: bytes) -> _PackedKey:
    try:
        packed: _PackedKey = _decoder.decode(blob)
    except msgspec.MsgspecError as error:
        raise StateError(f"the packed state of a sequence is damaged: {error}") from error
    return packed


def _times_and_ids(
    events: Sequence[Happening],
) -> tuple[NDArray[np.int64], NDArray[np.bytes_]]:
    # Comprehensions read a field in half the time of a mapped attrgetter.
    times = np.fromiter([event.timestamp for event in events], np.int64, len(events))
    return times, quoted([event.event_id for event in events])

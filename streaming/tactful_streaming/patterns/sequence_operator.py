"""Finds sequences of events: runs partial matches through the pattern's automaton.

Events are applied in the order of event time. A partial match gives at most one match, which is
reported only when every earlier partial match of the same key has matched or failed: a match skips
those that begin up to its last event (``past_last``), or only its own (``to_next``). The last event
must come less than ``within`` after the first.

Matches that need silence have a timer in event time. It runs when the watermark passes it: by
events of other users, or by a tick of the clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, compress, islice, repeat
from operator import attrgetter
from typing import Any, Final

import numpy as np

from tactful_streaming.arrays import Rows
from tactful_streaming.contract.log_entries import Item
from tactful_streaming.decode.reorder_buffer import Arrivals, ReorderBuffer, arrivals_of, quoted
from tactful_streaming.definitions import model as definitions
from tactful_streaming.errors import StateError
from tactful_streaming.patterns.match import Match, Texts
from tactful_streaming.patterns.partial_match import (
    PackedEvent,
    PackedPartition,
    PartialMatch,
    Partition,
    PartitionKey,
    PatternMatcher,
    SequenceEvent,
    add_to,
    key_of,
    pack_key,
    partition_key,
    same_of,
    unpack_key,
)
from tactful_streaming.patterns.partitions import (
    MAX_SLOTS,
    CompletedMatch,
    PartialMatchColumns,
    Partitions,
)

_SWEEP_MS: Final = 60_000


class SequenceRunner:
    """Partial matches, timers and matches of one sequence.

    A batch runs through the columns of partial matches first; events that the kernel leaves, and
    timers that pass before them, go through the objects of their partitions::

        events -> columns (kernel) -> completed matches -+
                       | left events                     +-> matches, by time
                       +-> partitions (objects), timers -+
    """

    def __init__(self, sequence: definitions.Sequence, max_partial_matches: int) -> None:
        """Create a runner without partitions; DefinitionError if the pattern is too large."""
        # Applies events to partitions that are objects.
        self.matcher = PatternMatcher(sequence, max_partial_matches)
        automaton = self.matcher.automaton
        taken = sum(step.most or MAX_SLOTS for step in sequence.steps if not step.negated)
        # Partitions with their partial matches.
        self.partitions = Partitions(
            PartialMatchColumns(
                automaton,
                sequence.within_ms,
                slots=taken - 1,
                most=max_partial_matches,
                past_last=sequence.skip == "past_last",
            )
        )
        # Matches not yet taken, in the order in which they became certain.
        self.matches: list[Match] = []
        self.last: dict[str, int] = {}  # end of the last match by key, epoch milliseconds
        self.dirty: set[str] = set()  # keys changed by timers and sweeps
        self._sequence = sequence
        self._needs_time = any(automaton.pending)
        self.timers: list[tuple[int, PartitionKey]] = []  # a heap of times and partitions
        self._next_sweep = 0

    def run(self, events: Arrivals, order: Rows) -> None:
        """Apply events, in `order`, to the partial matches of their partitions."""
        self.partitions.changed[events.rows] = True
        left, completed = self.partitions.columns.move(events, order)
        applied = events.take(order[left])
        self._apply(zip(left.tolist(), applied.as_tuples(), strict=True), deque(completed))
        self.partitions.put_back(applied.rows)

    def expire(self, until: int) -> None:
        """Run the timers up to `until`: end the partial matches whose time is over."""
        timers = self.timers
        while timers and timers[0][0] <= until:
            now, key = heapq.heappop(timers)
            row = self.partitions.known(key)
            partition = self.partitions.held.get(row)
            if partition is None or partition.timer != now:
                continue  # replaced by an earlier timer, or the partition is gone
            partition.timer = None
            self.dirty.add(key_of(key))
            self.matcher.expire(partition, now)
            self._report_certain(row, partition, now)
            if partition.is_empty:
                self.partitions.release(row)
            else:
                self.set_timer(row, partition)

    def set_timer(self, row: int, partition: Partition) -> None:
        """Set a timer at the next time at which a partial match ends without an event."""
        due = self.matcher.due(partition)
        if due is not None and (partition.timer is None or due < partition.timer):
            partition.timer = due
            heapq.heappush(self.timers, (due, self.partitions.key(row)))

    def sweep(self, watermark: int, waiting: ReorderBuffer, remembered_ms: int) -> None:
        """Delete, from time to time, what can match no more, and last matches of long ago.

        The partitions of `waiting` events stay; the time of a last match is deleted at the age of
        `remembered_ms`.
        """
        if watermark < self._next_sweep:
            return
        self._next_sweep = watermark + max(self._sequence.within_ms // 2, _SWEEP_MS)
        for row, partition in list(self.partitions.held.items()):
            before = sum(map(len, partition.waiting.values()))
            self.matcher.expire(partition, watermark)
            if sum(map(len, partition.waiting.values())) < before:
                self.partitions.changed[row] = True
            if partition.is_empty:
                self.partitions.release(row)
        self.partitions.sweep(watermark - self._sequence.within_ms, waiting.waiting().rows)
        old = [key for key, last in self.last.items() if watermark - last >= remembered_ms]
        for key in old:
            del self.last[key]
        self.dirty.update(old)

    def _apply(
        self, left: Iterable[tuple[int, SequenceEvent]], completed: deque[CompletedMatch]
    ) -> None:
        """Apply events to partitions that are objects; report completed matches between.

        Both come with the positions of their events in the order of all.
        """
        for position, event in left:
            self._report_completed(completed, position)
            timestamp, _, row, *_ = event
            self.expire(timestamp)
            partition = self.partitions.partition(row)
            self.matcher.apply(partition, event)
            if partition.matched:
                self._report_certain(row, partition, timestamp)
            if partition.is_empty:
                self.partitions.release(row)
            elif partition.matched or self._needs_time:
                self.set_timer(row, partition)
        self._report_completed(completed, None)

    def _report_completed(self, completed: deque[CompletedMatch], until: int | None) -> None:
        """Report, and remove, matches completed before the position `until`."""
        while completed and (until is None or completed[0][0] < until):
            _, row, match = completed.popleft()
            self.expire(match[2])
            self._report(row, match, match[2])

    def _report_certain(self, row: int, partition: Partition, now: int) -> None:
        for match in self.matcher.take_certain(partition):
            self._report(row, match, now)

    def _report(self, row: int, match: PartialMatch, now: int) -> None:
        partition = self.partitions.key(row)
        key = key_of(partition)
        start, _, end, _, ids, user = match
        self.matches.append(
            Match(
                name=self._sequence.name,
                entity=self._sequence.entity,
                key=key,
                same=same_of(partition),
                start=start,
                end=end,
                decided=now,
                events=ids,
                subject=user,
            )
        )
        self.last[key] = max(end, self.last.get(key, 0))


class SequenceOperator:
    """One sequence; an :class:`~tactful_streaming.patterns.match.Operator`.

    Events wait in a buffer until the watermark has passed them; then they run in the order of
    event time. Places number the events of the log, so that equal timestamps keep their order.
    """

    def __init__(
        self,
        sequence: definitions.Sequence,
        *,
        max_partial_matches: int = 1000,
        remembered_ms: int = 30 * 86_400_000,
    ) -> None:
        """Create an operator without events; DefinitionError if the pattern is too large.

        At most `max_partial_matches` of one key are in one state, beyond which the oldest are
        dropped; the last match of a key can be read for `remembered_ms`.
        """
        self.name = sequence.name
        self.entity = sequence.entity
        same = () if sequence.same is None else (sequence.same,)
        self.sources: tuple[str, ...] = ("event_id", *same)
        self.late = 0
        self._runner = SequenceRunner(sequence, max_partial_matches)
        self._partitions = self._runner.partitions
        self._automaton = self._runner.matcher.automaton
        self._same = sequence.same
        self._remembered_ms = remembered_ms
        self._buffer = ReorderBuffer()
        self._place = 0  # of the next event
        self._packed_place = 0  # waiting events from this place on have not been packed

    @property
    def evicted(self) -> int:
        """Partial matches dropped to bound the memory."""
        return self._runner.matcher.evicted

    def apply(
        self, events: Sequence[Any], keys: Sequence[str | None], watermarks: Rows, texts: Texts
    ) -> None:
        """Apply accepted events in the order of the log; see `Operator`.

        An event before the watermark is late: it is counted in `late` only.
        """
        if not len(events):
            return
        codes, other = self._automaton.codes, self._automaton.other
        unnamed = -1 if other is None else other
        types = map(attrgetter("type"), events)
        coded = np.fromiter(map(codes.get, types, repeat(unnamed)), np.int64, len(events))
        arrived = self._arrived(events, keys, texts, coded)
        late = arrived.times < watermarks[arrived.places - self._place]
        if late.any():
            self.late += int(late.sum())
            arrived = arrived.take(~late)
        self._place += len(events)
        self._buffer.extend(arrived)
        self.advance(int(watermarks[-1]))

    def apply_items(self, items: Sequence[Item], watermarks: Rows) -> None:
        """Ignore item updates: sequences consist of events."""

    def advance(self, watermark: int) -> None:
        """Run the events before `watermark`, and the timers up to it."""
        released = self._buffer.release(watermark)
        if released is not None:
            self._runner.run(*released)
        self._runner.expire(watermark)
        self._runner.sweep(watermark, self._buffer, self._remembered_ms)

    def next_timer(self) -> int | None:
        """Return the next watermark at which :meth:`advance` has work; None without any."""
        earliest = self._buffer.earliest()
        due = [] if earliest is None else [earliest + 1]
        due += [time for time, _ in self._runner.timers[:1]]
        return min(due, default=None)

    def take(self) -> list[Match]:
        """Return matches since the last call, in the order in which they became certain."""
        matches, self._runner.matches = self._runner.matches, []
        return matches

    def read(self, key: str, at: int) -> float:
        """Return the end of the last match of `key`, epoch ms; 0 without a recent one."""
        last = self._runner.last.get(key, 0)
        return float(last) if at - last < self._remembered_ms else 0.0

    def pack_changes(self) -> dict[str, bytes | None]:
        """Return packed state of keys changed since the last call; None if none is left."""
        dirty, self._runner.dirty = self._runner.dirty, set()
        since, self._packed_place = self._packed_place, self._place
        partitions, waiting = self._partitions, self._buffer.waiting()
        partitions.changed[waiting.rows[waiting.places >= since]] = True
        changed = np.flatnonzero(partitions.changed)
        partitions.changed[changed] = False
        dirty |= partitions.entities(changed.tolist())
        if not dirty:
            return {}
        rows = {key: partitions.rows_of(key) for key in dirty}
        wanted = np.zeros(len(partitions.changed), np.bool_)
        wanted[[*chain(*rows.values())]] = True
        events: dict[str, list[PackedEvent]] = {}
        for event in self._with_partitions(waiting.take(wanted[waiting.rows])):
            events.setdefault(key_of(event[2]), []).append(event)
        return self._pack(rows, events)

    def unpack(self, key: str, blob: bytes) -> None:
        """Restore the state of a key that :meth:`pack_changes` returned; else StateError."""
        last, waiting, partitions = unpack_key(blob, self.name)
        states, codes = len(self._automaton.rows), len(self._automaton.first)
        if any(not 0 <= event[3] < codes for event in waiting) or any(
            not 0 <= state < states for _, by_state, _ in partitions for state in by_state
        ):
            raise StateError(f"the packed state of {self.name} is one of another sequence")
        if last:
            self._runner.last[key] = last
        row_of = self._partitions.row_of
        rows = ((*event[:2], row_of(event[2]), *event[3:]) for event in waiting)
        self._buffer.extend(arrivals_of(rows))
        places = [event[1] for event in waiting]
        for same, by_state, matched in partitions:
            row = row_of(partition_key(key, same))
            partition = self._partitions.partition(row)
            partition.waiting, partition.matched = by_state, matched
            self._runner.set_timer(row, partition)
            self._partitions.put(row, partition)
            places += [match[3] for matches in (*by_state.values(), matched) for match in matches]
        after = max([self._place, *(place + 1 for place in places)])
        if self._packed_place == self._place:
            self._packed_place = after
        self._place = after

    def merge(self, source_key: str, target_key: str) -> None:
        """Move the state of one key to another: both are the same entity.

        The partial matches of both stay; later events are applied to all of them.
        """
        if source_key == target_key:
            return
        rows, others = self._partitions.rows_of(source_key), list[int]()
        for row in rows:
            same = same_of(self._partitions.key(row))
            other = self._partitions.row_of(partition_key(target_key, same))
            others.append(other)
            source = self._partitions.partition(row)
            if not source.is_empty:
                target = self._partitions.partition(other)
                for state, matches in source.waiting.items():
                    add_to(target.waiting, state, matches)
                target.matched = sorted(target.matched + source.matched)
                self._runner.matcher.evict(target)
                self._runner.set_timer(other, target)
                self._partitions.put(other, target)
            self._partitions.release(row)
        self._buffer.rename(rows, others)
        ends = self._runner.last
        last = ends.pop(source_key, 0)
        if last:
            ends[target_key] = max(last, ends.get(target_key, 0))
        self._runner.dirty |= {source_key, target_key}

    def detach(self, key: str) -> bytes | None:
        """Remove the state of a key and return it packed; None without any."""
        rows = self._partitions.rows_of(key)
        waiting = self._with_partitions(self._buffer.remove(rows))
        packed = self._pack({key: rows}, {key: waiting})
        for row in rows:
            self._partitions.release(row)
        self._runner.last.pop(key, None)
        self._runner.dirty.add(key)
        return packed[key]

    def _arrived(
        self, events: Sequence[Any], keys: Sequence[str | None], texts: Texts, codes: Rows
    ) -> Arrivals:
        """Return the events whose type and partition count."""
        partitions: Sequence[PartitionKey | None] = keys
        if self._same is not None:
            partitions = [
                (key, same) if key is not None and same is not None else None
                for key, same in zip(keys, texts(self._same), strict=True)
            ]
        users = keys if self.entity == "user" else texts("user_id")
        places = np.arange(self._place, self._place + len(events))
        # Comprehensions read a field in half the time of a mapped attrgetter.
        times = np.fromiter([event.timestamp for event in events], np.int64, len(events))
        ids = quoted([event.event_id for event in events])
        named = codes >= 0
        if not named.all():
            shared = users is partitions
            times, ids = times[named], ids[named]
            users = [*compress(users, named.tolist())]
            partitions = users if shared else [*compress(partitions, named.tolist())]
            places, codes = places[named], codes[named]
        count = len(places)
        rows = self._partitions.find(partitions)
        arrived = Arrivals(times, places, rows, codes, ids, np.fromiter(users, np.object_, count))
        return arrived if count == 0 or rows.min() >= 0 else arrived.take(rows >= 0)

    def _pack(
        self, rows: Mapping[str, list[int]], waiting: Mapping[str, list[PackedEvent]]
    ) -> dict[str, bytes | None]:
        """Pack keys with their rows and events; None for a key without state."""
        every = [*chain(*rows.values())]
        contents = iter(zip(every, self._partitions.contents(every), strict=True))
        packed: dict[str, bytes | None] = {}
        for key, own in rows.items():
            partitions: list[PackedPartition] = [
                (same_of(self._partitions.key(row)), by_state, matched)
                for row, (by_state, matched) in islice(contents, len(own))
                if by_state or matched
            ]
            packed[key] = pack_key(self._runner.last.get(key, 0), waiting.get(key, []), partitions)
        return packed

    def _with_partitions(self, events: Arrivals) -> list[PackedEvent]:
        keys: list[Any] = self._partitions.keys
        return [(*event[:2], keys[event[2]], *event[3:]) for event in events.as_tuples()]

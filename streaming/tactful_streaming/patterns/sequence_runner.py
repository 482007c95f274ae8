"""Runs events in the order of event time through the partitions of a sequence."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Rows
from tactful_streaming.decode.reorder_buffer import Arrivals
from tactful_streaming.definitions.model import Sequence
from tactful_streaming.patterns.match import Match
from tactful_streaming.patterns.partial_match import (
    PartialMatch,
    Partition,
    PatternMatcher,
    SequenceEvent,
)
from tactful_streaming.patterns.partitions import (
    MAX_SLOTS,
    CompletedMatch,
    PartialMatchColumns,
    PartitionKey,
    Partitions,
    key_of,
    same_of,
)

_SWEEP_MS: Final = 60_000


class SequenceRunner:
    """Partial matches, timers and matches of one sequence.

    A batch runs through the columns of partial matches first; events that the kernel leaves, and
    timers that pass before them, go through the objects of their partitions::

        events -> columns (kernel) -> completed matches -+
                       | left events                     +-> matches, by time
                       +-> partitions (objects), timers -+

    Attributes:
        matcher: applies events to partitions that are objects.
        partitions: partitions with their partial matches.
        matches: matches not yet taken, in the order in which they became certain.
        last: end of the last match by key, epoch milliseconds.
        dirty: keys changed by timers and sweeps.
    """

    def __init__(self, sequence: Sequence, max_partial_matches: int) -> None:
        """Create a runner without partitions; DefinitionError if the pattern is too large."""
        self.matcher = PatternMatcher(sequence, max_partial_matches)
        automaton = self.matcher.automaton
        taken = sum(step.most or MAX_SLOTS for step in sequence.steps if not step.negated)
        self.partitions = Partitions(
            PartialMatchColumns(
                automaton,
                sequence.within_ms,
                slots=taken - 1,
                most=max_partial_matches,
                past_last=sequence.skip == "past_last",
            )
        )
        self.matches: list[Match] = []
        self.last: dict[str, int] = {}
        self.dirty: set[str] = set()
        self._sequence = sequence
        self._needs_time = any(automaton.pending)
        self._timers: list[tuple[int, PartitionKey]] = []
        self._next_sweep = 0

    def run(self, events: Arrivals, order: NDArray[np.int64]) -> None:
        """Apply events, in `order`, to the partial matches of their partitions."""
        self.partitions.changed[events.rows] = True
        left, completed = self.partitions.columns.move(events, order)
        applied = events.take(order[left])
        self._apply(zip(left.tolist(), applied.as_tuples(), strict=True), deque(completed))
        self.partitions.put_back(applied.rows)

    def expire(self, until: int) -> None:
        """Run the timers up to `until`: end the partial matches whose time is over."""
        timers = self._timers
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

    def next_timer(self) -> int | None:
        """Return the time of the next timer; None without any."""
        return self._timers[0][0] if self._timers else None

    def set_timer(self, row: int, partition: Partition) -> None:
        """Set a timer at the next time at which a partial match ends without an event."""
        due = self.matcher.due(partition)
        if due is not None and (partition.timer is None or due < partition.timer):
            partition.timer = due
            heapq.heappush(self._timers, (due, self.partitions.key(row)))

    def sweep(self, watermark: int, waiting: Rows, remembered_ms: int) -> None:
        """Delete, from time to time, what can match no more, and last matches of long ago.

        `waiting` are the rows of events that wait; the time of a last match is deleted at the age
        of `remembered_ms`.
        """
        self._next_sweep = watermark + max(self._sequence.within_ms // 2, _SWEEP_MS)
        for row, partition in list(self.partitions.held.items()):
            before = sum(map(len, partition.waiting.values()))
            self.matcher.expire(partition, watermark)
            if sum(map(len, partition.waiting.values())) < before:
                self.partitions.changed[row] = True
            if partition.is_empty:
                self.partitions.release(row)
        self.partitions.sweep(watermark - self._sequence.within_ms, waiting)
        old = [key for key, last in self.last.items() if watermark - last >= remembered_ms]
        for key in old:
            del self.last[key]
        self.dirty.update(old)

    def sweep_due(self, watermark: int) -> bool:
        """Return whether it is time to :meth:`sweep`."""
        return watermark >= self._next_sweep

    def _apply(
        self, left: Iterable[tuple[int, SequenceEvent]], completed: deque[CompletedMatch]
    ) -> None:
        """Apply events to partitions that are objects; report completed matches between.

        Both come with the positions of their events in the order of all.
        """
        for position, event in left:
            self._report_completed(completed, position)
            timestamp, _, row, *_ = event
            self._expire_before(timestamp)
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
            self._expire_before(match[2])
            self._report(row, match, match[2])

    def _expire_before(self, now: int) -> None:
        if self._timers and self._timers[0][0] <= now:
            self.expire(now)

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

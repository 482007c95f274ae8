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
from collections.abc import Sequence
from itertools import compress, count, repeat
from operator import attrgetter, itemgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_streaming import definitions
from tactful_streaming.beginnings import TAKEN, Beginning, Groups, Partition, Search, add_to
from tactful_streaming.entries import Item
from tactful_streaming.errors import StateError
from tactful_streaming.matches import Happening, Match, Texts
from tactful_streaming.pattern import ENDED
from tactful_streaming.reorder import PartitionKey, ReorderBuffer, Waiting, key_of

REMEMBERED_MS = 30 * 86_400_000
"""How long the time of a key's last match can be read."""

MAX_BEGINNINGS = 1000
"""Most beginnings of one key that wait at the same step; the oldest give way."""

_Alone = tuple[int, Beginning]
"""All of a partition that has a single beginning: its state, and it."""

_SWEEP_MS = 60_000
_encoder = msgspec.msgpack.Encoder()

_PackedPartition = tuple[str | None, Groups, list[Beginning]]
"""What the events have in common, the beginnings that wait, and the matches that do."""

_PackedKey = tuple[int, list[Waiting], list[_PackedPartition]]
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
        self._plain = tuple(
            not (complete or pending)
            for complete, pending in zip(automaton.complete, automaton.pending, strict=True)
        )
        self._buffer = ReorderBuffer()
        self._partitions: dict[PartitionKey, Partition | _Alone] = {}
        self._sames: dict[str, set[str]] = {}
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
        partitions: Sequence[PartitionKey | None] = keys
        if self._same is not None:
            partitions = [
                (key, same) if key is not None and same is not None else None
                for key, same in zip(keys, texts(self._same), strict=True)
            ]
        subjects: Sequence[str | None] = keys if self.entity == "user" else texts("user_id")
        times = list(map(attrgetter("timestamp"), events))
        seen = list(map(codes.get, map(attrgetter("type"), events), repeat(other)))
        ids = map(attrgetter("event_id"), events)
        waiting: Any = zip(times, count(self._place), partitions, seen, ids, subjects)
        if None in seen or None in partitions:
            counts = [code is not None for code in seen]
            if None in partitions:
                counts = [
                    wanted and partition is not None
                    for wanted, partition in zip(counts, partitions, strict=True)
                ]
            waiting = compress(waiting, counts)
        accepted: list[Waiting] = list(waiting)
        if min(times) < watermarks[-1]:
            before, first = watermarks.tolist(), self._place
            in_time = [event for event in accepted if event[0] >= before[event[1] - first]]
            self.late += len(accepted) - len(in_time)
            accepted = in_time
        self._place += len(events)
        self._buffer.extend(accepted)
        self.advance(int(watermarks[-1]))

    def apply_items(self, items: Sequence[Item], watermarks: NDArray[np.int64]) -> None:
        """Sequences are made of events only: nothing happens."""

    def advance(self, watermark: int) -> None:
        """Run the events before `watermark`, and what follows from nothing else coming."""
        self._run(self._buffer.release(watermark))
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
        if not dirty and since == self._packed_place:
            return {}
        dirty.update(key_of(event[2]) for event in self._buffer if event[1] >= since)
        waiting: dict[str, list[Waiting]] = {}
        for event in self._buffer:
            key = key_of(event[2])
            if key in dirty:
                waiting.setdefault(key, []).append(event)
        return {key: self._pack_key(key, waiting.get(key, [])) for key in dirty}

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
        if any(event[3] >= codes for event in waiting) or any(
            state >= states for _, groups, _ in partitions for state in groups
        ):
            raise StateError(f"the packed state of {self.name} is one of another sequence")
        if last:
            self._last[key] = last
        self._buffer.extend(waiting)
        places = [event[1] for event in waiting]
        for same, groups, matched in partitions:
            partition_key = _joined(key, same)
            partition = self._partition(partition_key)
            partition.groups, partition.matched = groups, matched
            self._set_timer(partition_key, partition)
            places += [run[3] for runs in (*groups.values(), matched) for run in runs]
        after = max([self._place, *(place + 1 for place in places)])
        if self._packed_place == self._place:
            self._packed_place = after
        self._place = after

    def merge(self, source_key: str, target_key: str) -> None:
        """Give what is known of one key to another: they are the same entity.

        The beginnings of both stay as they are, and events from now on count for all of them.
        """
        for partition_key in self._partitions_of(source_key):
            source = self._partition(partition_key)
            self._forget(partition_key)
            target_partition = _joined(target_key, _split(partition_key)[1])
            target = self._partition(target_partition)
            for state, runs in source.groups.items():
                add_to(target.groups, state, runs)
            target.matched = sorted(target.matched + source.matched)
            self._search.bound(target)
            self._set_timer(target_partition, target)
        self._buffer.rename(source_key, target_key)
        last = self._last.pop(source_key, 0)
        if last:
            self._last[target_key] = max(last, self._last.get(target_key, 0))
        self._dirty |= {source_key, target_key}

    def detach(self, key: str) -> bytes | None:
        """Remove what is known of a key and give it packed; None if nothing is."""
        packed = self._pack_key(key, self._buffer.remove(key))
        for partition_key in self._partitions_of(key):
            self._forget(partition_key)
        self._last.pop(key, None)
        self._dirty.add(key)
        return packed

    def _run(self, events: list[Waiting]) -> None:
        """Show events to the beginnings of their partitions.

        Most partitions have one beginning at most, and it waits or ends: that case is done here.
        """
        partitions, timers = self._partitions, self._timers
        first, rows, plain = self._automaton.first, self._automaton.rows, self._plain
        within = self._within
        for event in events:
            timestamp, place, partition_key, code, event_id, subject = event
            if timers and timers[0][0] <= timestamp:
                self._fire(timestamp)
            begun = first[code]
            partition = partitions.get(partition_key)
            if type(partition) is Partition:
                self._step(partition, event)
                continue
            if type(partition) is tuple:
                state, run = partition
                after = rows[state][code] if run[0] > timestamp - within else ENDED
                if after != ENDED:
                    if begun != ENDED or not plain[after >> 1]:
                        self._step(self._partition(partition_key), event)
                    elif after & TAKEN:
                        ids = (*run[4], event_id)
                        run = (run[0], run[1], timestamp, place, ids, subject)
                        partitions[partition_key] = (after >> 1, run)
                    elif after >> 1 != state:
                        partitions[partition_key] = (after >> 1, run)
                    continue
                if begun == ENDED:
                    self._forget(partition_key)
                    continue
            if begun != ENDED:
                if not plain[begun >> 1]:
                    self._step(self._partition(partition_key), event)
                    continue
                run = (timestamp, place, timestamp, place, (event_id,), subject)
                if partition is None:
                    self._remember(partition_key)
                partitions[partition_key] = (begun >> 1, run)
        self._mark(events)

    def _step(self, partition: Partition, event: Waiting) -> None:
        self._search.show(partition, event)
        if partition.matched:
            self._tell(event[2], partition, event[0])
        if partition.is_empty:
            self._forget(event[2])
        elif partition.matched or self._needs_time:
            self._set_timer(event[2], partition)

    def _fire(self, until: int) -> None:
        """Let what waits in vain come to its end: everything with a time up to `until`."""
        timers = self._timers
        while timers and timers[0][0] <= until:
            now, partition_key = heapq.heappop(timers)
            partition = self._partitions.get(partition_key)
            if not isinstance(partition, Partition) or partition.timer != now:
                continue  # replaced by an earlier one, or its partition is gone
            partition.timer = None
            self._dirty.add(key_of(partition_key))
            self._search.settle(partition, now)
            self._tell(partition_key, partition, now)
            if partition.is_empty:
                self._forget(partition_key)
            else:
                self._set_timer(partition_key, partition)

    def _tell(self, partition_key: PartitionKey, partition: Partition, now: int) -> None:
        """Report the matches that are certain at event time `now`."""
        key, same = _split(partition_key)
        for start, _, end, _, ids, subject in self._search.certain(partition):
            self._matches.append(
                Match(
                    name=self.name,
                    entity=self.entity,
                    key=key,
                    same=same,
                    start=start,
                    end=end,
                    decided=now,
                    events=ids,
                    subject=subject,
                )
            )
            self._last[key] = max(end, self._last.get(key, 0))

    def _set_timer(self, partition_key: PartitionKey, partition: Partition) -> None:
        """Come back when time alone decides something."""
        due = self._search.due(partition)
        if due is not None and (partition.timer is None or due < partition.timer):
            partition.timer = due
            heapq.heappush(self._timers, (due, partition_key))

    def _pack_key(self, key: str, waiting: list[Waiting]) -> bytes | None:
        """All that is known of a key; None if nothing is."""
        last = self._last.get(key, 0)
        partitions = [self._pack(partition) for partition in self._partitions_of(key)]
        if not (last or partitions or waiting):
            return None
        return _encoder.encode((last, waiting, partitions))

    def _pack(self, partition_key: PartitionKey) -> _PackedPartition:
        partition, same = self._partitions[partition_key], _split(partition_key)[1]
        if isinstance(partition, Partition):
            return same, partition.groups, partition.matched
        state, run = partition
        return same, {state: [run]}, []

    def _sweep(self, watermark: int) -> None:
        """Forget beginnings that can end in nothing, and matches of long ago."""
        self._next_sweep = watermark + max(self._within // 2, _SWEEP_MS)
        horizon = watermark - self._within
        for partition_key, partition in list(self._partitions.items()):
            if isinstance(partition, Partition):
                before = sum(map(len, partition.groups.values()))
                self._search.settle(partition, watermark)
                changed = sum(map(len, partition.groups.values())) < before
                over = partition.is_empty
            else:
                changed = over = partition[1][0] <= horizon
            if changed:
                self._dirty.add(key_of(partition_key))
            if over:
                self._forget(partition_key)
        old = [k for k, last in self._last.items() if watermark - last >= self._remembered_ms]
        for key in old:
            del self._last[key]
        self._dirty.update(old)

    def _mark(self, events: list[Waiting]) -> None:
        """Note that the state of the keys of `events` changes, which wait no longer."""
        if self._same is None:
            alone: Any = map(itemgetter(2), events)
            self._dirty.update(alone)
        else:
            self._dirty.update([event[2][0] for event in events])

    def _partitions_of(self, key: str) -> list[PartitionKey]:
        if self._same is not None:
            return [(key, same) for same in sorted(self._sames.get(key, ()))]
        return [key] if key in self._partitions else []

    def _partition(self, partition_key: PartitionKey) -> Partition:
        """The partition, made if need be."""
        found = self._partitions.get(partition_key)
        if isinstance(found, Partition):
            return found
        partition = self._partitions[partition_key] = Partition()
        if found is None:
            self._remember(partition_key)
        else:
            state, run = found
            partition.groups[state] = [run]
        return partition

    def _remember(self, partition_key: PartitionKey) -> None:
        if isinstance(partition_key, tuple):
            self._sames.setdefault(partition_key[0], set()).add(partition_key[1])

    def _forget(self, partition_key: PartitionKey) -> None:
        del self._partitions[partition_key]
        if isinstance(partition_key, tuple):
            key, same = partition_key
            self._sames[key].discard(same)
            if not self._sames[key]:
                del self._sames[key]


def _split(partition_key: PartitionKey) -> tuple[str, str | None]:
    return (partition_key, None) if isinstance(partition_key, str) else partition_key


def _joined(key: str, same: str | None) -> PartitionKey:
    return key if same is None else (key, same)

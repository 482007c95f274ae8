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
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_streaming import definitions
from tactful_streaming.entries import Item
from tactful_streaming.errors import StateError
from tactful_streaming.matches import Happening, Match, Texts
from tactful_streaming.pattern import ENDED, compile_pattern
from tactful_streaming.reorder import PartitionKey, ReorderBuffer, Waiting, key_of

REMEMBERED_MS = 30 * 86_400_000
"""How long the time of a key's last match can be read."""

MAX_BEGINNINGS = 1000
"""Most beginnings of one key that wait at the same step; the oldest give way."""

MAX_EVENTS = 1000
"""Most events of one match, where a step repeats without limit."""

_Run = tuple[int, int, int, int, tuple[str, ...], str | None]
"""A beginning: timestamp and place of its first and of its last event, their ids, and who last."""

_Alone = tuple[int, _Run]
"""All of a partition that has a single beginning: its state, and it."""

_TAKEN = 1
_SWEEP_MS = 60_000
_begin = itemgetter(0)
_begin_and_place = itemgetter(0, 1)
_encoder = msgspec.msgpack.Encoder()


class _Partition:
    """The beginnings of one partition: those that wait, by state, and matches not told yet.

    All lists are in the order of the beginnings. `timer` is the earliest that is set.
    """

    __slots__ = ("groups", "matched", "timer")

    def __init__(self) -> None:
        self.groups: dict[int, list[_Run]] = {}
        self.matched: list[_Run] = []
        self.timer: int | None = None


_PackedPartition = tuple[str | None, dict[int, list[_Run]], list[_Run]]
"""What the events have in common, and the two parts of a :class:`_Partition`."""

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
        self.late = self.evicted = 0
        self._automaton = automaton = compile_pattern(sequence)
        self.types = frozenset(automaton.codes) if automaton.other is None else None
        self._same = sequence.same
        self._within = sequence.within_ms
        self._past_last = sequence.skip == "past_last"
        self._max_beginnings = max_beginnings
        self._remembered_ms = remembered_ms
        self._may_wait = any(automaton.pending)
        self._plain = tuple(
            not (complete or pending)
            for complete, pending in zip(automaton.complete, automaton.pending, strict=True)
        )
        self._buffer = ReorderBuffer()
        self._partitions: dict[PartitionKey, _Partition | _Alone] = {}
        self._sames: dict[str, set[str]] = {}
        self._last: dict[str, int] = {}
        self._timers: list[tuple[int, PartitionKey]] = []
        self._dirty: set[str] = set()
        self._matches: list[Match] = []
        self._place = 0  # of the next event among those of the log
        self._next_sweep = 0

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
        accepted: list[Waiting] = [
            (event.timestamp, place, partition, code, event.event_id, subject)
            for place, (event, partition, subject) in enumerate(
                zip(events, partitions, subjects, strict=True), self._place
            )
            if (code := codes.get(event.type, other)) is not None and partition is not None
        ]
        if accepted and min(accepted)[0] < watermarks[-1]:
            before, first = watermarks.tolist(), self._place
            in_time = [event for event in accepted if event[0] >= before[event[1] - first]]
            self.late += len(accepted) - len(in_time)
            accepted = in_time
        self._place += len(events)
        self._mark(accepted)
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
        if not dirty:
            return {}
        waiting: dict[str, list[Waiting]] = {}
        alone = self._same is None
        for event in self._buffer:
            key = event[2] if alone else event[2][0]
            if key in dirty:
                waiting.setdefault(key, []).append(event)
        packed: dict[str, bytes | None] = {}
        for key in dirty:
            last = self._last.get(key, 0)
            partitions = [self._pack(partition) for partition in self._partitions_of(key)]
            events = waiting.get(key, ())
            empty = not (last or partitions or events)
            packed[key] = None if empty else _encoder.encode((last, events, partitions))
        return packed

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
        self._place = max([self._place, *(place + 1 for place in places)])

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
                _join(target.groups, state, runs)
            target.matched = sorted(target.matched + source.matched)
            self._bound(target)
            self._set_timer(target_partition, target)
        self._buffer.rename(source_key, target_key)
        last = self._last.pop(source_key, 0)
        if last:
            self._last[target_key] = max(last, self._last.get(target_key, 0))
        self._dirty |= {source_key, target_key}

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
            if isinstance(partition, _Partition):
                self._step(partition, event)
                continue
            if partition is not None:
                state, run = partition
                after = rows[state][code] if run[0] > timestamp - within else ENDED
                if after != ENDED:
                    if begun != ENDED or not plain[after >> 1]:
                        self._step(self._partition(partition_key), event)
                    elif after & _TAKEN:
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

    def _step(self, partition: _Partition, event: Waiting) -> None:
        """Show one event to every beginning of a partition."""
        timestamp, place, partition_key, code, event_id, subject = event
        rows, pending = self._automaton.rows, self._automaton.pending
        complete, closed = self._automaton.complete, self._automaton.closed
        horizon = timestamp - self._within
        groups: dict[int, list[_Run]] = {}
        matched: list[_Run] = []
        for state, runs in partition.groups.items():
            if runs[0][0] <= horizon:
                cut = bisect_right(runs, horizon, key=_begin)
                old, runs = runs[:cut], runs[cut:]
                # Too old to take anything; one that is whole already waits on.
                after = rows[closed[state]][code] if pending[state] else ENDED
                if after != ENDED:
                    _join(groups, after >> 1, old)
                if not runs:
                    continue
            transition = rows[state][code]
            if transition == ENDED:
                continue
            target = transition >> 1
            if transition & _TAKEN:
                if self._automaton.unbounded:
                    short = [run for run in runs if len(run[4]) < MAX_EVENTS]
                    self.evicted += len(runs) - len(short)
                    if not short:
                        continue
                    runs = short
                if complete[target] and self._past_last:
                    # Whatever becomes of the first of them, the others are skipped.
                    runs = runs[:1]
                runs = [
                    (begin, begin_place, timestamp, place, (*ids, event_id), subject)
                    for begin, begin_place, _, _, ids, _ in runs
                ]
                if complete[target]:
                    matched += runs
                    continue
            _join(groups, target, runs)
        transition = self._automaton.first[code]
        if transition != ENDED:
            run = (timestamp, place, timestamp, place, (event_id,), subject)
            if complete[transition >> 1]:
                matched.append(run)
            else:
                _join(groups, transition >> 1, [run])
        partition.groups = groups
        if matched:
            partition.matched = sorted(partition.matched + matched)
        self._bound(partition)
        if partition.matched:
            self._tell(partition_key, partition, timestamp)
        if partition.matched or (self._may_wait and any(pending[state] for state in groups)):
            self._set_timer(partition_key, partition)
        elif not partition.groups:
            self._forget(partition_key)

    def _fire(self, until: int) -> None:
        """Let what waits in vain come to its end: everything with a time up to `until`."""
        timers = self._timers
        while timers and timers[0][0] <= until:
            now, partition_key = heapq.heappop(timers)
            partition = self._partitions.get(partition_key)
            if not isinstance(partition, _Partition) or partition.timer != now:
                continue  # replaced by an earlier one, or its partition is gone
            partition.timer = None
            self._dirty.add(key_of(partition_key))
            self._settle(partition, now)
            self._tell(partition_key, partition, now)
            self._set_timer(partition_key, partition)
            if not partition.groups and not partition.matched:
                self._forget(partition_key)

    def _settle(self, partition: _Partition, now: int) -> None:
        """End every beginning whose time is over at `now`: as a match, or without."""
        horizon = now - self._within
        groups: dict[int, list[_Run]] = {}
        for state, runs in partition.groups.items():
            if self._automaton.pending[state]:
                partition.matched += [run for run in runs if self._deadline(run) <= now]
                left = [run for run in runs if self._deadline(run) > now]
            else:
                left = runs[bisect_right(runs, horizon, key=_begin) :]
            if left:
                groups[state] = left
        partition.groups = groups
        partition.matched.sort()

    def _tell(self, partition_key: PartitionKey, partition: _Partition, now: int) -> None:
        """Report the matches that no earlier beginning can take back."""
        key, same = _split(partition_key)
        while partition.matched:
            begin, begin_place, end, end_place, ids, subject = partition.matched[0]
            earliest = min((runs[0][:2] for runs in partition.groups.values()), default=None)
            if earliest is not None and earliest < (begin, begin_place):
                return
            self._matches.append(
                Match(
                    name=self.name,
                    entity=self.entity,
                    key=key,
                    same=same,
                    start=begin,
                    end=end,
                    decided=now,
                    events=ids,
                    subject=subject,
                )
            )
            self._last[key] = max(end, self._last.get(key, 0))
            skipped = (end, end_place) if self._past_last else (begin, begin_place)
            partition.matched = _after(partition.matched, skipped)
            partition.groups = {
                state: left
                for state, runs in partition.groups.items()
                if (left := _after(runs, skipped))
            }

    def _bound(self, partition: _Partition) -> None:
        """Let the oldest give way where there are too many."""
        most = self._max_beginnings
        for runs in (*partition.groups.values(), partition.matched):
            if len(runs) > most:
                self.evicted += len(runs) - most
                del runs[:-most]

    def _pack(self, partition_key: PartitionKey) -> _PackedPartition:
        partition, same = self._partitions[partition_key], _split(partition_key)[1]
        if isinstance(partition, _Partition):
            return same, partition.groups, partition.matched
        state, run = partition
        return same, {state: [run]}, []

    def _set_timer(self, partition_key: PartitionKey, partition: _Partition) -> None:
        """Come back when the next beginning of the partition is over, if that can matter."""
        due: list[int] = []
        for state, runs in partition.groups.items():
            if self._automaton.pending[state]:
                due.append(min(map(self._deadline, runs)))
            elif partition.matched:
                due.append(runs[0][0] + self._within)
        if due and (partition.timer is None or min(due) < partition.timer):
            partition.timer = min(due)
            heapq.heappush(self._timers, (partition.timer, partition_key))

    def _deadline(self, run: _Run) -> int:
        """When a beginning is a match if nothing that is forbidden comes before."""
        for_ms = self._automaton.for_ms
        return run[0] + self._within if for_ms is None else run[2] + for_ms

    def _sweep(self, watermark: int) -> None:
        """Forget beginnings that can end in nothing, and matches of long ago."""
        self._next_sweep = watermark + max(self._within // 2, _SWEEP_MS)
        horizon = watermark - self._within
        for partition_key, partition in list(self._partitions.items()):
            if isinstance(partition, _Partition):
                before = _count(partition.groups)
                self._settle(partition, watermark)
                changed = _count(partition.groups) < before
                over = not partition.groups and not partition.matched
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
        """Note that the state of the keys of `events` changes."""
        if self._same is None:
            self._dirty.update([event[2] for event in events])  # type: ignore[misc]
        else:
            self._dirty.update([event[2][0] for event in events])

    def _partitions_of(self, key: str) -> list[PartitionKey]:
        if self._same is not None:
            return [(key, same) for same in sorted(self._sames.get(key, ()))]
        return [key] if key in self._partitions else []

    def _partition(self, partition_key: PartitionKey) -> _Partition:
        """The partition, made if need be."""
        found = self._partitions.get(partition_key)
        if isinstance(found, _Partition):
            return found
        partition = self._partitions[partition_key] = _Partition()
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


def _join(groups: dict[int, list[_Run]], state: int, runs: list[_Run]) -> None:
    """Put `runs`, which belong to nobody else, into `state`."""
    there = groups.get(state)
    if there is None:
        groups[state] = runs
        return
    ordered = there[-1] < runs[0]
    there += runs
    if not ordered:
        there.sort()


def _after(runs: list[_Run], place: tuple[int, int]) -> list[_Run]:
    return runs[bisect_right(runs, place, key=_begin_and_place) :]


def _count(groups: dict[int, list[_Run]]) -> int:
    return sum(map(len, groups.values()))

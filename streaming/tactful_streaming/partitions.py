"""The partitions of a sequence: a row for each, and in columns those with a single event in hand.

Most partitions have one beginning at most, of which only the first event has been taken, and what
comes next ends it. These are columns here, and a batch of events moves all of them at once; what is
more than that is an object of its own, which `sequences.py` keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.beginnings import Beginning, Partition
from tactful_streaming.json_reader import NumberedTexts, unquoted
from tactful_streaming.pattern import ENDED, Automaton
from tactful_streaming.placed_rows import PlacedRows, Placing, rows_of_numbered
from tactful_streaming.reorder import Arrivals

PartitionKey = str | tuple[str, str]
"""Key of the entity, or of the entity and what else its events have in common."""

Alone = tuple[int, Beginning]
"""All of a partition that has a single beginning: its state, and it."""

NOTHING: Final = -1
"""State of a partition without a beginning."""

HELD: Final = -2
"""State of a partition whose beginning is kept as an object."""

SEVERAL: Final = -3
"""State of a partition with several beginnings, or a match that waits."""

_FIRST_CAPACITY: Final = 256
_FOR_EVER: Final = 1 << 62

Rows = NDArray[np.int64]


def key_of(partition: PartitionKey) -> str:
    """The entity of a partition."""
    return partition if isinstance(partition, str) else partition[0]


def same_of(partition: PartitionKey) -> str | None:
    """What else the events of a partition have in common."""
    return None if isinstance(partition, str) else partition[1]


def partition_key(key: str, same: str | None) -> PartitionKey:
    """The partition of an entity and of what else its events have in common."""
    return key if same is None else (key, same)


class Partitions:
    """A row for each partition, and the beginnings that are columns.

    Attributes:
        keys: partition of each row; None of a free one.
        held: partitions that are objects, by row.
        states: state of the beginning of each row, :data:`NOTHING`, :data:`HELD` or
            :data:`SEVERAL`.
        changed: rows of which something has changed, to be set and cleared from outside.
    """

    def __init__(self, automaton: Automaton, within_ms: int) -> None:
        """Begin without partitions.

        Args:
            automaton: the compiled pattern.
            within_ms: how long after its first event a beginning takes others.
        """
        self._within = within_ms
        first = np.array(automaton.first, np.int64)
        after = np.array(automaton.rows, np.int64).reshape(-1, len(first))
        complete = np.array(automaton.complete)
        asks = complete | np.array(automaton.pending)
        self._begun = first >> 1  # of ENDED it is NOTHING
        self._asks = (first != ENDED) & asks[self._begun]
        ends = (first != ENDED) & (after[~complete] == ENDED).all(axis=0)
        self._lone = bool((ends | (first == ENDED)).all() and not any(automaton.pending))
        # What an event does, by state and code; the last three are SEVERAL, HELD and NOTHING.
        several, nothing = np.zeros(len(first), np.int64), np.full(len(first), ENDED)
        self._after = np.vstack([after, several, np.where(ends, ENDED, 0), nothing])
        self.keys: list[PartitionKey | None] = []
        self.held: dict[int, Partition | Alone] = {}
        self.states = np.full(_FIRST_CAPACITY, NOTHING, np.int64)
        self.changed = np.zeros(_FIRST_CAPACITY, np.bool_)
        self._times = np.zeros(_FIRST_CAPACITY, np.int64)
        self._places = np.zeros(_FIRST_CAPACITY, np.int64)
        self._ids = np.empty(_FIRST_CAPACITY, np.object_)
        self._subjects = np.empty(_FIRST_CAPACITY, np.object_)
        self._rows: dict[PartitionKey, int] = {}
        self._placed: WeakKeyDictionary[Placing, PlacedRows] = WeakKeyDictionary()
        self._rows_of: dict[str, dict[str, int]] = {}
        self._free: list[int] = []

    def find(self, keys: Sequence[PartitionKey | None]) -> Rows:
        """Row of each partition, made if it has none; -1 for None."""
        find: Any = self._rows.get  # of None nothing is known
        if isinstance(keys, NumberedTexts):
            rows = rows_of_numbered(keys, self._placed, self._rows)
        else:
            rows = np.fromiter(map(find, keys, repeat(-1)), np.int64, len(keys))
        for position in np.flatnonzero(rows < 0).tolist():
            key = keys[position]
            if key is not None:
                rows[position] = self.row_of(key)
        return rows

    def row_of(self, key: PartitionKey) -> int:
        """Row of a partition, made if it has none."""
        row = self._rows.get(key)
        if row is not None:
            return row
        if self._free:
            row = self._free.pop()
            self.keys[row] = key
        else:
            row = len(self.keys)
            self.keys.append(key)
            if row == len(self.states):
                self._grow()
        self._rows[key] = row
        self._note_move(key)
        if isinstance(key, tuple):
            self._rows_of.setdefault(key[0], {})[key[1]] = row
        return row

    def known(self, key: PartitionKey) -> int:
        """Row of a partition; -1 if it has none."""
        return self._rows.get(key, -1)

    def rows_of(self, key: str) -> list[int]:
        """Rows of an entity, in the order of what else their events have in common."""
        if key in self._rows:
            return [self._rows[key]]
        return [row for _, row in sorted(self._rows_of.get(key, {}).items())]

    def names(self, rows: Iterable[int]) -> set[str]:
        """Entities of `rows`."""
        return {key_of(key) for row in rows if (key := self.keys[row]) is not None}

    def move(self, events: Arrivals, show: Callable[[Arrivals], None]) -> None:
        """Show events to their partitions.

        An event is simple where it ends what its partition has in hand, and is itself ended by the
        next one. All events are supposed to be simple; from the first one on that is not, those of
        its partition are left to `show`. Where every event that may begin a match also ends
        whatever waits, the next such event is simple again.

        Args:
            events: in the order of their times.
            show: takes those that are left, in the same order.
        """
        count = len(events.times)
        numbers = np.arange(count)
        # Sorted by partition, in each by time.
        order = np.sort(events.rows * count + numbers) % count
        rows, codes, times = events.rows[order], events.codes[order], events.times[order]
        follows = np.empty(count, np.bool_)
        follows[0] = False
        np.equal(rows[1:], rows[:-1], out=follows[1:])
        begun = self._begun[codes]
        before, since = self.states[rows], self._times[rows]
        np.copyto(before[1:], begun[:-1], where=follows[1:])
        np.copyto(since[1:], times[:-1], where=follows[1:])
        left = (self._after[before, codes] != ENDED) & (since > times - self._within)
        left |= self._asks[codes]
        if not left.any():
            self._write(events, order, ~np.append(follows[1:], False), begun)
            return
        # Histories that were merged may wait for each other even so.
        lone = self._lone and not (self.states[rows] == SEVERAL).any()
        stays = follows & (begun == NOTHING) if lone else follows
        since_when = np.maximum.accumulate(np.where(stays, 0, numbers))
        left = np.maximum.accumulate(np.where(left, numbers, -1)) >= since_when
        rest = np.zeros(count, np.bool_)
        if lone:
            # With what is left goes the event before it that began what it goes on with.
            left[:-1] |= left[1:] & follows[1:] & (begun[:-1] != NOTHING)
            rest[order[left]] = True
            show(events.take(rest))
            self._write(events, order, ~left & ~np.append(follows[1:], False), begun)
        else:
            rest[order[left]] = True
            last = ~left
            last[:-1] &= ~follows[1:] | left[1:]
            self._write(events, order, last, begun)
            show(events.take(rest))

    def _write(self, events: Arrivals, order: Rows, chosen: NDArray[np.bool_], begun: Rows) -> None:
        """Let the `chosen` events be what their partitions have in hand."""
        index = order[chosen]
        rows = events.rows[index]
        for row in rows[self.states[rows] == HELD].tolist():
            del self.held[row]
        states = begun[chosen]
        self.states[rows] = states
        if (states == NOTHING).any():
            rows, index = rows[states != NOTHING], index[states != NOTHING]
        self._times[rows] = events.times[index]
        self._places[rows] = events.places[index]
        self._ids[rows] = unquoted(events.ids[index])
        self._subjects[rows] = events.subjects[index]

    def alone(self, row: int) -> Alone | None:
        """State and beginning of a row; None if it has none in the columns."""
        state = self.states.item(row)
        if state < 0:
            return None
        time, place = self._times.item(row), self._places.item(row)
        return state, (time, place, time, place, (self._ids[row],), self._subjects[row])

    def put(self, row: int, partition: Partition | Alone) -> None:
        """Keep a partition: in columns where only one event of it has been taken, else as it is."""
        if isinstance(partition, Partition) or len(partition[1][4]) > 1:
            self.held[row] = partition
            self.states[row] = SEVERAL if isinstance(partition, Partition) else HELD
            self._times[row] = _FOR_EVER
            return
        self.held.pop(row, None)
        self.states[row], beginning = partition
        self._times[row], self._places[row] = beginning[:2]
        self._ids[row], self._subjects[row] = beginning[4][0], beginning[5]

    def release(self, row: int) -> None:
        """Note that a row has no beginning."""
        self.held.pop(row, None)
        self.states[row] = NOTHING

    def sweep(self, horizon: int, needed: Rows) -> None:
        """Forget beginnings of up to `horizon`, and rows that nobody needs.

        Args:
            horizon: beginnings of then are too old to take anything.
            needed: rows of events that wait.
        """
        used = len(self.keys)
        states = self.states[:used]
        over = (states >= 0) & (self._times[:used] <= horizon)
        states[over] = NOTHING
        self.changed[:used] |= over
        spare = (states == NOTHING) & ~self.changed[:used]
        spare[needed] = False
        for row in np.flatnonzero(spare).tolist():
            key = self.keys[row]
            if key is not None:
                self._drop(row, key)

    def _drop(self, row: int, key: PartitionKey) -> None:
        del self._rows[key]
        self._note_move(key)
        self.keys[row] = None
        self._free.append(row)
        if isinstance(key, tuple):
            of_entity = self._rows_of[key[0]]
            del of_entity[key[1]]
            if not of_entity:
                del self._rows_of[key[0]]

    def _note_move(self, key: PartitionKey) -> None:
        if isinstance(key, str):
            for placed in self._placed.values():
                placed.moved((key,))

    def _grow(self) -> None:
        more = len(self.states) // 2
        self.states = np.concatenate([self.states, np.full(more, NOTHING, np.int64)])
        self.changed = np.concatenate([self.changed, np.zeros(more, np.bool_)])
        self._times = np.concatenate([self._times, np.zeros(more, np.int64)])
        self._places = np.concatenate([self._places, np.zeros(more, np.int64)])
        self._ids = np.concatenate([self._ids, np.empty(more, np.object_)])
        self._subjects = np.concatenate([self._subjects, np.empty(more, np.object_)])

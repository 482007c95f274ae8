"""The partitions of a sequence: a row for each, its beginnings in a chain or as an object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Final

import numpy as np

from tactful_streaming.arrays import Rows
from tactful_streaming.decode.event_time_sort import Arrivals
from tactful_streaming.patterns.partial_match import Beginning, Groups, Partition
from tactful_streaming.patterns.partial_match_columns import Chains, Found

PartitionKey = str | tuple[str, str]
"""Key of the entity, or of the entity and what else its events have in common."""

_FIRST_CAPACITY: Final = 256


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
    """A row for each partition.

    Attributes:
        keys: partition of each row; None of a free one.
        held: partitions that are objects, by row.
        changed: rows of which something has changed, to be set and cleared from outside.
    """

    def __init__(self, chains: Chains) -> None:
        """Begin without partitions.

        Args:
            chains: without rows, for the beginnings that need no object.
        """
        self._chains = chains
        chains.grow(_FIRST_CAPACITY)
        self.keys: list[PartitionKey | None] = []
        self.held: dict[int, Partition] = {}
        self.changed = np.zeros(_FIRST_CAPACITY, np.bool_)
        self._rows: dict[PartitionKey, int] = {}
        self._rows_of: dict[str, dict[str, int]] = {}
        self._free: list[int] = []

    def find(self, keys: Sequence[PartitionKey | None]) -> Rows:
        """Row of each partition, made if it has none; -1 for None."""
        find: Any = self._rows.get  # of None nothing is known
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
            if row == len(self.changed):
                more = len(self.changed) // 2
                self.changed = np.concatenate([self.changed, np.zeros(more, np.bool_)])
                self._chains.grow(len(self.changed))
        self._rows[key] = row
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

    def move(self, events: Arrivals, order: Rows) -> tuple[Rows, list[Found]]:
        """Show events to their partitions.

        Args:
            events: of any partitions.
            order: in which they happened.

        Returns:
            What partitions have to be objects for, as places in `order`; :meth:`put_back` those
            partitions when it is done. And what the others completed.
        """
        return self._chains.move(events, order)

    def put_back(self, rows: Rows) -> None:
        """Let partitions be chains again where they can."""
        for row in np.unique(rows).tolist():
            held = self.held.get(row)
            if held is None:
                self._chains.clear(row)
            else:
                self.put(row, held)

    def partition(self, row: int) -> Partition:
        """The partition of a row as an object, until it is :meth:`put` back or released."""
        partition = self.held.get(row)
        if partition is None:
            partition = self.held[row] = Partition()
            (partition.groups,) = self._chains.groups_of(np.array([row]))
            self._chains.clear(row)
            self._chains.apart[row] = True
        return partition

    def contents(self, rows: Sequence[int]) -> list[tuple[Groups, list[Beginning]]]:
        """Of each of `rows` the beginnings that wait, and the matches that do, to be looked at."""
        found: list[tuple[Groups, list[Beginning]]] = [
            (groups, []) for groups in self._chains.groups_of(np.array(rows, np.int64))
        ]
        for number in np.flatnonzero(self._chains.apart[rows]).tolist():
            partition = self.held[rows[number]]
            found[number] = partition.groups, partition.matched
        return found

    def put(self, row: int, partition: Partition) -> None:
        """Keep a partition: in a chain if it can be one, else as it is."""
        if partition.matched or not self._chains.put(row, partition.groups):
            self._chains.apart[row] = True
            self.held[row] = partition
        else:
            self.held.pop(row, None)

    def release(self, row: int) -> None:
        """Note that a row has no beginning."""
        self.held.pop(row, None)
        self._chains.clear(row)

    def sweep(self, horizon: int, needed: Rows) -> None:
        """Forget beginnings of up to `horizon`, and rows that nobody needs.

        Args:
            horizon: beginnings of then are too old to take anything.
            needed: rows of events that wait.
        """
        self.changed[self._chains.sweep(horizon)] = True
        used = len(self.keys)
        chains = self._chains
        spare = (chains.heads[:used] < 0) & ~chains.apart[:used] & ~self.changed[:used]
        spare[needed] = False
        over = [
            (row, key)
            for row in np.flatnonzero(spare).tolist()
            if (key := self.keys[row]) is not None
        ]
        for row, key in over:
            self._drop(row, key)

    def _drop(self, row: int, key: PartitionKey) -> None:
        del self._rows[key]
        self.keys[row] = None
        self._free.append(row)
        if isinstance(key, tuple):
            of_entity = self._rows_of[key[0]]
            del of_entity[key[1]]
            if not of_entity:
                del self._rows_of[key[0]]

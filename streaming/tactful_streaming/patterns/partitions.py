"""Partitions of a sequence, with partial matches in columns or as objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Final

import numpy as np

from tactful_streaming.arrays import Rows
from tactful_streaming.patterns.partial_match import MatchesByState, PartialMatch, Partition
from tactful_streaming.patterns.partial_match_columns import PartialMatchColumns

PartitionKey = str | tuple[str, str]
"""Key of the entity, or of the entity and the other value that its events have in common."""

_FIRST_CAPACITY: Final = 256


def key_of(partition: PartitionKey) -> str:
    """Return the entity of a partition."""
    return partition if isinstance(partition, str) else partition[0]


def same_of(partition: PartitionKey) -> str | None:
    """Return the other value that the events of a partition have in common."""
    return None if isinstance(partition, str) else partition[1]


def partition_key(key: str, same: str | None) -> PartitionKey:
    """Return the partition of an entity and of the other common value, if any."""
    return key if same is None else (key, same)


class Partitions:
    """A row for each partition, used again once nothing needs it.

    Attributes:
        columns: partial matches of rows that need no object.
        keys: partition of each row; None of a free one.
        held: partitions that are objects, by row.
        changed: changed rows, set and cleared by the caller.
    """

    def __init__(self, columns: PartialMatchColumns) -> None:
        """Create an index without partitions on `columns` without rows."""
        self.columns = columns
        columns.grow(_FIRST_CAPACITY)
        self.keys: list[PartitionKey | None] = []
        self.held: dict[int, Partition] = {}
        self.changed = np.zeros(_FIRST_CAPACITY, np.bool_)
        self._rows: dict[PartitionKey, int] = {}
        self._rows_of: dict[str, dict[str, int]] = {}
        self._free: list[int] = []

    def find(self, keys: Sequence[PartitionKey | None]) -> Rows:
        """Return the row of each partition, added if it has none; -1 for None."""
        find: Any = self._rows.get
        rows = np.fromiter(map(find, keys, repeat(-1)), np.int64, len(keys))
        for position in np.flatnonzero(rows < 0).tolist():
            key = keys[position]
            if key is not None:
                rows[position] = self.row_of(key)
        return rows

    def row_of(self, key: PartitionKey) -> int:
        """Return the row of a partition, added if it has none."""
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
                self.columns.grow(len(self.changed))
        self._rows[key] = row
        if isinstance(key, tuple):
            self._rows_of.setdefault(key[0], {})[key[1]] = row
        return row

    def known(self, key: PartitionKey) -> int:
        """Return the row of a partition; -1 if it has none."""
        return self._rows.get(key, -1)

    def key(self, row: int) -> PartitionKey:
        """Return the partition of a row in use."""
        key = self.keys[row]
        assert key is not None
        return key

    def rows_of(self, key: str) -> list[int]:
        """Return the rows of an entity, in the order of the other common value."""
        if key in self._rows:
            return [self._rows[key]]
        return [row for _, row in sorted(self._rows_of.get(key, {}).items())]

    def entities(self, rows: Iterable[int]) -> set[str]:
        """Return the entities of `rows`."""
        return {key_of(key) for row in rows if (key := self.keys[row]) is not None}

    def put_back(self, rows: Rows) -> None:
        """Move partitions that are objects back to the columns where they fit."""
        for row in np.unique(rows).tolist():
            held = self.held.get(row)
            if held is None:
                self.columns.clear(row)
            else:
                self.put(row, held)

    def partition(self, row: int) -> Partition:
        """Return a partition as an object, until :meth:`put` or :meth:`release`."""
        partition = self.held.get(row)
        if partition is None:
            partition = self.held[row] = Partition()
            (partition.waiting,) = self.columns.by_state(np.array([row]))
            self.columns.clear(row)
            self.columns.apart[row] = True
        return partition

    def contents(self, rows: Sequence[int]) -> list[tuple[MatchesByState, list[PartialMatch]]]:
        """Return waiting partial matches and matches of each row; to be read only."""
        contents: list[tuple[MatchesByState, list[PartialMatch]]] = [
            (waiting, []) for waiting in self.columns.by_state(np.array(rows, np.int64))
        ]
        for number in np.flatnonzero(self.columns.apart[rows]).tolist():
            partition = self.held[rows[number]]
            contents[number] = partition.waiting, partition.matched
        return contents

    def put(self, row: int, partition: Partition) -> None:
        """Keep a partition: in columns if it fits, else as an object."""
        if partition.matched or not self.columns.put(row, partition.waiting):
            self.columns.apart[row] = True
            self.held[row] = partition
        else:
            self.held.pop(row, None)

    def release(self, row: int) -> None:
        """Delete the partial matches of a row."""
        self.held.pop(row, None)
        self.columns.clear(row)

    def sweep(self, horizon: int, needed: Rows) -> None:
        """Delete partial matches begun up to `horizon`, and free unused rows.

        Args:
            horizon: partial matches begun by then are too old to take anything.
            needed: rows of events that wait.
        """
        self.changed[self.columns.sweep(horizon)] = True
        used = len(self.keys)
        spare = (self.columns.heads[:used] < 0) & ~self.columns.apart[:used] & ~self.changed[:used]
        spare[needed] = False
        for row in np.flatnonzero(spare).tolist():
            key = self.keys[row]
            if key is not None:
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

"""Index of cells: a number for each pair of an entity and one of its groups."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from sys import intern
from typing import Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Rows

CELL_BYTES: Final = 220
"""Memory of one cell without its text: entry in the entity's dictionary, and columns."""

_FIRST_CAPACITY = 64
_SWEEP = 16_384


class EvictedGroup(NamedTuple):
    """A cell whose group was removed for another."""

    cell: int
    newest: int  # time of its newest event, epoch milliseconds
    by: int  # position of the event that needed the room


class GroupIndex:
    """Groups of every row, and their cells.

    Row 1 with the groups "shoes" and "hats", row 2 with "shoes"::

        cells    {1: {"shoes": 0, "hats": 2}, 2: {"shoes": 1}}
        rows     [1, 2, 1]                           by cell
        texts    ["shoes", "shoes", "hats"]          by cell; None: free
        newest   [1700..., 1700..., 1700...]         by cell, of the newest event; -1: free

    An entity keeps the `max_groups` groups with the newest events; of equals, the greater texts.
    Groups deleted because their windows are over are older than all others, so the groups that stay
    do not depend on the length of the windows.
    """

    def __init__(self, max_groups: int, *, repeats: bool = False) -> None:
        """Create an empty index.

        Args:
            max_groups: most groups of an entity.
            repeats: whether most events have the group of the entity's event before; these are
                then found together.
        """
        self.newest: NDArray[np.int64] = np.full(_FIRST_CAPACITY, -1, np.int64)
        self.rows: NDArray[np.int64] = np.zeros(_FIRST_CAPACITY, np.int64)
        self.texts: list[str | None] = []
        self._max_groups = max_groups
        self.cells: dict[int, dict[str, int]] = {}
        self._bounded: dict[int, Recency] = {}
        self._free: list[int] = []
        self._sweep_from = 0
        self._latest = _LatestGroups() if repeats else None

    def __len__(self) -> int:
        """Return the number of cells in use."""
        return len(self.texts) - len(self._free)

    @property
    def capacity(self) -> int:
        """Number of cells that fit; every cell is below it."""
        return len(self.newest)

    def names(self, cells: Rows) -> list[str]:
        """Return the group of each cell in use."""
        names = list(map(self.texts.__getitem__, cells.tolist()))
        assert None not in names
        return cast("list[str]", names)

    def of_rows(self, rows: Iterable[int]) -> list[int]:
        """Return all cells of `rows`."""
        of_row = self.cells
        return [cell for row in rows if row in of_row for cell in of_row[row].values()]

    def find(
        self, rows: Rows, groups: Sequence[str], timestamps: NDArray[np.int64]
    ) -> tuple[Rows, list[EvictedGroup]]:
        """Return the cell of each event in the order of the log; bounded after each event.

        Evicted cells come second, and may be among the first: clear these after the events, and
        then :meth:`free` them.
        """
        if self._latest is None:
            return self._find(rows, groups, timestamps)
        texts = np.array(groups, object)
        cells = self._latest.find(rows, texts)
        same, rest = np.flatnonzero(cells >= 0), np.flatnonzero(cells < 0)
        self._note(cells[same], timestamps[same])
        if not len(rest):
            return cells, []
        others, changed = rows[rest], texts[rest]
        cells[rest], evicted = self._find(others, changed.tolist(), timestamps[rest])
        self._latest.note(others, changed, cells[rest])
        # The order of events counts for rows that evict, so these never skip one.
        self._latest.drop([row for row in set(others.tolist()) if row in self._bounded])
        return cells, [one._replace(by=rest.item(one.by)) for one in evicted]

    def _find(
        self, rows: Rows, groups: Sequence[str], timestamps: NDArray[np.int64]
    ) -> tuple[Rows, list[EvictedGroup]]:
        of_events: list[int] = []
        evicted: list[EvictedGroup] = []
        fresh: list[tuple[int, int]] = []
        of_row, bounded, most = self.cells, self._bounded, self._max_groups
        noted = 0
        for row, group in zip(rows.tolist(), groups, strict=True):
            cells = of_row.get(row)
            if cells is None:
                cells = of_row[row] = {}
            cell = cells.get(group)
            if cell is None:
                # Entities share groups: one text for all stays in the processor cache.
                group = intern(group)
                cell = cells[group] = self._new(group)
                fresh.append((cell, row))
                over = len(cells) > most
            else:
                over = False
            of_events.append(cell)
            if not over and row not in bounded:
                continue
            number = len(of_events) - 1
            recency = bounded.get(row)
            if recency is None:
                self._place(fresh)
                self._note(of_events[noted:number], timestamps[noted:number])
                noted = number
                seen = self.newest[list(cells.values())].tolist()
                recency = bounded[row] = Recency(dict(zip(cells, seen, strict=True)))
            recency.note(group, timestamps.item(number))
            for when, oldest in recency.evict(most):
                evicted.append(EvictedGroup(cells.pop(oldest), when, number))
        self._place(fresh)
        self._note(of_events[noted:], timestamps[noted:])
        return np.array(of_events, np.int64), evicted

    def free(self, cells: Sequence[int]) -> None:
        """Free cells without a group."""
        self.newest[list(cells)] = -1
        for cell in cells:
            self.texts[cell] = None
        self._free.extend(cells)

    def take(self, row: int, drops: Callable[[str], bool]) -> list[int]:
        """Remove groups from a row; return their cells, to clear and then :meth:`free`."""
        cells = self.cells.get(row, {})
        taken = [cells.pop(group) for group in [*cells] if drops(group)]
        if taken:
            self._bounded.pop(row, None)  # rebuilt from those that stay
            self._drop_latest([row])
            if not cells:
                del self.cells[row]
        return taken

    def clear(self, rows: Iterable[int]) -> None:
        """Delete rows, and free their cells."""
        rows = list(rows)
        self._drop_latest(rows)
        for row in rows:
            cells = self.cells.pop(row, None)
            self._bounded.pop(row, None)
            if cells:
                self.free(list(cells.values()))

    def silent(self, until: int) -> list[int]:
        """Remove cells without an event after `until`; each call checks part of all.

        The caller clears and then frees (:meth:`free`) the returned cells.
        """
        begin, end = self._sweep_from, min(self._sweep_from + _SWEEP, len(self.texts))
        self._sweep_from = end if end < len(self.texts) else 0
        newest = self.newest[begin:end]
        silent: list[int] = (np.flatnonzero((newest >= 0) & (newest <= until)) + begin).tolist()
        for cell in silent:
            row, group = self.rows.item(cell), self.texts[cell]
            assert group is not None
            cells = self.cells[row]
            del cells[group]
            if not cells:
                del self.cells[row]
            self._bounded.pop(row, None)
            self._drop_latest([row])
        return silent

    def _drop_latest(self, rows: Sequence[int]) -> None:
        if self._latest is not None:
            self._latest.drop(rows)

    def _new(self, group: str) -> int:
        """Return a new cell, without a row until it is placed."""
        if not self._free:
            self.texts.append(group)
            return len(self.texts) - 1
        cell = self._free.pop()
        self.texts[cell] = group
        return cell

    def _place(self, fresh: list[tuple[int, int]]) -> None:
        """Store the rows of new cells, and empty the list of new cells."""
        if not fresh:
            return
        more = max(len(self.texts) - len(self.newest), 0)
        if more:
            added = np.full(max(more, len(self.newest) // 2), -1, np.int64)
            self.newest = np.concatenate([self.newest, added])
            self.rows = np.concatenate([self.rows, added])
        cells, rows = zip(*fresh, strict=True)
        self.rows[list(cells)] = rows
        fresh.clear()

    def _note(self, cells: Sequence[int] | Rows, timestamps: NDArray[np.int64]) -> None:
        np.maximum.at(self.newest, np.array(cells, np.int64), timestamps)


class _LatestGroups:
    """Group and cell of the latest event of each row: repeats of it are found for a whole batch.

    A row's cells are not searched in this case, which takes a fifth of the time.
    """

    def __init__(self) -> None:
        self._texts: NDArray[np.object_] = np.full(_FIRST_CAPACITY, None, object)
        self._cells: NDArray[np.int64] = np.full(_FIRST_CAPACITY, -1, np.int64)
        self._mixed: NDArray[np.bool_] = np.zeros(_FIRST_CAPACITY, np.bool_)  # false between calls

    def find(self, rows: Rows, texts: NDArray[np.object_]) -> Rows:
        """Return the cell of each event; -1 unless all events of its row have the latest group."""
        self._resize(int(rows.max()) + 1)
        same = (self._texts[rows] == texts).astype(np.bool_)
        mixed = rows[~same]
        if len(mixed):
            self._mixed[mixed] = True
            same &= ~self._mixed[rows]
            self._mixed[mixed] = False
        return np.where(same, self._cells[rows], -1)

    def note(self, rows: Rows, texts: NDArray[np.object_], cells: Rows) -> None:
        """Set the latest group of rows; of several events of a row the last one counts."""
        self._texts[rows], self._cells[rows] = texts, cells

    def drop(self, rows: Sequence[int]) -> None:
        """Delete the latest groups of rows."""
        known = [row for row in rows if row < len(self._texts)]
        self._texts[known] = None

    def _resize(self, capacity: int) -> None:
        more = capacity - len(self._cells)
        if more > 0:
            more = max(more, len(self._cells) // 2)
            self._texts = np.concatenate([self._texts, np.full(more, None, object)])
            self._cells = np.concatenate([self._cells, np.full(more, -1, np.int64)])
            self._mixed = np.concatenate([self._mixed, np.zeros(more, np.bool_)])


class Recency:
    """Time of the newest event of each group of an entity, to evict the oldest."""

    __slots__ = ("_last", "_order")

    def __init__(self, last: dict[str, int]) -> None:
        """Begin with the time of the newest event of each group."""
        self._last = last
        self._order: list[tuple[int, str]] | None = None

    def note(self, group: str, when: int) -> None:
        """Record an event of `group` at `when`."""
        if self._last.get(group, -1) < when:
            self._last[group] = when
            if self._order is not None:
                heapq.heappush(self._order, (when, group))
                if len(self._order) > 4 * len(self._last) + 64:
                    self._order = None

    def evict(self, most: int) -> list[tuple[int, str]]:
        """Drop the oldest groups until `most` are left; ties in text order.

        The heap also holds outdated pairs; it is rebuilt when these prevail. Returns the time of
        the newest event of each dropped group, and the group.
        """
        evicted: list[tuple[int, str]] = []
        while len(self._last) > most:
            if self._order is None:
                self._order = [(when, group) for group, when in self._last.items()]
                heapq.heapify(self._order)
            when, group = heapq.heappop(self._order)
            if self._last.get(group) == when:
                del self._last[group]
                evicted.append((when, group))
        return evicted

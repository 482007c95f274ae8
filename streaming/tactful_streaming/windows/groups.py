"""Cells: a number for each pair of an entity and a group, of bounded many groups an entity."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from sys import intern
from typing import Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Rows

CELL_BYTES: Final = 220
"""Memory of one cell beside its text: the number in its entity's dictionary, and its columns."""

_FIRST_CAPACITY = 64
_SWEEP = 16_384


class EvictedGroup(NamedTuple):
    """A cell whose group had to make room.

    Attributes:
        cell: its number.
        newest: time of its newest event, epoch milliseconds.
        by: position of the event that took its place.
    """

    cell: int
    newest: int
    by: int


class GroupIndex:
    """Which groups every row has.

    An entity keeps the `max_groups` groups that were seen last, by the time of their newest event,
    of equals the greater in text. What is forgotten because its windows are over was seen before
    all that is not, so the groups that stay do not depend on how long the windows are.

    Attributes:
        newest: time of the newest event of each cell, epoch milliseconds; -1 of a free one.
        rows: row of each cell.
        groups: text of each cell; None of a free one.
    """

    def __init__(self, max_groups: int) -> None:
        """Begin empty."""
        self.newest: NDArray[np.int64] = np.full(_FIRST_CAPACITY, -1, np.int64)
        self.rows: NDArray[np.int64] = np.zeros(_FIRST_CAPACITY, np.int64)
        self.texts: list[str | None] = []
        self._max_groups = max_groups
        self._of_row: dict[int, dict[str, int]] = {}
        self._bounded: dict[int, Recency] = {}
        self._free: list[int] = []
        self._sweep_from = 0

    def __len__(self) -> int:
        """Number of cells in use."""
        return len(self.texts) - len(self._free)

    @property
    def capacity(self) -> int:
        """Every cell is below this."""
        return len(self.newest)

    def names(self, cells: Rows) -> list[str]:
        """Return the group of each cell in use."""
        names = list(map(self.texts.__getitem__, cells.tolist()))
        assert None not in names
        return cast("list[str]", names)

    def of_row(self, row: int) -> dict[str, int]:
        """Cell of each group of one row."""
        return self._of_row.get(row, {})

    def of_rows(self, rows: Iterable[int]) -> list[int]:
        """All cells of `rows`."""
        found = self._of_row
        return [cell for row in rows if row in found for cell in found[row].values()]

    def find(
        self, rows: Rows, groups: Sequence[str], timestamps: NDArray[np.int64]
    ) -> tuple[Rows, list[EvictedGroup]]:
        """Cell of each event, in the order of the log; the bound is kept from event to event.

        Args:
            rows: row of each event.
            groups: its group.
            timestamps: when it happened, epoch milliseconds.

        Returns:
            The cells; and those evicted on the way, which may be among them: they are to be cleared
            after these events, and given back by :meth:`free`.
        """
        found: list[int] = []
        evicted: list[EvictedGroup] = []
        fresh: list[tuple[int, int]] = []
        of_row, bounded, most = self._of_row, self._bounded, self._max_groups
        noted = 0
        for row, group in zip(rows.tolist(), groups, strict=True):
            cells = of_row.get(row)
            if cells is None:
                cells = of_row[row] = {}
            cell = cells.get(group)
            if cell is None:
                # Many entities have the same groups: one text for all stays in the cache.
                group = intern(group)
                cell = cells[group] = self._new(group)
                fresh.append((cell, row))
                over = len(cells) > most
            else:
                over = False
            found.append(cell)
            if not over and row not in bounded:
                continue
            number = len(found) - 1
            recency = bounded.get(row)
            if recency is None:
                self._place(fresh)
                self._note(found[noted:number], timestamps[noted:number])
                noted = number
                seen = self.newest[list(cells.values())].tolist()
                recency = bounded[row] = Recency(dict(zip(cells, seen, strict=True)))
            recency.note(group, timestamps.item(number))
            for when, gone in recency.evict(most):
                evicted.append(EvictedGroup(cells.pop(gone), when, number))
        self._place(fresh)
        self._note(found[noted:], timestamps[noted:])
        return np.array(found, np.int64), evicted

    def free(self, cells: Sequence[int]) -> None:
        """Give back cells that no group has any more."""
        self.newest[list(cells)] = -1
        for cell in cells:
            self.texts[cell] = None
        self._free.extend(cells)

    def take(self, row: int, drops: Callable[[str], bool]) -> list[int]:
        """Take groups away from a row; their cells are to be cleared and given back by `free`."""
        cells = self._of_row.get(row, {})
        taken = [cells.pop(group) for group in [*cells] if drops(group)]
        if taken:
            self._bounded.pop(row, None)  # made anew from those that stay
            if not cells:
                del self._of_row[row]
        return taken

    def clear(self, rows: Iterable[int]) -> None:
        """Forget rows, and give their cells back."""
        for row in rows:
            cells = self._of_row.pop(row, None)
            self._bounded.pop(row, None)
            if cells:
                self.free(list(cells.values()))

    def silent(self, until: int) -> list[int]:
        """Take away cells without an event after `until`; a part of all is looked at in a call.

        Returns:
            The cells, to be cleared and given back by :meth:`free`.
        """
        begin, end = self._sweep_from, min(self._sweep_from + _SWEEP, len(self.texts))
        self._sweep_from = end if end < len(self.texts) else 0
        newest = self.newest[begin:end]
        silent: list[int] = (np.flatnonzero((newest >= 0) & (newest <= until)) + begin).tolist()
        for cell in silent:
            row, group = self.rows.item(cell), self.texts[cell]
            assert group is not None
            cells = self._of_row[row]
            del cells[group]
            if not cells:
                del self._of_row[row]
            if row in self._bounded:
                del self._bounded[row]
        return silent

    def _new(self, group: str) -> int:
        """A cell, of no row until it is placed."""
        if self._free:
            cell = self._free.pop()
            self.texts[cell] = group
        else:
            cell = len(self.texts)
            self.texts.append(group)
        return cell

    def _place(self, fresh: list[tuple[int, int]]) -> None:
        """Note the rows of new cells, and that they are no news any more."""
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

    def _note(self, cells: Sequence[int], timestamps: NDArray[np.int64]) -> None:
        np.maximum.at(self.newest, np.array(cells, np.int64), timestamps)


class Recency:
    """When each group was seen last, and which go first when there are too many."""

    __slots__ = ("_last", "_order")

    def __init__(self, last: dict[str, int]) -> None:
        """Begin with the time each group was seen last."""
        self._last = last
        self._order: list[tuple[int, str]] | None = None

    def note(self, group: str, when: int) -> None:
        """Note that `group` was seen at `when`."""
        if self._last.get(group, -1) < when:
            self._last[group] = when
            if self._order is not None:
                heapq.heappush(self._order, (when, group))
                if len(self._order) > 4 * len(self._last) + 64:
                    self._order = None

    def evict(self, most: int) -> list[tuple[int, str]]:
        """Drop groups until `most` are left: the longest unseen, of equals the least in text order.

        The heap also holds pairs of groups seen again since; when these prevail it is made anew.

        Returns:
            When each was seen last, and the group.
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

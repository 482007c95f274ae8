"""Numbers by pane of any number of cells, added up when they are read.

Pane q of a window holds the events in ``[q * slide, (q + 1) * slide)``. Read at time `at`, with
p = floor(at / slide) and n = size / slide, a window is the sum of ``decay ** (p - q) * x(q)`` over
``p - n < q <= p``, added from the oldest pane to the newest, so that every way to compute it gives
the same float. Windows age without events, since p grows with time alone.

The weights of a mean are relative to the newest pane with events, which changes no mean: its count
is then at least 1, at any age. A sum beyond the range of a double is infinite, never NaN.

Slicing windows into panes that are combined when read follows Li et al., "No pane, no gain"
(SIGMOD Record 34(1), 2005).

A cell has panes only where it has events. They are entries in shared arrays, linked from the newest
to the oldest; each stores its pane, so that a replay may read one source ahead of another, which a
ring buffer would not allow. Every operation follows the links of many cells at once.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.definitions.model import Feature, Window
from tactful_streaming.kernels.feature_reads import load_add_panes
from tactful_streaming.kernels.pane_counts import load_count_panes
from tactful_streaming.windows.columns import NO_ROWS, Selection, grown
from tactful_streaming.windows.pane_columns import PanedColumn, PanedWindow

_NOWHERE: Final = -(2**62)  # pane of an unused entry; every list ends with entry 0, which is one
_ALL_ONE: Final = np.zeros(0)
_FIRST_CAPACITY = 64
_FIRST_COMPACTION = 4096
ENTRY_BYTES: Final = 24  # memory of one pane of one cell


@dataclass(frozen=True)
class Fold:
    """Operation that combines the amounts of a pane, and the panes of a window."""

    combine: np.ufunc
    identity: float
    ordered: bool = False  # whether the order of the panes can change the last bits of the result


FOLDS: Final = {
    "count": Fold(np.add, 0.0),
    "sum": Fold(np.add, 0.0, ordered=True),
    "min": Fold(np.minimum, np.inf),
    "max": Fold(np.maximum, -np.inf),
}


class NumberPanes(PanedColumn):
    """Counts, sums, minima or maxima by pane."""

    width = 2

    def __init__(self, kind: str, window: PanedWindow, *, emits: bool) -> None:
        """Create an empty column; `kind` is a key of `FOLDS`."""
        super().__init__(window, emits=emits)
        self._counts = kind == "count"
        self.table = PaneTable(FOLDS[kind])
        self._shapes: dict[PanedWindow, tuple[int, int, Floats | None]] = {}

    @property
    def nbytes(self) -> int:
        """Approximate memory of the panes."""
        return ENTRY_BYTES * len(self.table)

    def resize(self, capacity: int) -> None:
        """Make room for cells below `capacity`."""
        self.table.resize(capacity)

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Add the events in time."""
        panes, in_time = self.panes_of(events, lateness_ms)
        amounts = None if self._counts else events.amounts
        watermarks = events.watermarks
        if in_time is not None:
            cells, panes, watermarks = cells[in_time], panes[in_time], watermarks[in_time]
            amounts = amounts[in_time] if amounts is not None else None
        if len(cells):
            self.table.add(cells, panes, amounts)
            self.note_changes(cells, panes, watermarks)
        return NO_ROWS

    def read_one(self, cell: int, feature: Feature, at: int) -> float | None:
        """Return the total of one cell; None without panes."""
        total = self.table.read_one(cell, *self._view(feature, at))
        return None if math.isnan(total) else total

    def read(self, cells: Rows, feature: Feature, at: int) -> Floats:
        """Return the totals of `cells`; NaN without panes."""
        return self.table.read(cells, *self._view(feature, at))

    def read_all(self, feature: Feature, at: int) -> tuple[Rows, Floats]:
        """Return the cells with panes, and their totals."""
        return self.table.read_all(*self._view(feature, at))

    def panes_between(self, oldest: int, newest: int) -> list[int]:
        """Return the panes with events."""
        return self.table.distinct(oldest, newest)

    def clear(self, cells: Rows) -> None:
        """Delete cells."""
        self.table.clear(cells)
        self.forget_changes(cells)

    def expire(self, horizon: int) -> None:
        """Delete panes whose last window is over."""
        if self.table.worth_expiring:  # asked first: this is called with every batch
            self.table.expire(int(self.oldest(np.array(horizon))))

    def pack_records(self, cells: Rows, horizon: int) -> tuple[Rows, Floats]:
        """Return how many panes each cell has, and (pane, number) of all."""
        return self.table.pack(cells, int(self.oldest(np.array(horizon))))

    def absorb_records(self, cells: Rows, records: Floats) -> None:
        """Add panes."""
        self.table.absorb(cells, records)

    def _view(self, feature: Feature, at: int) -> tuple[int, int, Floats | None, bool]:
        """Return the oldest and the newest pane of the window at time `at`, and the weights.

        Last comes whether these are relative to the newest pane with events.
        """
        window: Any = feature.window
        shape = self._shapes.get(window)
        if shape is None:
            shape = self._shapes[window] = _shape_of(window)
        behind, steps, weights = shape
        newest = at // self.slide_ms
        oldest = newest - behind if behind >= 0 else newest // steps * steps
        return oldest, newest, weights, feature.aggregate == "mean"


class PaneTable:
    """One number for each pane of each cell with events.

    Cell 3 with the panes 17 and 15::

        head[3] = 8
        entry 8    panes 17   values 2.0   older 5
        entry 5    panes 15   values 1.0   older 0
    """

    def __init__(self, fold: Fold) -> None:
        """Create an empty table."""
        self._fold = fold
        self._head = np.zeros(_FIRST_CAPACITY, np.int32)
        self._panes = np.full(_FIRST_CAPACITY, _NOWHERE, np.int64)
        self._values = np.zeros(_FIRST_CAPACITY)
        self._older = np.zeros(_FIRST_CAPACITY, np.int32)
        self._cells = np.zeros(_FIRST_CAPACITY, np.int32)
        self._size = 1
        self._cleared = 0
        self._compact_at = _FIRST_COMPACTION

    def __len__(self) -> int:
        """Return the number of entries, including entries too old to be read."""
        return self._size - self._cleared

    def resize(self, capacity: int) -> None:
        """Make room for cells below `capacity`."""
        self._head = grown(self._head, capacity, 0)

    @np.errstate(over="ignore", invalid="ignore")
    def add(self, cells: Rows, panes: Rows, amounts: Floats | None) -> None:
        """Fold ``amounts[i]``, or ones, into pane ``panes[i]`` of ``cells[i]``, in order."""
        if self._adds:
            self._reserve(len(cells))
            self._size = load_count_panes()(
                np.ascontiguousarray(cells, np.int64),
                np.ascontiguousarray(panes, np.int64),
                _ALL_ONE if amounts is None else np.ascontiguousarray(amounts, np.float64),
                *(self._head, self._panes, self._values, self._older, self._cells, self._size),
            )
            return
        entries = self._entries(cells, panes)
        self._fold.combine.at(self._values, entries, 1.0 if amounts is None else amounts)

    def read(
        self,
        cells: Rows,
        oldest: int,
        newest: int,
        weights: Floats | None = None,
        relative: bool = False,
    ) -> Floats:
        """Combine the panes `oldest` to `newest` of each of `cells`; NaN without panes.

        `weights` of sums and counts are by the age of a pane, see :func:`weights_of`; None: all
        weigh 1. Ages are those before `newest`, or, if `relative`, before the newest pane there.
        """
        if self._adds:
            total = np.empty(len(cells))
            load_add_panes()(
                np.ascontiguousarray(cells, np.int64),
                *(self._head, self._panes, self._older, self._values),
                *(oldest, newest, _ALL_ONE if weights is None else weights, relative, total),
            )
            return total
        rounds = self._walk(cells, oldest, newest)
        if not rounds:
            return np.full(len(cells), np.nan)
        total = np.full(len(cells), self._fold.identity)
        combine = self._fold.combine
        for where, entries in reversed(rounds):
            total[where] = combine(total[where], self._values[entries])
        present = rounds[0][0]
        if len(present) < len(cells):
            absent = np.ones(len(cells), np.bool_)
            absent[present] = False
            total[absent] = np.nan
        return total

    def read_one(
        self,
        cell: int,
        oldest: int,
        newest: int,
        weights: Floats | None = None,
        relative: bool = False,
    ) -> float:
        """Like :meth:`read`, for one cell."""
        panes, older = self._panes, self._older
        entry = self._head.item(cell)
        while panes.item(entry) > newest:
            entry = older.item(entry)
        entries: list[int] = []
        while panes.item(entry) >= oldest:
            entries.append(entry)
            entry = older.item(entry)
        if not entries:
            return np.nan
        total = self._fold.identity
        base = panes.item(entries[0]) if relative else newest
        for entry in reversed(entries):
            value = self._values.item(entry)
            if weights is not None:
                weight = weights.item(base - panes.item(entry))
                value = value * weight if weight >= 0 else value * weight * weight
            total = self._fold.combine(total, value) if not self._adds else total + value
        return float(total) if total == total else math.inf

    @np.errstate(over="ignore", invalid="ignore")
    def read_all(
        self, oldest: int, newest: int, weights: Floats | None = None, relative: bool = False
    ) -> tuple[Rows, Floats]:
        """Like :meth:`read`, for every cell with panes there; return cells and numbers."""
        panes = self._panes[: self._size]
        entries = np.flatnonzero((panes >= oldest) & (panes <= newest))
        ages = newest - panes[entries]
        if (self._fold.ordered or weights is not None) and newest > oldest:
            # Ages fit 16 bits, for which a stable sort takes linear time.
            order = np.argsort((newest - oldest - ages).astype(np.uint16), kind="stable")
            entries, ages = entries[order], ages[order]
        values = self._values[entries]
        cells = self._cells[entries]
        if weights is not None:
            if relative:
                youngest = np.full(len(self._head), newest - oldest)
                np.minimum.at(youngest, cells, ages)
                ages = ages - youngest[cells]
            factors = weights[ages]
            values *= factors
            np.multiply(values, factors, out=values, where=factors < 0)
        total = np.full(len(self._head), self._fold.identity)
        self._fold.combine.at(total, cells, values)
        present = np.zeros(len(self._head), np.bool_)
        present[cells] = True
        having = np.flatnonzero(present)
        totals = total[having]
        totals[np.isnan(totals)] = np.inf
        return having, totals

    def clear(self, cells: Rows) -> None:
        """Delete cells."""
        entries = self._head[cells]
        self._head[cells] = 0
        while len(entries := entries[entries > 0]):
            self._panes[entries] = _NOWHERE
            self._cleared += len(entries)
            entries = self._older[entries]

    @property
    def worth_expiring(self) -> bool:
        """Whether there are enough entries to delete old ones."""
        return self._size >= self._compact_at or 2 * self._cleared > self._compact_at

    def expire(self, oldest: int) -> None:
        """Delete panes before `oldest`, if there are enough entries."""
        if self.worth_expiring:
            self._compact(oldest)
            self._compact_at = 2 * self._size + _FIRST_COMPACTION

    def pack(self, cells: Rows, oldest: int) -> tuple[Rows, Floats]:
        """Return the number of panes from `oldest` on of each cell, and (pane, value)."""
        rounds = self._walk(cells, oldest, -_NOWHERE)
        if not rounds:
            return np.zeros(len(cells), np.int64), np.empty((0, 2))
        where = np.concatenate([where for where, _ in reversed(rounds)])
        entries = np.concatenate([entries for _, entries in reversed(rounds)])
        if len(rounds) > 1:
            order = np.argsort(where, kind="stable")
            entries = entries[order]
        pairs = np.empty((len(entries), 2))
        pairs[:, 0] = self._panes[entries]
        pairs[:, 1] = self._values[entries]
        return np.bincount(where, minlength=len(cells)), pairs

    def absorb(self, cells: Rows, pairs: Floats) -> None:
        """Combine (pane, value) pairs of :meth:`pack`, each into its cell."""
        self.add(cells, pairs[:, 0].astype(np.int64), pairs[:, 1])

    def distinct(self, oldest: int, newest: int) -> list[int]:
        """Return the panes from `oldest` to `newest` with entries, in order."""
        panes = self._panes[: self._size]
        distinct: list[int] = np.unique(panes[(panes >= oldest) & (panes <= newest)]).tolist()
        return distinct

    @property
    def _adds(self) -> bool:
        return self._fold.combine is np.add

    def _entries(self, cells: Rows, panes: Rows) -> NDArray[np.int32]:
        """Return the entry of each pane of each cell, added where missing."""
        entries = self._head[cells]
        current = self._panes[entries]
        if np.array_equal(current, panes):
            return entries
        ahead = (current > panes).nonzero()[0]
        while len(ahead):
            entries[ahead] = self._older[entries[ahead]]
            current[ahead] = self._panes[entries[ahead]]
            ahead = ahead[current[ahead] > panes[ahead]]
        missing = (current != panes).nonzero()[0]
        if len(missing):
            entries[missing] = self._insert(cells[missing], panes[missing])
        return entries

    def _insert(self, cells: Rows, panes: Rows) -> NDArray[np.int32]:
        """Add an entry for each new pair; return the entry of each pair."""
        numbers, codes = np.unique(panes, return_inverse=True)
        pairs, where = np.unique(cells * len(numbers) + codes, return_inverse=True)
        count = len(pairs)
        self._reserve(count)
        cells, panes = pairs // len(numbers), numbers[pairs % len(numbers)]
        new = np.arange(self._size, self._size + count, dtype=np.int32)
        self._size += count
        self._panes[new] = panes
        self._values[new] = self._fold.identity
        self._cells[new] = cells
        # Pairs are in the order of cell and pane. Mostly all of a cell are newer than its entries:
        # they are linked to each other and to the head at once.
        first = np.flatnonzero(np.diff(cells, prepend=-1))
        counts = np.diff(first, append=count)
        heads = self._head[cells[first]]
        newer = self._panes[heads] < panes[first]
        self._older[new] = new - 1
        self._older[new[first]] = heads
        last = (first + counts - 1)[newer]
        self._head[cells[last]] = new[last]
        if not newer.all():
            # In round k the k-th pair of each other cell is linked.
            rank = np.arange(count) - np.repeat(first, counts)
            rank[np.repeat(newer, counts)] = -1
            for turn in range(int(rank.max()) + 1):
                now = rank == turn
                self._link(new[now], cells[now], panes[now])
        return new[where]

    def _link(self, new: NDArray[np.int32], cells: Rows, panes: Rows) -> None:
        """Link entries, of different cells, behind all newer ones."""
        newer = np.zeros(len(new), np.int32)
        older = self._head[cells]
        ahead = np.flatnonzero(self._panes[older] > panes)
        while len(ahead):
            newer[ahead] = older[ahead]
            older[ahead] = self._older[older[ahead]]
            ahead = ahead[self._panes[older[ahead]] > panes[ahead]]
        self._older[new] = older
        inner = newer > 0
        self._older[newer[inner]] = new[inner]
        self._head[cells[~inner]] = new[~inner]

    def _walk(self, cells: Rows, oldest: int, newest: int) -> list[tuple[Rows, NDArray[np.int32]]]:
        """Return the entries in panes `oldest` to `newest`, newest first, in rounds.

        Round k holds positions in `cells` and their k-th newest entries.
        """
        # Read with every recommendation: `take` and `nonzero` cost half of an index by arrays.
        panes, older = self._panes, self._older
        entries = self._head.take(cells)
        ahead = (panes.take(entries) > newest).nonzero()[0]
        while len(ahead):
            entries[ahead] = older.take(entries.take(ahead))
            ahead = ahead[panes.take(entries.take(ahead)) > newest]
        where = np.arange(len(cells))
        rounds: list[tuple[Rows, NDArray[np.int32]]] = []
        while True:
            inside = (panes.take(entries) >= oldest).nonzero()[0]
            if len(inside) < len(entries):
                where, entries = where.take(inside), entries.take(inside)
            if not len(entries):
                return rounds
            rounds.append((where, entries))
            entries = older.take(entries)

    def _reserve(self, count: int) -> None:
        need = self._size + count
        if need <= len(self._panes):
            return
        capacity = max(need, len(self._panes) * 3 // 2)
        self._panes = grown(self._panes, capacity, _NOWHERE)
        self._values = grown(self._values, capacity, 0)
        self._older = grown(self._older, capacity, 0)
        self._cells = grown(self._cells, capacity, 0)

    def _compact(self, oldest: int) -> None:
        keep = self._panes[: self._size] >= oldest
        keep[0] = True
        # Entries older than a deleted one of the cell are deleted, too: lists stay whole.
        number = np.where(keep, np.cumsum(keep, dtype=np.int32) - 1, 0).astype(np.int32)
        self._head = number[self._head]
        self._panes = self._panes[: self._size][keep]
        self._values = self._values[: self._size][keep]
        self._older = number[self._older[: self._size][keep]]
        self._cells = self._cells[: self._size][keep]
        self._size = len(self._panes)
        self._cleared = 0


def _shape_of(window: PanedWindow) -> tuple[int, int, Floats | None]:
    """Return the oldest pane, counted back from the newest, or -1 and the steps of a period.

    The weights of the panes by their age come last; None: all weigh 1.
    """
    if not isinstance(window, Window):
        return -1, window.size_ms // window.step_ms, None
    return window.panes - 1, 0, weights_of(window) if window.decay != 1 else None


def weights_of(window: Window) -> Floats:
    """Return the weights of the panes of a window by their age.

    Instead of a weight too small for a double of full precision, -√weight stands for it: an amount
    is multiplied by it twice.
    """
    weights = [window.decay**age for age in range(window.panes)]
    least = sys.float_info.min
    roots = [-(window.decay ** (age / 2)) for age in range(window.panes)]
    pairs = zip(weights, roots, strict=True)
    return np.array([weight if weight >= least else root for weight, root in pairs])

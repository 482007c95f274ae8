"""Numbers in panes, for any number of cells, added up when they are read.

Pane q of a window holds what happened in ``[q * slide, (q + 1) * slide)``. Read at time `at`, with
p = floor(at / slide) and n = size / slide, a window is the sum of ``decay ** (p - q) * x(q)`` over
``p - n < q <= p``, added from the oldest pane to the newest, so that every way to compute it gives
the same float. Silence ages a window, for nothing has to happen for p to grow.

Slicing windows into panes that are combined when read follows Li et al., "No pane, no gain"
(SIGMOD Record 34(1), 2005).

A cell has panes only where something happened. They are entries in shared arrays, linked from the
newest to the oldest; each names its pane, so that a replay that reads one source ahead of another
confuses nothing, as a ring would. Every operation is on whole arrays: it follows the links of many
cells at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.definitions.model import CumulativeWindow, Window
from tactful_streaming.kernels.panes import load_kernel

_Number = TypeVar("_Number", bound=np.generic)

PanedWindow = Window | CumulativeWindow

_NOWHERE: Final = -(2**62)
"""Pane of an entry that counts for nothing; entry 0 is one, where every chain ends."""

_ALL_ONE: Final = np.zeros(0)
_FIRST_CAPACITY = 64
_FIRST_COMPACTION = 4096

ENTRY_BYTES: Final = 24
"""Memory of one pane of one cell."""


@dataclass(frozen=True)
class Fold:
    """How the amounts of a pane, and the panes of a window, become one number.

    Attributes:
        combine: the binary operation.
        identity: what it leaves unchanged.
        ordered: whether the order of the panes can change the last bits of the result.
    """

    combine: np.ufunc
    identity: float
    ordered: bool = False


FOLDS: Final = {
    "count": Fold(np.add, 0.0),
    "sum": Fold(np.add, 0.0, ordered=True),
    "min": Fold(np.minimum, np.inf),
    "max": Fold(np.maximum, -np.inf),
}


def slide_of(window: PanedWindow) -> int:
    """Length of the panes of `window`, milliseconds."""
    return window.step_ms if isinstance(window, CumulativeWindow) else window.slide_ms


def length_of(window: PanedWindow) -> int:
    """How long a pane can be part of a window at most, milliseconds."""
    return window.size_ms if isinstance(window, CumulativeWindow) else window.span_ms


def window_at(window: PanedWindow, at: int) -> tuple[int, int]:
    """Oldest and newest pane of the window read at time `at`."""
    if isinstance(window, CumulativeWindow):
        return at // window.size_ms * (window.size_ms // window.step_ms), at // window.step_ms
    newest = at // window.slide_ms
    return newest - window.panes + 1, newest


def oldest_open(window: PanedWindow, horizons: NDArray[np.int64]) -> NDArray[np.int64]:
    """Oldest pane that a window not yet over at each of `horizons` holds; older ones are late."""
    if isinstance(window, CumulativeWindow):
        return horizons // window.size_ms * (window.size_ms // window.step_ms)
    return horizons // window.slide_ms - window.panes + 1


class PaneTable:
    """One number for each pane of each cell in which something happened."""

    def __init__(self, fold: Fold) -> None:
        """Begin empty."""
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
        """Number of entries, some of which may be too old to be read."""
        return self._size - self._cleared

    def resize(self, capacity: int) -> None:
        """Make room for cells below `capacity`."""
        if capacity > len(self._head):
            self._head = _grown(self._head, capacity, 0)

    def add(self, cells: Rows, panes: Rows, amounts: Floats | None) -> None:
        """Fold ``amounts[i]``, or ones, into pane ``panes[i]`` of ``cells[i]``, in order."""
        entries = self._entries(cells, panes)
        self._fold.combine.at(self._values, entries, 1.0 if amounts is None else amounts)

    def read(self, cells: Rows, oldest: int, newest: int, weights: Floats | None) -> Floats:
        """Panes `oldest` to `newest` of each of `cells` in one number; NaN where there is none.

        Args:
            cells: which.
            oldest: first pane.
            newest: last pane.
            weights: weight of a pane by its distance from the newest; None: all weigh 1.
        """
        if self._adds:
            total = np.empty(len(cells))
            load_kernel()(
                np.ascontiguousarray(cells, np.int64),
                *(self._head, self._panes, self._older, self._values),
                *(oldest, newest, _ALL_ONE if weights is None else weights, total),
            )
            return total
        rounds = self._walk(cells, oldest, newest)
        if not rounds:
            return np.full(len(cells), np.nan)
        total = np.full(len(cells), self._fold.identity)
        combine = self._fold.combine
        for where, entries in reversed(rounds):
            values = self._values[entries]
            if weights is not None:
                values *= weights[newest - self._panes[entries]]
            total[where] = combine(total[where], values)
        present = rounds[0][0]
        if len(present) < len(cells):
            absent = np.ones(len(cells), np.bool_)
            absent[present] = False
            total[absent] = np.nan
        return total

    def read_one(self, cell: int, oldest: int, newest: int, weights: Floats | None) -> float:
        """As :meth:`read`, of one cell."""
        panes, older = self._panes, self._older
        entry = self._head.item(cell)
        while panes.item(entry) > newest:
            entry = older.item(entry)
        found: list[int] = []
        while panes.item(entry) >= oldest:
            found.append(entry)
            entry = older.item(entry)
        if not found:
            return np.nan
        total = self._fold.identity
        for entry in reversed(found):
            value = self._values.item(entry)
            if weights is not None:
                value *= weights.item(newest - panes.item(entry))
            total = self._fold.combine(total, value) if not self._adds else total + value
        return float(total)

    def read_all(self, oldest: int, newest: int, weights: Floats | None) -> tuple[Rows, Floats]:
        """As :meth:`read`, of every cell that has something there; cells and their numbers."""
        panes = self._panes[: self._size]
        entries = np.flatnonzero((panes >= oldest) & (panes <= newest))
        ages = newest - panes[entries]
        if (self._fold.ordered or weights is not None) and newest > oldest:
            # Ages fit 16 bits, for which a stable sort takes linear time.
            order = np.argsort((newest - oldest - ages).astype(np.uint16), kind="stable")
            entries, ages = entries[order], ages[order]
        values = self._values[entries]
        if weights is not None:
            values *= weights[ages]
        cells = self._cells[entries]
        total = np.full(len(self._head), self._fold.identity)
        self._fold.combine.at(total, cells, values)
        present = np.zeros(len(self._head), np.bool_)
        present[cells] = True
        found = np.flatnonzero(present)
        return found, total[found]

    def clear(self, cells: Rows) -> None:
        """Forget cells."""
        entries = self._head[cells]
        self._head[cells] = 0
        while len(entries := entries[entries > 0]):
            self._panes[entries] = _NOWHERE
            self._cleared += len(entries)
            entries = self._older[entries]

    @property
    def worth_expiring(self) -> bool:
        """Whether there are so many entries that it is worth it to forget old ones."""
        return self._size >= self._compact_at or 2 * self._cleared > self._compact_at

    def expire(self, oldest: int) -> None:
        """Forget panes before `oldest`, if it is worth it."""
        if self.worth_expiring:
            self._compact(oldest)
            self._compact_at = 2 * self._size + _FIRST_COMPACTION

    def pack(self, cells: Rows, oldest: int) -> tuple[Rows, Floats]:
        """Panes from `oldest` on: how many each cell has, and (pane, value) of all in order."""
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
        """Fold in (pane, value) pairs that :meth:`pack` gave, each in its cell."""
        self.add(cells, pairs[:, 0].astype(np.int64), pairs[:, 1])

    @property
    def newest(self) -> int | None:
        """Newest pane there is; None without any."""
        newest = int(self._panes[: self._size].max())
        return newest if newest != _NOWHERE else None

    def distinct(self, oldest: int, newest: int) -> list[int]:
        """Panes from `oldest` to `newest` in which something happened, in order."""
        panes = self._panes[: self._size]
        found: list[int] = np.unique(panes[(panes >= oldest) & (panes <= newest)]).tolist()
        return found

    @property
    def _adds(self) -> bool:
        return self._fold.combine is np.add

    def _entries(self, cells: Rows, panes: Rows) -> NDArray[np.int32]:
        """Entry of each pane of each cell, made where there is none."""
        entries = self._head[cells]
        found = self._panes[entries]
        if np.array_equal(found, panes):
            return entries
        ahead = (found > panes).nonzero()[0]
        while len(ahead):
            entries[ahead] = self._older[entries[ahead]]
            found[ahead] = self._panes[entries[ahead]]
            ahead = ahead[found[ahead] > panes[ahead]]
        missing = (found != panes).nonzero()[0]
        if len(missing):
            entries[missing] = self._insert(cells[missing], panes[missing])
        return entries

    def _insert(self, cells: Rows, panes: Rows) -> NDArray[np.int32]:
        """Make an entry for each pair that is not there yet; returns the entry of each pair."""
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
        # Pairs are in the order of cell and pane. Mostly all of a cell are newer than what it has:
        # they are linked to it and to each other at once.
        first = np.flatnonzero(np.diff(cells, prepend=-1))
        counts = np.diff(first, append=count)
        heads = self._head[cells[first]]
        newer = self._panes[heads] < panes[first]
        self._older[new] = new - 1
        self._older[new[first]] = heads
        last = (first + counts - 1)[newer]
        self._head[cells[last]] = new[last]
        if not newer.all():
            # The k-th of each other cell is linked in round k.
            rank = np.arange(count) - np.repeat(first, counts)
            rank[np.repeat(newer, counts)] = -1
            for turn in range(int(rank.max()) + 1):
                now = rank == turn
                self._link(new[now], cells[now], panes[now])
        return new[where]

    def _link(self, new: NDArray[np.int32], cells: Rows, panes: Rows) -> None:
        """Link entries, of different cells, behind all that are newer."""
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
        """Entries in panes `oldest` to `newest`: in round k the k-th newest of each cell.

        Returns:
            For each round, positions in `cells` and the entries.
        """
        # What is read with every list: `take` and `nonzero` cost half of an index by arrays.
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
        if need > len(self._panes):
            self._reallocate(max(need, len(self._panes) * 3 // 2))

    def _reallocate(self, capacity: int) -> None:
        self._panes = _grown(self._panes, capacity, _NOWHERE)
        self._values = _grown(self._values, capacity, 0)
        self._older = _grown(self._older, capacity, 0)
        self._cells = _grown(self._cells, capacity, 0)

    def _compact(self, oldest: int) -> None:
        keep = self._panes[: self._size] >= oldest
        keep[0] = True
        # What is older than a forgotten entry of a cell is forgotten, too: chains stay whole.
        number = np.where(keep, np.cumsum(keep, dtype=np.int32) - 1, 0).astype(np.int32)
        self._head = number[self._head]
        self._panes = self._panes[: self._size][keep]
        self._values = self._values[: self._size][keep]
        self._older = number[self._older[: self._size][keep]]
        self._cells = self._cells[: self._size][keep]
        self._size = len(self._panes)
        self._cleared = 0


def _grown(array: NDArray[_Number], capacity: int, fill: int) -> NDArray[_Number]:
    grown = np.full(capacity, fill, array.dtype)
    grown[: len(array)] = array
    return grown

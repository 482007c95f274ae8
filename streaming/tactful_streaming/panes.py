"""Windowed aggregates: values in tagged panes, merged when they are read.

Pane q of a window holds what happened in ``[q * slide, (q + 1) * slide)``. Read at time `at`, with
p = floor(at / slide) and n = size / slide, a window is the sum of ``decay ** (p - q) * x(q)`` over
``p - n < q <= p``, added from the oldest pane to the newest, so that every way to compute it gives
the same float. Silence ages a window, for nothing has to happen for p to grow.

A pane is found by its number, never by its number modulo a ring: a replay that reads one partition
ahead of another would alias in a ring.

Slicing windows into panes that are combined when read follows Li et al., "No pane, no gain"
(SIGMOD Record 34(1), 2005).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.definitions import Window

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


class PaneTable:
    """One number for each pane and row, dense: rows are entities, panes are added as they come."""

    def __init__(self, window: Window, capacity: int) -> None:
        """Begin empty, with room for rows below `capacity`."""
        self._window = window
        self._weights = np.array([window.decay**age for age in range(window.panes)])
        self._values = np.zeros((2, capacity))
        self._slots: dict[int, int] = {}
        self._free = list(range(len(self._values)))

    def resize(self, capacity: int) -> None:
        """Make room for rows below `capacity`."""
        grown = np.zeros((len(self._values), capacity))
        grown[:, : self._values.shape[1]] = self._values
        self._values = grown

    def add(self, rows: Rows, panes: Rows, amounts: Floats) -> None:
        """Add ``amounts[i]`` to pane ``panes[i]`` of row ``rows[i]``, in order."""
        first = int(panes[0])
        if (panes == first).all():
            slot = self._slot(first)
            np.add.at(self._values[slot], rows, amounts)
            return
        numbers, where = np.unique(panes, return_inverse=True)
        slots = np.array([self._slot(pane) for pane in numbers.tolist()])
        flat = self._values.reshape(-1)
        np.add.at(flat, slots[where] * self._values.shape[1] + rows, amounts)

    def read(self, rows: Rows, at: int) -> Floats:
        """Windows of `rows` at time `at`; shape ``(len(rows),)``."""
        slots, weights = self._open(at)
        if not slots:
            return np.zeros(len(rows))
        block = self._values[np.array(slots)[:, None], rows]
        if self._window.decay != 1:
            block *= weights[:, None]
        merged: Floats = np.add.accumulate(block, axis=0, out=block)[-1]
        return merged

    def read_one(self, row: int, at: int) -> float:
        """Window of one row at time `at`."""
        slots, weights = self._open(at)
        total = 0.0
        for slot, weight in zip(slots, weights.tolist(), strict=True):
            total += weight * self._values.item(slot, row)
        return total

    def expire(self, watermark: int) -> None:
        """Forget panes that no window at or after `watermark` holds."""
        oldest = oldest_open(self._window, watermark)
        for pane in [q for q in self._slots if q < oldest]:
            slot = self._slots.pop(pane)
            self._values[slot] = 0
            self._free.append(slot)

    def clear(self, row: int) -> None:
        """Forget a row."""
        self._values[:, row] = 0

    def pack(self, rows: Rows) -> list[bytes]:
        """For each row, its non-zero panes as pairs (pane, value) of little-endian float64."""
        panes = sorted(self._slots)
        if not panes:
            return [b""] * len(rows)
        slots = np.array([self._slots[pane] for pane in panes])
        block = self._values[slots, rows[:, None]]
        row_of, pane_of = np.nonzero(block)
        pairs = np.empty((len(row_of), 2), "<f8")
        pairs[:, 0] = np.array(panes)[pane_of]
        pairs[:, 1] = block[row_of, pane_of]
        data = pairs.tobytes()
        ends = (np.searchsorted(row_of, np.arange(len(rows) + 1)) * 16).tolist()
        return [data[start:end] for start, end in pairwise(ends)]

    def unpack(self, rows: Rows, packed: Sequence[bytes]) -> None:
        """Restore what :meth:`pack` wrote; the rows are empty."""
        pairs = np.frombuffer(b"".join(packed), "<f8").reshape(-1, 2)
        if len(pairs):
            counts = [len(data) // 16 for data in packed]
            self.add(np.repeat(rows, counts), pairs[:, 0].astype(np.int64), pairs[:, 1])

    def _open(self, at: int) -> tuple[list[int], Floats]:
        """Slots of the panes of the window at `at`, oldest first, and their weights."""
        newest = at // self._window.slide_ms
        oldest = newest - self._window.panes + 1
        panes = sorted(pane for pane in self._slots if oldest <= pane <= newest)
        ages = [newest - pane for pane in panes]
        return [self._slots[pane] for pane in panes], self._weights[ages]

    def _slot(self, pane: int) -> int:
        slot = self._slots.get(pane)
        if slot is None:
            if not self._free:
                count = len(self._values)
                self._values = np.concatenate([self._values, np.zeros_like(self._values)])
                self._free = list(range(count, 2 * count))
            slot = self._slots[pane] = self._free.pop()
        return slot


class GroupedPanes:
    """Numbers by pane and group, of one entity; at most so many groups.

    Attributes:
        panes: pane number to group to value.
        merged: what was read last and at which pane; None after a change.
    """

    __slots__ = ("_cells", "_recency", "merged", "panes")

    def __init__(self, panes: dict[int, dict[str, float]] | None = None) -> None:
        """Hold `panes`: pane number to group to value."""
        self.panes: dict[int, dict[str, float]] = {} if panes is None else panes
        self.merged: tuple[int, dict[str, float]] | None = None
        self._cells = sum(map(len, self.panes.values()))
        # Groups are told apart only once there are so many cells that the groups may be too many.
        self._recency: Recency | None = None

    def add(self, pane: int, group: str, amount: float) -> int:
        """Begin `group` in `pane` with `amount`.

        Returns:
            Number of groups at most; :meth:`bound` knows it exactly.
        """
        self.merged = None
        groups = self.panes.get(pane)
        if groups is None:
            groups = self.panes[pane] = {}
        groups[group] = amount
        self._cells += 1
        return self._cells if self._recency is None else self._recency.note(group, pane)

    def read(self, window: Window, at: int) -> dict[str, float]:
        """Window of each group at time `at`."""
        newest = at // window.slide_ms
        cached = self.merged
        if cached is None or cached[0] != newest:
            merged: dict[str, float] = {}
            get = merged.get
            for pane, groups in sorted(self.panes.items()):
                if newest - window.panes < pane <= newest:
                    weight = window.decay ** (newest - pane)
                    for group, value in groups.items():
                        merged[group] = get(group, 0.0) + weight * value
            self.merged = cached = (newest, merged)
        return cached[1].copy()

    def bound(self, max_groups: int, oldest: int) -> int:
        """Evict groups beyond `max_groups`, those with the oldest last pane first.

        Groups without a pane from `oldest` on go without being counted.

        Returns:
            How many groups were evicted.
        """
        self.expire(oldest)
        if self._recency is None and self._cells > max_groups:
            self._recency = Recency()
            for pane, groups in self.panes.items():
                for group in groups:
                    self._recency.note(group, pane)
        if self._recency is None:
            return 0
        evicted = self._recency.evict(max_groups)
        for groups in self.panes.values():
            for group in evicted:
                if groups.pop(group, None) is not None:
                    self._cells -= 1
        return len(evicted)

    def expire(self, oldest: int) -> None:
        """Forget panes before `oldest`."""
        for pane in [q for q in self.panes if q < oldest]:
            groups = self.panes.pop(pane)
            self._cells -= len(groups)
            if self._recency is not None:
                self._recency.forget(groups, pane)

    def pack(self, oldest: int) -> dict[int, dict[str, float]]:
        """Panes from `oldest` on."""
        for pane in self.panes:
            if pane < oldest:
                return {q: groups for q, groups in self.panes.items() if q >= oldest}
        return self.panes


class Recency:
    """When each group was seen last, and which go first when there are too many.

    Attributes:
        last: group to the latest pane or time it was seen in.
    """

    __slots__ = ("_order", "last")

    def __init__(self, last: dict[str, int] | None = None) -> None:
        """Begin with `last`."""
        self.last: dict[str, int] = {} if last is None else last
        self._order: list[tuple[int, str]] | None = None

    def note(self, group: str, when: int) -> int:
        """Note that `group` was seen at `when`; returns the number of groups."""
        if self.last.get(group, -1) < when:
            self.last[group] = when
            if self._order is not None:
                heapq.heappush(self._order, (when, group))
                if len(self._order) > 4 * len(self.last) + 64:
                    self._order = None
        return len(self.last)

    def forget(self, groups: Iterable[str], until: int) -> None:
        """Drop those of `groups` that were not seen after `until`."""
        for group in groups:
            if self.last.get(group, until + 1) <= until:
                del self.last[group]

    def evict(self, most: int) -> list[str]:
        """Drop groups until `most` are left: the longest unseen, of equals the least in text order.

        The heap also holds pairs of groups seen again since; when these prevail it is made anew.
        """
        evicted: list[str] = []
        while len(self.last) > most:
            if self._order is None:
                self._order = [(when, group) for group, when in self.last.items()]
                heapq.heapify(self._order)
            when, group = heapq.heappop(self._order)
            if self.last.get(group) == when:
                del self.last[group]
                evicted.append(group)
        return evicted


def oldest_open(window: Window, watermark: int) -> int:
    """Oldest pane that a window not yet ended at `watermark` holds; older ones are late."""
    return watermark // window.slide_ms - window.panes + 1

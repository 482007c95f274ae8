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
from collections.abc import Sequence
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
        self._values = np.zeros((window.panes + 1, capacity))
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
            np.add.at(self._values[self._slot(first)], rows, amounts)
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
        for pane in [q for q in self._slots if is_late(q, self._window, watermark)]:
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
    """Numbers by pane and group, of one entity; at most so many groups."""

    __slots__ = ("_eviction_order", "_last", "_merged", "_merged_at", "panes")

    def __init__(self, panes: dict[int, dict[str, float]] | None = None) -> None:
        """Hold `panes`: pane number to group to value."""
        self.panes: dict[int, dict[str, float]] = {} if panes is None else panes
        self._last: dict[str, int] = {}
        for pane in sorted(self.panes):
            self._last.update(dict.fromkeys(self.panes[pane], pane))
        self._eviction_order: list[tuple[int, str]] | None = None
        self._merged: dict[str, float] = {}
        self._merged_at: int | None = None

    def add(self, pane: int, group: str, amount: float) -> None:
        """Add `amount` to `group` in `pane`."""
        groups = self.panes.get(pane)
        if groups is None:
            groups = self.panes[pane] = {}
        groups[group] = groups.get(group, 0) + amount
        last = self._last.get(group)
        if last is None or last < pane:
            self._last[group] = pane
            if self._eviction_order is not None:
                heapq.heappush(self._eviction_order, (pane, group))
        self._merged_at = None

    def read(self, window: Window, at: int) -> dict[str, float]:
        """Window of each group at time `at`."""
        newest = at // window.slide_ms
        if newest != self._merged_at:
            merged: dict[str, float] = {}
            get = merged.get
            for pane in sorted(self.panes):
                if newest - window.panes < pane <= newest:
                    weight = window.decay ** (newest - pane)
                    for group, value in self.panes[pane].items():
                        merged[group] = get(group, 0.0) + weight * value
            self._merged, self._merged_at = merged, newest
        return self._merged.copy()

    def bound(self, max_groups: int, window: Window, watermark: int) -> int:
        """Evict groups beyond `max_groups`, those with the oldest last pane first.

        Groups whose last pane no window at or after `watermark` holds go without being counted;
        of equally old ones the least in text order goes.

        Returns:
            How many groups were evicted.
        """
        if len(self._last) <= max_groups:
            return 0
        self.expire(window, watermark)
        if self._eviction_order is None or len(self._eviction_order) > 4 * max_groups + 64:
            self._eviction_order = [(pane, group) for group, pane in self._last.items()]
            heapq.heapify(self._eviction_order)
        evicted = 0
        while len(self._last) > max_groups:
            pane, group = heapq.heappop(self._eviction_order)
            if self._last.get(group) == pane:
                del self._last[group]
                for groups in self.panes.values():
                    groups.pop(group, None)
                evicted += 1
        return evicted

    def expire(self, window: Window, watermark: int) -> None:
        """Forget panes that no window at or after `watermark` holds."""
        for pane in [q for q in self.panes if is_late(q, window, watermark)]:
            for group in self.panes.pop(pane):
                if self._last.get(group) == pane:
                    del self._last[group]


def is_late(pane: int, window: Window, watermark: int) -> bool:
    """Whether the last window that holds `pane` has ended at `watermark`."""
    return (pane + window.panes) * window.slide_ms <= watermark

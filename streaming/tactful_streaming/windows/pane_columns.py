"""State columns that keep panes: their windows, and accumulators such as sketches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.definitions.model import CumulativeWindow, Feature, Window
from tactful_streaming.windows.accumulators import ACCUMULATORS, Accumulator
from tactful_streaming.windows.columns import NO_ROWS, Selection, StateColumn, sampled_bytes

PanedWindow = Window | CumulativeWindow
_Times = TypeVar("_Times", int, NDArray[np.int64])


def slide_of(window: PanedWindow) -> int:
    """Return the length of the panes of `window`, milliseconds."""
    return window.step_ms if isinstance(window, CumulativeWindow) else window.slide_ms


def length_of(window: PanedWindow) -> int:
    """Return how long a pane can be part of a window at most, milliseconds."""
    return window.size_ms if isinstance(window, CumulativeWindow) else window.span_ms


def window_at(window: PanedWindow, at: int) -> tuple[int, int]:
    """Return the oldest and the newest pane of the window read at time `at`."""
    return oldest_open(window, at), at // slide_of(window)


def oldest_open(window: PanedWindow, horizons: _Times) -> _Times:
    """Return the oldest pane in time at each of `horizons`; older ones are late."""
    if isinstance(window, CumulativeWindow):
        return horizons // window.size_ms * (window.size_ms // window.step_ms)
    return horizons // window.slide_ms - window.panes + 1


class PanedColumn(StateColumn):
    """Base of the columns that keep panes, for all windows with the same slide."""

    def __init__(self, window: PanedWindow, *, emits: bool) -> None:
        """Keep panes for `window`; more windows may be added."""
        self.slide_ms = slide_of(window)  # length of a pane, milliseconds
        self.windows: list[PanedWindow] = [window]  # windows read from the panes
        # (cells, panes, watermarks) of events after the end of their first window, which is emitted
        # again; None if nothing is emitted.
        self.changed: list[tuple[Rows, Rows, Rows]] | None = [] if emits else None

    @property
    def memory_ms(self) -> int:
        """Length of the longest window."""
        return max(map(length_of, self.windows))

    def oldest(self, horizons: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the oldest pane in a window not yet over at each of `horizons`."""
        oldest = oldest_open(self.windows[0], horizons)
        for window in self.windows[1:]:
            oldest = np.minimum(oldest, oldest_open(window, horizons))
        return oldest

    def ends(self, window: PanedWindow, panes: Iterable[int], after: int, until: int) -> list[int]:
        """Return the ends in ``(after, until]`` of windows with one of `panes`, in order."""
        slide = self.slide_ms
        first, last = after // slide + 1, until // slide
        ends: set[int] = set()
        for pane in panes:
            ends.update(range(max(pane + 1, first), min(_last_end(window, pane), last) + 1))
        return [number * slide for number in sorted(ends)]

    def panes_of(self, events: Selection, lateness_ms: int) -> tuple[Rows, Rows | None]:
        """Return the pane of each event, and the positions in time; None: all are."""
        panes = events.timestamps // self.slide_ms
        horizons = events.watermarks - lateness_ms
        if not np.any(events.timestamps <= horizons):
            return panes, None
        in_time = panes >= self.oldest(horizons)
        return panes, None if in_time.all() else np.flatnonzero(in_time)

    def note_changes(self, cells: Rows, panes: Rows, watermarks: Rows) -> None:
        """Record events that change a window already emitted."""
        if self.changed is None:
            return
        behind = np.flatnonzero((panes + 1) * self.slide_ms <= watermarks)
        if len(behind):
            self.changed.append((cells[behind], panes[behind], watermarks[behind]))

    def forget_changes(self, cells: Rows) -> None:
        """Emit nothing again for cells that are cleared."""
        if self.changed:
            kept = [(c, p, w, ~np.isin(c, cells)) for c, p, w in self.changed]
            self.changed = [(c[keep], p[keep], w[keep]) for c, p, w, keep in kept]


class AccumulatorPanes(PanedColumn):
    """Sketches, or newest values, by pane: ``{cell: {pane: accumulator}}``."""

    def __init__(self, kind: str, feature: Feature, *, emits: bool) -> None:
        """Create an empty column; `kind` is a key of `ACCUMULATORS`."""
        assert isinstance(feature.window, PanedWindow)
        super().__init__(feature.window, emits=emits)
        self._kind: type[Accumulator] = ACCUMULATORS[kind]
        self.packed_type = dict[int, self._kind.packed_type]  # type: ignore[name-defined]
        self._feature = feature
        self._source = "texts" if kind == "hll" else "amounts"
        self._panes: dict[int, dict[int, Accumulator]] = {}
        self._cells_of: dict[int, list[int]] = {}

    @property
    def nbytes(self) -> int:
        """Approximate memory, estimated from a sample of cells."""
        cells = self._panes.values()
        return sampled_bytes(cells, lambda of: 150 + sum(50 + part.nbytes for part in of.values()))

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Add the events in time."""
        panes, in_time = self.panes_of(events, lateness_ms)
        if in_time is not None:
            cells, panes, events = cells[in_time], panes[in_time], events.take(in_time)
        values = events.values(self._source)
        kind, feature, states = self._kind, self._feature, self._panes
        numbers = (column.tolist() for column in (cells, panes, events.timestamps))
        for cell, pane, timestamp, value in zip(*numbers, values, strict=True):
            of_cell = states.get(cell)
            if of_cell is None:
                of_cell = states[cell] = {}
            accumulator = of_cell.get(pane)
            if accumulator is None:
                accumulator = of_cell[pane] = kind(feature)
                self._cells_of.setdefault(pane, []).append(cell)
            accumulator.add(value, timestamp)
        self.note_changes(cells, panes, events.watermarks)
        return NO_ROWS

    def read_one(self, cell: int, feature: Feature, at: int) -> Any:
        """Return the result over the panes of one cell; None without panes."""
        assert isinstance(feature.window, PanedWindow)
        oldest, newest = window_at(feature.window, at)
        panes = self._panes.get(cell, {})
        parts = [panes[pane] for pane in sorted(panes) if oldest <= pane <= newest]
        return self._kind.result(parts, feature) if parts else None

    def read_all(self, feature: Feature, at: int) -> tuple[Rows, Floats]:
        """Return the cells with panes, and their results."""
        assert isinstance(feature.window, PanedWindow)
        panes = self.panes_between(*window_at(feature.window, at))
        cells = sorted({cell for pane in panes for cell in self._cells_of[pane]})
        read = {cell: self.read_one(cell, feature, at) for cell in cells}
        results = {cell: result for cell, result in read.items() if result is not None}
        return np.array([*results], np.int64), np.array([*results.values()], np.float64)

    def panes_between(self, oldest: int, newest: int) -> list[int]:
        """Return the panes with events."""
        return sorted(pane for pane in self._cells_of if oldest <= pane <= newest)

    def clear(self, cells: Rows) -> None:
        """Delete cells."""
        for cell in cells.tolist():
            self._panes.pop(cell, None)
        self.forget_changes(cells)

    def expire(self, horizon: int) -> None:
        """Delete panes whose last window is over."""
        oldest = int(self.oldest(np.array(horizon)))
        for pane in [pane for pane in self._cells_of if pane < oldest]:
            for cell in self._cells_of.pop(pane):
                if cell in self._panes:
                    self._panes[cell].pop(pane, None)

    def pack(self, cells: Rows, horizon: int) -> list[dict[int, Any]]:
        """Return the packed panes of each cell."""
        oldest = int(self.oldest(np.array(horizon)))
        of_cells = [self._panes.get(cell, {}) for cell in cells.tolist()]
        return [{n: part.pack() for n, part in panes.items() if n >= oldest} for panes in of_cells]

    def absorb(self, cells: Rows, packed: Sequence[Any]) -> None:
        """Merge panes."""
        for cell, panes in zip(cells.tolist(), packed, strict=True):
            of_cell = self._panes.setdefault(cell, {})
            for pane, state in panes.items():
                accumulator = self._kind.unpack(state, self._feature)
                if pane in of_cell:
                    of_cell[pane].merge(accumulator)
                else:
                    of_cell[pane] = accumulator
                    self._cells_of.setdefault(pane, []).append(cell)


def _last_end(window: PanedWindow, pane: int) -> int:
    """Return the number of the slide where the last window with `pane` ends."""
    if isinstance(window, Window):
        return pane + window.panes
    steps = window.size_ms // window.step_ms
    return (pane // steps + 1) * steps

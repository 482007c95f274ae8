"""Parts of the state: each holds one kind of thing for the cells of a store.

A cell is an entity, or an entity and a group. Features of one store that need the same thing share
a part: a count per minute serves every window that moves by a minute. A part says nothing
(``None``, or NaN in arrays) of a cell of which it holds nothing at the time asked for.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.definitions.model import Feature, ForwardDecay, Window
from tactful_streaming.windows.accumulators import ACCUMULATORS, Accumulator
from tactful_streaming.windows.panes import (
    ENTRY_BYTES,
    FOLDS,
    PanedWindow,
    PaneTable,
    length_of,
    oldest_open,
    slide_of,
    window_at,
)

FADED_HALF_LIVES: Final = 64
"""After so many half-lives of silence a decayed total is nothing: 2 ** -64 of it is left."""


@dataclass(frozen=True)
class Selection:
    """Events that count for one store, in the order of the log.

    Attributes:
        rows: row of the entity of each event.
        timestamps: when each happened, epoch milliseconds.
        watermarks: watermark before each, epoch milliseconds.
        amounts: the number each brings; None for a store that needs none.
        texts: group or value of each; None for a store that needs none.
    """

    rows: Rows
    timestamps: NDArray[np.int64]
    watermarks: NDArray[np.int64]
    amounts: Floats | None = None
    texts: list[str] | None = None

    def take(self, index: Rows) -> Selection:
        """Those at the positions `index`."""
        return Selection(
            self.rows[index],
            self.timestamps[index],
            self.watermarks[index],
            self.amounts[index] if self.amounts is not None else None,
            [self.texts[i] for i in index.tolist()] if self.texts is not None else None,
        )


class Part(Protocol):
    """State of one kind, for the cells of a store."""

    @property
    def memory_ms(self) -> int | None:
        """How long after its newest event a cell may matter, milliseconds; None: for ever."""

    @property
    def nbytes(self) -> int:
        """About how much memory the state takes."""

    def resize(self, capacity: int) -> None:
        """Make room for cells below `capacity`."""

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Count events, each in its cell; returns the positions of those that come too late."""

    def read_one(self, cell: int, feature: Feature, at: int) -> Any:
        """What `feature` sees of one cell at time `at`; None if there is nothing."""

    def read(self, cells: Rows, feature: Feature, at: int) -> Floats:
        """Numbers of `cells` at time `at`; NaN where there is nothing."""

    def clear(self, cells: Rows) -> None:
        """Forget cells."""

    def expire(self, horizon: int) -> None:
        """Forget what no read at or after `horizon` can see, where that is cheap."""


_NONE: Final = np.zeros(0, np.int64)


class PanedPart:
    """What parts that keep panes have in common: which windows they serve.

    Attributes:
        slide_ms: length of a pane, milliseconds.
        windows: windows that are read from them.
        changed: (cells, panes, watermarks) of events whose first window had ended, to be fired
            again; None where nothing is ever fired.
    """

    def __init__(self, window: PanedWindow, *, emits: bool) -> None:
        """Keep panes for `window`; others may join."""
        self.slide_ms = slide_of(window)
        self.windows: list[PanedWindow] = [window]
        self.changed: list[tuple[Rows, Rows, Rows]] | None = [] if emits else None

    @property
    def memory_ms(self) -> int:
        """The longest window."""
        return max(map(length_of, self.windows))

    def oldest(self, horizons: NDArray[np.int64]) -> NDArray[np.int64]:
        """Oldest pane that some window not yet over at each of `horizons` holds."""
        oldest = oldest_open(self.windows[0], horizons)
        for window in self.windows[1:]:
            oldest = np.minimum(oldest, oldest_open(window, horizons))
        return oldest

    def ends(self, window: PanedWindow, panes: Iterable[int], after: int, until: int) -> list[int]:
        """Ends in ``(after, until]`` of windows that hold one of `panes`, in order."""
        slide = self.slide_ms
        first, last = after // slide + 1, until // slide
        found: set[int] = set()
        for pane in panes:
            final = _last_end(window, pane)
            found.update(range(max(pane + 1, first), min(final, last) + 1))
        return [number * slide for number in sorted(found)]

    def panes_of(self, events: Selection, lateness_ms: int) -> tuple[Rows, Rows | None]:
        """Pane of each event, and the positions of those not too late; None if none is."""
        panes = events.timestamps // self.slide_ms
        horizons = events.watermarks - lateness_ms
        if not np.any(events.timestamps <= horizons):
            return panes, None
        in_time = panes >= self.oldest(horizons)
        return panes, None if in_time.all() else np.flatnonzero(in_time)

    def note(self, cells: Rows, panes: Rows, watermarks: Rows) -> None:
        """Remember events that change a window which has fired."""
        if self.changed is None:
            return
        behind = np.flatnonzero((panes + 1) * self.slide_ms <= watermarks)
        if len(behind):
            self.changed.append((cells[behind], panes[behind], watermarks[behind]))

    def forget_changes(self, cells: Rows) -> None:
        """Fire nothing again of cells that are cleared."""
        if self.changed:
            kept = [(c, p, w, ~np.isin(c, cells)) for c, p, w in self.changed]
            self.changed = [(c[keep], p[keep], w[keep]) for c, p, w, keep in kept]


class NumberPanes(PanedPart):
    """Counts, sums, least or greatest numbers by pane."""

    width = 2

    def __init__(self, kind: str, window: PanedWindow, *, emits: bool) -> None:
        """Begin empty; `kind` is a key of `FOLDS`."""
        super().__init__(window, emits=emits)
        self._counts = kind == "count"
        self.table = PaneTable(FOLDS[kind])
        self._weights: dict[PanedWindow, Floats | None] = {}

    @property
    def nbytes(self) -> int:
        """Entries and heads."""
        return ENTRY_BYTES * len(self.table)

    def resize(self, capacity: int) -> None:
        """Make room for cells below `capacity`."""
        self.table.resize(capacity)

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Add the events that are not late."""
        panes, in_time = self.panes_of(events, lateness_ms)
        amounts = None if self._counts else events.amounts
        watermarks = events.watermarks
        if in_time is not None:
            cells, panes, watermarks = cells[in_time], panes[in_time], watermarks[in_time]
            amounts = amounts[in_time] if amounts is not None else None
        if len(cells):
            self.table.add(cells, panes, amounts)
            self.note(cells, panes, watermarks)
        return _NONE

    def read_one(self, cell: int, feature: Feature, at: int) -> float | None:
        """Total of one cell."""
        total = self.table.read_one(cell, *self._view(feature, at))
        return None if math.isnan(total) else total

    def read(self, cells: Rows, feature: Feature, at: int) -> Floats:
        """Totals of `cells`."""
        return self.table.read(cells, *self._view(feature, at))

    def read_all(self, feature: Feature, at: int) -> tuple[Rows, Floats]:
        """Cells that have something, and their totals."""
        return self.table.read_all(*self._view(feature, at))

    def panes_between(self, oldest: int, newest: int) -> list[int]:
        """Panes in which something happened."""
        return self.table.distinct(oldest, newest)

    def clear(self, cells: Rows) -> None:
        """Forget cells."""
        self.table.clear(cells)
        self.forget_changes(cells)

    def expire(self, horizon: int) -> None:
        """Forget panes whose last window is over."""
        if self.table.worth_expiring:  # asked first: this is called with every batch
            self.table.expire(int(self.oldest(np.array(horizon))))

    def pack_records(self, cells: Rows, horizon: int) -> tuple[Rows, Floats]:
        """Panes of `cells`, each with its number."""
        return self.table.pack(cells, int(self.oldest(np.array(horizon))))

    def absorb_records(self, cells: Rows, records: Floats) -> None:
        """Add panes."""
        self.table.absorb(cells, records)

    def _view(self, feature: Feature, at: int) -> tuple[int, int, Floats | None]:
        window = feature.window
        assert isinstance(window, PanedWindow)
        if window not in self._weights:
            decay = window.decay if isinstance(window, Window) else 1.0
            ages = range(window.panes) if isinstance(window, Window) else ()
            self._weights[window] = np.array([decay**age for age in ages]) if decay != 1 else None
        return *window_at(window, at), self._weights[window]


class GatheredPanes(PanedPart):
    """Sketches, or newest values, by pane."""

    def __init__(self, kind: str, feature: Feature, *, emits: bool) -> None:
        """Begin empty; `kind` is a key of `ACCUMULATORS`."""
        assert isinstance(feature.window, PanedWindow)
        super().__init__(feature.window, emits=emits)
        self._kind: type[Accumulator] = ACCUMULATORS[kind]
        self.packed_type = dict[int, self._kind.packed_type]  # type: ignore[name-defined]
        self._feature = feature
        self._of_texts = kind == "hll"
        self._panes: dict[int, dict[int, Accumulator]] = {}
        self._cells_of: dict[int, list[int]] = {}

    @property
    def nbytes(self) -> int:
        """About as much as a sample of the cells says."""
        if not self._panes:
            return 0
        sample = [panes for panes, _ in zip(self._panes.values(), range(100), strict=False)]
        size = sum(150 + sum(50 + a.nbytes for a in panes.values()) for panes in sample)
        return size * len(self._panes) // len(sample)

    def resize(self, capacity: int) -> None:
        """Nothing: cells are in a dictionary."""

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Gather the events that are not late."""
        panes, in_time = self.panes_of(events, lateness_ms)
        if in_time is not None:
            cells, panes, events = cells[in_time], panes[in_time], events.take(in_time)
        values: Sequence[Any]
        if self._of_texts:
            assert events.texts is not None
            values = events.texts
        else:
            assert events.amounts is not None
            values = events.amounts.tolist()
        kind, feature, states = self._kind, self._feature, self._panes
        timestamps = events.timestamps.tolist()
        for cell, pane, value, timestamp in zip(
            cells.tolist(), panes.tolist(), values, timestamps, strict=True
        ):
            of_cell = states.get(cell)
            if of_cell is None:
                of_cell = states[cell] = {}
            gathered = of_cell.get(pane)
            if gathered is None:
                gathered = of_cell[pane] = kind(feature)
                self._cells_of.setdefault(pane, []).append(cell)
            gathered.add(value, timestamp)
        self.note(cells, panes, events.watermarks)
        return _NONE

    def read_one(self, cell: int, feature: Feature, at: int) -> Any:
        """Result over the panes of one cell."""
        assert isinstance(feature.window, PanedWindow)
        oldest, newest = window_at(feature.window, at)
        panes = self._panes.get(cell, {})
        parts = [panes[pane] for pane in sorted(panes) if oldest <= pane <= newest]
        return self._kind.result(parts, feature) if parts else None

    def read(self, cells: Rows, feature: Feature, at: int) -> Floats:
        """Results of `cells`."""
        return _numbers(self.read_one(cell, feature, at) for cell in cells.tolist())

    def read_all(self, feature: Feature, at: int) -> tuple[Rows, Floats]:
        """Cells that have something, and their results."""
        assert isinstance(feature.window, PanedWindow)
        panes = self.panes_between(*window_at(feature.window, at))
        cells = sorted({cell for pane in panes for cell in self._cells_of[pane]})
        read = {cell: self.read_one(cell, feature, at) for cell in cells}
        found = {cell: result for cell, result in read.items() if result is not None}
        return np.array([*found], np.int64), np.array([*found.values()], np.float64)

    def panes_between(self, oldest: int, newest: int) -> list[int]:
        """Panes in which something happened."""
        return sorted(pane for pane in self._cells_of if oldest <= pane <= newest)

    def clear(self, cells: Rows) -> None:
        """Forget cells."""
        for cell in cells.tolist():
            self._panes.pop(cell, None)
        self.forget_changes(cells)

    def expire(self, horizon: int) -> None:
        """Forget panes whose last window is over."""
        oldest = int(self.oldest(np.array(horizon)))
        for pane in [pane for pane in self._cells_of if pane < oldest]:
            for cell in self._cells_of.pop(pane):
                if cell in self._panes:
                    self._panes[cell].pop(pane, None)

    def pack(self, cells: Rows, horizon: int) -> list[dict[int, Any]]:
        """Panes of each cell."""
        oldest = int(self.oldest(np.array(horizon)))
        return [
            {
                pane: gathered.pack()
                for pane, gathered in self._panes.get(cell, {}).items()
                if pane >= oldest
            }
            for cell in cells.tolist()
        ]

    def absorb(self, cells: Rows, packed: Sequence[Any]) -> None:
        """Merge panes."""
        for cell, panes in zip(cells.tolist(), packed, strict=True):
            of_cell = self._panes.setdefault(cell, {})
            for pane, state in panes.items():
                gathered = self._kind.unpack(state, self._feature)
                if pane in of_cell:
                    of_cell[pane].merge(gathered)
                else:
                    of_cell[pane] = gathered
                    self._cells_of.setdefault(pane, []).append(cell)


class DecayedTotals:
    """Counts or sums in which an event counts half after each half-life.

    The total of a cell is kept as of the beginning of the half-life in which its newest event lies.
    To move it on by k half-lives is to multiply by ``2 ** -k``, which is exact: the total is the
    same however the events were cut into batches.
    """

    width = 2

    def __init__(self, kind: str, decay: ForwardDecay) -> None:
        """Begin empty."""
        self._half_life = decay.half_life_ms
        self._counts = kind == "count"
        self._totals = np.zeros(64)
        self._newest = np.full(64, -1, np.int64)

    @property
    def memory_ms(self) -> int:
        """Until it has faded."""
        return FADED_HALF_LIVES * self._half_life

    @property
    def nbytes(self) -> int:
        """Two numbers a cell."""
        return 16 * len(self._totals)

    def resize(self, capacity: int) -> None:
        """Make room for cells below `capacity`."""
        more = capacity - len(self._totals)
        if more > 0:
            self._totals = np.concatenate([self._totals, np.zeros(more)])
            self._newest = np.concatenate([self._newest, np.full(more, -1, np.int64)])

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Add events; none comes too late."""
        amounts = np.ones(len(cells)) if self._counts else events.amounts
        assert amounts is not None
        self._advance(cells, events.timestamps)
        whole, part = np.divmod(events.timestamps, self._half_life)
        weights = np.exp2(part / self._half_life)
        turns = whole - self._newest[cells] // self._half_life
        np.add.at(self._totals, cells, np.ldexp(amounts * weights, turns))
        return _NONE

    def read_one(self, cell: int, feature: Feature, at: int) -> float | None:
        """Total of one cell."""
        total = float(self.read(np.array([cell]), feature, at)[0])
        return None if math.isnan(total) else total

    def read(self, cells: Rows, feature: Feature, at: int) -> Floats:
        """Totals of `cells`; asked for a time before its newest event, as of that event."""
        newest = self._newest[cells]
        moment = np.maximum(newest, at)
        whole, part = np.divmod(moment, self._half_life)
        turns = newest // self._half_life - whole
        totals: Floats = np.ldexp(self._totals[cells] * np.exp2(-part / self._half_life), turns)
        totals[(newest < 0) | (moment - newest >= self.memory_ms)] = np.nan
        return totals

    def clear(self, cells: Rows) -> None:
        """Forget cells."""
        self._totals[cells] = 0
        self._newest[cells] = -1

    def expire(self, horizon: int) -> None:
        """Nothing: a cell is forgotten as a whole."""

    def pack_records(self, cells: Rows, horizon: int) -> tuple[Rows, Floats]:
        """Newest time and total of `cells`."""
        having = self._newest[cells] >= 0
        kept = cells[having]
        return having.astype(np.int64), np.column_stack([self._newest[kept], self._totals[kept]])

    def absorb_records(self, cells: Rows, records: Floats) -> None:
        """Add totals."""
        newest = records[:, 0].astype(np.int64)
        self._advance(cells, newest)
        turns = newest // self._half_life - self._newest[cells] // self._half_life
        np.add.at(self._totals, cells, np.ldexp(records[:, 1], turns))

    def _advance(self, cells: Rows, timestamps: NDArray[np.int64]) -> None:
        """Move the totals of `cells` on to the half-lives of their newest events."""
        touched = np.unique(cells)
        before = self._newest[touched]
        np.maximum.at(self._newest, cells, timestamps)
        turns = before // self._half_life - self._newest[touched] // self._half_life
        self._totals[touched] = np.ldexp(self._totals[touched], turns)


class LastTimes:
    """Newest timestamp, epoch milliseconds."""

    memory_ms = None
    width = 1

    def __init__(self) -> None:
        """Begin empty."""
        self._times = np.full(64, np.nan)

    @property
    def nbytes(self) -> int:
        """One number a cell."""
        return 8 * len(self._times)

    def resize(self, capacity: int) -> None:
        """Make room for cells below `capacity`."""
        more = capacity - len(self._times)
        if more > 0:
            self._times = np.concatenate([self._times, np.full(more, np.nan)])

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Keep the newest; none comes too late."""
        np.fmax.at(self._times, cells, events.timestamps)
        return _NONE

    def read_one(self, cell: int, feature: Feature, at: int) -> float | None:
        """Newest timestamp of one cell."""
        time = self._times.item(cell)
        return None if math.isnan(time) else time

    def read(self, cells: Rows, feature: Feature, at: int) -> Floats:
        """Newest timestamps of `cells`."""
        return self._times[cells]

    def clear(self, cells: Rows) -> None:
        """Forget cells."""
        self._times[cells] = np.nan

    def expire(self, horizon: int) -> None:
        """Nothing ages."""

    def pack_records(self, cells: Rows, horizon: int) -> tuple[Rows, Floats]:
        """Newest timestamp of `cells`."""
        times = self._times[cells]
        having = ~np.isnan(times)
        return having.astype(np.int64), times[having][:, None]

    def absorb_records(self, cells: Rows, records: Floats) -> None:
        """Keep the newest."""
        np.fmax.at(self._times, cells, records[:, 0])


class RecentValues:
    """The newest n texts with their timestamps; of equally new ones, those that came last."""

    packed_type = list[tuple[int, str]]

    def __init__(self, n: int) -> None:
        """Begin empty."""
        self._n = n
        self._kept: dict[int, list[tuple[int, str]]] = {}
        self._ages: list[int | None] = []

    def serve(self, window: Window | None) -> None:
        """Be read by a feature with `window`."""
        self._ages.append(window.size_ms if window is not None else None)

    @property
    def memory_ms(self) -> int | None:
        """The greatest age."""
        ages = [age for age in self._ages if age is not None]
        return max(ages) if len(ages) == len(self._ages) else None

    @property
    def nbytes(self) -> int:
        """Lists of pairs, as long as a sample of them."""
        if not self._kept:
            return 0
        sample = [len(kept) for kept, _ in zip(self._kept.values(), range(100), strict=False)]
        return len(self._kept) * (200 + 90 * sum(sample) // len(sample))

    def resize(self, capacity: int) -> None:
        """Nothing: cells are in a dictionary."""

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Keep the newest n; none comes too late."""
        assert events.texts is not None
        timestamps = events.timestamps.tolist()
        for cell, timestamp, text in zip(cells.tolist(), timestamps, events.texts, strict=True):
            self._keep(cell, timestamp, text)
        return _NONE

    def read_one(self, cell: int, feature: Feature, at: int) -> list[tuple[str, int]] | None:
        """Texts of one cell, newest first; with a window, those newer than its size at `at`."""
        kept = self._kept.get(cell)
        if not kept:
            return None
        oldest = at - feature.window.size_ms if isinstance(feature.window, Window) else -1
        return [(text, timestamp) for timestamp, text in reversed(kept) if timestamp > oldest]

    def read(self, cells: Rows, feature: Feature, at: int) -> Floats:
        """Never asked: they are no numbers."""
        raise TypeError("kept texts are no numbers: read_one has them")

    def clear(self, cells: Rows) -> None:
        """Forget cells."""
        for cell in cells.tolist():
            self._kept.pop(cell, None)

    def drop_texts(self, cell: int, drops: Callable[[str], bool]) -> None:
        """Forget texts of a cell."""
        kept = [pair for pair in self._kept.get(cell, ()) if not drops(pair[1])]
        if kept:
            self._kept[cell] = kept
        else:
            self._kept.pop(cell, None)

    def expire(self, horizon: int) -> None:
        """Nothing: old values are left out when read."""

    def pack(self, cells: Rows, horizon: int) -> list[list[tuple[int, str]]]:
        """Texts of each cell, oldest first."""
        return [self._kept.get(cell, []) for cell in cells.tolist()]

    def absorb(self, cells: Rows, packed: Sequence[Any]) -> None:
        """Keep the newest of both; of equally new ones, those that are added."""
        for cell, kept in zip(cells.tolist(), packed, strict=True):
            if cell not in self._kept:
                self._kept[cell] = [(timestamp, text) for timestamp, text in kept]
                continue
            for timestamp, text in kept:
                self._keep(cell, timestamp, text)

    def _keep(self, cell: int, timestamp: int, text: str) -> None:
        kept = self._kept.get(cell)
        if kept is None:
            self._kept[cell] = [(timestamp, text)]
            return
        if kept[-1][0] <= timestamp:
            kept.append((timestamp, text))
        else:
            insort(kept, (timestamp, text), key=lambda entry: entry[0])
        if len(kept) > self._n:
            del kept[0]


def _last_end(window: PanedWindow, pane: int) -> int:
    """Number of the slide at whose start the last window that holds `pane` ends."""
    if isinstance(window, Window):
        return pane + window.panes
    steps = window.size_ms // window.step_ms
    return (pane // steps + 1) * steps


def _numbers(results: Iterable[float | None]) -> Floats:
    return np.array([np.nan if result is None else result for result in results], np.float64)

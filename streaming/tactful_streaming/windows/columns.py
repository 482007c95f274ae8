"""State columns: each holds one kind of state for the cells of a shared aggregate.

A cell is an entity or, with groups, a group of an entity. Features of one shared aggregate that
need the same state share a column: a count per minute serves every window that moves by a minute.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import insort
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.definitions.model import Feature, ForwardDecay, Window

FADED_HALF_LIVES: Final = 64
"""Half-lives without an event after which a decayed total counts as none: 2 ** -64 is left."""

_GONE_HALF_LIVES: Final = 2200
"""Half-lives after which nothing is left of a total beyond a double.

Up to ``2 ** 64`` amounts below ``2 ** 1025`` are then less than the smallest double.
"""

NO_ROWS: Final = np.zeros(0, np.int64)

_SAMPLE: Final = 100
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class Selection:
    """Events that count for one shared aggregate, in the order of the log."""

    rows: Rows  # row of the entity of each event
    timestamps: NDArray[np.int64]  # time of each event, epoch milliseconds
    watermarks: NDArray[np.int64]  # watermark before each event, epoch milliseconds
    amounts: Floats | None = None  # number of each event; None without numbers
    texts: list[str] | None = None  # group or value of each event; None without texts

    def values(self, source: str) -> Sequence[Any]:
        """Return the value of each event: ``ones``, ``amounts`` or ``texts``."""
        if source == "ones":
            return [1.0] * len(self.rows)
        values = self.texts if source == "texts" else self.amounts
        assert values is not None
        return values if isinstance(values, list) else values.tolist()

    def take(self, index: Rows) -> Selection:
        """Return the events at the positions `index`."""
        return Selection(
            self.rows[index],
            self.timestamps[index],
            self.watermarks[index],
            self.amounts[index] if self.amounts is not None else None,
            [self.texts[i] for i in index.tolist()] if self.texts is not None else None,
        )


class StateColumn(Protocol):
    """Base of the state columns of a shared aggregate; nothing ages by default."""

    @property
    def memory_ms(self) -> int | None:
        """Time after its newest event in which a cell counts, ms; None: no limit."""
        return None

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Approximate memory of the state."""

    def resize(self, capacity: int) -> None:
        """Make room for cells below `capacity`, unless cells are in a dictionary."""
        return

    @abstractmethod
    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Count events, each in its cell; return the positions of sessions' late events."""

    @abstractmethod
    def read_one(self, cell: int, feature: Feature, at: int) -> Any:
        """Return the value of `feature` for one cell at time `at`; None without state."""

    def read(self, cells: Rows, feature: Feature, at: int) -> Floats:
        """Return numbers of `cells` at time `at`; NaN without state."""
        results = [self.read_one(cell, feature, at) for cell in cells.tolist()]
        return np.array([np.nan if result is None else result for result in results], np.float64)

    @abstractmethod
    def clear(self, cells: Rows) -> None:
        """Delete the state of cells."""

    def expire(self, horizon: int) -> None:
        """Delete state that no read from `horizon` on returns, where that is cheap."""
        return


def sampled_bytes(states: Collection[Any], size: Callable[[Any], int]) -> int:
    """Estimate the memory of many states from the first hundred."""
    sample = [size(state) for state in islice(states, _SAMPLE)]
    return sum(sample) * len(states) // len(sample) if sample else 0


def grown(array: NDArray[_Number], capacity: int, fill: float) -> NDArray[_Number]:
    """Return `array` with room for `capacity` numbers, the new ones `fill`."""
    if capacity <= len(array):
        return array
    return np.concatenate([array, np.full(capacity - len(array), fill, array.dtype)])


class DecayedTotals(StateColumn):
    """Counts or sums in which an event counts half after each half-life.

    The total of a cell is as of the beginning of the half-life of its newest event. Moving it by k
    half-lives multiplies it by ``2 ** -k``, which is exact: batches do not change the total.
    One beyond the range of a double reads as infinite until nothing can be left of it.
    """

    width = 2

    def __init__(self, kind: str, decay: ForwardDecay) -> None:
        """Create an empty column; `kind` is ``count`` or ``sum``."""
        self._half_life = decay.half_life_ms
        self._counts = kind == "count"
        self._totals = np.zeros(64)
        self._newest = np.full(64, -1, np.int64)

    @property
    def memory_ms(self) -> int:
        """Time until a total has faded."""
        return FADED_HALF_LIVES * self._half_life

    @property
    def nbytes(self) -> int:
        """Two numbers a cell."""
        return 16 * len(self._totals)

    def resize(self, capacity: int) -> None:
        """Make room for cells below `capacity`."""
        self._totals = grown(self._totals, capacity, 0)
        self._newest = grown(self._newest, capacity, -1)

    @np.errstate(over="ignore", invalid="ignore")
    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Add events; none is late."""
        amounts = np.ones(len(cells)) if self._counts else events.amounts
        assert amounts is not None
        self._advance(cells, events.timestamps)
        whole, part = np.divmod(events.timestamps, self._half_life)
        weights = np.exp2(part / self._half_life)
        turns = whole - self._newest[cells] // self._half_life
        np.add.at(self._totals, cells, np.ldexp(amounts * weights, turns))
        return NO_ROWS

    def read_one(self, cell: int, feature: Feature, at: int) -> float | None:
        """Return the total of one cell; None without one."""
        total = float(self.read(np.array([cell]), feature, at)[0])
        return None if math.isnan(total) else total

    def read(self, cells: Rows, feature: Feature, at: int) -> Floats:
        """Return the totals of `cells` at time `at` or the newest event, if later."""
        newest = self._newest[cells]
        time = np.maximum(newest, at)
        whole, part = np.divmod(time, self._half_life)
        turns = newest // self._half_life - whole
        totals: Floats = np.ldexp(self._totals[cells] * np.exp2(-part / self._half_life), turns)
        totals[~np.isfinite(totals)] = np.inf
        totals[(newest < 0) | (time - newest >= self.memory_ms)] = np.nan
        return totals

    def clear(self, cells: Rows) -> None:
        """Delete cells."""
        self._totals[cells] = 0
        self._newest[cells] = -1

    def pack_records(self, cells: Rows, horizon: int) -> tuple[Rows, Floats]:
        """Return which cells have a total, and newest time and total of these."""
        having = self._newest[cells] >= 0
        kept = cells[having]
        return having.astype(np.int64), np.column_stack([self._newest[kept], self._totals[kept]])

    @np.errstate(over="ignore", invalid="ignore")
    def absorb_records(self, cells: Rows, records: Floats) -> None:
        """Add totals."""
        newest = records[:, 0].astype(np.int64)
        self._advance(cells, newest)
        turns = newest // self._half_life - self._newest[cells] // self._half_life
        np.add.at(self._totals, cells, np.ldexp(records[:, 1], turns))

    def _advance(self, cells: Rows, timestamps: NDArray[np.int64]) -> None:
        """Move the totals of `cells` to the half-lives of their newest events."""
        touched = np.unique(cells)
        before = self._newest[touched]
        np.maximum.at(self._newest, cells, timestamps)
        turns = before // self._half_life - self._newest[touched] // self._half_life
        totals = np.ldexp(self._totals[touched], turns)
        totals[(turns < -_GONE_HALF_LIVES) & ~np.isfinite(totals)] = 0
        self._totals[touched] = totals


class LastTimes(StateColumn):
    """Newest timestamp of each cell, epoch milliseconds."""

    width = 1

    def __init__(self) -> None:
        """Create an empty column."""
        self._times = np.full(64, np.nan)

    @property
    def nbytes(self) -> int:
        """One number a cell."""
        return 8 * len(self._times)

    def resize(self, capacity: int) -> None:
        """Make room for cells below `capacity`."""
        self._times = grown(self._times, capacity, np.nan)

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Keep the newest timestamps; no event is late."""
        times = events.timestamps.astype(np.float64)  # of one type, `at` is thirty times as fast
        np.fmax.at(self._times, cells, times)
        return NO_ROWS

    def read_one(self, cell: int, feature: Feature, at: int) -> float | None:
        """Return the newest timestamp of one cell; None without one."""
        time = self._times.item(cell)
        return None if math.isnan(time) else time

    def read(self, cells: Rows, feature: Feature, at: int) -> Floats:
        """Return the newest timestamps of `cells`; NaN without one."""
        return self._times[cells]

    def clear(self, cells: Rows) -> None:
        """Delete cells."""
        self._times[cells] = np.nan

    def pack_records(self, cells: Rows, horizon: int) -> tuple[Rows, Floats]:
        """Return which cells have a timestamp, and these."""
        times = self._times[cells]
        having = ~np.isnan(times)
        return having.astype(np.int64), times[having][:, None]

    def absorb_records(self, cells: Rows, records: Floats) -> None:
        """Keep the newest timestamps."""
        np.fmax.at(self._times, cells, records[:, 0])


class RecentValues(StateColumn):
    """Newest n texts of each cell, with timestamps; of equals, the last ones."""

    packed_type = list[tuple[int, str]]

    def __init__(self, n: int) -> None:
        """Create an empty column of `n` texts a cell."""
        self._n = n
        self._kept: dict[int, list[tuple[int, str]]] = {}
        self._ages: list[int | None] = []

    def serve(self, window: Window | None) -> None:
        """Add a feature that reads texts up to the age of `window`."""
        self._ages.append(window.size_ms if window is not None else None)

    @property
    def memory_ms(self) -> int | None:
        """Greatest age that a feature reads."""
        ages = [age for age in self._ages if age is not None]
        return max(ages) if len(ages) == len(self._ages) else None

    @property
    def nbytes(self) -> int:
        """Approximate memory, estimated from a sample of cells."""
        return sampled_bytes(self._kept.values(), lambda kept: 200 + 90 * len(kept))

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Keep the newest n; no event is late."""
        assert events.texts is not None
        timestamps = events.timestamps.tolist()
        for cell, timestamp, text in zip(cells.tolist(), timestamps, events.texts, strict=True):
            self._keep(cell, timestamp, text)
        return NO_ROWS

    def read_one(self, cell: int, feature: Feature, at: int) -> list[tuple[str, int]] | None:
        """Return texts of one cell, newest first, those younger than the window at `at`."""
        kept = self._kept.get(cell)
        if not kept:
            return None
        oldest = at - feature.window.size_ms if isinstance(feature.window, Window) else -1
        return [(text, timestamp) for timestamp, text in reversed(kept) if timestamp > oldest]

    def clear(self, cells: Rows) -> None:
        """Delete cells."""
        for cell in cells.tolist():
            self._kept.pop(cell, None)

    def drop_texts(self, cell: int, drops: Callable[[str], bool]) -> None:
        """Delete texts of a cell."""
        kept = [pair for pair in self._kept.pop(cell, ()) if not drops(pair[1])]
        if kept:
            self._kept[cell] = kept

    def pack(self, cells: Rows, horizon: int) -> list[list[tuple[int, str]]]:
        """Return the texts of each cell, oldest first."""
        return [self._kept.get(cell, []) for cell in cells.tolist()]

    def absorb(self, cells: Rows, packed: Sequence[Any]) -> None:
        """Keep the newest of both; of equals, those added."""
        for cell, kept in zip(cells.tolist(), packed, strict=True):
            if cell not in self._kept:
                self._kept[cell] = [(timestamp, text) for timestamp, text in kept]
                continue
            for timestamp, text in kept:
                self._keep(cell, timestamp, text)

    def _keep(self, cell: int, timestamp: int, text: str) -> None:
        kept = self._kept.setdefault(cell, [])
        if not kept or kept[-1][0] <= timestamp:
            kept.append((timestamp, text))
        else:
            insort(kept, (timestamp, text), key=lambda entry: entry[0])
        if len(kept) > self._n:
            del kept[0]

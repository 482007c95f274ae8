"""Trends: categories and items that rise in published statistics.

A statistic with ``trending: true`` is read as it is published: pane by pane, with its noise
(`Statistics.page`). Trends are post-processing of those values, which costs no privacy however
often it is done (Dwork and Roth 2014, prop. 2.1). The engine's exact counts are out of reach: this
module gets the published side only, and the items of a rising category are ordered by their
release, which says nothing about users.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.schemas.statistics import StatisticsPage

By = Literal["category", "item_id"]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_BEFORE = 7
_FEWEST_BEFORE = 2
_DEVIATIONS = 3.0
_GROWTH = 1.25
_MOST_RISES = 100
_OF_A_CATEGORY = 200
_MOST_ROWS = 1_000
_PAGE = 1_000
_READ_EVERY_S = 30.0


class Rise(msgspec.Struct, frozen=True, array_like=True):
    """A category or item with a larger share of the latest panes than of earlier ones."""

    by: By  # field of items that the key belongs to
    key: str
    growth: float  # factor by which its share grew, at the cautious end


Rising = Callable[[], Sequence[Rise]]
"""Returns the present rises, the strongest first; may read a database: not for an event loop."""


class Published(Protocol):
    """Statistics as they are published; see `PrivateStatistics`."""

    @property
    def now(self) -> int:
        """Public time that closes panes, epoch milliseconds."""

    def page(
        self, name: str, cursor: str | None, limit: int, since: int | None, until: int | None
    ) -> StatisticsPage:
        """Return one page of released panes that start in [since, until), oldest first.

        An unknown statistic raises KeyError.
        """


@dataclass(frozen=True)
class TrendSource:
    """A statistic that is read for trends."""

    name: str
    by: By  # field of items that its keys belong to
    pane_ms: int  # length of its panes, milliseconds

    @property
    def recent(self) -> int:
        """Number of panes of the present: an hour of short ones, a day of others."""
        return max((HOUR_MS if self.pane_ms < HOUR_MS else DAY_MS) // self.pane_ms, 1)

    @property
    def span_ms(self) -> int:
        """Length of the present and of the time it is compared with, milliseconds."""
        return (1 + _BEFORE) * self.recent * self.pane_ms


class Trends:
    """Reads statistics pane by pane and finds the rises in them.

    _panes: {"views": {1700000000000: {"tea": 12.3, "mugs": -0.7}, ...}}
    """

    def __init__(
        self,
        statistics: Published,
        sources: Sequence[TrendSource],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing yet; new panes are read every so often, by `monotonic`."""
        self._statistics = statistics
        self._sources = tuple(sources)
        self._monotonic = monotonic
        self._due = -math.inf
        self._panes: dict[str, dict[int, dict[str, float]]] = {
            source.name: {} for source in sources
        }
        self.latest: tuple[Rise, ...] = ()  # rises of the latest reading

    def look(self) -> tuple[Rise, ...]:
        """Find the present rises, the strongest first; for one thread at a time.

        Reads at most every half a minute, and only new panes.
        """
        if (now := self._monotonic()) >= self._due:
            self._due = now + _READ_EVERY_S
            latest = [rise for source in self._sources for rise in self._read(source)]
            latest.sort(key=lambda rise: (-rise.growth, rise.by, rise.key))
            self.latest = tuple(latest[:_MOST_RISES])
        return self.latest

    def _read(self, source: TrendSource) -> list[Rise]:
        panes, cursor = self._panes[source.name], None
        since = max(panes) + 1 if panes else max(self._statistics.now - source.span_ms, 0)
        while True:
            page = self._statistics.page(source.name, cursor, _PAGE, since, None)
            for cell in page.cells:
                panes.setdefault(cell.pane_start, {})[cell.key] = cell.value
            if (cursor := page.next_cursor) is None:
                break
        oldest = max(panes, default=0) - source.span_ms
        for start in [start for start in panes if start <= oldest]:
            del panes[start]
        variance = noise_variance(page.cap, page.epsilon)
        return rises(source, panes, variance=variance, cap=page.cap)


def rises(
    source: TrendSource, panes: Mapping[int, Mapping[str, float]], *, variance: float, cap: int
) -> list[Rise]:
    """Find keys with a clearly larger share of the latest panes than of earlier ones, in no order.

    Shares, so that a general increase, in the evening or before a feast, is no trend. A key rises
    when its sum exceeds the sum expected by its former share, by a quarter and by three standard
    deviations of the published noise (`variance` of a cell) and of the counts, to which one user
    may add up to `cap` a day. There are no rises while there are too few panes to compare with.
    """
    if not panes:
        return []
    border = max(panes) - source.recent * source.pane_ms
    recent = [values for start, values in panes.items() if start > border]
    before = [values for start, values in panes.items() if start <= border]
    if len(before) < _FEWEST_BEFORE * source.recent:
        return []
    now, then = _sums(recent), _sums(before)
    total_now, total_then = sum(now.values()), sum(then.values())
    if total_now <= 0 or total_then <= 0:
        return []
    scale = total_now / total_then
    rising = []
    for key, value in now.items():
        expected = scale * max(then.get(key, 0.0), 0.0)
        noise = variance * (len(recent) + scale**2 * len(before))
        deviation = math.sqrt(noise + cap * (1.0 + scale) * expected)
        growth = (value - _DEVIATIONS * deviation) / max(expected, deviation, 1.0)
        if growth >= _GROWTH:
            rising.append(Rise(source.by, key, round(growth, 2)))
    return rising


def noise_variance(cap: int, epsilon: float) -> float:
    """Return the variance of the noise on one published cell.

    The noise is discrete Laplace of scale cap / epsilon, the contributions of one user and day by
    their privacy loss: with p = exp(-epsilon / cap) its variance is 2 p / (1 - p)^2 (Inusah and
    Kozubowski 2006, eq. 2.6).
    """
    rate = epsilon / cap
    return 2.0 * math.exp(-rate) / math.expm1(-rate) ** 2


@dataclass(frozen=True)
class Trending:
    """Rows of a catalogue that belong to rises."""

    rises: tuple[Rise, ...]
    rows: NDArray[np.int64]  # rows of the catalogue, each once, the first to propose first
    reason: NDArray[np.int32]  # number in `rises` for each of `rows`

    @classmethod
    def empty(cls) -> Trending:
        """Make trends without any rise."""
        return cls((), np.zeros(0, np.int64), np.zeros(0, np.int32))

    @classmethod
    def of(cls, rises: Sequence[Rise], catalogue: Catalogue) -> Trending:
        """Collect rows: the best of each rise in turn, the strongest first, then the next of each.

        For a category these are its available items by release, the latest first; without release
        dates those with the highest row, which came last.
        """
        if not rises:
            return cls.empty()
        groups = [_rows(rise, catalogue) for rise in rises]
        rows = np.concatenate(groups)
        places = np.concatenate([np.arange(len(group)) for group in groups])
        reason = np.repeat(np.arange(len(groups), dtype=np.int32), [len(group) for group in groups])
        order = np.lexsort((reason, places))
        _, first = np.unique(rows[order], return_index=True)
        kept = order[np.sort(first)][:_MOST_ROWS]
        return cls(tuple(rises), rows[kept], reason[kept])

    def reasons(self, rows: NDArray[np.int64]) -> list[str]:
        """Describe the rises that some of the rows are there for, each once."""
        if not len(self.rows):
            return []
        numbers = np.unique(self.reason[np.isin(self.rows, rows)])
        rises = [self.rises[number] for number in numbers.tolist()]
        return [f"{rise.by} {rise.key}: {rise.growth:g} x" for rise in rises]


def _rows(rise: Rise, catalogue: Catalogue) -> NDArray[np.int64]:
    if rise.by == "item_id":
        row = catalogue.rows.get(rise.key)
        return np.array([] if row is None else [row], np.int64)
    number = catalogue.category_numbers.get(rise.key)
    if number is None:
        return np.zeros(0, np.int64)
    rows = np.flatnonzero((catalogue.category == number) & catalogue.available)
    newest = np.lexsort((-rows, -np.nan_to_num(catalogue.released[rows], nan=-np.inf)))
    return rows[newest[:_OF_A_CATEGORY]]


def _sums(panes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for values in panes:
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + value
    return sums

"""Popularity: which items users take now, and in which order."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import FeatureSource, read_nonzero, read_placed
from tactful.recall.index import RecallIndex
from tactful.recall.takers import TakenByMany
from tactful.util.growable_array import append_to

SOLD = ("sold_7d", "sold_28d", "sold_84d")
"""Features read of every candidate: amounts that all users took in one, four and twelve weeks."""

_TAKEN = "sold_28d"
_PART = 4_096
_REACH = 8
_NOWHERE = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Popularity:
    """Order of the available items by popularity."""

    rows: NDArray[np.int64]  # available rows, the most popular first, such as [7, 2, 5]
    # place of each row in `rows`, its length or more for an absent one, shape (n_items,)
    places: NDArray[np.int32]

    @classmethod
    def of(cls, rows: NDArray[np.int64], count: int) -> Popularity:
        """Make it from rows in order, out of `count` rows."""
        places = np.full(count, _NOWHERE, np.int32)
        places[rows] = np.arange(len(rows), dtype=np.int32)
        return cls(rows, places)

    def grown(
        self, available: NDArray[np.bool_], rows: NDArray[np.int64] | None = None
    ) -> Popularity:
        """Append the rows that are available now and were not counted yet.

        Only ascending `rows` may have come or changed; None for all. The result shares memory with
        this one, which stays as it is. Only the latest may grow.
        """
        fresh = np.full(len(available) - len(self.places), _NOWHERE, np.int32)
        places = append_to(self.places, fresh)
        rows = np.arange(len(available)) if rows is None else rows
        added = rows[available[rows] & (places[rows] >= len(self.rows))]
        ordered = append_to(self.rows, added)
        places[added] = np.arange(len(self.rows), len(ordered), dtype=np.int32)
        return Popularity(ordered, places)

    def places_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the place of each row; the number of all for an absent one."""
        return np.minimum(self.places[rows], np.int32(len(self.rows)))

    def first(self, allowed: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
        """Return the `count` most popular of the allowed rows."""
        top = self.rows[: _REACH * count]
        passing = top[allowed[top]]
        if len(passing) >= count or len(top) == len(self.rows):
            return passing[:count]
        # A narrow filter: fewer rows pass it than would have to be searched in `rows`.
        return self.best(np.flatnonzero(allowed), count)

    def best(self, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Return the `count` most popular of some rows."""
        places = self.places[rows]
        rows, places = rows[places < len(self.rows)], places[places < len(self.rows)]
        if len(rows) > count:
            nearest = np.argpartition(places, count)[:count]
            rows, places = rows[nearest], places[nearest]
        return rows[np.argsort(places)]


@dataclass(frozen=True)
class CommonItems:
    """Items that enough people took for anonymous recommendations; others count as never taken."""

    popular: Popularity
    rows: NDArray[np.int64]  # ascending
    category_sold: NDArray[np.float64]  # `sold_28d` of all of a category, by its number

    def grown(
        self, available: NDArray[np.bool_], rows: NDArray[np.int64] | None = None
    ) -> CommonItems:
        """Append rows to the order as `Popularity.grown` does; none of them is common."""
        return replace(self, popular=self.popular.grown(available, rows))


def popular_rows(
    source: FeatureSource,
    catalogue: Catalogue,  # its first rows are the rows of `index`
    index: RecallIndex,  # with the popularity when it was built
    # held while the engine is read, a part of the catalogue at a time, so that neither the engine
    # nor an answer waits long; None where nothing else uses the engine
    reading: AbstractContextManager[object] | None = None,
) -> Popularity:
    """Order all available rows: by sales now, by popularity when trained, by row.

    All of them, so that a filter leaves something to show as long as there is something to sell.
    """
    return _in_order(catalogue, index.popular, *_taken(source, catalogue, reading))


def count_popular(
    source: FeatureSource,
    catalogue: Catalogue,
    index: RecallIndex,
    takers: TakenByMany | None,
    reading: AbstractContextManager[object] | None = None,
) -> tuple[Popularity, CommonItems | None]:
    """Order as `popular_rows` does: for users, and for anonymous requests if `takers` counts."""
    taken, amount = _taken(source, catalogue, reading)
    popular = _in_order(catalogue, index.popular, taken, amount)
    if takers is None:
        return popular, None
    common = np.unique(catalogue.rows_at(takers.common(source.watermark)))
    common = common[common >= 0]
    kept = is_in(taken, common)
    taken, amount = taken[kept], amount[kept]
    trained = index.popular[is_in(index.popular, common)]
    # Number -1, an unknown category, comes first.
    numbers = catalogue.category[taken].astype(np.int64) + 1
    sums = np.zeros(len(catalogue.categories) + 1)
    np.add.at(sums, numbers, amount)
    return popular, CommonItems(_in_order(catalogue, trained, taken, amount), common, sums[1:])


def is_in(values: NDArray[Any], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each value is among others, which ascend."""
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    present: NDArray[np.bool_] = ascending[places] == values
    return present


def _in_order(
    catalogue: Catalogue,
    trained: NDArray[np.int32],
    taken: NDArray[np.int64],
    amount: NDArray[np.float64],
) -> Popularity:
    """Order the available rows by the amount of those taken, by place in `trained`, by row."""
    count = len(catalogue)
    # Most items have no sales within four weeks, and need no sorting.
    before = np.full(count, count, np.int32)
    before[trained] = np.arange(len(trained), dtype=np.int32)
    order = np.lexsort((before[taken], -amount))  # stable, so by row at last
    del before
    left = catalogue.available.copy()
    left[taken] = False
    then = trained[left[trained]]
    left[then] = False
    taken, amount = taken[order], amount[order]
    available = catalogue.available[taken]
    most, least = taken[available & (amount > 0.0)], taken[available & (amount < 0.0)]
    return Popularity.of(np.concatenate([most, then, np.flatnonzero(left), least]), count)


def _taken(
    source: FeatureSource, catalogue: Catalogue, reading: AbstractContextManager[object] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows that were taken within four weeks, ascending, and how often."""
    # A source that keeps numbers by place, for ranking, is read for all rows.
    if hasattr(source, "read_placed"):
        return _taken_of_all(source, catalogue, reading)
    at, rows, amounts = source.watermark, [], []
    start: int | None = 0
    while start is not None:
        with reading or nullcontext():
            part = read_nonzero(source, "item", _TAKEN, at, start)
        if part is None:
            return _taken_of_all(source, catalogue, reading)
        rows.append(catalogue.rows_at(part.keys))
        amounts.append(part.numbers)
        start = part.following
    # An item that went and came again between two parts occurs twice: the last time counts.
    taken, last = np.unique(np.concatenate(rows)[::-1], return_index=True)
    amount = np.concatenate(amounts)[::-1][last]
    return taken[taken >= 0], amount[taken >= 0]


def _taken_of_all(
    source: FeatureSource, catalogue: Catalogue, reading: AbstractContextManager[object] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read as `_taken` does, by row."""
    count, at = len(catalogue), source.watermark
    takes, amounts = [np.zeros(0, np.int64)], [np.zeros(0)]
    for start in range(0, count, _PART):
        rows = np.arange(start, min(start + _PART, count))
        with reading or nullcontext():
            columns = read_placed(source, "item", catalogue.item_places, rows, SOLD, at)
        sold = columns[:, SOLD.index(_TAKEN)]
        nonzero = np.flatnonzero(sold)
        takes.append(rows[nonzero])
        amounts.append(sold[nonzero])
    return np.concatenate(takes), np.concatenate(amounts)

"""Popularity: which items users take now, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import FeatureSource, read_nonzero, read_placed
from tactful.recall.blend import Window
from tactful.recall.index import RecallIndex
from tactful.recall.takers import TakenByMany
from tactful.util.growable_array import append_to

SOLD = ("sold_7d", "sold_28d", "sold_84d")
"""Features read of every candidate: amounts that all users took in one, four and twelve weeks."""

SEEN = ("seen_7d", "seen_28d")
"""Features read of every candidate: other events of all users in one and four weeks."""

NOW = ("sold_now", "seen_now")
"""Features read of every candidate: the same events, half of the amount after six hours."""

WINDOWS: Mapping[Window, tuple[str, ...]] = {
    "now": NOW,
    "week": ("sold_7d", "seen_7d"),
    "month": ("sold_28d", "seen_28d"),
    "ever": (),
}
"""Features that popularity counts, by window; `fit_popularity` chooses one.

No feature counts the whole history: its order is that of the recall index.
"""

_MONTH = WINDOWS["month"]
VOTES = np.array([1.0, 0.1])
"""Votes of an event of either kind."""

_PART = 4_096
_REACH = 8
_NOWHERE = np.iinfo(np.int32).max
_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Popularity:
    """Order of the available items by popularity."""

    rows: NDArray[np.int64]  # available rows, the most popular first, such as [7, 2, 5]
    # place of each row in `rows`, its length or more for an absent one, shape (n_items,)
    places: NDArray[np.int32]
    unknown: NDArray[np.int64]  # rows of which no event is known; they have no order

    @classmethod
    def of(
        cls, rows: NDArray[np.int64], count: int, unknown: NDArray[np.int64] = _NONE
    ) -> Popularity:
        """Make it from rows in order, out of `count` rows."""
        places = np.full(count, _NOWHERE, np.int32)
        places[rows] = np.arange(len(rows), dtype=np.int32)
        return cls(rows, places, unknown)

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
        return Popularity(ordered, places, append_to(self.unknown, added))

    @property
    def known(self) -> int:
        """Number of rows that have an order: of those from this place on nothing is known."""
        return len(self.rows) - len(self.unknown)

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

    def drawn(
        self, allowed: NDArray[np.bool_], count: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw at most `count` of the allowed rows of which no event is known."""
        unknown = self.unknown
        if len(unknown) > _REACH * count:
            unknown = generator.choice(unknown, _REACH * count, replace=False)
        return generator.permutation(unknown[allowed[unknown]])[:count]

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
    # `sold_28d` and `seen_28d` of all of a category, by its number, shape (categories, 2)
    of_categories: NDArray[np.float64]

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
    """Order all available rows: by votes in the index's window, in a month, when trained, by row.

    Rows that the index knows come first, in its order, if the window is the whole history.

    All of them, so that a filter leaves something to show as long as there is something to sell.
    """
    names, ever = _counted(index), index.blends.popular == "ever"
    return _in_order(catalogue, index.popular, *_taken(source, catalogue, names, reading), ever)


def _counted(index: RecallIndex) -> tuple[str, ...]:
    """Return the features to count: those of a month, and before them those of another window."""
    chosen = WINDOWS[index.blends.popular]
    return _MONTH if chosen in ((), _MONTH) else (*chosen, *_MONTH)


def count_popular(
    source: FeatureSource,
    catalogue: Catalogue,
    index: RecallIndex,
    takers: TakenByMany | None,
    reading: AbstractContextManager[object] | None = None,
) -> tuple[Popularity, CommonItems | None]:
    """Order as `popular_rows` does: for users, and for anonymous requests if `takers` counts."""
    taken, amount = _taken(source, catalogue, _counted(index), reading)
    ever = index.blends.popular == "ever"
    popular = _in_order(catalogue, index.popular, taken, amount, ever)
    if takers is None:
        return popular, None
    common = np.unique(catalogue.rows_at(takers.common(source.watermark)))
    common = common[common >= 0]
    kept = is_in(taken, common)
    taken, amount = taken[kept], amount[kept]
    trained = index.popular[is_in(index.popular, common)]
    # Number -1, an unknown category, comes first.
    numbers = catalogue.category[taken].astype(np.int64) + 1
    sums = np.zeros((len(catalogue.categories) + 1, len(_MONTH)))
    np.add.at(sums, numbers, amount[:, -len(_MONTH) :])
    order = _in_order(catalogue, trained, taken, amount, ever)
    return popular, CommonItems(order, common, sums[1:])


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
    amounts: NDArray[np.float64],
    ever: bool,  # whether `trained` counts before the votes
) -> Popularity:
    """Order the available rows by the votes for those taken, by place in `trained`, by row.

    Columns of `amounts` are pairs of features: votes of the first pair count first.
    """
    count = len(catalogue)
    votes = [amounts[:, at : at + 2] @ VOTES for at in range(0, amounts.shape[1], 2)]
    # Most items have no sales within four weeks, and need no sorting.
    before = np.full(count, count, np.int32)
    before[trained] = np.arange(len(trained), dtype=np.int32)
    order = np.lexsort((before[taken], *(-vote for vote in reversed(votes))))  # stable: then by row
    left = catalogue.available.copy()
    left[taken] = False
    then = trained[left[trained]]
    left[then] = False
    taken, amount = taken[order], votes[-1][order]
    available = catalogue.available[taken]
    most, least = taken[available & (amount > 0.0)], taken[available & (amount < 0.0)]
    known = np.concatenate([most, then])
    if ever:
        known = known[np.argsort(before[known], kind="stable")]
    unknown = np.flatnonzero(left).copy()  # it may grow, and has the memory of another array
    return Popularity.of(np.concatenate([known, unknown, least]), count, unknown)


def _taken(
    source: FeatureSource,
    catalogue: Catalogue,
    names: tuple[str, ...],
    reading: AbstractContextManager[object] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows with a feature that is not 0, ascending, and the features by name."""
    # A source that keeps numbers by place, for ranking, is read for all rows.
    if hasattr(source, "read_placed"):
        return _taken_of_all(source, catalogue, names, reading)
    at, found = source.watermark, []
    for name in names:
        rows, amounts = [], []
        start: int | None = 0
        while start is not None:
            with reading or nullcontext():
                part = read_nonzero(source, "item", name, at, start)
            if part is None:
                return _taken_of_all(source, catalogue, names, reading)
            rows.append(catalogue.rows_at(part.keys))
            amounts.append(part.numbers)
            start = part.following
        # An item that went and came again between two parts occurs twice: the last time counts.
        taken, last = np.unique(np.concatenate(rows)[::-1], return_index=True)
        amount = np.concatenate(amounts)[::-1][last]
        found.append((taken[taken >= 0], amount[taken >= 0]))
    every = np.unique(np.concatenate([rows for rows, _ in found]))
    columns = np.zeros((len(every), len(names)))
    for column, (taken, amount) in zip(columns.T, found, strict=True):
        column[np.searchsorted(every, taken)] = amount
    return every, columns


def _taken_of_all(
    source: FeatureSource,
    catalogue: Catalogue,
    names: tuple[str, ...],
    reading: AbstractContextManager[object] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read as `_taken` does, by row."""
    count, at = len(catalogue), source.watermark
    takes, amounts = [np.zeros(0, np.int64)], [np.zeros((0, len(names)))]
    for start in range(0, count, _PART):
        rows = np.arange(start, min(start + _PART, count))
        with reading or nullcontext():
            columns = read_placed(source, "item", catalogue.item_places, rows, names, at)
        nonzero = np.flatnonzero(columns.any(axis=1))
        takes.append(rows[nonzero])
        amounts.append(columns[nonzero])
    return np.concatenate(takes), np.concatenate(amounts)

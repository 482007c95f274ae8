"""Matches of a search that pass its filters, in the order of their relevance, and their counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue, Places
from tactful.catalogue.facets import price_ranges
from tactful.ranking.fusion import fused
from tactful.recall.candidates import CatalogueView
from tactful.recall.limits import within_limits
from tactful.recall.popularity import Popularity
from tactful.schemas.item_details import FacetCount, PriceRange
from tactful.schemas.recommendations import RecommendRequest
from tactful.schemas.search import SearchFacets, SearchRequest

_PRIOR = 0.1  # share by which the most popular item's relevance is raised
_MOST_VALUES = 50
_PRICE, _CATEGORY = "price", "category"


class _Known(NamedTuple):
    """Rows by number, and where they were looked up."""

    rows: NDArray[np.int64]
    places: Places | None = None
    catalogue: Catalogue | None = None


class NumberedRows:
    """Rows of the catalogue of the items of a text index.

    They are looked up again when rows moved, which takes a second for a million items: a thread
    calls `of` first, so that the event loop does not.
    """

    def __init__(self) -> None:
        """Start without items."""
        self._known = _Known(np.zeros(0, np.int64))

    def of(self, catalogue: Catalogue, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each item by its number, -1 for one that the catalogue lacks yet."""
        known, count = self._known, len(ids)
        before = known.rows
        if catalogue.item_places is not known.places:  # rows have moved
            before = np.zeros(0, np.int64)
        elif catalogue is known.catalogue and len(before) >= count:
            return before
        count = max(count, len(before))
        numbers = np.concatenate([np.flatnonzero(before < 0), np.arange(len(before), count)])
        rows = np.full(count, -1, np.int64)
        rows[: len(before)] = before
        if len(numbers):
            rows[numbers] = catalogue.rows_at([ids[number] for number in numbers.tolist()])
        self._known = _Known(rows, catalogue.item_places, catalogue)
        return rows


@dataclass(frozen=True)
class Passing:
    """Which matches pass the filters of a search."""

    rows: NDArray[np.int64]  # row of each match, -1 for one that the catalogue lacks yet
    passing: NDArray[np.bool_]  # of each match
    request: SearchRequest
    catalogue: Catalogue

    @classmethod
    def of(cls, rows: NDArray[np.int64], request: SearchRequest, catalogue: Catalogue) -> Passing:
        """Apply all filters."""
        limits = request.ranking()
        # A new item without a row yet has none of the fields that filters ask for.
        unlimited = limits == _without(limits, _FILTERS)
        passing = _passing(rows, request, limits, catalogue)
        passing |= (rows < 0) & unlimited
        return cls(rows, passing, request, catalogue)

    def facets(self) -> SearchFacets:
        """Count the matches by the requested fields, of each without its own filter."""
        limits, values, prices = self.request.ranking(), {}, list[PriceRange]()
        for name in dict.fromkeys(self.request.facets):
            own = {_CATEGORY: ("category",), _PRICE: ("min_price", "max_price")}.get(name, ())
            passing = self.passing
            if own:
                others = _without(limits, own)
                passing = _passing(self.rows, self.request, others, self.catalogue)
            rows = self.rows[passing & (self.rows >= 0)]
            if name == _PRICE:
                ranges = price_ranges(self.catalogue.price[rows])
                prices = [PriceRange(low=low, high=high, items=it) for low, high, it in ranges]
            else:
                values[name] = _counts(name, rows, self.catalogue)
        return SearchFacets(values=values, prices=prices)


_FILTERS = ("category", "min_price", "max_price", "filter")


def _without(limits: RecommendRequest, names: Sequence[str]) -> RecommendRequest:
    return msgspec.structs.replace(limits, **dict.fromkeys(names))


def _passing(
    rows: NDArray[np.int64],
    request: SearchRequest,
    limits: RecommendRequest,
    catalogue: Catalogue,
) -> NDArray[np.bool_]:
    allowed = within_limits(limits, catalogue)
    if not request.unavailable:
        allowed &= catalogue.available
    passing: NDArray[np.bool_] = np.append(allowed, False)[rows]
    return passing


def _counts(name: str, rows: NDArray[np.int64], catalogue: Catalogue) -> list[FacetCount]:
    """Count rows by a field, the most frequent value first; empty for those without one."""
    if name == _CATEGORY:
        names = ("", *catalogue.categories)  # those without a category have number -1
        items = np.bincount(catalogue.category[rows] + 1, minlength=len(names))
        counts = {names[at]: int(items[at]) for at in np.flatnonzero(items).tolist()}
    else:
        counts = catalogue.properties.counts(name, rows)
    first = nsmallest(_MOST_VALUES, counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [FacetCount(value=value, items=count) for value, count in first]


def relevance(
    text: NDArray[np.float32],  # BM25 of each item, NaN for none
    others: Sequence[NDArray[np.float32]],  # by meaning and by sound, NaN for none
    rows: NDArray[np.int64],
    view: CatalogueView,
    *,
    words_first: bool,  # whether items with the words come before all others
) -> NDArray[np.float32]:
    """Return the relevance of items: larger is better, at most about 2.

    The score of the text is raised by a tenth at most by the popularity that anonymous
    recommendations have.
    """
    share = _share(view.anonymous().popular, rows)
    return combined(text * (1.0 + _PRIOR * share), others, words_first=words_first)


def combined(
    text: NDArray[np.float32], others: Sequence[NDArray[np.float32]], *, words_first: bool
) -> NDArray[np.float32]:
    """Return one order of items from several: the share of the best text, or reciprocal ranks.

    Args:
        text: score of the words of each item, NaN for none.
        others: scores by meaning and by sound, NaN for none.
        words_first: whether items with the words come before all others.
    """
    others = [other for other in others if not np.isnan(other).all()]
    if not others:
        highest = float(np.nanmax(text, initial=0.0))
        best: NDArray[np.float32] = np.nan_to_num(text / max(highest, 1e-9))
        return best.astype(np.float32)
    orders = np.array([text, *others], np.float32)
    ranks = fused(np.zeros(len(text), np.float32), orders, personal=False)
    if words_first:
        ranks += (~np.isnan(text)).astype(np.float32)
    return ranks


def best_first(
    ranks: NDArray[np.float32], numbers: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Return the positions of the best ranks, at most `count`; of equal ones by number."""
    kept = np.arange(len(ranks))
    if len(ranks) > count:
        least = np.partition(ranks, len(ranks) - count)[len(ranks) - count]
        kept = np.flatnonzero(ranks >= least)
    return kept[np.lexsort((numbers[kept], -ranks[kept]))[:count]]


def _share(popular: Popularity, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return 1 for the most popular item, falling to 0; 0 for those of which no event is known."""
    count = max(popular.known, 1)
    places = np.full(len(rows), count, np.int64)
    held = (rows >= 0) & (rows < len(popular.places))
    places[held] = np.minimum(popular.places[rows[held]], count)
    return (1.0 - places / count).astype(np.float32)

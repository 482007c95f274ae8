"""Search of the catalogue by words of title and id, in pages, and items described alike.

Items whose description changed since the index was built are compared one by one; when there are
many, it is built anew. The index of a small catalogue is built anew after each change: it is soon
done, and words that only later items have are rare or common as they are now.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from contextlib import AbstractContextManager
from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.changes import EngineItems
from tactful.catalogue.facets import FacetCounts, Filters, price_ranges
from tactful.catalogue.request_context import FeatureSource
from tactful.catalogue.term_index import TermIndex, Terms, alike_terms, price_of, terms_of
from tactful_streaming.contract.log_entries import Item

_SMALL = 1_000  # items whose index takes some 10 ms
_FEWEST_CHANGES = 1_000
_SHARE_OF_CHANGES = 32


class Page(NamedTuple):
    """Some items in the order of their ids, and whether more follow."""

    items: list[Item]
    more: bool


class _Changed(NamedTuple):
    """An item that the index describes as it was, or not at all."""

    terms: frozenset[str]
    norm: float  # length of the vector of their rarities


class ItemSearch:
    """Finds items of an engine in this process; safe from several threads.

    The index is built at the first search.
    """

    def __init__(self, source: FeatureSource, reading: AbstractContextManager[object]) -> None:
        """Search the items of `source`; `reading` is held while the engine is read."""
        self._source = source
        self._reading = reading
        self._feed = EngineItems(source)
        self._lock = threading.Lock()
        self._index: TermIndex | None = None
        self._changed: dict[str, _Changed] = {}
        self._stale: set[int] = set()  # places of the changed items in the index

    def page(self, filters: Filters, *, after: str, limit: int) -> Page:
        """Return the first items that pass some filters whose ids come after `after`.

        An item that stays as it is comes once in the pages of a search, whatever else changes.
        """
        terms = filters.terms
        if terms is None:
            return Page([], more=False)
        with self._lock:
            index = self._refreshed()
            passing = self._passing(index, terms) & filters.allow(index.prices)
            start = bisect_right(index.ids, after)
            places = np.flatnonzero(passing[start:])[: limit + 1] + start
            ids = [index.ids[place] for place in places.tolist()]
            ids += [item.item_id for item in self._changes(filters) if item.item_id > after]
        ids.sort()
        items = [self._source.items[item_id] for item_id in ids[:limit]]
        return Page(items, more=len(ids) > limit)

    def facets(self, filters: Filters) -> FacetCounts:
        """Count the items that pass some filters, of each field without its own filter."""
        whole = filters._replace(category=None, available=None, lowest=None, highest=None)
        if whole.terms is None:
            return FacetCounts(0, {}, {}, [])
        with self._lock:
            index = self._refreshed()

            def found(filters: Filters) -> tuple[NDArray[np.bool_], list[Item]]:
                assert filters.terms is not None
                passing = self._passing(index, filters.terms) & filters.allow(index.prices)
                return passing, self._changes(filters)

            passing, changed = found(filters._replace(category=None))
            categories = Counter(index.categories(passing))
            if without := int(np.count_nonzero(passing)) - categories.total():
                categories[""] += without
            categories.update(item.category or "" for item in changed)
            available = {}
            for state in (True, False):
                passing, changed = found(filters._replace(available=state))
                available[state] = int(np.count_nonzero(passing)) + len(changed)
            passing, changed = found(filters._replace(lowest=None, highest=None))
            prices = np.array([price_of(item) for item in changed], np.float32)
            ranges = price_ranges(np.concatenate([index.prices[passing], prices]))
            passing, changed = found(filters)
            total = int(np.count_nonzero(passing)) + len(changed)
        return FacetCounts(total, categories, available, ranges)

    def alike(
        self, item: Item, category: str | None, count: int, *, available: bool | None = True
    ) -> list[tuple[str, float]]:
        """Return available items with similar titles and the same category, best first.

        With None for `available` also those that cannot be bought now.
        Each has its similarity, from 0 to 1, where rare words weigh more. Equally similar items are
        in the order of the distance of their prices.
        """
        filters = Terms.of(category=category, available=available)
        assert filters is not None
        with self._lock:
            index = self._refreshed()
            own = index.rarities(alike_terms(item))
            alike = index.alike(own, self._passing(index, filters))
            nearness = np.abs(index.prices[alike.places] - price_of(item))
            best = _best(alike.cosines, nearness, count + 1)
            ids = [index.ids[place] for place in alike.places[best].tolist()]
            scored = [*zip(ids, alike.cosines[best].tolist(), strict=True)]
            length = sum(rarity**2 for rarity in own.values()) ** 0.5
            for item_id, changed in self._changed.items():
                if filters.match(changed.terms):
                    shared = sum(own[term] ** 2 for term in own.keys() & changed.terms)
                    if shared > 0.0:
                        scored.append((item_id, shared / (length * changed.norm)))
        others = [entry for entry in scored if entry[0] != item.item_id]
        return sorted(others, key=lambda entry: -entry[1])[:count]

    def _passing(self, index: TermIndex, terms: Terms) -> NDArray[np.bool_]:
        passing = index.matches(terms)
        passing[[*self._stale]] = False
        return passing

    def _changes(self, filters: Filters) -> list[Item]:
        """Return the changed items that pass."""
        terms = filters.terms
        assert terms is not None
        items = [
            self._source.items[item_id]
            for item_id, changed in self._changed.items()
            if terms.match(changed.terms)
        ]
        prices = np.array([price_of(item) for item in items], np.float32)
        return [*compress(items, filters.allow(prices).tolist())]

    def _refreshed(self) -> TermIndex:
        """Apply the changes since the last search, and return the index."""
        changed, index = self._feed.changes(self._reading), self._index
        if index is not None:
            size = len(index.ids)
            most = max(_FEWEST_CHANGES, size // _SHARE_OF_CHANGES) if size > _SMALL else 0
            for item in changed:
                self._apply(index, item)
                if len(self._changed) > most:
                    break
            else:
                return index
        with self._reading:
            items = [*self._source.items.values()]
        self._index, self._changed, self._stale = TermIndex.of(items), {}, set()
        return self._index

    def _apply(self, index: TermIndex, item: Item) -> None:
        place = index.place_of(item.item_id)
        if place is not None:
            index.prices[place] = price_of(item)
            if index.describes(place, item):
                self._changed.pop(item.item_id, None)
                self._stale.discard(place)
                return
            self._stale.add(place)
        terms = frozenset(terms_of(item))
        norm = sum(rarity**2 for rarity in index.rarities(terms).values()) ** 0.5
        self._changed[item.item_id] = _Changed(terms, norm)


def _best(
    scores: NDArray[np.float32], distances: NDArray[np.float32], count: int
) -> NDArray[np.int64]:
    """Return the positions of the best scores; of equal ones the nearest, then the first."""
    if len(scores) > count:
        least = np.partition(scores, -count)[-count]
        chosen = np.flatnonzero(scores >= least)
    else:
        chosen = np.arange(len(scores))
    return chosen[np.lexsort((distances[chosen], -scores[chosen]))][:count]

"""Lists of items that do not depend on who asks: similar, together, next, popular and more.

Actions of others count in them from a minimum of people on: for an item by `CommonItems`, as in
anonymous recommendations, for a pair of items by `CommonPairs`. Trends come from published
statistics, the latest items from the catalogue, and items described alike from their descriptions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.kernels.sparse_scores import Scores
from tactful.recall.candidates import CatalogueView
from tactful.recall.popularity import is_in
from tactful.recall.takers import DAYS
from tactful.schemas.items import ItemList, ListedItem, ListQuery
from tactful.schemas.problems import ProblemError

_EMPTY = "the catalogue is empty: send items with PUT /v1/items"
_NO_PAIRS = (
    "no pairs of items are counted yet: they come with the next training, "
    "and where no model serves within seconds"
)


@dataclass(frozen=True)
class ItemLists:
    """Lists of the items of one view; no item may be written into it meanwhile."""

    view: CatalogueView
    least: int  # people from whom on the actions of others count

    @property
    def _pair_least(self) -> int:
        """Two people at least: no list shows a visit of one."""
        return max(self.least, 2)

    @property
    def catalogue(self) -> Catalogue:
        """The items."""
        return self.view.catalogue

    def together(self, item_id: str, query: ListQuery) -> ItemList:
        """List items of the same visits as an item.

        Raises:
            ProblemError: if there is no such item.
        """
        row = self._row_of(item_id)
        return self._paired(row, self.view.index.pairs.together_with(row, self._pair_least), query)

    def following(self, item_id: str, query: ListQuery) -> ItemList:
        """List items that came right after an item; raises as `together`."""
        row = self._row_of(item_id)
        return self._paired(row, self.view.index.pairs.following_of(row, self._pair_least), query)

    def similar(
        self, item_id: str, described: Iterable[tuple[str, float]], query: ListQuery
    ) -> ItemList:
        """List items alike by description, and by the items that people took with them.

        `described` has ids of other items and their similarity, from 0 to 1.
        """
        row, described = self.catalogue.rows.get(item_id), [*described]
        company = Scores.empty()
        if row is not None:  # else it came a moment ago
            company = self._common(row, self.view.index.pairs.alike(row, self._pair_least))
        rows = self.catalogue.rows_at([other for other, _ in described])
        cosines = np.array([cosine for _, cosine in described], np.float32)
        scores = Scores.summed(
            np.concatenate([rows[rows >= 0], company.rows]),
            np.concatenate([cosines[rows >= 0], company.values]),
            len(self.catalogue),
        )
        listed = self._scored(row, scores, query)
        return self._answer(listed, query, "no more items are described alike")

    def popular(self, query: ListQuery) -> ItemList:
        """List the items that most people take now, without saying how many."""
        popular, common = self.view.anonymous().popular, self.view.common
        rows = popular.rows[: popular.known]
        why = "no more items were taken"
        if common is not None:
            counted = np.zeros(len(self.catalogue), np.bool_)
            counted[common.rows] = True
            rows = rows[counted[rows]]
            why = f"no more items were taken by {self.least} people within {DAYS} days"
        return self._answer(self._plain(self._passing(rows, query), query), query, why)

    def trending(self, query: ListQuery) -> ItemList:
        """List items that rise in published statistics, the strongest rises first."""
        trending = self.view.trending
        rows = self._passing(trending.rows, query)[: query.count]
        reasons = trending.reason[np.isin(trending.rows, rows)]
        growth = [trending.rises[reason].growth for reason in reasons.tolist()]
        listed = [
            ListedItem(item_id=item_id, score=factor)
            for item_id, factor in zip(self._ids(rows), growth, strict=True)
        ]
        why = "no more items rise in a published statistic with `trending: true`"
        return self._answer(listed, query, why)

    def latest(self, query: ListQuery, *, now: int) -> ItemList:
        """List the newest items: by the property `released`, else by their description's time.

        Items whose time is after `now` (epoch milliseconds) come later.
        """
        catalogue = self.catalogue
        allowed = catalogue.available & (catalogue.dated <= now)
        rows = self._passing(np.flatnonzero(allowed), query)
        dated = catalogue.dated[rows]
        if len(rows) > query.count:
            newest = np.partition(dated, -query.count)[-query.count]
            rows, dated = rows[dated >= newest], dated[dated >= newest]
        # Of the same time the highest row is the one that came last.
        rows = rows[np.lexsort((-rows, -dated))]
        return self._answer(self._plain(rows, query), query, "no more items are available")

    def _row_of(self, item_id: str) -> int:
        row = self.catalogue.rows.get(item_id)
        if row is None:
            raise ProblemError("not_found", "no item has this id")
        return row

    def _paired(self, row: int, scores: Scores, query: ListQuery) -> ItemList:
        listed = self._scored(row, self._common(row, scores), query)
        why = f"pairs of items count from {self._pair_least} people on who took both"
        return self._answer(listed, query, why if len(self.view.index.pairs.people) else _NO_PAIRS)

    def _common(self, row: int, scores: Scores) -> Scores:
        """Keep the scores of items that enough people take now, if `row` is one."""
        common = self.view.common
        if common is None:
            return scores
        if not is_in(np.array([row]), common.rows).any():
            return Scores.empty()
        kept = is_in(scores.rows, common.rows)
        return Scores(scores.rows[kept], scores.values[kept])

    def _scored(self, row: int | None, scores: Scores, query: ListQuery) -> list[ListedItem]:
        """List the best rows but `row`, with scores relative to the best one."""
        ranked = scores.ranked
        rows = self._passing(ranked[ranked != row], query)[: query.count]
        values = scores.of(rows).astype(np.float64)
        shares = np.round(values / values.max(initial=1e-9), 2).tolist()
        return [
            ListedItem(item_id=item_id, score=share)
            for item_id, share in zip(self._ids(rows), shares, strict=True)
        ]

    def _plain(self, rows: NDArray[np.int64], query: ListQuery) -> list[ListedItem]:
        return [ListedItem(item_id=item_id) for item_id in self._ids(rows[: query.count])]

    def _passing(self, rows: NDArray[np.int64], query: ListQuery) -> NDArray[np.int64]:
        """Keep the rows of available items of the category, in their order."""
        catalogue = self.catalogue
        passing = catalogue.available[rows]
        if query.category is not UNSET:
            number = catalogue.category_numbers.get(query.category, -2)
            passing &= catalogue.category[rows] == number
        return rows[passing]

    def _ids(self, rows: NDArray[np.int64]) -> list[str]:
        return self.catalogue.item_ids.of_rows(rows)

    def _answer(self, listed: list[ListedItem], query: ListQuery, why: str) -> ItemList:
        if len(listed) == query.count:
            return ItemList(items=listed)
        why = why if len(self.catalogue) else _EMPTY
        return ItemList(items=listed, fallback=f"{len(listed)} of {query.count} items: {why}")

"""Neighbours of an item with scores and reasons, for operators.

They are what recall uses, also of few people: the numbers are exact and for the trusted zone alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from tactful.catalogue.words import words
from tactful.recall.candidates import CatalogueView
from tactful.recall.common_pairs import PairTable
from tactful.recall.neighbours import NeighbourTable
from tactful.schemas.item_details import ItemNeighbours, Neighbour

Near = Iterable[tuple[str, float]]
"""Ids of items with their similarity, the nearest first."""


@dataclass(frozen=True)
class NeighbourReader:
    """Reads neighbours from one view; no item may be written into it meanwhile."""

    view: CatalogueView
    count: int  # number of neighbours of each kind

    def read(
        self,
        item_id: str,
        described: Near,
        meaning: Near | None = None,
        pictures: Near | None = None,
    ) -> ItemNeighbours:
        """Return the neighbours of an item.

        Args:
            item_id: the item.
            described: ids of items with words in common, and their similarity.
            meaning: those near by encoded words, likewise; None without an encoder.
            pictures: those near by encoded pictures, likewise.
        """
        index, row = self.view.index, self.view.catalogue.rows.get(item_id)
        pairs = index.pairs
        least = pairs.least or 2
        found = ItemNeighbours(
            item_id=item_id,
            minimum_people=least,
            vectors=[],
            together=[],
            following=[],
            described=self._described(item_id, described),
            meaning=self._encoded(item_id, meaning),
            pictures=self._encoded(item_id, pictures),
        )
        if row is None:  # it came a moment ago
            return found
        people = int(pairs.people[row]) if row < len(pairs.people) else 0
        return replace(
            found,
            people=people or None,
            vectors=self._near(row),
            together=self._table(index.together, pairs.together, row),
            following=self._table(index.following, pairs.following, row),
        )

    def _near(self, row: int) -> list[Neighbour]:
        """Return the nearest items by vectors, without the item itself."""
        search = self.view.search
        vector = search.vectors_of(np.array([row]))[0] if row < len(search) else np.zeros(0)
        if not vector.any():
            return []
        rows, scores = search.nearest(vector.astype(np.float32), self.count + 1)
        other = rows != row
        return self._listed(rows[other][: self.count], scores[other][: self.count].tolist())

    def _table(self, table: NeighbourTable, pairs: PairTable, row: int) -> list[Neighbour]:
        """Return learned neighbours, with the people of pairs that are common."""
        if row >= len(table.items):
            return []
        rows, weights = table.items[row].astype(np.int64), table.weights[row]
        known = (rows >= 0) & (weights > 0)
        rows, weights = rows[known][: self.count], weights[known][: self.count]
        span = pairs.of(row)
        people = dict(zip(pairs.items[span].tolist(), pairs.people[span].tolist(), strict=True))
        return self._listed(rows, weights.tolist(), [people.get(it) for it in rows.tolist()])

    def _encoded(self, item_id: str, near: Near | None) -> list[Neighbour] | None:
        """Return the items near by an encoder, without the item itself."""
        if near is None:
            return None
        others = [pair for pair in near if pair[0] != item_id][: self.count]
        titles = self._titles([other for other, _ in others])
        return [
            Neighbour(item_id=other, title=title, score=round(cosine, 4))
            for (other, cosine), title in zip(others, titles, strict=True)
        ]

    def _described(self, item_id: str, described: Near) -> list[Neighbour]:
        """Return items with words in common, and these."""
        nearest = [*described][: self.count]
        titles = self._titles([item_id, *(other for other, _ in nearest)])
        own = dict.fromkeys(words(titles[0] or ""))
        return [
            Neighbour(
                item_id=other,
                title=title,
                score=round(cosine, 4),
                words=[word for word in own if word in {*words(title or "")}],
            )
            for (other, cosine), title in zip(nearest, titles[1:], strict=True)
        ]

    def _titles(self, item_ids: Sequence[str]) -> list[str | None]:
        catalogue = self.view.catalogue
        return [
            (catalogue.title[row] or None) if row >= 0 else None
            for row in catalogue.rows_at(item_ids).tolist()
        ]

    def _listed(
        self,
        rows: NDArray[np.int64],
        scores: Sequence[float],
        people: Sequence[int | None] | None = None,
    ) -> list[Neighbour]:
        catalogue = self.view.catalogue
        return [
            Neighbour(
                item_id=item_id,
                title=catalogue.title[row] or None,
                score=round(score, 4),
                people=number,
            )
            for item_id, row, score, number in zip(
                catalogue.item_ids.of_rows(rows),
                rows.tolist(),
                scores,
                people or [None] * len(rows),
                strict=True,
            )
        ]

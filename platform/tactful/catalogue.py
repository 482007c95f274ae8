"""The catalogue as columns: one row an item, so that a request assembles features by indexing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tactful_streaming import Item


class Catalogue:
    """Items as columns, immutable once made.

    The rows of the recall index come first and in its order, so a row of the index is a row of the
    catalogue; the other items follow by id, so that a restart gives the same rows.

    Attributes:
        item_ids: item of each row.
        rows: row of each item.
        price: shape (n,), NaN where unknown.
        category: category number of each row, -1 where unknown.
        categories: names of the categories, by number.
        available: whether the item may be recommended.
    """

    def __init__(self, known: Sequence[str], items: Mapping[str, Item]) -> None:
        """Lay out `items`; `known` are the item ids of the recall index, in its order."""
        indexed = set(known)
        self.item_ids: tuple[str, ...] = (*known, *sorted(items.keys() - indexed))
        self.rows: dict[str, int] = {item_id: row for row, item_id in enumerate(self.item_ids)}
        numbers: dict[str, int] = {}
        count = len(self.item_ids)
        self.price: NDArray[np.float32] = np.full(count, np.nan, np.float32)
        self.category: NDArray[np.int32] = np.full(count, -1, np.int32)
        self.available: NDArray[np.bool_] = np.zeros(count, np.bool_)
        for row, item_id in enumerate(self.item_ids):
            item = items.get(item_id)
            if item is None:
                continue
            self.available[row] = item.available
            if item.price is not None:
                self.price[row] = item.price
            if item.category is not None:
                self.category[row] = numbers.setdefault(item.category, len(numbers))
        self.categories: tuple[str, ...] = tuple(numbers)
        self.category_numbers: Mapping[str, int] = numbers

    def __len__(self) -> int:
        """Number of items."""
        return len(self.item_ids)

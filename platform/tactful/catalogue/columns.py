"""Descriptions of items as columns: one row an item."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.util.growable_array import append_to, filled_array
from tactful_streaming.contract.log_entries import Item

Rows = slice | NDArray[np.int64]

_DAY_MS = 86_400_000.0


@dataclass(frozen=True)
class ItemColumns:
    """Columns of a `tactful.catalogue.catalogue.Catalogue`, one element for each row."""

    price: NDArray[np.float32]
    category: NDArray[np.int32]
    available: NDArray[np.bool_]
    margin: NDArray[np.float32]
    released: NDArray[np.float32]
    campaign: NDArray[np.int32]
    described: NDArray[np.bool_]

    @classmethod
    def unknown(cls, count: int) -> ItemColumns:
        """Make columns of undescribed rows."""
        return cls(
            price=filled_array(count, np.nan, np.float32),
            category=filled_array(count, -1, np.int32),
            available=filled_array(count, False, np.bool_),
            margin=filled_array(count, 0.0, np.float32),
            released=filled_array(count, np.nan, np.float32),
            campaign=filled_array(count, -1, np.int32),
            described=filled_array(count, False, np.bool_),
        )

    def placed(self, count: int, to: Rows, rows: Rows) -> ItemColumns:
        """Copy `rows` to the rows `to` of `count` rows; the others are undescribed."""
        placed = ItemColumns.unknown(count)
        for name, column in vars(self).items():
            getattr(placed, name)[to] = column[rows]
        return placed

    def grown(self, count: int) -> ItemColumns:
        """Append undescribed rows, up to `count` in all.

        The result shares memory with this one where its capacity allows: a write to one is a write
        to both. Only the latest may grow.
        """
        more = ItemColumns.unknown(count - len(self.price))
        return ItemColumns(
            **{name: append_to(column, getattr(more, name)) for name, column in vars(self).items()}
        )

    def describe(
        self,
        items: Iterable[tuple[int, Item]],
        numbers: dict[str, int],
        campaigns: dict[str, int],
    ) -> None:
        """Write the items of some rows, and number new categories and campaigns."""
        for row, item in items:
            self.available[row] = item.available
            self.price[row] = np.nan if item.price is None else item.price
            self.category[row] = (
                -1 if item.category is None else numbers.setdefault(item.category, len(numbers))
            )
            self.campaign[row] = _campaign_number(item, campaigns)
            self.margin[row] = _margin(item.properties.get("margin"))
            self.released[row] = _days(item.properties.get("released"))
            self.described[row] = True


def _campaign_number(item: Item, numbers: dict[str, int]) -> int:
    name = item.properties.get("campaign")
    return numbers.setdefault(str(name), len(numbers)) if name else -1


def _margin(value: object) -> float:
    """Clip to a share from -1 (sold at a loss of its price) to 1; 0 for no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0.0
    return min(max(float(value), -1.0), 1.0)


def _days(value: object) -> float:
    """Convert epoch milliseconds or an ISO 8601 text to days; NaN for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) / _DAY_MS
    if not isinstance(value, str):
        return float("nan")
    try:
        moment = dt.datetime.fromisoformat(value)
    except ValueError:
        return float("nan")
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1e3 / _DAY_MS

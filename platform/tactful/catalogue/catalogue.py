"""The catalogue as columns, one row for each item, to assemble features by index."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.ids import CatalogueIds, CatalogueRows, ItemIds
from tactful.catalogue.properties import PropertyColumns
from tactful.catalogue.word_lines import WordLines
from tactful.util.growable_array import append_to, filled_array
from tactful_streaming.contract.log_entries import Item

_KeysAt = Callable[[NDArray[np.int64]], Sequence[str]]
_PlaceOf = Callable[[str], int | None]
Rows = slice | NDArray[np.int64]

_DAY_MS = 86_400_000.0
_HIGHEST_PRICE = 1e30  # a higher one counts as unknown: shares of prices have to fit 32 bits


class Places:
    """Keys by number, for a catalogue and its successors: numbers never change."""

    def __init__(self, keys_at: _KeysAt, place_of: _PlaceOf) -> None:
        """Look up in both directions."""
        self._lookups = keys_at, place_of

    def keys_at(self, places: NDArray[np.int64]) -> Sequence[str]:
        """Return the keys of some numbers."""
        return self._lookups[0](places)

    def place_of(self, key: str) -> int | None:
        """Return the number of a key; None if it has none."""
        return self._lookups[1](key)

    def grow(self, keys_at: _KeysAt, place_of: _PlaceOf) -> None:
        """Look up more keys; the numbers of earlier keys stay the same."""
        self._lookups = keys_at, place_of


@dataclass(frozen=True)
class ItemColumns:
    """Columns of a `Catalogue`, one element for each row."""

    price: NDArray[np.float32]
    category: NDArray[np.int32]
    available: NDArray[np.bool_]
    margin: NDArray[np.float32]
    released: NDArray[np.float32]
    dated: NDArray[np.float64]
    campaign: NDArray[np.int32]
    described: NDArray[np.bool_]
    title: NDArray[np.object_]
    properties: PropertyColumns

    @classmethod
    def unknown(cls, count: int) -> ItemColumns:
        """Make columns of undescribed rows."""
        return cls(
            price=filled_array(count, np.nan, np.float32),
            category=filled_array(count, -1, np.int32),
            available=filled_array(count, False, np.bool_),
            margin=filled_array(count, 0.0, np.float32),
            released=filled_array(count, np.nan, np.float32),
            dated=filled_array(count, np.nan, np.float64),
            campaign=filled_array(count, -1, np.int32),
            described=filled_array(count, False, np.bool_),
            title=filled_array(count, 0, np.object_),
            properties=PropertyColumns(count),
        )

    def placed(self, count: int, to: Rows, rows: Rows) -> ItemColumns:
        """Copy `rows` to the rows `to` of `count` rows; the others are undescribed."""
        placed = ItemColumns.unknown(count)
        for name, column in self._arrays().items():
            getattr(placed, name)[to] = column[rows]
        return replace(placed, properties=self.properties.placed(count, to, rows))

    def grown(self, count: int) -> ItemColumns:
        """Append undescribed rows, up to `count` in all.

        The result shares memory with this one where its capacity allows: a write to one is a write
        to both. Only the latest may grow.
        """
        more = ItemColumns.unknown(count - len(self.price))
        return replace(
            self,
            **{
                name: append_to(array, getattr(more, name))
                for name, array in self._arrays().items()
            },
            properties=self.properties.grown(count),
        )

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {name: column for name, column in vars(self).items() if name != "properties"}

    def describe(
        self, items: Iterable[tuple[int, Item]], numbers: dict[str, int], campaigns: dict[str, int]
    ) -> None:
        """Write the items of some rows, and number new categories and campaigns."""
        items = list(items)
        self.properties.describe(items)
        for row, item in items:
            self.available[row] = item.available
            known = item.price is not None and item.price <= _HIGHEST_PRICE
            self.price[row] = item.price if known else np.nan
            self.category[row] = (
                -1 if item.category is None else numbers.setdefault(item.category, len(numbers))
            )
            self.campaign[row] = _campaign_number(item, campaigns)
            self.margin[row] = _margin(item.properties.get("margin"))
            self.title[row] = item.title
            days = _days(item.properties.get("released", item.properties.get("published")))
            self.released[row] = days
            self.dated[row] = item.timestamp if math.isnan(days) else days * _DAY_MS
            self.described[row] = True


class Catalogue:
    """Items as columns, immutable once made, unless it is updated in its place.

        item_ids [i1, i2, i3 | i9 | a7, b2]   index | items added to it | others by id
        price    [4.5, nan, 2.0, ...]         category [0, 1, -1, ...]

    A row of the recall index is thus a row of the catalogue, and a restart gives the same rows.

    Attributes:
        price: shape (n,), NaN where unknown.
        category: category number of each row, -1 where unknown.
        categories: names of the categories, by number.
        available: whether the item may be recommended; read-only.
        described: whether the item was ever described: the index may know others.
        margin: property ``margin``, what the shop earns as a share of the price; 0 where unknown.
        title: title of each item; no text where unknown.
        released: property ``released``, else ``published``, in days since the epoch, NaN where
            unknown.
        dated: the same in epoch milliseconds, else the time of the description.
        campaign: number of the property ``campaign`` of each row, -1 where there is none.
        in_campaign: rows of the items that are in a campaign, ascending.
        properties: all properties, to filter by.
        item_places: the items by row, to read features of many of them at once.
        category_places: the categories by number, likewise.
        lines: words of titles and descriptions, to compare with a query.
    """

    def __init__(
        self, known: Sequence[str], items: Mapping[str, Item], *, then: Sequence[str] = ()
    ) -> None:
        """Lay out `items` behind the ids of an index, in its order, and those of `then`."""
        ids = ItemIds.of(known)
        placed = {*ids, *then}
        others = (*then, *sorted(items.keys() - placed))
        rows = {item_id: row for row, item_id in enumerate(others, len(ids))}
        categories: dict[str, int] = {}
        campaigns: dict[str, int] = {}
        columns = ItemColumns.unknown(len(ids) + len(others))
        columns.describe(
            ((row, items[id_]) for row, id_ in enumerate(chain(ids, others)) if id_ in items),
            categories,
            campaigns,
        )
        lookup = CatalogueRows(ids, rows)
        self._fill(ids, others, lookup, columns, categories, campaigns)
        self.in_campaign: NDArray[np.int64] = np.flatnonzero(columns.campaign >= 0)
        self.item_places = Places(self.item_ids.of_rows, self.rows.get)
        self.category_places = Places(self._categories_at, self.category_numbers.get)
        self.lines = WordLines()

    def updated(
        self,
        # item ids of the recall index now: the former ones, and maybe more behind them
        known: Sequence[str],
        changed: Sequence[Item],  # the new descriptions
        *,
        then: Sequence[str] = (),  # ids of the further rows now
        # write the changes into the columns of this one, at their cost: both catalogues show them
        # from then on, and only the new one may be updated further. No other thread may read it
        # meanwhile.
        in_place: bool = False,
    ) -> Catalogue | None:
        """Return the catalogue after some items changed; None if rows would move."""
        ids = ItemIds.of(known)
        now = CatalogueIds(ids, tuple(then))
        if len(now) >= len(self):
            if now[len(self._ids) : len(self)] != self._others:
                return None
        elif ids is self._ids and not then:
            now = CatalogueIds(ids, self._others)
        else:
            return None
        then = now[len(ids) :]
        changes = _with_rows(ids, changed)
        # Other items keep their rows; their number grows all day.
        places = dict(self.rows.others) if ids is self._ids else {}
        came = then[len(places) :]
        fresh = {
            item.item_id for item, row in changes if row is None and item.item_id not in places
        }
        came = (*came, *sorted(fresh.difference(came)))
        others = then[: len(places)] + came
        count = len(ids) + len(others)
        places.update(zip(came, range(count - len(came), count), strict=True))
        if in_place:
            columns = self._columns.grown(count)
        else:
            columns = self._columns.placed(count, slice(len(self)), slice(len(self)))
        return self._made(ids, others, places, changes, columns, stays=True)

    def moved(
        self, known: Sequence[str], changed: Sequence[Item] = (), *, then: Sequence[str] = ()
    ) -> Catalogue:
        """Return the catalogue in the rows of another index, as if laid out anew."""
        ids, held = ItemIds.of(known), len(self._ids)
        rows = np.full(len(self), -1, np.int64)
        rows[:held] = self._ids.rows_in(ids)
        rows[held:] = [-1 if row is None else row for row in ids.rows_of(self._others)]
        left = np.flatnonzero((rows < 0) & self.described)
        left_ids = self.item_ids.of_rows(left)
        changes = _with_rows(ids, changed)
        fresh = [item.item_id for item, row in changes if row is None]
        others = (*then, *sorted({*left_ids, *fresh}.difference(then)))
        places = {item_id: row for row, item_id in enumerate(others, len(ids))}
        rows[left] = [places[item_id] for item_id in left_ids]
        kept = np.flatnonzero((rows >= 0) & self.described)
        stays = np.array_equal(rows, np.arange(len(self)))
        columns = self._columns.placed(len(ids) + len(others), rows[kept], kept)
        return self._made(ids, others, places, changes, columns, stays=stays)

    def rows_of(self, items: Sequence[Item]) -> NDArray[np.int64]:
        """Return the rows of known items, without the cache, which is for requests."""
        return _rows(_with_rows(self._ids, items), self.rows.others)

    def rows_at(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of many items, -1 for unknown ones, without the cache."""
        others = self.rows.others
        return np.array(
            [
                others.get(item_id, -1) if row is None else row
                for item_id, row in zip(item_ids, self._ids.rows_of(item_ids), strict=True)
            ],
            np.int64,
        )

    def _made(
        self,
        ids: ItemIds,
        others: tuple[str, ...],
        places: Mapping[str, int],
        changed: Sequence[tuple[Item, int | None]],
        columns: ItemColumns,
        *,
        stays: bool,
    ) -> Catalogue:
        """Make a catalogue of `columns` and the changes; `stays`: no row moves."""
        lookup = CatalogueRows(ids, places, self.rows._cached if stays else None)
        categories, campaigns = dict(self.category_numbers), dict(self.campaign_numbers)
        rows = _rows(changed, places)
        was_shown = columns.campaign[rows] >= 0
        items = (item for item, _ in changed)
        columns.describe(zip(rows.tolist(), items, strict=True), categories, campaigns)
        same_shown = not (was_shown | (columns.campaign[rows] >= 0)).any()
        made = object.__new__(Catalogue)
        made._fill(ids, others, lookup, columns, categories, campaigns)
        if stays and same_shown:
            made.in_campaign = self.in_campaign
        else:
            made.in_campaign = np.flatnonzero(columns.campaign >= 0)
        if stays:
            made.item_places = self.item_places
            made.item_places.grow(made.item_ids.of_rows, lookup.get)
        else:
            made.item_places = Places(made.item_ids.of_rows, lookup.get)
        made.lines = self.lines
        # Categories keep their numbers, also when rows move.
        made.category_places = self.category_places
        made.category_places.grow(made._categories_at, made.category_numbers.get)
        return made

    def _fill(
        self,
        ids: ItemIds,
        others: tuple[str, ...],
        rows: CatalogueRows,
        columns: ItemColumns,
        categories: dict[str, int],
        campaigns: dict[str, int],
    ) -> None:
        self._ids = ids
        self._others = others
        self._columns = columns
        self.item_ids = CatalogueIds(ids, others)
        self.rows = rows
        self.price: NDArray[np.float32] = columns.price
        self.category: NDArray[np.int32] = columns.category
        self.available: NDArray[np.bool_] = columns.available.view()
        self.available.flags.writeable = False
        self.described: NDArray[np.bool_] = columns.described
        self.categories: tuple[str, ...] = tuple(categories)
        self.category_numbers: Mapping[str, int] = categories
        self.margin: NDArray[np.float32] = columns.margin
        self.title: NDArray[np.object_] = columns.title
        self.released: NDArray[np.float32] = columns.released
        self.dated: NDArray[np.float64] = columns.dated
        self.campaign: NDArray[np.int32] = columns.campaign
        self.campaign_numbers: Mapping[str, int] = campaigns
        self.properties: PropertyColumns = columns.properties

    def __len__(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    def _categories_at(self, numbers: NDArray[np.int64]) -> list[str]:
        return [self.categories[number] for number in numbers.tolist()]


def _with_rows(ids: ItemIds, items: Sequence[Item]) -> list[tuple[Item, int | None]]:
    """Pair items with their rows in an index, None for unknown ones."""
    return [*zip(items, ids.rows_of([item.item_id for item in items]), strict=True)]


def _rows(pairs: Sequence[tuple[Item, int | None]], others: Mapping[str, int]) -> NDArray[np.int64]:
    """Return the rows of items, from `others` for items that an index does not have."""
    rows = (others[item.item_id] if row is None else row for item, row in pairs)
    return np.fromiter(rows, np.int64, len(pairs))


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

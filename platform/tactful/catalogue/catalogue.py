"""The catalogue as columns, one row for each item, to assemble features by index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.columns import ItemColumns
from tactful.catalogue.ids import ItemIds
from tactful_streaming.contract.log_entries import Item

T = TypeVar("T")

_KeysAt = Callable[[NDArray[np.int64]], Sequence[str]]
_PlaceOf = Callable[[str], int | None]

_CACHED = 65_536


class CatalogueIds(Sequence[str]):
    """Ids by row: those of an index first, then others."""

    def __init__(self, known: ItemIds, others: tuple[str, ...]) -> None:
        """Append `others` to `known`."""
        self._known = known
        self._others = others

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._known) + len(self._others)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[str, ...]: ...
    def __getitem__(self, row: int | slice) -> str | tuple[str, ...]:
        """Return the item of a row, or the items of a slice of rows."""
        known = len(self._known)
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            if start >= known and step == 1:
                return self._others[start - known : max(stop - known, 0)]
            return tuple(self[number] for number in range(start, stop, step))
        if row < 0:
            row += len(self)
        return self._known[row] if row < known else self._others[row - known]

    def of_rows(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the items of many rows; faster than one by one."""
        known = len(self._known)
        if not len(rows) or rows.max() < known:
            return self._known.of_rows(rows)
        return [
            self._known[row] if row < known else self._others[row - known] for row in rows.tolist()
        ]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the items in row order."""
        return chain(self._known, self._others)


class CatalogueRows(Mapping[str, int]):
    """Row of each item, with a cache: most look-ups are of few items.

    Attributes:
        others: rows of the items that the index does not have.
    """

    def __init__(
        self,
        known: ItemIds,
        others: Mapping[str, int],
        cached: dict[str, int] | None = None,
    ) -> None:
        """Look up `others` first, then `known`.

        Args:
            known: ids of the rows of an index.
            others: rows behind those.
            cached: earlier look-ups, in rows that have not moved since.
        """
        self._known = known
        self.others = others
        self._cached: dict[str, int] = {} if cached is None else cached
        self._count = len(known) + len(others)

    def row(self, item_id: str) -> int | None:
        """Return the row of an item; None if there is no such item."""
        row = self._cached.get(item_id)
        if row is not None:
            # Later catalogues share the cache, and have more items.
            return row if row < self._count else None
        row = self.others.get(item_id)
        if row is None:
            row = self._known.row(item_id)
        if row is not None:
            if len(self._cached) >= _CACHED:
                self._cached.clear()
            self._cached[item_id] = row
        return row

    def of_many(self, item_ids: Iterable[str]) -> list[int | None]:
        """Return the rows of many items, None for unknown ones; faster than one by one."""
        item_ids = [*item_ids]
        rows = [*map(self._cached.get, item_ids)]
        absent = [number for number, row in enumerate(rows) if row is None]
        if absent:
            if len(self._cached) + len(absent) > _CACHED:
                self._cached.clear()
            cached = self._cached if len(absent) <= _CACHED else {}
            known = self._known.rows_of([item_ids[number] for number in absent])
            for number, row in zip(absent, known, strict=True):
                item_id = item_ids[number]
                row = self.others.get(item_id) if row is None else row
                if row is not None:
                    rows[number] = cached[item_id] = row
        count = self._count  # later catalogues share the cache, and have more items
        return [row if row is not None and row < count else None for row in rows]

    @overload
    def get(self, item_id: str, default: None = None, /) -> int | None: ...
    @overload
    def get(self, item_id: str, default: int | T, /) -> int | T: ...
    def get(self, item_id: str, default: object = None, /) -> object:
        """Return the row of an item, or a default; a mapping's own way raises exceptions."""
        row = self.row(item_id)
        return default if row is None else row

    def __getitem__(self, item_id: str) -> int:
        """Return the row of an item.

        Raises:
            KeyError: if there is no such item.
        """
        row = self.row(item_id)
        if row is None:
            raise KeyError(item_id)
        return row

    def __contains__(self, item_id: object) -> bool:
        """Whether there is such an item."""
        return isinstance(item_id, str) and self.row(item_id) is not None

    def __len__(self) -> int:
        """Number of items."""
        return len(self._known) + len(self.others)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the items in row order."""
        return chain(self._known, self.others)


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


class Catalogue:
    """Items as columns, immutable once made, unless it is updated in its place.

        item_ids [i1, i2, i3 | i9 | a7, b2]   index | items added to it | others by id
        price    [4.5, nan, 2.0, ...]         category [0, 1, -1, ...]

    A row of the recall index is thus a row of the catalogue, and a restart gives the same rows.

    Attributes:
        item_ids: item of each row.
        rows: row of each item.
        price: shape (n,), NaN where unknown.
        category: category number of each row, -1 where unknown.
        categories: names of the categories, by number.
        available: whether the item may be recommended; read-only.
        described: whether the item was ever described: the index may know others.
        margin: property ``margin``, what the shop earns as a share of the price; 0 where unknown.
        released: property ``released`` in days since the epoch, NaN where unknown.
        campaign: number of the property ``campaign`` of each row, -1 where there is none.
        campaigns: names of the campaigns, by number.
        in_campaign: rows of the items that are in a campaign, ascending.
        item_places: the items by row, to read features of many of them at once.
        category_places: the categories by number, likewise.
    """

    def __init__(
        self, known: Sequence[str], items: Mapping[str, Item], *, then: Sequence[str] = ()
    ) -> None:
        """Lay out `items`.

        Args:
            known: item ids of the recall index, in its order.
            items: the items to lay out.
            then: ids of further rows, none of them in `known`.
        """
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
        self.item_places = Places(self.item_ids.of_rows, self.rows.row)
        self.category_places = Places(self._categories_at, self.category_numbers.get)

    def updated(
        self,
        known: Sequence[str],
        changed: Sequence[Item],
        *,
        then: Sequence[str] = (),
        in_place: bool = False,
    ) -> Catalogue | None:
        """Return the catalogue after some items changed.

        Args:
            known: item ids of the recall index now: the former ones, and maybe more behind them.
            changed: the new descriptions.
            then: ids of the further rows now.
            in_place: write the changes into the columns of this one, at their cost: both catalogues
                show them from then on, and only the new one may be updated further. No other
                thread may read it meanwhile.

        Returns:
            The catalogue; None if rows would move, so that all must be laid out anew.
        """
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
        """Return the catalogue in the rows of another index, as if laid out anew.

        Args:
            known: item ids of the other index, in its order.
            changed: new descriptions of items.
            then: ids of further rows, none of them in `known`.
        """
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
        """Return the rows of known items, without the cache, which is for requests.

        Raises:
            KeyError: if an item is unknown.
        """
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
            made.item_places.grow(made.item_ids.of_rows, lookup.row)
        else:
            made.item_places = Places(made.item_ids.of_rows, lookup.row)
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
        self.released: NDArray[np.float32] = columns.released
        self.campaign: NDArray[np.int32] = columns.campaign
        self.campaigns: tuple[str, ...] = tuple(campaigns)
        self.campaign_numbers: Mapping[str, int] = campaigns

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

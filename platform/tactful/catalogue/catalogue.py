"""The catalogue as columns: one row an item, so that a request assembles features by indexing."""

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

_REMEMBERED = 65_536


class CatalogueIds(Sequence[str]):
    """Item of each row: those of an index first, then others."""

    def __init__(self, known: ItemIds, others: tuple[str, ...]) -> None:
        """Put `others` behind `known`."""
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
        """The item of a row, or the items of a slice of rows."""
        known = len(self._known)
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            if start >= known and step == 1:
                return self._others[start - known : max(stop - known, 0)]
            return tuple(self[each] for each in range(start, stop, step))
        if row < 0:
            row += len(self)
        return self._known[row] if row < known else self._others[row - known]

    def of_rows(self, rows: NDArray[np.int64]) -> list[str]:
        """The items of many rows; faster than one by one."""
        known = len(self._known)
        if not len(rows) or rows.max() < known:
            return self._known.of_rows(rows)
        return [
            self._known[row] if row < known else self._others[row - known] for row in rows.tolist()
        ]

    def __iter__(self) -> Iterator[str]:
        """The items in row order."""
        return chain(self._known, self._others)


class CatalogueRows(Mapping[str, int]):
    """Row of each item. Items that were looked up are remembered, for a few are asked for often.

    Attributes:
        others: rows of the items that the index does not know.
    """

    def __init__(
        self,
        known: ItemIds,
        others: Mapping[str, int],
        remembered: dict[str, int] | None = None,
    ) -> None:
        """Look up `others` first, then `known`.

        Args:
            known: of the rows of an index.
            others: rows behind those.
            remembered: what was looked up before in rows that have not moved since.
        """
        self._known = known
        self.others = others
        self._remembered: dict[str, int] = {} if remembered is None else remembered
        self._count = len(known) + len(others)

    def row(self, item_id: str) -> int | None:
        """The row of an item; None if there is no such item."""
        row = self._remembered.get(item_id)
        if row is not None:
            # Later catalogues remember, too, and know more items.
            return row if row < self._count else None
        row = self.others.get(item_id)
        if row is None:
            row = self._known.row(item_id)
        if row is not None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[item_id] = row
        return row

    def of_many(self, item_ids: Iterable[str]) -> list[int | None]:
        """The rows of many items, None for one that does not exist; faster than one by one."""
        item_ids = [*item_ids]
        rows = [*map(self._remembered.get, item_ids)]
        absent = [number for number, row in enumerate(rows) if row is None]
        if absent:
            if len(self._remembered) + len(absent) > _REMEMBERED:
                self._remembered.clear()
            remembered = self._remembered if len(absent) <= _REMEMBERED else {}
            known = self._known.rows_of([item_ids[number] for number in absent])
            for number, row in zip(absent, known, strict=True):
                item_id = item_ids[number]
                found = self.others.get(item_id) if row is None else row
                if found is not None:
                    rows[number] = remembered[item_id] = found
        count = self._count  # later catalogues remember, too, and know more items
        return [row if row is not None and row < count else None for row in rows]

    @overload
    def get(self, item_id: str, default: None = None, /) -> int | None: ...
    @overload
    def get(self, item_id: str, default: int | T, /) -> int | T: ...
    def get(self, item_id: str, default: object = None, /) -> object:
        """The row of an item, or a default; without the exceptions that a mapping goes through."""
        row = self.row(item_id)
        return default if row is None else row

    def __getitem__(self, item_id: str) -> int:
        """The row of an item.

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
        """The items in row order."""
        return chain(self._known, self.others)


class Places:
    """Keys by number, for a catalogue and all that grow from it: what has a number keeps it."""

    def __init__(self, keys_at: _KeysAt, place_of: _PlaceOf) -> None:
        """Look up in both directions."""
        self._looks_up = keys_at, place_of

    def keys_at(self, places: NDArray[np.int64]) -> Sequence[str]:
        """The keys of some numbers."""
        return self._looks_up[0](places)

    def place_of(self, key: str) -> int | None:
        """The number of a key; None if it has none."""
        return self._looks_up[1](key)

    def grow(self, keys_at: _KeysAt, place_of: _PlaceOf) -> None:
        """Know more keys; all that were known have the same numbers as before."""
        self._looks_up = keys_at, place_of


class Catalogue:
    """Items as columns, immutable once made, unless it is updated in its place.

    The rows of the recall index come first and in its order, so a row of the index is a row of the
    catalogue; then come the items that the index learned of since, in its order; the others follow
    by id, so that a restart gives the same rows.

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
            ((row, items[it]) for row, it in enumerate(chain(ids, others)) if it in items),
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
        """The catalogue after some items changed.

        Args:
            known: item ids of the recall index now; those of before, and maybe more behind them.
            changed: the new descriptions.
            then: ids of the further rows now.
            in_place: take what changed into the columns of this one, at the cost of the changes:
                its rows say the same from then on, and only the new one may be updated further.
                Nobody may read it meanwhile.

        Returns:
            The catalogue; None if rows would move, and all has to be laid out anew.
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
        found = _found(ids, changed)
        # Those that are not of the index are kept as they are: they grow all day.
        places = dict(self.rows.others) if ids is self._ids else {}
        came = then[len(places) :]
        fresh = {item.item_id for item, row in found if row is None and item.item_id not in places}
        came = (*came, *sorted(fresh.difference(came)))
        others = then[: len(places)] + came
        count = len(ids) + len(others)
        places.update(zip(came, range(count - len(came), count), strict=True))
        if in_place:
            columns = self._columns.append_to(count)
        else:
            columns = self._columns.placed(count, slice(len(self)), slice(len(self)))
        return self._made(ids, others, places, found, columns, stays=True)

    def moved(
        self, known: Sequence[str], changed: Sequence[Item] = (), *, then: Sequence[str] = ()
    ) -> Catalogue:
        """The catalogue in the rows of another index, as if it were laid out anew.

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
        found = _found(ids, changed)
        fresh = [item.item_id for item, row in found if row is None]
        others = (*then, *sorted({*left_ids, *fresh}.difference(then)))
        places = {item_id: row for row, item_id in enumerate(others, len(ids))}
        rows[left] = [places[item_id] for item_id in left_ids]
        kept = np.flatnonzero((rows >= 0) & self.described)
        stays = np.array_equal(rows, np.arange(len(self)))
        columns = self._columns.placed(len(ids) + len(others), rows[kept], kept)
        return self._made(ids, others, places, found, columns, stays=stays)

    def rows_of(self, items: Sequence[Item]) -> NDArray[np.int64]:
        """The rows of items that are here. Lists may ask for others: none of these is remembered.

        Raises:
            KeyError: if an item is not here.
        """
        return _rows(_found(self._ids, items), self.rows.others)

    def rows_at(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """The rows of many items, -1 for one that is not here; none of these is remembered."""
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
        """A catalogue of what this one has in `columns` and what changed; `stays`: no row moves."""
        lookup = CatalogueRows(ids, places, self.rows._remembered if stays else None)
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
        # Categories keep their numbers, whatever becomes of the rows.
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


def _found(ids: ItemIds, items: Sequence[Item]) -> list[tuple[Item, int | None]]:
    """Items with their rows in an index, None for one that is not there."""
    return [*zip(items, ids.rows_of([item.item_id for item in items]), strict=True)]


def _rows(found: Sequence[tuple[Item, int | None]], others: Mapping[str, int]) -> NDArray[np.int64]:
    """The rows of items, of `others` where an index does not have them."""
    rows = (others[item.item_id] if row is None else row for item, row in found)
    return np.fromiter(rows, np.int64, len(found))

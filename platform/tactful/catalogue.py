"""The catalogue as columns: one row an item, so that a request assembles features by indexing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from tactful.item_ids import ItemIds
from tactful_streaming import Item

T = TypeVar("T")

_KeysAt = Callable[[NDArray[np.int64]], Sequence[str]]
_PlaceOf = Callable[[str], int | None]

_REMEMBERED = 65_536
_DAY_MS = 86_400_000.0


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
        if isinstance(row, slice):
            return tuple(self[each] for each in range(*row.indices(len(self))))
        known = len(self._known)
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
    """Row of each item. Items that were looked up are remembered, for a few are asked for often."""

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
        self._others = others
        self._remembered: dict[str, int] = {} if remembered is None else remembered
        self._count = len(known) + len(others)

    def row(self, item_id: str) -> int | None:
        """The row of an item; None if there is no such item."""
        row = self._remembered.get(item_id)
        if row is not None:
            # Later catalogues remember, too, and know more items.
            return row if row < self._count else None
        row = self.looked_up(item_id)
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
                found = self._others.get(item_id) if row is None else row
                if found is not None:
                    rows[number] = remembered[item_id] = found
        count = self._count  # later catalogues remember, too, and know more items
        return [row if row is not None and row < count else None for row in rows]

    def looked_up(self, item_id: str) -> int | None:
        """The row of an item that will hardly be asked for again; None if there is none."""
        row = self._others.get(item_id)
        return self._known.row(item_id) if row is None else row

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
        return len(self._known) + len(self._others)

    def __iter__(self) -> Iterator[str]:
        """The items in row order."""
        return chain(self._known, self._others)


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
    """Items as columns, immutable once made.

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
        count = len(ids) + len(others)
        self._fill(
            ids,
            others,
            rows,
            np.full(count, np.nan, np.float32),
            np.full(count, -1, np.int32),
            np.zeros(count, np.bool_),
            np.zeros(count, np.float32),
            np.full(count, np.nan, np.float32),
            np.full(count, -1, np.int32),
            {},
            {},
            ((row, items[it]) for row, it in enumerate(chain(ids, others)) if it in items),
        )
        self.item_places = Places(self.item_ids.of_rows, self.rows.row)
        self.category_places = Places(self._categories_at, self.category_numbers.get)

    def updated(
        self, known: Sequence[str], changed: Sequence[Item], *, then: Sequence[str] = ()
    ) -> Catalogue | None:
        """The catalogue after some items changed, at the cost of the changes.

        Args:
            known: item ids of the recall index now; those of before, and maybe more behind them.
            changed: the new descriptions.
            then: ids of the further rows now.

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
        fresh = {item.item_id for item in changed} - set(then)
        fresh = {item_id for item_id in fresh if ids.row(item_id) is None}
        others = (*then, *sorted(fresh))
        rows = {item_id: row for row, item_id in enumerate(others, len(ids))}
        count = len(ids) + len(others)
        made = object.__new__(Catalogue)
        lookup = CatalogueRows(ids, rows, self.rows._remembered)
        made._fill(
            ids,
            others,
            rows,
            _grown(self.price, count, np.nan),
            _grown(self.category, count, -1),
            _grown(self.available, count, False),
            _grown(self.margin, count, 0.0),
            _grown(self.released, count, np.nan),
            _grown(self.campaign, count, -1),
            dict(self.category_numbers),
            dict(self.campaign_numbers),
            # Every item passes here once, which is no reason to remember it.
            (
                (row, item)
                for item in changed
                if (row := lookup.looked_up(item.item_id)) is not None
            ),
        )
        made.rows = lookup
        made.item_places, made.category_places = self.item_places, self.category_places
        made.item_places.grow(made.item_ids.of_rows, lookup.row)
        made.category_places.grow(made._categories_at, made.category_numbers.get)
        return made

    def _fill(
        self,
        ids: ItemIds,
        others: tuple[str, ...],
        rows: Mapping[str, int],
        price: NDArray[np.float32],
        category: NDArray[np.int32],
        available: NDArray[np.bool_],
        margin: NDArray[np.float32],
        released: NDArray[np.float32],
        campaign: NDArray[np.int32],
        numbers: dict[str, int],
        campaigns: dict[str, int],
        items: Iterable[tuple[int, Item]],
    ) -> None:
        for row, item in items:
            available[row] = item.available
            price[row] = np.nan if item.price is None else item.price
            category[row] = (
                -1 if item.category is None else numbers.setdefault(item.category, len(numbers))
            )
            campaign[row] = _campaign_number(item, campaigns)
            margin[row] = _margin(item.properties.get("margin"))
            released[row] = _days(item.properties.get("released"))
        available.flags.writeable = False
        self._ids = ids
        self._others = others
        self.item_ids = CatalogueIds(ids, others)
        self.rows = CatalogueRows(ids, rows)
        self.price: NDArray[np.float32] = price
        self.category: NDArray[np.int32] = category
        self.available: NDArray[np.bool_] = available
        self.categories: tuple[str, ...] = tuple(numbers)
        self.category_numbers: Mapping[str, int] = numbers
        self.margin: NDArray[np.float32] = margin
        self.released: NDArray[np.float32] = released
        self.campaign: NDArray[np.int32] = campaign
        self.campaigns: tuple[str, ...] = tuple(campaigns)
        self.campaign_numbers: Mapping[str, int] = campaigns
        self.in_campaign: NDArray[np.int64] = np.flatnonzero(campaign >= 0)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    def _categories_at(self, numbers: NDArray[np.int64]) -> list[str]:
        return [self.categories[number] for number in numbers.tolist()]


def _grown(column: NDArray[Any], count: int, missing: object) -> NDArray[Any]:
    grown = np.full(count, missing, column.dtype)
    grown[: len(column)] = column
    return grown


def _campaign_number(item: Item, numbers: dict[str, int]) -> int:
    name = item.properties.get("campaign")
    return numbers.setdefault(str(name), len(numbers)) if name else -1


def _margin(value: object) -> float:
    """A share from -1 (sold at a loss of its price) to 1; 0 for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0.0
    return min(max(float(value), -1.0), 1.0)


def _days(value: object) -> float:
    """Days since the epoch of epoch milliseconds or an ISO 8601 text; NaN for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) / _DAY_MS
    if not isinstance(value, str):
        return float("nan")
    try:
        moment = dt.datetime.fromisoformat(value)
    except ValueError:
        return float("nan")
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1e3 / _DAY_MS

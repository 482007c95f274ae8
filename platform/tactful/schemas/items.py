"""The catalogue as it is read back, and lists of items for everybody."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tactful.schemas.fields import MAX_COUNT, Identifier
from tactful.schemas.item_details import Facets


class CatalogueItem(msgspec.Struct, kw_only=True, frozen=True):
    """The latest description of an item.

    Attributes:
        item_id: identity of the item.
        timestamp: time of the description, epoch milliseconds.
        title: name to show.
        category: kind of item.
        price: in the currency of the shop.
        available: whether it can be bought now.
        properties: further properties.
        image: ``sha256:`` and the hash of its picture's content, or its address; absent without.
    """

    item_id: str
    timestamp: int
    title: str | None = None
    category: str | None = None
    price: float | None = None
    available: bool = True
    properties: dict[str, Any] = {}
    image: str | UnsetType = UNSET


class ItemPage(msgspec.Struct, kw_only=True, frozen=True):
    """Some items, in the order of their ids.

    Attributes:
        items: their descriptions as they are now.
        next_cursor: send it as ``cursor`` for the next page; None at the end.
        facets: counts of all matches; absent unless asked for.
    """

    items: list[CatalogueItem]
    next_cursor: str | None = None
    facets: Facets | UnsetType = UNSET


class ListedItem(msgspec.Struct, kw_only=True, frozen=True):
    """An item of a list.

    Attributes:
        item_id: the item.
        score: 1 for the best item of the list and less for the others, in hundredths: not
            comparable with other lists. A trend has the factor by which its share grew; popular
            and latest items have none.
    """

    item_id: str
    score: float | UnsetType = UNSET


class ItemList(msgspec.Struct, kw_only=True, frozen=True):
    """Items for everybody who asks, best first.

    Attributes:
        items: available items.
        fallback: reason why there are fewer than asked for; None otherwise.
    """

    items: list[ListedItem]
    fallback: str | None = None


class ListQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Length and filter of a list.

    Attributes:
        count: number of items, 1 to 1,000.
        category: return only items of this category.
    """

    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 20
    category: Identifier | UnsetType = UNSET

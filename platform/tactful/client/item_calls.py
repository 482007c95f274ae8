"""Calls that read the catalogue and lists of items, shared by both clients."""

from __future__ import annotations

from typing import TypedDict, Unpack

from tactful.client.exchange import Call, Policy, get, segment
from tactful.schemas.items import CatalogueItem, ItemList, ItemPage
from tactful.schemas.positions import Position


class ItemFilter(TypedDict, total=False):
    """The query parameters of ``GET /v1/items``, as keywords."""

    search: str
    category: str
    available: bool
    min_price: float
    max_price: float
    facets: bool
    cursor: str
    limit: int
    after: Position


class ListOptions(TypedDict, total=False):
    """The query parameters of a list of items, as keywords: 20 items without a count."""

    count: int
    category: str


class ItemCalls:
    """Calls about items of one client."""

    def __init__(self, policy: Policy) -> None:
        """Make calls that retry by `policy`."""
        self._policy = policy

    def item(self, item_id: str, *, after: Position | None = None) -> Call[CatalogueItem]:
        """Request the description of an item."""
        return get(self._policy, f"/v1/items/{segment(item_id)}", CatalogueItem, after=after)

    def find_items(self, **wanted: Unpack[ItemFilter]) -> Call[ItemPage]:
        """Request one page of the catalogue."""
        return get(self._policy, "/v1/items", ItemPage, **wanted)

    def similar(self, item_id: str, **options: Unpack[ListOptions]) -> Call[ItemList]:
        """Request items similar to an item."""
        return self._list(f"/v1/items/{segment(item_id)}/similar", options)

    def together(self, item_id: str, **options: Unpack[ListOptions]) -> Call[ItemList]:
        """Request items that enough people took in the same visits as an item."""
        return self._list(f"/v1/items/{segment(item_id)}/together", options)

    def next_items(self, item_id: str, **options: Unpack[ListOptions]) -> Call[ItemList]:
        """Request items that enough people took right after an item."""
        return self._list(f"/v1/items/{segment(item_id)}/next", options)

    def popular(self, **options: Unpack[ListOptions]) -> Call[ItemList]:
        """Request the items that most people take now."""
        return self._list("/v1/popular", options)

    def trending(self, **options: Unpack[ListOptions]) -> Call[ItemList]:
        """Request items that rise in published statistics."""
        return self._list("/v1/trending", options)

    def latest(self, **options: Unpack[ListOptions]) -> Call[ItemList]:
        """Request the newest items."""
        return self._list("/v1/latest", options)

    def _list(self, path: str, options: ListOptions) -> Call[ItemList]:
        return get(self._policy, path, ItemList, **options)

"""Calls that read the catalogue and lists of items, shared by both clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

import msgspec

from tactful.client.exchange import Call, Policy, Send, exchange, get, segment
from tactful.schemas.fields import Scalar
from tactful.schemas.items import CatalogueItem, ItemList, ItemPage
from tactful.schemas.positions import Position
from tactful.schemas.search import SearchAnswer


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


class SearchFields(TypedDict, total=False):
    """The fields of `tactful.schemas.search.SearchRequest` beside the query, as keywords."""

    audio: bytes | None
    language: str | None
    picture: bytes | None
    user_id: str | None
    device_id: str | None
    session_id: str | None
    context: Mapping[str, Scalar]
    category: str | None
    filter: Mapping[str, Any] | None
    min_price: float | None
    max_price: float | None
    unavailable: bool
    facets: Sequence[str]
    limit: int
    cursor: str
    explain: bool
    record: bool
    trial: bool
    after: Position | None


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

    def search(self, query: str, **fields: Unpack[SearchFields]) -> Call[SearchAnswer]:
        """Request the items that a text, a phrase or a picture finds, the best first.

        A phrase is sent once: the server finishes it also for a caller that is gone.
        """
        send = Send("POST", "/v1/search", content=msgspec.json.encode({"query": query, **fields}))
        retries = None if fields.get("audio") is None else 0
        return exchange(self._policy, send, SearchAnswer, retries=retries)

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

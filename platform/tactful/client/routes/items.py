"""Requests about the catalogue: search, lists, neighbours and trends."""

from __future__ import annotations

from typing import Unpack

from tactful.client.exchange import segment
from tactful.client.item_calls import ItemFilter, ListOptions, SearchFields
from tactful.client.request import Request
from tactful.schemas.item_details import ItemNeighbours, ItemTrends
from tactful.schemas.items import CatalogueItem, ItemList, ItemPage
from tactful.schemas.positions import Position
from tactful.schemas.search import SearchAnswer


def search(**wanted: Unpack[ItemFilter]) -> Request[ItemPage]:
    """Request one page of the items that match; with `facets` also counts of all of them."""
    params = {name: _text(value) for name, value in wanted.items()}
    return Request("GET", "/v1/items", ItemPage, params=params)


def search_text(query: str, **fields: Unpack[SearchFields]) -> Request[SearchAnswer]:
    """Request the items that a text finds, the best first."""
    body, is_text = {"query": query, **fields}, fields.get("audio") is None
    return Request("POST", "/v1/search", SearchAnswer, body=body, repeatable=is_text)


def read(item_id: str, *, after: Position | None = None) -> Request[CatalogueItem]:
    """Request the latest description of an item."""
    return Request("GET", _path(item_id), CatalogueItem, params={"after": after})


def neighbours(item_id: str, *, count: int | None = None) -> Request[ItemNeighbours]:
    """Request the neighbours of an item with scores and reasons; needs the scope ``admin``."""
    return Request("GET", f"{_path(item_id)}/neighbours", ItemNeighbours, params={"count": count})


def trend(item_id: str, *, days: int | None = None) -> Request[ItemTrends]:
    """Request the released numbers about an item and its category."""
    return Request("GET", f"{_path(item_id)}/trend", ItemTrends, params={"days": days})


def similar(item_id: str, **options: Unpack[ListOptions]) -> Request[ItemList]:
    """Request items similar to an item."""
    return Request("GET", f"{_path(item_id)}/similar", ItemList, params=options)


def together(item_id: str, **options: Unpack[ListOptions]) -> Request[ItemList]:
    """Request items that enough people took in the same visits as an item."""
    return Request("GET", f"{_path(item_id)}/together", ItemList, params=options)


def following(item_id: str, **options: Unpack[ListOptions]) -> Request[ItemList]:
    """Request items that enough people took right after an item."""
    return Request("GET", f"{_path(item_id)}/next", ItemList, params=options)


def popular(**options: Unpack[ListOptions]) -> Request[ItemList]:
    """Request the items that most people take now."""
    return Request("GET", "/v1/popular", ItemList, params=options)


def trending(**options: Unpack[ListOptions]) -> Request[ItemList]:
    """Request items that rise in published statistics."""
    return Request("GET", "/v1/trending", ItemList, params=options)


def latest(**options: Unpack[ListOptions]) -> Request[ItemList]:
    """Request the newest items."""
    return Request("GET", "/v1/latest", ItemList, params=options)


def _path(item_id: str) -> str:
    return f"/v1/items/{segment(item_id)}"


def _text(value: object) -> object:
    """Return a parameter as the query has it: booleans in lower case."""
    return str(value).lower() if isinstance(value, bool) else value

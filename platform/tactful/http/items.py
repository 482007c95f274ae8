"""Endpoints of the catalogue and of lists of items that do not depend on who asks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Protocol

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tactful.catalogue.facets import FacetCounts, Filters
from tactful.http.asgi import Call, Endpoint, Host, Reply, json_reply
from tactful.http.common import PageQuery
from tactful.recommend.item_lists import ItemLists
from tactful.schemas.fields import Identifier
from tactful.schemas.item_details import FacetCount, Facets, PriceRange
from tactful.schemas.items import CatalogueItem, ItemList, ItemPage, ListQuery
from tactful.schemas.problems import ProblemError
from tactful.util.clock import now_ms
from tactful_streaming.contract.log_entries import Item

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_FEWEST_ALIKE = 200
_MOST_CATEGORIES = 50
_Price = Annotated[float, Meta(ge=0, le=1e30)]


class ListHost(Host, Protocol):
    """Application with items to list: the server, or a worker process of it."""

    def lists(self) -> AbstractContextManager[ItemLists]:
        """Hold the items as they are, to list some of them; for a moment."""


class ItemQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Position of the log to wait for."""

    after: Annotated[str, Meta(max_length=4_096)] | UnsetType = UNSET


class ItemsQuery(PageQuery):
    """One page of the items that match, and a position of the log to wait for.

    Attributes:
        search: words of title and id.
        category: only items of this category.
        available: only items that can be bought now, or only others.
        min_price: only items with a known price of at least this.
        max_price: only items with a known price of at most this.
        facets: whether to count all matches by field, too.
        after: position to wait for.
    """

    search: Annotated[str, Meta(max_length=256)] = ""
    category: Identifier | UnsetType = UNSET
    available: bool | UnsetType = UNSET
    min_price: _Price | UnsetType = UNSET
    max_price: _Price | UnsetType = UNSET
    facets: bool = False
    after: Annotated[str, Meta(max_length=4_096)] | UnsetType = UNSET


async def _find_items(platform: Platform, call: Call) -> Reply:
    query = call.query(ItemsQuery)
    await _reach(platform, query.after)
    filters = Filters(
        query.search,
        None if query.category is UNSET else query.category,
        None if query.available is UNSET else query.available,
        None if query.min_price is UNSET else query.min_price,
        None if query.max_price is UNSET else query.max_price,
    )
    page = await platform.search.run(
        lambda search: search.page(filters, after=query.cursor, limit=query.limit)
    )
    cursor = page.items[-1].item_id if page.more else None
    found = ItemPage(items=[*map(described_item, page.items)], next_cursor=cursor)
    if query.facets:
        counts = await platform.search.run(lambda search: search.facets(filters))
        found = msgspec.structs.replace(found, facets=_facets(counts))
    return json_reply(found)


async def _get_item(platform: Platform, call: Call) -> Reply:
    await _reach(platform, call.query(ItemQuery).after)
    return json_reply(described_item(item_of(platform, call)))


async def _get_similar(platform: Platform, call: Call) -> Reply:
    query, item_id = call.query(ListQuery), call.path["item_id"]
    category = None if query.category is UNSET else query.category
    # More than are listed, since common company may move others to the top.
    count = max(query.count, _FEWEST_ALIKE)
    platform.recommendations.check_ready()
    item = item_of(platform, call)
    described = await platform.search.run(lambda search: search.alike(item, category, count))
    with platform.lists() as lists:
        return json_reply(lists.similar(item_id, described, query))


async def _get_together(host: ListHost, call: Call) -> Reply:
    query = call.query(ListQuery)
    with host.lists() as lists:
        return json_reply(lists.together(call.path["item_id"], query))


async def _get_next(host: ListHost, call: Call) -> Reply:
    query = call.query(ListQuery)
    with host.lists() as lists:
        return json_reply(lists.following(call.path["item_id"], query))


async def _get_popular(host: ListHost, call: Call) -> Reply:
    query = call.query(ListQuery)
    with host.lists() as lists:
        return json_reply(lists.popular(query))


async def _get_trending(host: ListHost, call: Call) -> Reply:
    query = call.query(ListQuery)
    with host.lists() as lists:
        return json_reply(lists.trending(query))


async def _get_latest(host: ListHost, call: Call) -> Reply:
    query = call.query(ListQuery)
    with host.lists() as lists:
        return json_reply(lists.latest(query, now=now_ms()))


async def _reach(platform: Platform, after: str | UnsetType) -> None:
    """Wait for a position of the log, where one is given."""
    platform.check()
    if after is not UNSET:
        await platform.recommendations.reach(int(after) if after.isdecimal() else after)


def item_of(platform: Platform, call: Call) -> Item:
    """Return the item of a path, or raise `ProblemError`."""
    with platform.lock:
        item = platform.backend.source.items.get(call.path["item_id"])
    if item is None:
        raise ProblemError("not_found", "no item has this id")
    return item


def _facets(counts: FacetCounts) -> Facets:
    categories = sorted(counts.categories.items(), key=lambda pair: (-pair[1], pair[0]))
    return Facets(
        total=counts.total,
        categories=[
            FacetCount(value=name, items=number) for name, number in categories[:_MOST_CATEGORIES]
        ],
        prices=[PriceRange(low=low, high=high, items=it) for low, high, it in counts.prices],
        available=[
            FacetCount(value=str(state).lower(), items=number)
            for state, number in counts.available.items()
        ],
    )


def described_item(item: Item) -> CatalogueItem:
    """Return the description of an item as answers have it."""
    return CatalogueItem(
        item_id=item.item_id,
        timestamp=item.timestamp,
        title=item.title,
        category=item.category,
        price=item.price,
        available=item.available,
        properties=item.properties,
        image=item.image,
    )


_list = partial(
    Endpoint,
    "GET",
    scope="recommend",
    browser=True,
    analyst=True,
    query=ListQuery,
    answer=ItemList,
)

LIST_ENDPOINTS: tuple[Endpoint, ...] = (
    _list(
        "/v1/items/{item_id}/together",
        "List items of the same visits as an item",
        _get_together,
        details=(
            "A pair counts from `recommend.anonymous_minimum` people on who took both items in "
            "one visit, each once, and an item from as many on who took it within 84 days."
        ),
        problems=("not_found", "not_ready"),
    ),
    _list(
        "/v1/items/{item_id}/next",
        "List items that came right after an item",
        _get_next,
        details="In visits; counted from a minimum of people on, as items of the same visits are.",
        problems=("not_found", "not_ready"),
    ),
    _list(
        "/v1/popular",
        "List the most popular items",
        _get_popular,
        details=(
            "In the order of anonymous recommendations, without any count. Only items that "
            "`recommend.anonymous_minimum` people took within 84 days are listed."
        ),
        problems=("not_ready",),
    ),
    _list(
        "/v1/trending",
        "List items that rise in published statistics",
        _get_trending,
        details=(
            "Rises in the private statistics with `trending: true`, and nothing else: the noise "
            "is in them. The rises take turns, the strongest first."
        ),
        problems=("not_ready",),
    ),
    _list(
        "/v1/latest",
        "List the newest items",
        _get_latest,
        details=(
            "By their property `released`, else by the time of their description. Items whose "
            "time is in the future come later."
        ),
        problems=("not_ready",),
    ),
)
"""Lists that each process makes from its own copy of the catalogue."""

ITEM_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/items",
        "Find items",
        _find_items,
        details=(
            "By the words of title and id, without case and accents, the last word as a beginning; "
            "Chinese and Japanese by characters. In the order of ids: an item that stays as it is "
            "comes once in the pages, whatever else changes. With `facets` all matches are counted "
            "by category, price and availability. `after` waits until the items up to that "
            "position count."
        ),
        scope="recommend",
        analyst=True,
        query=ItemsQuery,
        answer=ItemPage,
        problems=("invalid", "not_ready", "not_caught_up"),
    ),
    Endpoint(
        "GET",
        "/v1/items/{item_id}",
        "Read an item",
        _get_item,
        details="Its latest description. `after` waits until the items up to that position count.",
        scope="recommend",
        analyst=True,
        query=ItemQuery,
        answer=CatalogueItem,
        problems=("not_found", "invalid", "not_ready", "not_caught_up"),
    ),
    _list(
        "/v1/items/{item_id}/similar",
        "List items similar to an item",
        _get_similar,
        details=(
            "By the words of the titles and the category, where rare ones weigh more, and by the "
            "items that enough people took in the same visits. Items without any event are listed, "
            "too."
        ),
        problems=("not_found", "not_ready"),
    ),
    *LIST_ENDPOINTS,
)

"""Endpoints that show an item to those who run a shop: its neighbours and its trend."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import stored
from tactful.http.items import item_of
from tactful.recommend.item_neighbours import NeighbourReader
from tactful.schemas.item_details import ItemNeighbours, ItemTrends

if TYPE_CHECKING:
    from tactful.server.platform import Platform


class NeighboursQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Number of neighbours of each kind."""

    count: Annotated[int, Meta(ge=1, le=100)] = 10


class TrendQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Length of the span that ends now, days."""

    days: Annotated[int, Meta(ge=1, le=366)] = 14


async def _get_neighbours(platform: Platform, call: Call) -> Reply:
    count = call.query(NeighboursQuery).count
    platform.recommendations.check_ready()
    item = item_of(platform, call)
    described = await platform.search.run(
        lambda search: search.alike(item, None, count, available=None)
    )
    alike = await platform.searches.alike(item)
    with platform.lists() as lists:
        reader = NeighbourReader(lists.view, count)
        return json_reply(reader.read(item.item_id, described, *alike))


async def _get_trend(platform: Platform, call: Call) -> Reply:
    days, item, published = (
        call.query(TrendQuery).days,
        item_of(platform, call),
        platform.statistics,
    )
    if published is None:
        return json_reply(ItemTrends(item_id=item.item_id, trends=[]))
    with platform.lists() as lists:
        rises = lists.view.trending.rises
    growth: dict[tuple[str, str], float] = {(rise.by, rise.key): rise.growth for rise in rises}
    from tactful.statistics.item_trends import item_trends  # with SQLAlchemy: no worker needs it

    read = partial(item_trends, published, item, days=days, growth=growth)
    trends = await stored(read, "the ledger cannot be read now")
    return json_reply(ItemTrends(item_id=item.item_id, trends=trends))


ITEM_DETAIL_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/items/{item_id}/neighbours",
        "List the neighbours of an item, and why they are near",
        _get_neighbours,
        details=(
            "As recall uses them: by vectors, of the same visits, right after it, and by words in "
            "common, available or not; with encoders, those whose words mean alike or whose "
            "pictures are alike, too. They have exact numbers also of few people: it needs the "
            "scope `admin`."
        ),
        scope="admin",
        query=NeighboursQuery,
        answer=ItemNeighbours,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/items/{item_id}/trend",
        "Read released numbers about an item and its category",
        _get_trend,
        details=(
            "Of every published count by item or category, the latest 500 panes at most, each "
            "with its noise and its interval."
        ),
        scope="analyst",
        query=TrendQuery,
        answer=ItemTrends,
        problems=("not_found", "not_ready"),
    ),
)

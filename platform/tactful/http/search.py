"""Endpoint of the search by text, voice or picture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import prepared
from tactful.http.subjects.audit import try_for
from tactful.schemas import browser_access as browser
from tactful.schemas.problems import ProblemError
from tactful.schemas.search import SearchAnswer, SearchRequest

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_decoder = msgspec.json.Decoder(SearchRequest)


async def _post_search(platform: Platform, call: Call) -> Reply:
    request = await call.json(_decoder)
    if call.public:
        browser.check_request(request.ranking())
        platform.rates.count(call.browser_key, 0, [request.device_id])
    if request.trial:
        await _begin_trial(platform, call, request.ranking().subject)
    answer = await platform.searches.search(
        request, partial(prepared, platform, call), trusted=call.trusted
    )
    # A further page is the same search, and a last page is not short of items.
    if answer.items and not request.cursor and not request.trial:
        platform.metrics.listed(min(request.limit, answer.total), len(answer.items))
    return json_reply(msgspec.structs.replace(answer, position=0) if call.public else answer)


async def _begin_trial(platform: Platform, call: Call, person: str | None) -> None:
    """Record a trial for a user; refuse it where the caller may not make it."""
    if call.public:
        raise ProblemError("missing_scope", "a page makes no trial: leave `trial` out")
    if person is None:
        return
    if not call.trusted:
        raise ProblemError(
            "missing_scope", "`trial` for a user or a device needs a key with the scope 'admin'"
        )
    await try_for(platform, call, person)


SEARCH_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/v1/search",
        "Search items by text, voice or picture",
        _post_search,
        details=(
            "By the words of title, labels (id, category, brand), properties and description, "
            "without case, accents and differences of width; Chinese and Japanese by characters. "
            "The last word may be unfinished, and a word that no item has stands for similar ones. "
            "Items have all words, else some; with an encoder those near in meaning follow. "
            "The order is by relevance, and for a known user by "
            "the ranking, too; send `recommendation_id` with the events that follow. The query is "
            "personal data: it is logged as a `search` event of the user, as consent allows. "
            "`audio`, in place of `query`, is a spoken question in base64; `heard` is its text, "
            "and items whose titles sound like it are found, too. `picture`, alone or beside "
            "`query`, is a file in base64, to find items that look like it. Neither is stored. "
            "With `trial` nothing is logged: neither the query nor the items as shown."
        ),
        scope="recommend",
        browser=True,
        body=SearchRequest,
        answer=SearchAnswer,
        problems=("invalid", "not_found", "not_ready", "overloaded", "not_caught_up"),
    ),
)

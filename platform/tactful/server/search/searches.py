"""Searches of a server: words to items, filters, personal order, and what is logged.

Steps of one search::

    process: vector of the query (or the text of a phrase)
    thread:  text index, nearest vectors
             filters, facets, cursor  ->  recommendation with the next 200 items as candidates:
                                          order, impression

The order is that of `POST /v1/recommend` with candidates: ranks by relevance, and for a user whose
history may be read the model or the heuristic. So what a search shows is logged and learned from
like any other recommendation.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from tactful.recommend.named_items import check_request
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import (
    Candidate,
    Recommendation,
    RecommendedItem,
    RecommendRequest,
)
from tactful.schemas.search import (
    LONGEST_QUERY,
    SearchAnswer,
    SearchFacets,
    SearchHit,
    SearchRequest,
)
from tactful.search.cursor import MOST_PAGED, read_cursor, write_cursor
from tactful.search.item_finder import ItemFinder, Matches
from tactful.search.reasons import matched_words
from tactful.search.selection import NumberedRows, Passing, best_first, relevance
from tactful.search.text_index import TextMatches
from tactful.server.search.near_items import FindNear, ItemsAlike, NearItems
from tactful.server.search.search_thread import SearchThread
from tactful.server.search.voice import Voice, phrase_of
from tactful.speech.messages import Heard
from tactful.subjects.permissions import CLAIM
from tactful.util.extras import missing_module
from tactful.util.yielding_lock import YieldingLock
from tactful_streaming.contract.log_entries import Event, Item, encode_entry

if TYPE_CHECKING:
    from tactful.server.platform import Platform

Prepare = Callable[[RecommendRequest], RecommendRequest]

LONGEST_LOGGED = 256
"""Characters of a query that are logged and used for features."""

_QUERY = "query"  # name in the context of a request and in the properties of an event
_RANKED = 200  # candidates of a page


@dataclass(frozen=True)
class _Page:
    """Items that a page may show: those that were not shown yet, the most relevant first."""

    numbers: NDArray[np.int64]
    relevance: NDArray[np.float32]
    text: NDArray[np.float32]  # BM25 of each, NaN for none
    near: NDArray[np.float32]  # cosine of each, NaN for none
    total: int
    facets: SearchFacets | None
    first: int  # number of items that the page may show: `_RANKED` at most


class Searches:
    """Answers searches on the event loop; words and vectors are looked up in a thread."""

    def __init__(self, platform: Platform) -> None:
        """Search the items of a platform; the index is built at the first search."""
        self._platform = platform
        settings, source = platform.settings, platform.backend.source
        reading = YieldingLock(platform.lock.inner)
        self._finder = ItemFinder(source, reading)
        self._thread = SearchThread(self._finder, queue=settings.server.recommend_queue)
        self._rows = NumberedRows()
        self._voice = Voice(settings.speech, source, reading, platform.metrics.phrase)
        self._near = NearItems(settings, source, reading)

    async def stop(self) -> None:
        """End the processes that transcribe phrases and encode queries."""
        await self._voice.stop()
        await self._near.stop()

    def close(self) -> None:
        """End the threads after the searches that wait."""
        self._thread.close()
        self._near.close()

    async def search(
        self, request: SearchRequest, prepare: Prepare, *, trusted: bool
    ) -> SearchAnswer:
        """Answer one search.

        Args:
            request: the search.
            prepare: returns a request without the parts of its context that must not be used.
            trusted: whether the caller has the rights of an administrator.

        Raises:
            ProblemError: if filters contradict each other, the cursor is of another search, or it
                cannot be answered in time.
        """
        started = time.perf_counter()
        ranking = request.ranking()
        check_request(ranking)
        recommendations = self._platform.recommendations
        recommendations.check_ready()
        self._thread.check()
        if request.after is not None:
            await recommendations.reach(request.after)
        request, heard = await self._hear(request)
        by_sound = {} if heard is None else {hit.item_id: hit.score for hit in heard.by_sound}
        near, missing = None, None
        # The meaning of misheard words finds other items: docs/decisions/0100.
        if not by_sound:
            near, missing = await self._find_near(request)
        found = await self._find(request.query, by_sound, near)
        page = self._page(request, found)
        context = {**request.context, _QUERY: request.query[:LONGEST_LOGGED]}
        asked = prepare(replace(ranking, context=context, candidates=self._candidates(page)))
        answer = None
        if asked.candidates:
            answer = await recommendations.recommend(asked, trusted=trusted, trial=request.trial)
        # not before: it may be refused, and sent again
        if request.record and not request.cursor and not request.trial:
            self._record(asked)
        notes = [note for note in (_note(request, found, page), missing) if note]
        made = replace(self._answer(request, found, page, answer), note="; ".join(notes) or None)
        took = (time.perf_counter() - started) * 1000
        return replace(
            made,
            took_ms=round(took, 3),
            position=recommendations.position,
            heard=None if heard is None else phrase_of(heard),
        )

    async def alike(self, item: Item) -> ItemsAlike:
        """Return items near one by encoded words, and by encoded pictures."""
        return await self._near.alike(item)

    async def _hear(self, request: SearchRequest) -> tuple[SearchRequest, Heard | None]:
        """Return the request with the text of its audio, if it has any."""
        if request.audio is None:
            return request, None
        heard = await self._voice.hear(request.audio, request.language)
        query = heard.transcript.text[:LONGEST_QUERY]
        return replace(request, query=query, audio=None, language=None), heard

    async def _find_near(self, request: SearchRequest) -> tuple[FindNear | None, str | None]:
        """Return how to find items by the picture, else by the meaning; or why not."""
        if request.picture is not None:
            return await self._near.picture(request.picture), None
        return await self._near.text(request.query)

    async def _find(
        self, query: str, by_sound: Mapping[str, float], near: FindNear | None
    ) -> Matches:
        def find(finder: ItemFinder) -> Matches:
            found = finder.find(query, by_sound=by_sound, near=None if near is None else near())
            self._rows.of(self._platform.recommender.catalogue, finder.ids)
            return found

        try:
            return await self._thread.run(find)
        except ImportError as error:
            raise ProblemError("not_found", missing_module(error)) from None

    def _page(self, request: SearchRequest, found: Matches) -> _Page:
        """Apply the filters, and order what was not shown yet by relevance."""
        with self._platform.lists() as lists:
            view = lists.view
            catalogue, rows = view.catalogue, self._rows.of(view.catalogue, self._finder.ids)
            passing = Passing.of(rows[found.numbers], request, catalogue)
            total = int(np.count_nonzero(passing.passing))
            facets = passing.facets() if request.facets else None
            numbers = found.numbers[passing.passing]
            text, near = found.scores[passing.passing], found.near[passing.passing]
            sound = found.sound[passing.passing]
            if request.cursor:
                following = read_cursor(self._finder.cursors, request, len(rows))
                stays = Passing.of(rows[following], request, catalogue).passing
                following = following[stays]
                text, near, sound = (
                    _looked_up(following, numbers, it) for it in (text, near, sound)
                )
                numbers = following
            words_first = found.text.exact and request.picture is None and np.isnan(sound).all()
            ranks = relevance(
                text, (near, sound), rows[numbers], view, words_first=bool(words_first)
            )
        if not request.cursor:
            order = best_first(ranks, numbers, MOST_PAGED)
            numbers, (ranks, text, near) = numbers[order], (it[order] for it in (ranks, text, near))
        with_words = int(np.count_nonzero(~np.isnan(text)))
        first = min(len(numbers), _RANKED)
        if words_first and with_words >= request.limit:  # taste puts nothing else before them
            first = min(with_words, _RANKED)
        return _Page(numbers, ranks, text, near, total, facets, first)

    def _candidates(self, page: _Page) -> tuple[Candidate, ...]:
        ids = self._finder.ids
        return tuple(
            Candidate(
                item_id=ids[number],
                score=rank,
                text_match=None if math.isnan(text) else text,
                vector_match=None if math.isnan(near) else near,
            )
            for number, rank, text, near in zip(
                *(it[: page.first].tolist() for it in (page.numbers, page.relevance)),
                *(it[: page.first].tolist() for it in (page.text, page.near)),
                strict=True,
            )
        )

    def _record(self, request: RecommendRequest) -> None:
        """Log the query as an event of the user, as far as the user's consent allows."""
        query = request.context.get(_QUERY)
        if request.subject is None or not query:
            return
        claim = request.context.get(CLAIM)
        event = Event(
            event_id=f"search:{secrets.token_hex(16)}",
            type="search",
            timestamp=self._platform.resources.installation.clock(),
            user_id=request.user_id,
            device_id=request.device_id,
            session_id=request.session_id,
            properties={_QUERY: query},
            context={} if claim is None else {CLAIM: claim},
        )
        if self._platform.minimise is not None:
            event = self._platform.minimise(event)
        self._platform.ingest.append_internal(encode_entry(event))

    def _answer(
        self,
        request: SearchRequest,
        found: Matches,
        page: _Page,
        answer: Recommendation | None,
    ) -> SearchAnswer:
        if answer is None:
            return SearchAnswer(items=[], total=page.total, facets=page.facets)
        ids = self._finder.ids
        window = {ids[number]: at for at, number in enumerate(page.numbers[: page.first].tolist())}
        ranked = [item for item in answer.items if item.item_id in window]
        shown = [window[item.item_id] for item in ranked]
        following = np.delete(page.numbers, shown)
        if len(shown) < min(request.limit, len(window)):  # the others may not be shown
            following = page.numbers[len(window) :]
        hits = [
            self._hit(item, page, at, found.text if request.explain else None)
            for item, at in zip(ranked, shown, strict=True)
        ]
        return SearchAnswer(
            recommendation_id=None if request.trial else answer.recommendation_id,
            items=hits,
            total=page.total,
            next_cursor=write_cursor(self._finder.cursors, request, following),
            facets=page.facets,
            model_version=answer.model_version,
            variant=answer.variant,
            fallback=answer.fallback,
        )

    def _hit(
        self, ranked: RecommendedItem, page: _Page, at: int, explained: TextMatches | None
    ) -> SearchHit:
        item = self._platform.backend.source.items.get(ranked.item_id)
        matched = None
        if explained is not None and item is not None:
            matched = matched_words(item, explained.words)
        return SearchHit(
            item_id=ranked.item_id,
            score=ranked.score,
            text_match=_number(page.text[at]),
            vector_match=_number(page.near[at]),
            title=None if item is None else item.title,
            matched=matched,
        )


def _note(request: SearchRequest, found: Matches, page: _Page) -> str | None:
    """Return why a search has no item, or why items have not all words."""
    if not len(found.numbers):
        if request.picture is not None:
            return "no item has a picture that is encoded yet"
        if not found.text.words:
            return "the query has no letter and no digit to search for"
        return "no item has any of the words, nor one like them"
    if not page.total:
        return "items match, and none of them passes the filters"
    if not found.text.words:
        return None
    if not len(found.text.numbers):
        return "no item has any of the words: these are like them in meaning, sound or looks"
    if not found.text.all_words:
        note = "no item has all words: these have some"
        others = len(found.numbers) > len(found.text.numbers)
        return f"{note}, or are like them in meaning, sound or looks" if others else note
    return None


def _number(value: np.float32) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)


def _looked_up(
    wanted: NDArray[np.int64], numbers: NDArray[np.int64], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the scores of some numbers, NaN for those without."""
    if not len(numbers):
        return np.full(len(wanted), np.nan, np.float32)
    order = np.argsort(numbers)
    at = np.minimum(np.searchsorted(numbers[order], wanted), len(numbers) - 1)
    found = order[at]
    return np.where(numbers[found] == wanted, scores[found], np.nan).astype(np.float32)

"""Candidates of a request: at most a thousand items of all channels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext
from tactful.kernels.sparse_scores import Scores, begins, stable_order
from tactful.recall.blend import Blend, Own, Window, kinds
from tactful.recall.cohorts import coldness
from tactful.recall.crossings import Taste
from tactful.recall.index import CHANNELS, RecallIndex
from tactful.recall.neighbours import NEAREST, NeighbourScores, direction, score_neighbours
from tactful.recall.popularity import CommonItems, Popularity, is_in
from tactful.recall.trending import Trending
from tactful.schemas.recommendations import RecommendRequest
from tactful.vectors.ivf_index import Snapshot


@dataclass(frozen=True)
class CatalogueView:
    """State of the catalogue during one request."""

    index: RecallIndex  # the learned part of recall
    search: Snapshot  # search over the vectors of the catalogue's first rows
    catalogue: Catalogue  # the items; its first rows are the rows of `search`
    popular: Popularity
    trending: Trending = field(default_factory=Trending.empty)
    common: CommonItems | None = None  # what anonymous requests count from; None for every item

    def anonymous(self) -> CatalogueView:
        """Return the view of anonymous requests."""
        return self if self.common is None else replace(self, popular=self.common.popular)

    @property
    def leading(self) -> NDArray[np.int64]:
        """First rows for people of whom nothing is known, see `RecallIndex.leading`."""
        leading = self.index.leading.astype(np.int64)
        return leading if self.common is None else leading[is_in(leading, self.common.rows)]

    @property
    def trained_rows(self) -> int:
        """Rows from this one on came after training; without a model none did."""
        return len(self.index.item_ids) or len(self.catalogue)


Quota = Annotated[int, Meta(ge=0, le=1_000)]


class Quotas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Most candidates of each channel; 0 turns it off. An arm may have its own."""

    # items that followed: so many for the last items and for the whole visit
    following: Quota = 150
    together: Quota = 150  # items of the same visits: so many for this visit and for the history
    sessions: Quota = 200  # items of similar visits
    vectors: Quota = 200  # items near to the visit, or to the history when the visit is empty
    repeat: Quota = 120  # items that the user takes again and again
    popular: Quota = 100
    intent: Quota = 60  # popular items of the categories in the request's intent
    campaign: Quota = 20  # items of a running campaign, the most popular first
    cohort: Quota = 100  # items of the user's cohorts, while little else is known
    crossed: Quota = 100  # items by profiles that crossed, while little else is known
    trending: Quota = 60
    # limit for all channels together; the items placed highest by a channel stay
    total: Quota = 1_000


@dataclass(frozen=True)
class Candidates:
    """Candidate items, and scores of all items by the channels.

    rows:    [3, 17, 29, ...]     channel: [0, 4, 2, ...]  positions in `CHANNELS`
    similar_sessions.of(rows):    [.0, .8, .1, ...]
    """

    rows: NDArray[np.int64]  # catalogue rows, ascending, shape (n,)
    # number in `CHANNELS` of the channel that ranked the item best, shape (n,)
    channel: NDArray[np.int8]
    search: Snapshot
    # scores by the neighbours of the items of the visit and the history
    neighbours: NeighbourScores
    similar_sessions: Scores  # scores by visits similar to this one, or to the history
    # vector of the latest item of the visit, or of the history when the visit is empty; zero when
    # there is none
    last_vector: NDArray[np.float32]
    # direction of the visit in vector space; zero when it is empty
    session_vector: NDArray[np.float32]
    history_vector: NDArray[np.float32]  # direction of the history
    # difference in log-odds of taking an item, between the user's cohorts and all users; None where
    # no cohort is known
    lift: Scores | None = None
    taste: Taste | None = None  # by profiles that crossed; None where none did
    # weight by category, as a device sent it; None where it sent none
    intent: Mapping[str, float] | None = None
    blend: Blend = field(default_factory=Blend)  # weights of the evidence
    window: Window = "month"  # what popularity counts
    # probability of each row that was drawn for a placement rule
    drawn: Mapping[int, float] = field(default_factory=dict)
    # score, text match and vector match of each candidate as the request has them, NaN for none,
    # shape (3, n); None where the request names no candidates
    asked: NDArray[np.float32] | None = None

    def with_rows(self, rows: NDArray[np.int64], channel: NDArray[np.int8]) -> Candidates:
        """Replace the candidates by other rows, ascending."""
        return replace(self, rows=rows, channel=channel)

    def kinds(self, own: Own) -> Sequence[Scores]:
        """Return the scores of each kind of evidence for a user who dealt with `own`."""
        return kinds(self.neighbours, self.similar_sessions, own)

    def lifts(self) -> NDArray[np.float32] | None:
        """Return the lifts of the candidates by cohorts and profiles, shape (n,); None for none."""
        by_cohort = None if self.lift is None else self.lift.of(self.rows)
        if self.taste is None:
            return by_cohort
        by_profile = self.taste.lift.of(self.rows)
        return by_profile if by_cohort is None else by_cohort + by_profile

    def vectors(self) -> NDArray[np.float32]:
        """Read the vectors of the candidates, or zero, shape (n, dimensions)."""
        return self.search.vectors_of(self.rows)


def gather(
    view: CatalogueView,
    context: RequestContext,
    *,
    quotas: Quotas,
    allowed: NDArray[np.bool_],
    intent: Mapping[str, float] | None = None,
    least: int = 0,
) -> Candidates:
    """Query every channel and merge their items; none when all are silent or filtered.

    The items of the intent are not among them, see `with_intended`. At least `least` candidates
    come, whatever the quotas, if so many are allowed: the most popular fill up. A read-only array
    `allowed`, shape (len(catalogue),), is prepared once and kept for the next search.
    """
    scored = _score(view, context, intent)
    proposals = [*_proposals(view, context, scored, quotas, allowed)]
    rows, channels = _merged(proposals, max(quotas.total, least))
    if len(rows) < least:
        proposals.append(("popular", view.popular.first(allowed, least)))
        rows, channels = _merged(proposals, len(rows) + least)
    return scored.with_rows(rows, channels)


def by_channel(
    view: CatalogueView,
    context: RequestContext,
    *,
    quotas: Quotas,
    allowed: NDArray[np.bool_],
    intent: Mapping[str, float] | None,
    most: int,
) -> dict[str, NDArray[np.int64]]:
    """Return the first rows that each channel proposes by itself, best first; none of silent ones.

    A channel with several proposals places a row where the best of them does.
    """
    proposals = defaultdict[str, list[NDArray[np.int64]]](list)
    scored = _score(view, context, intent)
    for channel, rows in _proposals(view, context, scored, quotas, allowed):
        proposals[channel].append(rows)
    if intended := _intended(scored.intent or {}, view, allowed, quotas.intent):
        proposals["intent"] += intended
    found = {}
    for channel, groups in proposals.items():
        rows = np.concatenate(groups)
        places = np.concatenate([np.arange(len(group)) for group in groups])
        ordered = rows[np.argsort(places, kind="stable")]
        _, first = np.unique(ordered, return_index=True)
        if len(first):
            found[channel] = ordered[np.sort(first)][:most]
    return found


def named(
    view: CatalogueView,
    context: RequestContext,
    request: RecommendRequest,
    allowed: NDArray[np.bool_],
) -> Candidates:
    """Return the candidates that a request names, as far as they are known and allowed."""
    asked = {candidate.item_id: candidate for candidate in reversed(request.candidates)}
    found = sorted(
        (row, item_id)
        for item_id, row in zip(asked, view.catalogue.rows.of_many(asked), strict=True)
        if row is not None and allowed[row]
    )
    columns = np.array(
        [
            (asked[item_id].score, asked[item_id].text_match, asked[item_id].vector_match)
            for _, item_id in found
        ],
        np.float32,
    ).reshape(-1, 3)
    scored = _score(view, context, request.intent)
    rows = np.array([row for row, _ in found], np.int64)
    channels = np.full(len(rows), CHANNELS.index("asked"), np.int8)
    return replace(scored.with_rows(rows, channels), asked=columns.T)


def _score(
    view: CatalogueView, context: RequestContext, intent: Mapping[str, float] | None
) -> Candidates:
    """Compute the scores that need no candidates; the result has no rows yet."""
    session, history = context.session[:20], context.history[:30]
    recent = np.array([*session, *history], np.int64)
    vectors, index = view.search.vectors_of(recent), view.index
    stands_in = index.sessions.weights.history
    tables = index.following, index.together, index.sessions
    return Candidates(
        rows=recent[:0],
        channel=np.zeros(0, np.int8),
        search=view.search,
        neighbours=score_neighbours(*tables, recent, len(session), len(view.catalogue.item_ids)),
        similar_sessions=index.sessions.scores(session or (history if stands_in else [])),
        blend=index.blends.within if session else index.blends.first,
        window=index.blends.popular,
        last_vector=direction(vectors[:1], (session or history)[:1]),
        session_vector=direction(vectors[: len(session)], session),
        history_vector=direction(vectors[len(session) :], history),
        lift=index.cohorts.lift(context.properties) if context.properties else None,
        taste=index.crossings.taste(context.crossed) if context.crossed else None,
        intent=intent or None,
    )


def _proposals(
    view: CatalogueView,
    context: RequestContext,
    scored: Candidates,
    quotas: Quotas,
    allowed: NDArray[np.bool_],
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield the allowed items of each channel, best first, within its quota."""

    def first(rows: NDArray[np.int64], quota: int) -> NDArray[np.int64]:
        return rows.take(np.flatnonzero(allowed.take(rows))[:quota])

    neighbours, popular, catalogue = scored.neighbours, view.popular, view.catalogue
    # In a short visit `next_three` has all that `next_session` could add.
    of_session = quotas.following if len(context.session) > NEAREST else 0
    for channel, scores, quota in (
        ("next", neighbours.next_three, quotas.following),
        ("next", neighbours.next_session, of_session),
        ("together", neighbours.together_session, quotas.together),
        ("together", neighbours.together_history, quotas.together),
    ):
        if quota:
            yield channel, first(scores.ranked, quota)
    anchor = scored.session_vector if scored.session_vector.any() else scored.history_vector
    if anchor.any() and quotas.vectors:
        yield "vectors", view.search.nearest(anchor, quotas.vectors, allowed)[0]
    yield "repeat", _repeated(context, catalogue, allowed, quotas.repeat)
    yield "popular", _popular(popular, context, allowed, quotas.popular)
    if not context.known:
        yield "popular", first(view.leading, quotas.popular)
    if quotas.sessions and len(scored.similar_sessions.rows):
        yield "sessions", first(scored.similar_sessions.ranked, quotas.sessions)
    if len(catalogue.in_campaign):
        shown = catalogue.in_campaign[allowed[catalogue.in_campaign]]
        yield "campaign", popular.best(shown, quotas.campaign)
    if scored.lift is not None and quotas.cohort and coldness(context):
        yield "cohort", first(view.index.cohorts.expected(scored.lift), quotas.cohort)
    if scored.taste is not None and quotas.crossed and coldness(context):
        yield "crossed", first(scored.taste.ranked, quotas.crossed)
    if len(view.trending.rows):
        yield "trending", first(view.trending.rows, quotas.trending)


def _merged(
    proposals: Sequence[tuple[str, NDArray[np.int64]]], total: int
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Return at most `total` rows, ascending, and of each the channel that placed it highest."""
    sizes = [len(rows) for _, rows in proposals]
    rows = np.concatenate([rows for _, rows in proposals])
    places = np.concatenate([np.arange(size) for size in sizes])
    channels = np.repeat([np.int8(CHANNELS.index(channel)) for channel, _ in proposals], sizes)
    # By row, then by place; of two channels at the same place the earlier one comes first.
    order = stable_order(rows * max(sizes) + places)
    kept = order.take(np.flatnonzero(begins(rows.take(order))))
    if len(kept) > total:
        highest = stable_order(places[kept])[:total]
        kept = kept[np.sort(highest)]
    return rows[kept], channels[kept]


def extended(candidates: Candidates, channel: str, rows: NDArray[np.int64]) -> Candidates:
    """Add allowed rows of a further channel; candidates that are there already keep theirs."""
    rows = np.setdiff1d(rows, candidates.rows, assume_unique=True)
    if not len(rows):
        return candidates
    every = np.concatenate([candidates.rows, rows])
    added = np.full(len(rows), CHANNELS.index(channel), np.int8)
    order = np.argsort(every)
    return candidates.with_rows(every[order], np.concatenate([candidates.channel, added])[order])


def with_intended(
    candidates: Candidates, view: CatalogueView, allowed: NDArray[np.bool_], quota: int
) -> Candidates:
    """Add the most popular items of each intended category; they crowd out no other candidate.

    A larger weight never takes an item of its category away, nor adds one of another.
    """
    groups = _intended(candidates.intent or {}, view, allowed, quota)
    return extended(candidates, "intent", np.concatenate(groups)) if groups else candidates


def _intended(
    intent: Mapping[str, float], view: CatalogueView, allowed: NDArray[np.bool_], quota: int
) -> list[NDArray[np.int64]]:
    """Return the most popular items of each intended category, by its weight."""
    catalogue = view.catalogue
    weights = {
        catalogue.category_numbers[name]: min(weight, 1.0)
        for name, weight in intent.items()
        if name in catalogue.category_numbers and weight > 0.0
    }
    total = sum(weights.values())
    groups = []
    for number, weight in weights.items():
        share = round(quota * weight / total)
        rows = np.flatnonzero((catalogue.category == number) & allowed)
        groups.append(view.popular.best(rows, share))
    return groups


def _popular(
    popular: Popularity, context: RequestContext, allowed: NDArray[np.bool_], quota: int
) -> NDArray[np.int64]:
    """Return the most popular allowed rows; those of which nothing is known come by chance."""
    rows = popular.first(allowed, quota)
    if not len(popular.unknown) or not len(rows):
        return rows
    known = rows[popular.places_of(rows) < popular.known]
    generator = np.random.default_rng(context.seed)
    return np.concatenate([known, popular.drawn(allowed, quota - len(known), generator)])


def _repeated(
    context: RequestContext, catalogue: Catalogue, allowed: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    """Return the allowed rows that the user took most, ties by item id."""
    items = context.grouped("taken_364d")
    taken = [
        (-amount, item, row)
        for (item, amount), row in zip(items.items(), catalogue.rows.of_many(items), strict=True)
        if row is not None and allowed[row] and amount >= 0.0
    ]
    return np.array([row for _, _, row in nsmallest(count, taken)], np.int64)

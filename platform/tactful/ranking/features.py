"""The features of the ranker: one definition for training and serving.

Training replays the log through the same engine and calls the same `assemble` as a request, so
that every feature means the same to the model and to the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from statistics import median

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import FeatureSource, RequestContext, read_placed
from tactful.lifecycle.sources import SOURCES
from tactful.ranking.own_columns import OwnColumn, fill_own, packaged_features
from tactful.ranking.rates import CLICKS, OF_CATEGORIES, RATES, rates_of
from tactful.ranking.request_columns import (
    MATCHES,
    OF_CONTEXT,
    PLAIN,
    intended_of,
    matches_of,
    plain_values,
    write_categories,
)
from tactful.recall.blend import gather_evidence, own_items
from tactful.recall.candidates import Candidates
from tactful.recall.neighbours import NeighbourScores
from tactful.recall.popularity import NOW, SEEN, SOLD, CommonItems, is_in
from tactful.recall.rejections import rejected_rows, similarity_to
from tactful_streaming.definitions.model import Definitions

RANKING_FEATURES: tuple[str, ...] = (
    *("next_last", "next_three", "next_session", "next_place"),
    *("after_last", "after_second", "before_last", "similar_sessions", "similar_place"),
    *("together_last", "together_session", "together_history"),
    *("vector_last", "vector_session", "vector_history"),
    *("taken_28d", "taken_364d", "taken_per_visit", "taken_share", "days_since_taken"),
    *("sold_7d", "sold_28d", "sold_84d", "sold_trend", "category_sold_28d"),
    *("category_share", "category_in_session", "category_of_last", "category_viewed_1h"),
    *("in_session", "price", "price_to_session", "session_length", "history_items"),
    *("visits_364d", "spend_28d", "days_since_visit", "cohort_lift"),
    *("intent_weight", "intent_place"),
    *("seen_84d", "seen_share", "days_since_seen"),
    *("seen_7d", "seen_28d", "seen_trend", "category_seen_28d"),
    *("blend", "blend_place"),
    *("sold_now", "seen_now"),
    *("asked_score", "asked_text", "asked_vector"),
    *("days_since_returned", "vector_rejected"),
    *RATES,
    "item_age",
    *PLAIN,
    *MATCHES,
)
"""Names of the columns `assemble` returns, in order."""


ASKED: tuple[str, ...] = ("asked_score", "asked_text", "asked_vector")
"""Columns of numbers that a request brings with its candidates."""

REQUESTED: tuple[str, ...] = ("intent_weight", "intent_place", *ASKED, *OF_CONTEXT)
"""Columns of fields of a request that are not logged: they cannot be computed again."""


def column_names(own: Sequence[OwnColumn]) -> tuple[str, ...]:
    """Return the names of all columns, with the shop's own."""
    return (*RANKING_FEATURES, *(column.name for column in own))


def layout(definitions: str) -> str:
    """Return a hash of the meaning of feature rows, see `columns_fingerprint`."""
    text = "\n".join((definitions, *RANKING_FEATURES))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def columns_fingerprint(definitions: Definitions) -> str:
    """Return the fingerprint of definitions without packaged features that no column reads.

    These are the features of the life cycle. An installation of a version before them has the same
    fingerprint, so its models still fit.
    """
    unread = frozenset(feature for feature in packaged_features() if feature.name in SOURCES)
    read = tuple(feature for feature in definitions.features if feature not in unread)
    return replace(definitions, features=read).fingerprint


def absent_features(definitions: Definitions) -> tuple[str, ...]:
    """Return the packaged features that `definitions` lack: each counts as 0."""
    defined = {(feature.entity, feature.name) for feature in definitions.features}
    return tuple(
        feature.name
        for feature in packaged_features()
        if (feature.entity, feature.name) not in defined
    )


_DAY = 86_400_000.0
_LEAST_PRICE = 0.01
_RIVALS = 100
_FADING = (1 + 0.8 + 0.8**2 + 0.8**3) / 4  # of even sales in `category_sold_28d`

_SCORES = (*NeighbourScores._fields, "similar_sessions")
"""Columns that are scores of the candidates, under the same names."""

_COLUMN = {name: number for number, name in enumerate(RANKING_FEATURES)}


def _columns(*names: str) -> NDArray[np.int64]:
    return np.array([_COLUMN[name] for name in names])


_SCORED = _columns(*_SCORES)
_LIFT = _COLUMN["cohort_lift"]
_SCORED_AND_LIFT = _columns(*_SCORES, "cohort_lift")
_DONE = _columns(
    *("in_session", "taken_28d", "taken_364d", "days_since_taken", "seen_84d", "days_since_seen")
)
_OF_USER = _columns(
    *("in_session", "taken_28d", "taken_364d", "taken_per_visit", "taken_share"),
    *("days_since_taken", "session_length", "history_items", "visits_364d", "spend_28d"),
    *("days_since_visit", "seen_84d", "seen_share", "days_since_seen"),
)
_OF_CATEGORIES = _columns("category_share", "category_in_session", "category_viewed_1h")
_BY_ITEM = (*SOLD, "sold_trend", *SEEN, "seen_trend", *NOW)
_BY_CATEGORY = ("category_sold_28d", "category_seen_28d")
SALES = (*_BY_ITEM, *_BY_CATEGORY, *RATES)
"""Columns of what everybody takes and sees: hidden in anonymous recommendations."""

_SALES = _columns(*_BY_ITEM)
_RECENT = _columns(*NOW)
_OF_CATEGORY = _columns(*_BY_CATEGORY)
_NEARNESS = _columns("vector_last", "vector_session", "vector_history")
_INTENDED = _columns("intent_weight", "intent_place")
_ASKED = _columns(*ASKED)
_RATES = _columns(*RATES)
_PLAIN = _columns(*PLAIN)
_MATCHES = _columns(*MATCHES)


def assemble(
    candidates: Candidates,
    context: RequestContext,
    *,
    source: FeatureSource,  # the feature engine, for the sales of items and categories
    catalogue: Catalogue,
    own: Sequence[OwnColumn] = (),  # columns of the shop's own features
) -> NDArray[np.float32]:
    """Lay out the features of every candidate, shape (len(candidates.rows), columns).

    Columns are `RANKING_FEATURES`, then the shop's own.
    Each column is contiguous; NaN where a value does not exist, such as the days since taken of an
    item never taken.
    """
    rows = candidates.rows
    features = np.empty((len(RANKING_FEATURES) + len(own), len(rows)), np.float32)
    if not len(rows):
        return features.T
    features[_NEARNESS] = _nearness(candidates)
    _scores(candidates, features)
    _blend(candidates, context, catalogue, features)
    _user(context, catalogue, rows, features)
    category = _catalogue(context, catalogue, rows, features)
    _sales(source, catalogue, rows, category, context.at, features)
    if candidates.window in ("month", "ever"):
        features[_RECENT] = 0.0  # they order events worse, and trees would learn their noise
    features[_ASKED] = np.nan if candidates.asked is None else candidates.asked
    _rejections(candidates, context, catalogue, features)
    features[_PLAIN] = plain_values(context)[:, None]
    features[_MATCHES] = matches_of(context, catalogue, rows)
    intended = intended_of(candidates.intent, catalogue)
    features[_INTENDED] = np.nan if intended is None else intended[:, category]
    if own:
        fill_own(own, rows, context, source, catalogue, features[len(RANKING_FEATURES) :])
    return features.T


def hide_rare(
    features: NDArray[np.float32],  # as `assemble` lays them out; changed in place
    rows: NDArray[np.int64],
    catalogue: Catalogue,
    common: CommonItems,
    own: Sequence[OwnColumn] = (),
) -> None:
    """Set the sales of all but common items to 0, also in the sales of categories.

    Rates and the shop's own columns that say what others did are missing.
    """
    for place, column in enumerate(own, len(RANKING_FEATURES)):
        if column.of_others:
            features[:, place] = np.nan
    category, sums = catalogue.category.take(rows), common.of_categories
    features[np.ix_(~is_in(rows, common.rows), _SALES)] = 0.0
    features[:, _RATES] = np.nan
    known = np.flatnonzero(category >= 0)
    number = category[known]
    amounts = np.zeros((len(known), len(_OF_CATEGORY)), np.float32)
    counted = number < len(sums)  # others came after the count
    amounts[counted] = _FADING * sums[number[counted]]
    features[np.ix_(known, _OF_CATEGORY)] = amounts


def _scores(candidates: Candidates, features: NDArray[np.float32]) -> None:
    """Fill the columns of scores and places; without a score 0, and no place."""
    rows = candidates.rows
    lists = [*candidates.neighbours, candidates.similar_sessions]
    columns = _SCORED
    features[columns] = 0.0
    if candidates.lift is None:
        features[_LIFT] = np.nan
    else:
        features[_LIFT] = 0.0
        lists.append(candidates.lift)
        columns = _SCORED_AND_LIFT
    # All lists are looked up at once: one by one takes a numpy call for each step of each.
    numbers = np.repeat(columns, [len(scores.rows) for scores in lists])
    values = np.concatenate([scores.values for scores in lists])
    _write(features, numbers, np.concatenate([scores.rows for scores in lists]), values, rows)
    # Places among all scored items, so that they depend on the context alone.
    for column, scores in (
        (_COLUMN["next_place"], candidates.neighbours.next_three),
        (_COLUMN["similar_place"], candidates.similar_sessions),
    ):
        features[column] = np.nan
        ranked = scores.ranked[: np.count_nonzero(scores.values > 0)]
        places, present = _find(ranked, rows)
        features[column][places] = present


def _blend(
    candidates: Candidates,
    context: RequestContext,
    catalogue: Catalogue,
    features: NDArray[np.float32],
) -> None:
    """Fill the columns of the blend, without popularity, and of its place.

    Places are counted among the best items of each kind of evidence: no filter changes them.
    """
    own = own_items(context, catalogue)
    kinds = candidates.kinds(own)
    others = np.unique(np.concatenate([scores.ranked[:_RIVALS] for scores in kinds]))
    rows = np.concatenate([candidates.rows, others])
    scores = gather_evidence(rows, kinds, own).score(candidates.blend)
    found, rivals = scores[: len(candidates.rows)], np.sort(scores[len(candidates.rows) :])
    features[_COLUMN["blend"]] = found
    features[_COLUMN["blend_place"]] = len(rivals) - np.searchsorted(rivals, found, side="right")


def _find(
    wanted: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find `wanted` in ascending `rows`: places in `rows` of those present, and in `wanted`."""
    places = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
    present = np.flatnonzero(rows.take(places) == wanted)
    return places.take(present), present


def _write(
    features: NDArray[np.float32],
    columns: NDArray[np.int64],
    wanted: NDArray[np.int64],
    values: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> None:
    """Write values into columns, each at the place of its wanted row in `rows`."""
    places, present = _find(wanted, rows)
    # Flat places are several times as fast as pairs of them.
    features.reshape(-1)[columns.take(present) * len(rows) + places] = values.take(present)


def _nearness(candidates: Candidates) -> NDArray[np.float32]:
    """Return inner products with the last item, the visit, the history, shape (3, n)."""
    directions = (candidates.last_vector, candidates.session_vector, candidates.history_vector)
    near = products(candidates.vectors(), np.array(directions))
    if not candidates.last_vector.any():
        near[0] = np.nan  # there is no latest item
    return near


def products(vectors: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute inner products (m, n) of (n, d) with (m, d); each depends on its two vectors alone.

    A matrix product of BLAS adds up in an order that depends on the number of rows, so a feature
    would differ in its last bits between training and serving. Both are C-contiguous.
    """
    matrix: NDArray[np.float32] = np.einsum("nd,md->mn", vectors, directions)
    return matrix


def _rejections(
    candidates: Candidates,
    context: RequestContext,
    catalogue: Catalogue,
    features: NDArray[np.float32],
) -> None:
    """Fill the columns of what the user returned, and of items similar to rejected ones."""
    rows, returned = candidates.rows, context.grouped("returned_last")
    features[_COLUMN["days_since_returned"]] = np.nan
    wanted = [-1 if row is None else row for row in catalogue.rows.of_many(returned)]
    days = [(context.at - at) / _DAY for at in returned.values()]
    columns = np.full(len(days), _COLUMN["days_since_returned"])
    _write(features, columns, np.array(wanted, np.int64), np.array(days, np.float32), rows)
    rejected = rejected_rows(context, catalogue)
    features[_COLUMN["vector_rejected"]] = similarity_to(rejected, rows, candidates.search)


def _user(
    context: RequestContext,
    catalogue: Catalogue,
    rows: NDArray[np.int64],
    features: NDArray[np.float32],
) -> None:
    """Fill the columns of the user's items and activity."""
    session = context.session
    month, year, ever = map(context.grouped, ("taken_28d", "taken_364d", "taken_last"))
    seen, seen_at = map(context.grouped, ("seen_84d", "seen_last"))
    taken = catalogue.rows.of_many([*month, *year, *ever, *seen, *seen_at])
    visits = context.number("visits_364d")
    latest = max(context.number("last_taken"), *seen_at.values(), 0.0)
    features[_OF_USER] = np.array(
        [
            *(0.0, 0.0, 0.0, 0.0, 0.0, np.nan),
            float(len(session)),
            float(len(year)),
            visits,
            context.number("spend_28d"),
            (context.at - latest) / _DAY if latest else np.nan,
            *(0.0, 0.0, np.nan),
        ],
        np.float32,
    )[:, None]
    # In this visit, taken within a month, within a year and ever, seen within twelve weeks and
    # ever, one list after the other.
    done = np.array([*session, *(-1 if row is None else row for row in taken)], np.int64)
    amounts = np.array(
        [
            *repeat(1.0, len(session)),
            *month.values(),
            *year.values(),
            *((context.at - at) / _DAY for at in ever.values()),
            *seen.values(),
            *((context.at - at) / _DAY for at in seen_at.values()),
        ],
        np.float32,
    )
    lengths = [len(items) for items in (session, month, year, ever, seen, seen_at)]
    columns = np.repeat(_DONE, lengths)
    _write(features, columns, done, amounts, rows)
    of_year = features[_COLUMN["taken_364d"]]
    features[_COLUMN["taken_per_visit"]] = of_year / np.float32(max(visits, 1.0))
    features[_COLUMN["taken_share"]] = of_year / np.float32(max(sum(year.values()), 1.0))
    of_seen = features[_COLUMN["seen_84d"]]
    features[_COLUMN["seen_share"]] = of_seen / np.float32(max(sum(seen.values()), 1.0))


def _sales(
    source: FeatureSource,
    catalogue: Catalogue,
    rows: NDArray[np.int64],
    category: NDArray[np.int64],
    at: int,
    features: NDArray[np.float32],
) -> None:
    """Fill the columns of how often each item and its category are taken and seen."""
    names = (*SOLD, *SEEN, *NOW, *CLICKS)
    read = read_placed(source, "item", catalogue.item_places, rows, names, at)
    known = np.flatnonzero(category >= 0)
    places, names = category[known], (*_BY_CATEGORY, *OF_CATEGORIES)
    of_category = read_placed(source, "category", catalogue.category_places, places, names, at)
    counts = read.astype(np.float32).T
    week, month, quarter, seen_week, seen_month, *now = counts[: -len(CLICKS)]
    one = np.float32(1.0)
    features[_SALES[:4]] = week, month, quarter, week / (month + one)
    features[_SALES[4:]] = seen_week, seen_month, seen_week / (seen_month + one), *now
    features[_OF_CATEGORY] = np.nan
    categories = np.full((of_category.shape[1], len(rows)), np.nan, np.float32)
    categories[:, known] = of_category.T
    features[_OF_CATEGORY] = categories[: len(_OF_CATEGORY)]
    features[_RATES] = rates_of((*counts[-len(CLICKS) :], month, seen_month), categories)


def _catalogue(
    context: RequestContext,
    catalogue: Catalogue,
    rows: NDArray[np.int64],
    features: NDArray[np.float32],
) -> NDArray[np.int64]:
    """Fill the columns of price and category; return the category of each row."""
    own = context.grouped("categories_182d")
    # Number -1, an unknown category, reads the spare last element of each table.
    tables = np.zeros((3, len(catalogue.categories) + 1), np.float32)
    share, visits, viewed = tables
    write_categories(own, catalogue, share, whole=max(sum(own.values()), 1.0))
    write_categories(context.grouped("viewed_1h"), catalogue, viewed)
    visited = catalogue.category[np.array(context.session, np.int64)]
    visits[:-1] = np.bincount(visited[visited >= 0], minlength=len(visits) - 1)

    dealt_with = np.array(context.session or context.history, np.int64)
    prices = catalogue.price[dealt_with]
    known = prices[~np.isnan(prices)].tolist()
    usual = np.float32(max(median(known), _LEAST_PRICE) if known else np.nan)
    price, category = catalogue.price.take(rows), catalogue.category.take(rows).astype(np.int64)
    same: NDArray[np.bool_] | float = np.nan
    if len(dealt_with):
        same = (category == catalogue.category[dealt_with[0]]) & (category >= 0)
    features[_COLUMN["price"]] = price
    released = catalogue.released.take(rows)
    age = context.at / _DAY - released.astype(np.float64)
    features[_COLUMN["item_age"]] = np.where(np.isfinite(age), age, np.nan)
    features[_COLUMN["price_to_session"]] = price / usual
    features[_COLUMN["category_of_last"]] = same
    features[_OF_CATEGORIES] = tables.take(category, axis=1)
    return category

"""The ranker's features: one definition for training and serving.

Training replays the log through the same engine and calls the same `assemble` as a request
does, so a feature cannot mean one thing to the model and another to the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import accumulate, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.candidates import SOLD, Candidates
from tactful.catalogue import Catalogue
from tactful.config import PACKAGED_FEATURES
from tactful.scores import Scores, kernels
from tactful.situation import FeatureSource, Situation, read_placed
from tactful.stored_vectors import products
from tactful_streaming import Definitions, load_definitions

RANKING_FEATURES: tuple[str, ...] = (
    "next_last",
    "next_three",
    "next_session",
    "next_place",
    "after_last",
    "after_second",
    "before_last",
    "similar_sessions",
    "similar_place",
    "together_last",
    "together_session",
    "together_history",
    "vector_last",
    "vector_session",
    "vector_history",
    "taken_28d",
    "taken_364d",
    "taken_per_visit",
    "taken_share",
    "days_since_taken",
    "sold_7d",
    "sold_28d",
    "sold_84d",
    "sold_trend",
    "category_sold_28d",
    "category_share",
    "category_in_session",
    "category_of_last",
    "category_viewed_1h",
    "in_session",
    "price",
    "price_to_session",
    "session_length",
    "history_items",
    "visits_364d",
    "spend_28d",
    "days_since_visit",
    "cohort_lift",
    "intent_weight",
    "intent_place",
)
"""Names of the columns `assemble` returns, in order."""


REQUESTED: tuple[str, ...] = ("intent_weight", "intent_place")
"""Columns of what comes with a request, which no log holds: they cannot be computed again."""


def layout(definitions: str) -> str:
    """What a logged row of features means: two rows with the same layout can be compared.

    Args:
        definitions: fingerprint of the feature definitions the engine computes.
    """
    text = "\n".join((definitions, *RANKING_FEATURES))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def absent_features(definitions: Definitions) -> tuple[str, ...]:
    """Names of features that lists are made from and `definitions` lack: each counts as nothing."""
    has = {(one.entity, one.name) for one in definitions.features}
    packaged = load_definitions(PACKAGED_FEATURES).features
    return tuple(one.name for one in packaged if (one.entity, one.name) not in has)


_DAY = 86_400_000.0

_SCORES = (
    "next_last",
    "next_three",
    "next_session",
    "after_last",
    "after_second",
    "before_last",
    "similar_sessions",
    "together_last",
    "together_session",
    "together_history",
)
"""Columns that are scores of the candidates, under the same names."""

_COLUMN = {name: number for number, name in enumerate(RANKING_FEATURES)}


def _columns(*names: str) -> NDArray[np.int64]:
    return np.array([_COLUMN[name] for name in names])


_SCORED = _columns(*_SCORES, "cohort_lift")
_ALL_ZERO = np.zeros(len(_SCORED), np.float32)
_NO_LIFT = np.array([*[0.0] * len(_SCORES), np.nan], np.float32)
_OF_PERSON = _columns(
    *("in_session", "taken_28d", "taken_364d", "taken_per_visit", "taken_share"),
    *("days_since_taken", "session_length", "history_items", "visits_364d", "spend_28d"),
    "days_since_visit",
)
_OF_CATALOGUE = _columns(
    *("price", "price_to_session", "category_of_last"),
    *("category_share", "category_in_session", "category_viewed_1h"),
)
_OF_EVERYBODY = _columns(*SOLD, "sold_trend", "category_sold_28d")
_NEARNESS = _columns("vector_last", "vector_session", "vector_history")
_INTENDED = _columns(*REQUESTED)
_NOTHING = Scores(np.zeros(0, np.int64), np.zeros(0, np.float32))


def assemble(
    candidates: Candidates,
    situation: Situation,
    *,
    source: FeatureSource,
    catalogue: Catalogue,
) -> NDArray[np.float32]:
    """Lay out the features of every candidate.

    Args:
        candidates: what recall found.
        situation: who asks, and when.
        source: the feature engine, for what items and categories do with everybody.
        catalogue: prices and categories.

    Returns:
        Features, shape (len(candidates.rows), len(RANKING_FEATURES)), each column contiguous; NaN
        where a value does not exist, such as the days since an item was taken that never was.
    """
    rows = candidates.rows
    features = np.empty((len(RANKING_FEATURES), len(rows)), np.float32)
    features[_NEARNESS] = _nearness(candidates)
    kernels().look_up(rows, *_scores(candidates), _SCORED, features)
    # Places among all that are scored, so that they depend on nothing but the situation.
    for name, scores in (
        ("next_place", candidates.next_three),
        ("similar_place", candidates.similar_sessions),
    ):
        kernels().look_up_places(rows, scores.rows, scores.values, features[_COLUMN[name]])
    kernels().of_person(rows, *_person(situation, catalogue), _OF_PERSON, features)
    category = kernels().of_items(
        rows,
        catalogue.price,
        catalogue.category,
        *_visit(situation, catalogue),
        _OF_CATALOGUE,
        features,
    )
    _everybody(source, catalogue, rows, category, situation.at, features)
    intended = _intended(candidates.intent, catalogue)
    features[_INTENDED] = np.nan if intended is None else intended[:, category]
    return features.T


def _scores(known: Candidates) -> tuple[Any, ...]:
    """Lists of scores; a row that has none has 0, and NaN where nobody has any."""
    lists = [getattr(known, name) for name in _SCORES]
    lists.append(known.lift or _NOTHING)
    return (
        np.concatenate([each.rows for each in lists]),
        np.concatenate([each.values for each in lists]),
        np.array([len(each.rows) for each in lists]).cumsum(),
        _NO_LIFT if known.lift is None else _ALL_ZERO,
    )


def _nearness(candidates: Candidates) -> NDArray[np.float32]:
    """Inner products with the latest item, the visit and the history, shape (3, n)."""
    directions = (
        candidates.last_vector,
        candidates.session_vector,
        candidates.history_vector,
    )
    near = products(candidates.vectors.read(), np.array(directions))
    if not candidates.last_vector.any():
        near[0] = np.nan  # without a latest item, nothing is near to it
    return near


def _intended(
    intent: Mapping[str, float] | None, catalogue: Catalogue
) -> NDArray[np.float32] | None:
    """What the device believes of each category; None where it said nothing at all."""
    if not intent:
        return None
    # Number -1, an unknown category, reads the spare last element of each table.
    tables = np.zeros((2, len(catalogue.categories) + 1), np.float32)
    tables[1] = len(intent)
    _of_categories(intent, catalogue, tables[0])
    best_first = sorted(intent, key=lambda name: (-intent[name], name))
    places = {name: float(place) for place, name in enumerate(best_first)}
    _of_categories(places, catalogue, tables[1])
    return tables


def _person(situation: Situation, catalogue: Catalogue) -> tuple[Any, ...]:
    """What the person did with items, and how active the person is."""
    session = situation.session
    month, year, ever = map(situation.grouped, ("taken_28d", "taken_364d", "taken_last"))
    taken = catalogue.rows.of_many([*month, *year, *ever])
    visits, latest = situation.number("visits_364d"), situation.number("last_taken")
    return (
        np.array([*session, *(-1 if row is None else row for row in taken)], np.int64),
        np.array(
            [*repeat(1.0, len(session)), *month.values(), *year.values(), *ever.values()],
            np.float64,
        ),
        tuple(accumulate(map(len, (session, month, year, ever)))),
        max(visits, 1.0),
        max(sum(year.values()), 1.0),
        situation.at,
        (
            float(len(session)),
            float(len(year)),
            visits,
            situation.number("spend_28d"),
            (situation.at - latest) / _DAY if latest else np.nan,
        ),
    )


def _everybody(
    source: FeatureSource,
    catalogue: Catalogue,
    rows: NDArray[np.int64],
    category: NDArray[np.int64],
    at: int,
    features: NDArray[np.float32],
) -> None:
    """What everybody takes, of each item and of its category."""
    sold = read_placed(source, "item", catalogue.item_places, rows, SOLD, at)
    of_category = read_placed(
        source,
        "category",
        catalogue.category_places,
        category[category >= 0],
        ("category_sold_28d",),
        at,
    )
    kernels().of_everybody(
        np.ascontiguousarray(sold.T),
        np.ascontiguousarray(of_category[:, 0]),
        category,
        _OF_EVERYBODY,
        features,
    )


def _visit(situation: Situation, catalogue: Catalogue) -> tuple[Any, ...]:
    """What person and visit do with categories, and what the visit costs."""
    mine = situation.grouped("categories_182d")
    # Number -1, an unknown category, reads the spare last element of each table.
    tables = np.zeros((3, len(catalogue.categories) + 1), np.float32)
    share, visits, viewed = tables
    _of_categories(mine, catalogue, share, whole=max(sum(mine.values()), 1.0))
    _of_categories(situation.grouped("viewed_1h"), catalogue, viewed)
    last, usual = kernels().of_visit(
        np.array(situation.session or situation.history, np.int64),
        len(situation.session),
        catalogue.price,
        catalogue.category,
        visits,
    )
    return tables, last, usual


def _of_categories(
    values: Mapping[str, float],
    catalogue: Catalogue,
    found: NDArray[np.float32],
    whole: float = 1.0,
) -> None:
    """Values by category number, as shares of a whole."""
    for name, value in values.items():
        number = catalogue.category_numbers.get(name)
        if number is not None:
            found[number] = value / whole

"""The ranker's features: one definition for training and serving.

Training replays the log through the same engine and calls the same `assemble` as a request
does, so a feature cannot mean one thing to the model and another to the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from statistics import median

import numpy as np
from numpy.typing import NDArray

from tactful.candidates import Candidates
from tactful.catalogue import Catalogue
from tactful.config import PACKAGED_FEATURES
from tactful.scores import Scores, kernels
from tactful.situation import FeatureSource, Situation, read_placed
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
_OF_CATALOGUE = np.array(
    [
        _COLUMN[name]
        for name in (
            *("price", "price_to_session", "category_of_last"),
            *("category_share", "category_in_session", "category_viewed_1h"),
        )
    ]
)
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
    _look_up(
        {
            **{name: (getattr(candidates, name), 0.0) for name in _SCORES},
            "cohort_lift": (candidates.lift or _NOTHING, 0.0 if candidates.lift else np.nan),
            **_own_items(situation, catalogue),
        },
        rows,
        features,
    )
    # Places among all that are scored, so that they depend on nothing but the situation.
    for name, scores in (
        ("next_place", candidates.next_three),
        ("similar_place", candidates.similar_sessions),
    ):
        kernels().look_up_places(rows, scores.rows, scores.values, features[_COLUMN[name]])
    category = _of_catalogue(situation, catalogue, rows, features)
    _everybody(source, catalogue, rows, category, situation.at, features)
    _nearness(candidates, features)
    _intended(candidates.intent, catalogue, category, features)
    for name, value in _own(situation).items():
        features[_COLUMN[name]] = value
    return features.T


def _look_up(
    wanted: Mapping[str, tuple[Scores, float]],
    rows: NDArray[np.int64],
    features: NDArray[np.float32],
) -> None:
    """Columns of scores; each with what it says of a row that has none."""
    scores = [each for each, _ in wanted.values()]
    kernels().look_up(
        rows,
        np.concatenate([each.rows for each in scores]),
        np.concatenate([each.values for each in scores]),
        np.array([len(each.rows) for each in scores]).cumsum(),
        np.array([absent for _, absent in wanted.values()], np.float32),
        np.array([_COLUMN[name] for name in wanted]),
        features,
    )


def _nearness(candidates: Candidates, features: NDArray[np.float32]) -> None:
    for name, direction in (
        ("vector_last", candidates.last_vector),
        ("vector_session", candidates.session_vector),
        ("vector_history", candidates.history_vector),
    ):
        np.dot(candidates.vectors, direction, out=features[_COLUMN[name]])
    if not candidates.last_vector.any():
        features[_COLUMN["vector_last"]] = np.nan


def _intended(
    intent: Mapping[str, float] | None,
    catalogue: Catalogue,
    category: NDArray[np.int64],
    features: NDArray[np.float32],
) -> None:
    """What the device believes of each item's category; NaN where it said nothing at all."""
    columns = [_COLUMN["intent_weight"], _COLUMN["intent_place"]]
    if not intent:
        features[columns] = np.nan
        return
    # Number -1, an unknown category, reads the spare last element of each table.
    tables = np.zeros((2, len(catalogue.categories) + 1), np.float32)
    tables[1] = len(intent)
    _of_categories(intent, catalogue, tables[0])
    best_first = sorted(intent, key=lambda name: (-intent[name], name))
    places = {name: float(place) for place, name in enumerate(best_first)}
    _of_categories(places, catalogue, tables[1])
    features[columns] = tables[:, category]


def _own(situation: Situation) -> dict[str, float]:
    """How active the person is."""
    latest = situation.number("last_taken")
    return {
        "session_length": float(len(situation.session)),
        "history_items": float(len(situation.grouped("taken_364d"))),
        "visits_364d": situation.number("visits_364d"),
        "spend_28d": situation.number("spend_28d"),
        "days_since_visit": (situation.at - latest) / _DAY if latest else np.nan,
    }


def _own_items(situation: Situation, catalogue: Catalogue) -> dict[str, tuple[Scores, float]]:
    """What the person did with items, by column, and what it says of the others."""
    session = np.array(sorted({*situation.session}), np.int64)
    lately, month = _of_items(situation.grouped("taken_28d"), catalogue)
    items = situation.grouped("taken_364d")
    taken, amounts = _of_items(items, catalogue)
    year = amounts.astype(np.float32)
    per_visit = year / np.float32(max(situation.number("visits_364d"), 1.0))
    share = year / np.float32(max(sum(items.values()), 1.0))
    ever, last = _of_items(situation.grouped("taken_last"), catalogue)
    days = ((situation.at - last) / _DAY).astype(np.float32)
    return {
        "in_session": (Scores(session, np.ones(len(session), np.float32)), 0.0),
        "taken_28d": (Scores(lately, month.astype(np.float32)), 0.0),
        "taken_364d": (Scores(taken, year), 0.0),
        "taken_per_visit": (Scores(taken, per_visit), 0.0),
        "taken_share": (Scores(taken, share), 0.0),
        "days_since_taken": (Scores(ever, days), np.nan),
    }


def _of_items(
    values: Mapping[str, float], catalogue: Catalogue
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of the items that the catalogue has, ascending, and their values."""
    rows = catalogue.rows.of_many(values)
    known = sorted(
        (row, value) for row, value in zip(rows, values.values(), strict=True) if row is not None
    )
    return (
        np.array([row for row, _ in known], np.int64),
        np.array([value for _, value in known], np.float64),
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
    names = ("sold_7d", "sold_28d", "sold_84d")
    sold = read_placed(source, "item", catalogue.item_places, rows, names, at)
    for number, name in enumerate(names):
        features[_COLUMN[name]] = sold[:, number]
    week, month = features[_COLUMN["sold_7d"]], features[_COLUMN["sold_28d"]]
    np.divide(week, month + np.float32(1.0), out=features[_COLUMN["sold_trend"]])
    known = category >= 0
    of_category = read_placed(
        source,
        "category",
        catalogue.category_places,
        category[known],
        ("category_sold_28d",),
        at,
    )[:, 0]
    column = features[_COLUMN["category_sold_28d"]]
    if len(of_category) < len(rows):
        column[:] = np.nan
        column[known] = of_category
    else:
        column[:] = of_category


def _of_catalogue(
    situation: Situation,
    catalogue: Catalogue,
    rows: NDArray[np.int64],
    features: NDArray[np.float32],
) -> NDArray[np.int64]:
    """What person and visit do with the category of each item, and what it costs.

    Returns:
        The category of each item, -1 where it is unknown.
    """
    mine = situation.grouped("categories_182d")
    total = max(sum(mine.values()), 1.0)
    # Number -1, an unknown category, reads the spare last element of each table.
    tables = np.zeros((3, len(catalogue.categories) + 1), np.float32)
    share, visit, viewed = tables
    _of_categories({name: value / total for name, value in mine.items()}, catalogue, share)
    np.add.at(visit, catalogue.category[situation.session], 1.0)
    visit[-1] = 0.0
    _of_categories(situation.grouped("viewed_1h"), catalogue, viewed)
    last = (situation.session or situation.history)[:1]
    found: NDArray[np.int64] = kernels().of_items(
        rows,
        catalogue.price,
        catalogue.category,
        tables,
        int(catalogue.category[last[0]]) if last else -2,
        _usual_price(situation, catalogue),
        _OF_CATALOGUE,
        features,
    )
    return found


def _of_categories(
    values: Mapping[str, float], catalogue: Catalogue, found: NDArray[np.float32]
) -> None:
    """Values by category number."""
    for name, value in values.items():
        number = catalogue.category_numbers.get(name)
        if number is not None:
            found[number] = value


def _usual_price(situation: Situation, catalogue: Catalogue) -> np.float32:
    """Median price of the visit, or of the history when the visit is empty; NaN when unknown."""
    prices = catalogue.price[situation.session or situation.history].tolist()
    known = [price for price in prices if price == price]
    return np.float32(max(median(known), 0.01)) if known else np.float32("nan")

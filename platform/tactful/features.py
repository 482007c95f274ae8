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
from tactful.scores import Scores, kernels
from tactful.situation import FeatureSource, Situation, read_placed

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
)
"""Names of the columns `assemble` returns, in order."""


def layout(definitions: str) -> str:
    """What a logged row of features means: two rows with the same layout can be compared.

    Args:
        definitions: fingerprint of the feature definitions the engine computes.
    """
    text = "\n".join((definitions, *RANKING_FEATURES))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
    columns = dict(zip(RANKING_FEATURES, features, strict=True))
    for name in _SCORES:
        _look_up(getattr(candidates, name), rows, columns[name])
    look_up_places = kernels().look_up_places
    # Places among all that are scored, so that they depend on nothing but the situation.
    for name, scores in (
        ("next_place", candidates.next_three),
        ("similar_place", candidates.similar_sessions),
    ):
        look_up_places(rows, scores.rows, scores.values, columns[name])
    if candidates.lift is None:
        columns["cohort_lift"][:] = np.nan
    else:
        _look_up(candidates.lift, rows, columns["cohort_lift"])
    _look_up_own(situation, catalogue, rows, columns)
    price = catalogue.price[rows]
    others = {
        **_nearness(candidates),
        **_own(situation),
        **_everybody(source, catalogue, rows, situation.at),
        **_categories(source, situation, catalogue, rows),
        "price": price,
        "price_to_session": price / _usual_price(situation, catalogue),
        "session_length": float(len(situation.session)),
    }
    for name, value in others.items():
        columns[name][:] = value
    return features.T


def _look_up(scores: Scores, rows: NDArray[np.int64], column: NDArray[np.float32]) -> None:
    kernels().look_up(rows, scores.rows, scores.values, 0.0, column)


def _nearness(candidates: Candidates) -> dict[str, NDArray[np.float32] | float]:
    vectors, last = candidates.vectors, candidates.last_vector
    return {
        "vector_last": vectors @ last if last.any() else np.nan,
        "vector_session": vectors @ candidates.session_vector,
        "vector_history": vectors @ candidates.history_vector,
    }


def _own(situation: Situation) -> dict[str, float]:
    """How active the person is."""
    latest = situation.number("last_taken")
    return {
        "history_items": float(len(situation.grouped("taken_364d"))),
        "visits_364d": situation.number("visits_364d"),
        "spend_28d": situation.number("spend_28d"),
        "days_since_visit": (situation.at - latest) / _DAY if latest else np.nan,
    }


def _look_up_own(
    situation: Situation,
    catalogue: Catalogue,
    rows: NDArray[np.int64],
    columns: Mapping[str, NDArray[np.float32]],
) -> None:
    """What the person did with each item, who has fewer than a list has candidates."""
    look_up, none = kernels().look_up, np.float32(0.0)
    session = np.array(sorted({*situation.session}), np.int64)
    look_up(rows, session, np.ones(len(session), np.float32), none, columns["in_session"])
    lately, month = _of_items(situation.grouped("taken_28d"), catalogue)
    look_up(rows, lately, month.astype(np.float32), none, columns["taken_28d"])
    items = situation.grouped("taken_364d")
    taken, amounts = _of_items(items, catalogue)
    year = amounts.astype(np.float32)
    for name, values in (
        ("taken_364d", year),
        ("taken_per_visit", year / np.float32(max(situation.number("visits_364d"), 1.0))),
        ("taken_share", year / np.float32(max(sum(items.values()), 1.0))),
    ):
        look_up(rows, taken, values, none, columns[name])
    ever, last = _of_items(situation.grouped("taken_last"), catalogue)
    days = ((situation.at - last) / _DAY).astype(np.float32)
    look_up(rows, ever, days, np.float32(np.nan), columns["days_since_taken"])


def _of_items(
    values: Mapping[str, float], catalogue: Catalogue
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of the items that the catalogue has, ascending, and their values."""
    find = catalogue.rows.get
    known = sorted(
        (row, value) for item, value in values.items() if (row := find(item)) is not None
    )
    return (
        np.array([row for row, _ in known], np.int64),
        np.array([value for _, value in known], np.float64),
    )


def _everybody(
    source: FeatureSource, catalogue: Catalogue, rows: NDArray[np.int64], at: int
) -> dict[str, NDArray[np.float32] | float]:
    names = ("sold_7d", "sold_28d", "sold_84d")
    sold = read_placed(source, "item", catalogue.item_places, rows, names, at)
    week, month, quarter = sold.astype(np.float32).T
    return {
        "sold_7d": week,
        "sold_28d": month,
        "sold_84d": quarter,
        "sold_trend": week / (month + np.float32(1.0)),
    }


def _categories(
    source: FeatureSource,
    situation: Situation,
    catalogue: Catalogue,
    rows: NDArray[np.int64],
) -> dict[str, NDArray[np.float32] | float]:
    """What the person, the visit and everybody do with the category of each item."""
    category = catalogue.category[rows]
    size = len(catalogue.categories) + 1
    known = category >= 0
    sold = read_placed(
        source,
        "category",
        catalogue.category_places,
        category[known].astype(np.int64),
        ("category_sold_28d",),
        situation.at,
    )[:, 0].astype(np.float32)
    if len(sold) < len(rows):
        everywhere = np.full(len(rows), np.nan, np.float32)
        everywhere[known] = sold
        sold = everywhere
    mine = situation.grouped("categories_182d")
    total = max(sum(mine.values()), 1.0)
    own = _of_categories({name: value / total for name, value in mine.items()}, catalogue)
    viewed = _of_categories(situation.grouped("viewed_1h"), catalogue)
    visit = np.zeros(size, np.float32)
    np.add.at(visit, catalogue.category[situation.session], 1.0)
    visit[-1] = 0.0
    last = (situation.session or situation.history)[:1]
    same = (
        ((category == catalogue.category[last[0]]) & known).astype(np.float32) if last else np.nan
    )
    # Number -1, an unknown category, reads the spare last element of each table.
    return {
        "category_sold_28d": sold,
        "category_share": own[category],
        "category_in_session": visit[category],
        "category_of_last": same,
        "category_viewed_1h": viewed[category],
    }


def _of_categories(values: Mapping[str, float], catalogue: Catalogue) -> NDArray[np.float32]:
    """Values by category number, with a last element for unknown categories."""
    found = np.zeros(len(catalogue.categories) + 1, np.float32)
    for name, value in values.items():
        number = catalogue.category_numbers.get(name)
        if number is not None:
            found[number] = value
    return found


def _usual_price(situation: Situation, catalogue: Catalogue) -> np.float32:
    """Median price of the visit, or of the history when the visit is empty; NaN when unknown."""
    prices = catalogue.price[situation.session or situation.history].tolist()
    known = [price for price in prices if price == price]
    return np.float32(max(median(known), 0.01)) if known else np.float32("nan")

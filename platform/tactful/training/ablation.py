"""Loss of quality without the columns of one kind: real-time, offline, content and intent.

The columns are neutralised when the held-back lists are scored: each takes its median over all
rows, or is missing where it is missing in most of them. A constant column orders nothing. The
forest is not trained again, so the loss is an upper bound: a forest that never had the columns
would make more of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xgboost
from numpy.typing import NDArray

from tactful.ranking.features import ASKED, RANKING_FEATURES
from tactful.ranking.model import margins_of
from tactful.ranking.rates import RATES
from tactful.ranking.request_columns import MATCHES, PLAIN
from tactful.recall.popularity import NOW, SEEN, SOLD
from tactful.schemas.models import Loss
from tactful.training.evaluation import FIGURES, list_figures, user_intervals
from tactful.training.replay_rows import Rows
from tactful.util.mapped_arrays import portions

_BLEND = ("blend", "blend_place")  # of evidence of the visit and of the history

GROUPS: Mapping[str, tuple[str, ...]] = {
    "real_time": (
        *("next_last", "next_three", "next_session", "next_place"),
        *("after_last", "after_second", "before_last", "similar_sessions", "similar_place"),
        *("together_last", "together_session", "vector_last", "vector_session"),
        *("category_in_session", "category_of_last", "category_viewed_1h"),
        *("in_session", "price_to_session", "session_length"),
        *NOW,
        *PLAIN,
        *_BLEND,
    ),
    "offline": (
        *("together_history", "vector_history", "vector_rejected", "cohort_lift"),
        *("taken_28d", "taken_364d", "taken_per_visit", "taken_share", "days_since_taken"),
        *SOLD,
        *("sold_trend", "category_sold_28d", "category_share"),
        *("history_items", "visits_364d", "spend_28d", "days_since_visit"),
        *("seen_84d", "seen_share", "days_since_seen"),
        *(name for name in SEEN if name != "seen_84d"),
        *("seen_trend", "category_seen_28d", "days_since_returned"),
        *RATES,
        *_BLEND,
    ),
    "content": ("price", "item_age", *MATCHES, *ASKED),
    "intent": ("intent_weight", "intent_place"),
}
"""Columns by kind. The blend is made of evidence of two kinds, so it goes with either. Columns of a
shop's own features are real-time if they are of the visit, else offline."""

_REPORTED = ("hr20", "ndcg20")
_AT_ONCE = 8  # columns


def columns_of(group: str, names: Sequence[str]) -> list[int]:
    """Return the numbers of the columns of a group among `names`."""
    own = {"real_time": lambda name: name.startswith("session.")}
    own["offline"] = lambda name: not name.startswith("session.")
    chosen = set(GROUPS[group])
    return [
        number
        for number, name in enumerate(names)
        if name in chosen or (name not in RANKING_FEATURES and group in own and own[group](name))
    ]


def losses(
    forest: xgboost.Booster,
    rows: Rows,  # the held-back lists
    relevant: Sequence[int],  # number of right items by list
    users: NDArray[np.int64],  # a number of the user of each list
    names: Sequence[str],  # of the columns
) -> dict[str, dict[str, Loss]]:
    """Return the loss of HR@20 and NDCG@20 by group of columns; nothing without lists."""
    if not len(rows.sizes):
        return {}

    def figures(columns: Sequence[int]) -> NDArray[np.float64]:
        values = neutral_values(rows.features, columns)
        margins = [
            margins_of(forest, _replaced(part, columns, values)) for part in portions(rows.features)
        ]
        return list_figures(np.concatenate(margins), rows.labels, rows.sizes, relevant)

    whole, found = figures(()), dict[str, dict[str, Loss]]()
    for group in GROUPS:
        lost = whole - figures(columns_of(group, names))
        values, bounds = lost.mean(axis=0), user_intervals(lost, users)
        found[group] = {
            name: Loss(value=float(values[place]), low=float(low), high=float(high))
            for place, (name, (low, high)) in enumerate(zip(FIGURES, bounds, strict=True))
            if name in _REPORTED
        }
    return found


def neutral_values(features: NDArray[np.float32], columns: Sequence[int]) -> NDArray[np.float32]:
    """Return a constant for each of some columns: the median, or missing as most values are."""
    found = np.full(len(columns), np.nan, np.float32)
    for begin in range(0, len(columns), _AT_ONCE):
        some = list(columns[begin : begin + _AT_ONCE])
        values = np.concatenate([part[:, some] for part in portions(features)])
        for place, column in enumerate(values.T, begin):
            known = column[~np.isnan(column)]
            if 2 * len(known) > len(column):
                found[place] = np.median(known)
    return found


def _replaced(
    features: NDArray[np.float32], columns: Sequence[int], values: NDArray[np.float32]
) -> NDArray[np.float32]:
    changed = features.copy()
    changed[:, list(columns)] = values
    return changed

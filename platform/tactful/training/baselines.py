"""Orders that need no model, of the lists that a model is judged on, and what they say of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tactful.ranking.features import RANKING_FEATURES

NAMES = ("popularity", "session_knn", "repeats", "untrained")
"""Orders by what everybody takes now, by similar visits, by what the user took and saw, and by the
blend that ranks without a model."""

TOO_GOOD = 0.95
"""Share of lists with a hit above which the answer is likely to be in the question."""

_FEWEST_LISTS = 50
_FEWEST_CANDIDATES = 100
_ONE_COLUMN = 0.9


def baselines(
    features: NDArray[np.float32],  # as `assemble` lays them out, list after list
    sizes: NDArray[np.int64],  # rows of each list
) -> dict[str, NDArray[np.float32]]:
    """Score all rows by each of `NAMES`, larger is better; popularity decides between equals."""
    column = {name: features[:, number] for number, name in enumerate(RANKING_FEATURES)}
    sold = column["sold_28d"] + np.float32(0.1) * column["seen_28d"]
    popular = sold / (sold.max(initial=0.0) + np.float32(1.0))  # below 1
    similar, of_list = column["similar_sessions"], np.repeat(np.arange(len(sizes)), sizes)
    greatest = np.zeros(len(sizes), np.float32)
    np.maximum.at(greatest, of_list, similar)
    nearest = similar / np.maximum(greatest[of_list], np.float32(1e-12))
    own = column["taken_364d"] + column["seen_84d"]
    small = np.float32(1e-3)
    return {
        "popularity": popular,
        "session_knn": nearest + small * popular,
        "repeats": own + small * popular,
        "untrained": column["blend"] + small * popular,
    }


def doubts(
    metrics: Mapping[str, float], gains: Mapping[str, float], rows: int, lists: int
) -> list[str]:
    """Return the reasons not to let a model serve, by its training; none for a sound one.

    Fewer than 50 lists give no reason.

    Args:
        metrics: of the held-back lists, those of the baselines among them.
        gains: of the forest by column.
        rows: number of candidates of all `lists`, before a sample was drawn.
        lists: number of lists.
    """
    if lists < _FEWEST_LISTS:
        return []
    found = []
    best = max(NAMES, key=lambda name: metrics.get(f"ndcg20_{name}", 0.0))
    rival = metrics.get(f"ndcg20_{best}", 0.0)
    if metrics.get("ndcg20", 0.0) < rival:
        found.append(
            f"NDCG@20 is {metrics.get('ndcg20', 0.0):.3f}, below {rival:.3f} of {best}: "
            "what serves without a model is better"
        )
    if (
        rows >= _FEWEST_CANDIDATES * lists
        and metrics.get("hr20", 0.0) > TOO_GOOD > metrics.get(f"hr20_{best}", 0.0) + 0.1
    ):
        found.append(
            f"{metrics['hr20']:.1%} of the lists have a hit: the answer is likely to be in the "
            "question, such as an item property that is set after the purchase"
        )
    total = sum(gains.values())
    first = max(gains, key=lambda name: gains[name], default="")
    if total and gains[first] > _ONE_COLUMN * total:
        found.append(f"{gains[first] / total:.0%} of the gain are of the column {first}")
    return found

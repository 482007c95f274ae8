"""Learn how far to trust intents: by requests that had one, and by replayed ones.

The trust of `tactful.ranking.intent_effect` is the one of the highest likelihood of the items that
were taken, given the candidates, or the items that were shown. A prior keeps the default while
there is little evidence. Intents by replay are made up, so that all of them together count no more
than some logged ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.intent_effect import (
    LEAST_TRUST,
    MOST_TRUST,
    Trust,
    chances_of,
    factors_of,
)
from tactful.training.replay_rows import Rows

INTENDED = [RANKING_FEATURES.index(name) for name in ("intent_weight", "intent_place")]
"""Columns of the intent."""

_SALES = [RANKING_FEATURES.index(name) for name in ("sold_28d", "seen_28d")]
_PRIOR = 4.0  # lists that the default counts as
_REPLAYED = 200.0  # lists that all replayed ones together count as, at most
_GRID = np.linspace(LEAST_TRUST, MOST_TRUST, 91)
_PLACES = 64  # more than an intent can have


@dataclass(frozen=True)
class IntendedList:
    """Items of a request with an intent, by the ranking alone, and those that were taken."""

    chances: NDArray[np.float64]  # any scale, shape (n,)
    ratios: NDArray[np.float64]  # see `IntentEffect`, shape (n,)
    total: float  # sum of the weights of the intent
    taken: NDArray[np.float64]  # weight of each taken item, else 0, shape (n,)
    known: bool  # whether the user had a history

    def likelihood(self, trust: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log likelihood of what was taken by trust, up to a constant."""
        factors = np.array([factors_of(self.ratios, self.total, value) for value in trust])
        chosen = np.log(factors[:, self.taken > 0]) @ self.taken[self.taken > 0]
        whole = np.log(np.maximum(factors @ self.chances, 1e-300))
        found: NDArray[np.float64] = chosen - self.taken.sum() * whole
        return found


def fit_trust(replayed: Sequence[IntendedList], logged: Sequence[IntendedList]) -> Trust:
    """Return the trust of the highest likelihood, for users with a history and for others."""
    default = Trust()
    return Trust(
        known=_fitted(
            default.known, [it for it in replayed if it.known], [it for it in logged if it.known]
        ),
        unknown=_fitted(
            default.unknown,
            [it for it in replayed if not it.known],
            [it for it in logged if not it.known],
        ),
    )


def _fitted(
    default: float, replayed: Sequence[IntendedList], logged: Sequence[IntendedList]
) -> float:
    likelihood = _PRIOR * (default * np.log(_GRID) + (1.0 - default) * np.log1p(-_GRID))
    share = min(1.0, _REPLAYED / max(len(replayed), 1))
    for lists, weight in ((replayed, share), (logged, 1.0)):
        for it in lists:
            likelihood = likelihood + weight * it.likelihood(_GRID)
    return round(float(_GRID[int(np.argmax(likelihood))]), 3)


def replayed_lists(
    rows: Rows,  # of requests with made-up intents
    intended: NDArray[np.float32],  # their columns of the intent, shape (n, 2)
    margins: NDArray[np.float32],  # of a model, shape (n,)
) -> list[IntendedList]:
    """Return each replayed list twice: as ranked by the model, and by sales as for anybody."""
    found = []
    ends = np.cumsum(rows.sizes)
    sales = np.nan_to_num(rows.features[:, _SALES]).sum(axis=1, dtype=np.float64)
    for begin, end in zip((ends - rows.sizes).tolist(), ends.tolist(), strict=True):
        weight, place = intended[begin:end].T
        labels = rows.labels[begin:end]
        if not labels.any() or not (weight > 0).any():
            continue
        taken = labels / labels.sum()
        ranked = chances_of(margins[begin:end]).astype(np.float64)
        for chances, known in ((ranked, True), (sales[begin:end] + 0.1, False)):
            total, ratios = _ratios(weight, place, chances)
            found.append(IntendedList(chances, ratios, total, taken, known))
    return found


def _ratios(
    weight: NDArray[np.float32], place: NDArray[np.float32], chances: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Return the sum of the weights, and weight by share; its place tells a category."""
    inside = np.flatnonzero(weight > 0)
    places = np.clip(place[inside], 0, _PLACES - 1).astype(np.int64)
    weights, ratios = np.zeros(_PLACES), np.zeros(len(weight))
    weights[places] = weight[inside]
    weights /= max(float(weights.sum()), 1.0)
    shares = np.bincount(places, chances[inside], _PLACES) / chances.sum()
    ratios[inside] = weights[places] / np.maximum(shares[places], 1e-9)
    return float(weights.sum()), ratios

"""Estimate the position bias of shown lists: how seldom a place further down is looked at.

Items that are shown lower are taken less, whatever they are. A model that learns from such outcomes
without correction learns to repeat its own order. So an item taken from a place that is seldom
looked at counts more.
"""

from __future__ import annotations

import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

FEWEST_OUTCOMES = 200  # fewest taken items for an estimate
LEAST = 0.1  # lower bound of the estimates: a taken item counts ten times at most

_PLACES = 50
_ITERATIONS = 25
_ROWS = 100_000
_FOREST = {
    "objective": "binary:logistic",
    "max_depth": 4,
    "eta": 0.3,
    "min_child_weight": 10,
    "tree_method": "hist",
    "max_bin": 64,
}


def examination(
    features: NDArray[np.float32],  # of every item of every list, shape (n, columns)
    taken: NDArray[np.bool_],  # whether it was taken, shape (n,)
    place: NDArray[np.int64],  # its place in its list, 0 the first, shape (n,)
    *,
    threads: int = 1,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Estimate how often each place is looked at, relative to the first.

    The position-based click model: an item is taken if its place is looked at and the item
    attracts, independently; the first depends on the place alone, the second on the features. Both
    are estimated by regression-based expectation maximisation (Wang et al., "Position Bias
    Estimation for Unbiased Learning to Rank in Personal Search", WSDM 2018), which needs no
    randomised lists, but gets better with them: where every list is in the order of the same
    features, the two can hardly be separated. Attention is assumed never to grow further down.

    Returns:
        Shape (places,): 1 for the first place, and at least `LEAST` for every other; places
        beyond the fiftieth are like it. All 1 where fewer than `FEWEST_OUTCOMES` were taken.
    """
    if not len(place):
        return np.ones(1)
    place = np.minimum(place, _PLACES - 1)
    places = int(place.max()) + 1
    if taken.sum() < FEWEST_OUTCOMES:
        return np.ones(places)
    generator = np.random.default_rng(seed)
    if len(place) > _ROWS:
        chosen = np.sort(generator.choice(len(place), _ROWS, replace=False))
        features, taken, place = features[chosen], taken[chosen], place[chosen]
    # Expectation maximisation: estimate attention and attraction by turns.
    count = np.bincount(place, minlength=places)
    rate = np.bincount(place, weights=taken, minlength=places) / np.maximum(count, 1)
    looked = np.clip(rate / max(rate[0], 1e-9), LEAST, 1.0)
    attracts = np.full(len(place), min(2.0 * float(taken.mean()), 0.5))
    matrix = xgboost.DMatrix(features)
    parameters = {**_FOREST, "nthread": threads, "seed": seed}
    for _ in range(_ITERATIONS):
        seen = looked[place]
        # Expectations for items that were not taken; taken items were looked at and attracted.
        neither = np.maximum(1.0 - seen * attracts, 1e-9)
        was_seen = np.where(taken, 1.0, seen * (1.0 - attracts) / neither)
        attracted = np.where(taken, 1.0, (1.0 - seen) * attracts / neither)
        looked = np.bincount(place, weights=was_seen, minlength=places) / np.maximum(count, 1)
        matrix.set_label(attracted)
        forest = xgboost.train(parameters, matrix, 20)
        attracts = np.clip(forest.predict(matrix).astype(np.float64), 1e-6, 1.0 - 1e-6)
    falling = IsotonicRegression(increasing=False).fit(np.arange(places), looked, count)
    fitted: NDArray[np.float64] = falling.predict(np.arange(places))
    relative: NDArray[np.float64] = np.clip(fitted / fitted[0], LEAST, 1.0)
    return relative

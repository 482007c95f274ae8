"""Calibration: a map from margins of a forest to probabilities of being taken.

A forest that ranks orders items, and gives no probabilities. A monotone map from margins to
probabilities is fitted on lists later than its training data, and evaluated on still later ones.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

FEWEST = 20
"""With fewer items taken in either half, there is no calibration."""

_ISOTONIC_FROM = 200
_BINS = 10
_POINTS = 64


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A map from margins to probabilities, and its quality on lists of later time."""

    # ``isotonic`` regression, or ``platt`` scaling where little was taken
    method: Literal["isotonic", "platt"]
    # items that were ``shown``, or ``candidates`` of replayed lists
    of: Literal["shown", "candidates"]
    # points of the map, ascending; between them it is linear, beyond them flat
    margins: list[float]
    probabilities: list[float]
    brier: float  # mean squared error of the probabilities
    brier_constant: float  # the same for the share that was taken, as a constant
    # expected calibration error: mean distance, over ten parts of equal size, of the mean
    # probability from the share that was taken
    error: float
    predicted: list[float]  # mean probability of each of these parts, ascending
    observed: list[float]  # share that was taken of each
    rows: int  # number of items it was evaluated on

    def probability(self, margins: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probabilities of margins, in their shape."""
        return np.interp(margins, self.margins, self.probabilities)


def calibrate(
    margins: NDArray[np.float32],  # margins of the forest, in time order, shape (n,)
    taken: NDArray[np.bool_],  # whether the item was taken, shape (n,)
    half: int,  # rows to fit on; the others evaluate
    of: Literal["shown", "candidates"],  # see `Calibration`
) -> Calibration | None:
    """Fit a map on the first rows, and evaluate it on the others.

    Isotonic regression (Zadrozny and Elkan, "Transforming classifier scores into accurate
    multiclass probability estimates", KDD 2002); where fewer than 200 items were taken, Platt
    scaling ("Probabilistic outputs for support vector machines", 1999), which has two parameters.
    None if too few items were taken.
    """
    # A server reads calibrations and fits none; this brings pandas into the process.
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    first, second = taken[:half], taken[half:]
    if min(first.sum(), second.sum()) < FEWEST or first.all():
        return None
    points = np.unique(np.quantile(margins[:half], np.linspace(0.0, 1.0, _POINTS)))
    method: Literal["isotonic", "platt"]
    if first.sum() >= _ISOTONIC_FROM:
        method = "isotonic"
        regression = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        fitted = regression.fit(margins[:half], first).predict(points)
    else:
        method = "platt"
        logistic = LogisticRegression(C=1e9).fit(margins[:half, None], first)
        fitted = logistic.predict_proba(points[:, None])[:, 1]
        if fitted[-1] < fitted[0]:  # a better score never means a smaller probability
            fitted = np.full(len(points), float(first.mean()))
    probabilities = np.interp(margins[half:], points, fitted)
    parts = np.array_split(np.argsort(probabilities, kind="stable"), _BINS)
    predicted = [float(probabilities[part].mean()) for part in parts]
    observed = [float(second[part].mean()) for part in parts]
    sizes = np.array([len(part) for part in parts])
    return Calibration(
        method=method,
        of=of,
        margins=points.astype(float).tolist(),
        probabilities=fitted.astype(float).tolist(),
        brier=float(np.mean((probabilities - second) ** 2)),
        brier_constant=float(np.mean((float(first.mean()) - second) ** 2)),
        error=float(np.average(np.abs(np.subtract(predicted, observed)), weights=sizes)),
        predicted=predicted,
        observed=observed,
        rows=len(second),
    )

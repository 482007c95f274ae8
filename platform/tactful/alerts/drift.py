"""Distances of two histograms (PSI, Kolmogorov-Smirnov), and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_LEAST_SHARE = 0.0001  # of an empty bucket, as evidently sets it

_Floats = NDArray[np.float64]


def psi(reference: ArrayLike, current: ArrayLike) -> float:
    """Return the population stability index of two histograms with the same buckets.

    >>> round(psi([50, 50], [60, 40]), 4)
    0.0405
    """
    before, after = (_shares(np.asarray(counts, float)) for counts in (reference, current))
    return float(np.sum((after - before) * np.log(after / before)))


def ks_distance(reference: ArrayLike, current: ArrayLike) -> float:
    """Return the largest difference of the two distribution functions at bucket bounds."""
    functions = [
        np.cumsum(counts) / np.sum(counts)
        for counts in (np.asarray(reference, float), np.asarray(current, float))
    ]
    return float(np.max(np.abs(functions[0] - functions[1])))


def ks_p_value(distance: float, reference: float, current: float) -> float:
    """Return the asymptotic p-value of a distance, for two numbers of observations.

    Between bucket bounds the distance may be larger, so the test is conservative.
    """
    from scipy.special import kolmogorov

    if reference <= 0 or current <= 0:
        return 1.0
    return float(kolmogorov(distance * np.sqrt(reference * current / (reference + current))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that are corrected for their number (Holm, 1979).

    >>> holm([0.01, 0.04])
    [0.02, 0.04]
    """
    count = len(p_values)
    corrected = [1.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _shares(counts: _Floats) -> _Floats:
    shares: Any = counts / counts.sum()
    return np.where(shares == 0, _LEAST_SHARE, shares)

"""Multiple testing: p-values adjusted for many metrics or many arms.

One of twenty unchanged metrics differs at 5 %. Holm bounds the probability of any false
claim, for decisions; Benjamini and Hochberg bound the expected share of false ones among the
claims, for exploring. An adjusted p-value is compared with alpha as usual.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tactful_bandits.errors import StatisticsError


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values so that the probability of any false claim is at most alpha.

    The bound holds under any dependence between the p-values.

    Raises:
        StatisticsError: A p-value is not in [0, 1].

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6
    (1979).
    """
    p, order = _sorted(p_values)
    adjusted = np.maximum.accumulate(p * np.arange(len(p), 0, -1))
    return _unsorted(adjusted, order)


def benjamini_hochberg(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values so that the false discovery rate is at most alpha.

    The bound holds for independent or positively dependent p-values.

    Raises:
        StatisticsError: A p-value is not in [0, 1].

    Source: Benjamini and Hochberg, "Controlling the False Discovery Rate", JRSS B 57 (1995).
    """
    p, order = _sorted(p_values)
    scaled = p * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.minimum.accumulate(scaled[::-1])[::-1]
    return _unsorted(adjusted, order)


def _sorted(p_values: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise StatisticsError(f"p-values must be a list of numbers from 0 to 1, not {p_values}")
    order = np.argsort(p, kind="stable")
    return p[order], order


def _unsorted(adjusted: NDArray[np.float64], order: NDArray[np.intp]) -> tuple[float, ...]:
    result = np.empty(len(order))
    result[order] = np.minimum(adjusted, 1.0)
    return tuple(result.tolist())

"""Quantiles of released histograms, whose keys are buckets in rising order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.analysis.shares import TwoNoises
from tactful_privacy.counting.released import CONFIDENCE, ReleasedPane, check_addable
from tactful_privacy.mechanisms._exact import Exact
from tactful_privacy.mechanisms._table import open_share

_MARGIN = 1e-9


@dataclass(frozen=True)
class ReleasedQuantile:
    """The bucket of a quantile."""

    key: str  # estimated bucket
    low: str  # lowest bucket of the interval
    high: str  # highest bucket of the interval
    # least probability that the interval holds the bucket of the true bounded counts
    confidence: float


def quantile_released(
    panes: Sequence[ReleasedPane], probability: Exact, confidence: Exact = CONFIDENCE
) -> ReleasedQuantile:
    """Estimate the bucket of a quantile.

    It is the first bucket at which the cumulative count reaches `probability` of the whole. The
    estimate uses the noisy cumulative counts after isotonic regression. The interval drops each
    bucket that an exact test rules out, because too much lies below it or too little up to it. Only
    the true bucket must survive, so two tests at half the error suffice for any number of buckets.

    Args:
        panes: Panes of one statistic, each once.
        probability: Exact, between 0 and 1: ``"0.5"`` is the median.
        confidence: Confidence of the interval, exact.

    Raises:
        ParameterError: See `sum_released`; or a number is out of range.
    """
    first = check_addable(panes)
    p = float(open_share(probability, "probability"))
    alpha = 1 - open_share(confidence, "confidence")
    # Imported late: a server uses scipy for nothing else, and loading it would delay requests.
    from scipy.optimize import isotonic_regression

    keys = list(first.values)
    counts = np.array([list(pane.values.values()) for pane in panes]).sum(axis=0)
    cumulative = np.cumsum(counts)
    rising = isotonic_regression(cumulative).x
    estimate = min(int(np.searchsorted(rising, p * rising[-1])), len(keys) - 1)
    limit = float(alpha) / 2 - _MARGIN
    kept = [
        index
        for index in range(len(keys))
        if _may_be_below(first, len(panes), cumulative, index, p) > limit
        and _may_reach(first, len(panes), cumulative, index, p) > limit
    ]
    # The estimate may lie outside the kept buckets; the interval always includes it.
    low, high = (kept[0], kept[-1]) if kept else (estimate, estimate)
    return ReleasedQuantile(
        keys[estimate], keys[min(low, estimate)], keys[max(high, estimate)], float(1 - alpha)
    )


def _may_be_below(
    pane: ReleasedPane, panes: int, cumulative: NDArray[np.int64], index: int, p: float
) -> float:
    """Return the p-value of "less than p lies below"; 1 for the first bucket."""
    if index == 0:
        return 1.0
    noise = TwoNoises.of(pane, panes * index, panes * (len(cumulative) - index))
    lower = int(cumulative[index - 1])
    return noise.tails(lower, int(cumulative[-1]) - lower, p)[0]


def _may_reach(
    pane: ReleasedPane, panes: int, cumulative: NDArray[np.int64], index: int, p: float
) -> float:
    """Return the p-value of "p or more lies up to the bucket"; 1 for the last bucket."""
    if index == len(cumulative) - 1:
        return 1.0
    noise = TwoNoises.of(pane, panes * (index + 1), panes * (len(cumulative) - index - 1))
    upto = int(cumulative[index])
    return noise.tails(upto, int(cumulative[-1]) - upto, p)[1]

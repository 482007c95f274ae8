"""Top k of released counts, with bounds on the rank of each key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tactful_privacy.counting.released import CONFIDENCE, ReleasedPane, check_addable, half_width
from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import Exact
from tactful_privacy.mechanisms._table import open_share


@dataclass(frozen=True)
class RankedKey:
    """One of the largest keys."""

    key: str
    value: int  # noisy count of the key
    # with the requested confidence, all true counts of the catalogue lie within their value ±
    # half_width at once
    half_width: int
    best: int  # best possible rank of the true count then, 1 for the largest
    worst: int  # Worst possible rank. Equal counts may have either order.


def top_released(
    panes: Sequence[ReleasedPane], k: int, confidence: Exact = CONFIDENCE
) -> list[RankedKey]:
    """Return the k keys with the largest noisy sums over some panes, largest first.

    A ranking of released values costs nothing. The bounds on ranks hold for all keys at once: each
    sum gets the interval of confidence ``1 - (1 - confidence) / keys`` (Bonferroni), and a key
    certainly ranks before another if their intervals do not touch.

    Args:
        panes: Panes of one statistic, each once.
        k: Number of keys, 1 to the size of the catalogue.
        confidence: Confidence of all bounds together, exact.

    Raises:
        ParameterError: See `sum_released`; or k is out of range.
    """
    first = check_addable(panes)
    keys = list(first.values)
    if not 1 <= k <= len(keys):
        raise ParameterError(f"k is {k}: give 1 to {len(keys)}, the size of the catalogue")
    confidence_by_key = 1 - (1 - open_share(confidence, "confidence")) / len(keys)
    terms = len(panes) * first.noise_terms
    half = half_width(first.sensitivity, first.epsilon, terms, confidence_by_key)
    sums = np.array([list(pane.values.values()) for pane in panes]).sum(axis=0)
    rising = np.sort(sums)
    top = np.argsort(-sums, kind="stable")[:k]
    # Intervals of two keys do not touch if their sums differ by more than two half widths.
    surely_larger = len(keys) - np.searchsorted(rising, sums[top] + 2 * half, side="right")
    surely_smaller = np.searchsorted(rising, sums[top] - 2 * half, side="left")
    return [
        RankedKey(keys[index], int(sums[index]), half, int(above) + 1, len(keys) - int(below))
        for index, above, below in zip(top, surely_larger, surely_smaller, strict=True)
    ]

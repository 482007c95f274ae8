"""The largest of many released counts, with how far each may stand from its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tactful_privacy._exact import Exact
from tactful_privacy._table import open_share
from tactful_privacy.errors import ParameterError
from tactful_privacy.released import CONFIDENCE, ReleasedPane, check_addable, half_width


@dataclass(frozen=True)
class RankedKey:
    """One of the largest keys.

    Attributes:
        key: The key.
        value: Its noisy count.
        half_width: All true counts of the catalogue lie within their value ± this at once, with
            the confidence asked for.
        best: The best place that its true count may have then, 1 for the largest.
        worst: The worst one. Equal counts may stand either way.
    """

    key: str
    value: int
    half_width: int
    best: int
    worst: int


def top_released(
    panes: Sequence[ReleasedPane], k: int, confidence: Exact = CONFIDENCE
) -> list[RankedKey]:
    """Return the k keys with the largest noisy sums over some panes, largest first.

    A ranking of released values costs nothing. The statement about places holds for all keys at
    once: each sum gets the interval of confidence ``1 - (1 - confidence) / keys`` (Bonferroni), and
    a key stands surely before another where their intervals do not touch.

    Args:
        panes: Panes of one statistic, each once.
        k: How many, 1 to the size of the catalogue.
        confidence: Of all statements together, exact.

    Raises:
        ParameterError: As of `sum_released`, or k is out of range.
    """
    first = check_addable(panes)
    keys = list(first.values)
    if not 1 <= k <= len(keys):
        raise ParameterError(f"k is {k}: give 1 to {len(keys)}, the size of the catalogue")
    each = 1 - (1 - open_share(confidence, "confidence")) / len(keys)
    terms = len(panes) * first.noise_terms
    half = half_width(first.sensitivity, first.epsilon, terms, each)
    sums = np.array([list(pane.values.values()) for pane in panes]).sum(axis=0)
    rising = np.sort(sums)
    places = np.argsort(-sums, kind="stable")[:k]
    surely_larger = len(keys) - np.searchsorted(rising, sums[places] + 2 * half, side="right")
    surely_smaller = np.searchsorted(rising, sums[places] - 2 * half, side="left")
    return [
        RankedKey(keys[place], int(sums[place]), half, int(above) + 1, len(keys) - int(below))
        for place, above, below in zip(places, surely_larger, surely_smaller, strict=True)
    ]

"""Consistent estimates of released minutes, hours and days that add up.

Each level of a calendar has its own noise, so the panes of an hour do not add up to the hour.
Weighted least squares finds the closest numbers that do; among all unbiased linear estimates it has
the smallest variance (Hay, Rastogi, Miklau, Suciu, "Boosting the accuracy of differentially private
histograms through consistency", PVLDB 3, 2010; here with a variance for each level). It uses only
released numbers, so it costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.counting.mixtures import NoiseTerms, half_width_of_mixture
from tactful_privacy.counting.released import CONFIDENCE, ReleasedPane, noise_table
from tactful_privacy.errors import ParameterError
from tactful_privacy.ledger.statistic import PANES
from tactful_privacy.mechanisms._exact import Exact, fraction


@dataclass(frozen=True)
class ConsistentPeriod:
    """Estimates of one period."""

    start: int  # first millisecond of the period (epoch)
    end: int  # first millisecond after it
    # estimate of every key, a real number; the values of a period are the sums of its parts
    values: dict[str, float]
    # each true bounded count lies within value ± half_width with at least `confidence`
    half_width: float
    confidence: float  # confidence of the interval


@dataclass(frozen=True)
class _Level:
    """Parameters of one level of a calendar, such as 24 hours in a day."""

    parts: int  # periods of this level in one period of the next level up; 1 on top
    sensitivity: int
    epsilon: Fraction

    @property
    def variance(self) -> float:
        return float(noise_table(self.sensitivity, self.epsilon).variance)


def consistent(
    levels: Sequence[Sequence[ReleasedPane]], confidence: Exact = CONFIDENCE
) -> list[list[ConsistentPeriod]]:
    """Make the releases of a calendar add up.

    Args:
        levels: Released panes of each level, finest first, such as 24 hours and their day. All come
            from one counter, and every period above the finest level is wholly covered.
        confidence: Confidence of the intervals, exact.

    Returns:
        The estimates, in the shape of `levels`, each level in time order.

    Raises:
        ParameterError: The levels do not cover each other, have different keys, or are totals.
    """
    ordered = [sorted(level, key=lambda pane: pane.start) for level in levels]
    shape = _shape(ordered)
    released = [
        np.array([list(pane.values.values()) for pane in level], dtype=np.float64)
        for level in ordered
    ]
    share = fraction(confidence, "confidence")
    estimates = _least_squares(released, shape)
    widths = _half_widths(shape, share)
    return [
        [
            ConsistentPeriod(
                pane.start,
                pane.end,
                dict(zip(pane.values, row.tolist(), strict=True)),
                width,
                float(share),
            )
            for pane, row in zip(level, rows, strict=True)
        ]
        for level, rows, width in zip(ordered, estimates, widths, strict=True)
    ]


def _shape(levels: Sequence[Sequence[ReleasedPane]]) -> tuple[_Level, ...]:
    """Check that the levels cover each other; return their parameters."""
    if not levels or not all(levels):
        raise ParameterError("each level of a calendar needs released panes: none are given")
    keys = list(levels[0][0].values)
    for level in levels:
        first = level[0]
        for pane in level:
            if pane.kind != PANES or list(pane.values) != keys:
                raise ParameterError(
                    f"{pane.statistic!r} cannot be made consistent with"
                    f" {levels[0][0].statistic!r}:"
                    " give periods with the same keys and Laplace noise, no running totals"
                )
            if (pane.statistic, pane.sensitivity, pane.epsilon) != (
                first.statistic,
                first.sensitivity,
                first.epsilon,
            ):
                raise ParameterError("panes of one level are of different statistics")
    shape = []
    for level, above in zip(levels, [*levels[1:], None], strict=True):
        parts = 1
        if above is not None:
            length = level[0].end - level[0].start
            parts = (above[0].end - above[0].start) // length
            wanted = [
                start for period in above for start in range(period.start, period.end, length)
            ]
            if [pane.start for pane in level] != wanted:
                raise ParameterError(
                    f"panes of {level[0].statistic!r} do not cover those of"
                    f" {above[0].statistic!r}: give all panes of these periods, and no others"
                )
        shape.append(_Level(parts, level[0].sensitivity, level[0].epsilon))
    return tuple(shape)


def _least_squares(
    released: Sequence[NDArray[np.float64]], shape: Sequence[_Level]
) -> list[NDArray[np.float64]]:
    """Estimate by two passes over the levels, ``[periods, keys]`` each.

    Upwards, a period's own release and the sum of its parts' estimates are averaged by the inverse
    of their variances. Downwards, the difference between a period and the sum of its parts is
    divided equally among the parts.
    """
    # Upwards: `variance` is that of one period's estimate on the level reached so far.
    upward = [released[0]]
    variance = shape[0].variance
    for below, (own, level) in zip(shape, zip(released[1:], shape[1:], strict=True), strict=False):
        summed = upward[-1].reshape(len(own), below.parts, -1).sum(axis=1)
        variance_of_sum = below.parts * variance
        weight = variance_of_sum / (level.variance + variance_of_sum)
        upward.append(weight * own + (1 - weight) * summed)
        variance = weight * level.variance
    # Downwards: [6 + 6] below a final 14 becomes [7 + 7].
    final = [upward[-1]]
    for estimate, below in zip(upward[-2::-1], shape[-2::-1], strict=True):
        above = final[-1]
        summed = estimate.reshape(len(above), below.parts, -1).sum(axis=1)
        missing = (above - summed) / below.parts
        final.append(estimate + np.repeat(missing, below.parts, axis=0))
    return final[::-1]


@lru_cache(maxsize=64)
def _half_widths(shape: tuple[_Level, ...], confidence: Fraction) -> tuple[float, ...]:
    """Return the half width of each level from the exact weights of the estimates.

    Estimating from unit releases under one period of the top level gives the weights; all periods
    of a level have the same weights in another order.
    """
    sizes = [1]
    for level in reversed(shape[:-1]):
        sizes.insert(0, sizes[0] * level.parts)
    total = sum(sizes)
    units = np.split(np.eye(total), np.cumsum(sizes)[:-1])
    widths = []
    for rows in _least_squares(units, shape):
        parts = []
        for weights, level in zip(np.split(rows[0], np.cumsum(sizes)[:-1]), shape, strict=True):
            different, times = np.unique(weights.round(12), return_counts=True)
            parts += [
                NoiseTerms(float(weight), int(terms), level.sensitivity, level.epsilon)
                for weight, terms in zip(different, times, strict=True)
            ]
        widths.append(half_width_of_mixture(parts, confidence))
    return tuple(widths)

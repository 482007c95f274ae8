"""Shares, means, quantiles and ranks of released counts, with their intervals.

A share is estimated from two disjoint sets of cells, such as clicks and impressions without click.
If it is r, then ``(1 - r) * part - r * rest`` of the true counts is zero, and the released value is
noise alone, with a known distribution. Every r at which the value would be too rare is ruled out
(Fieller, 1954, with the exact distribution in place of the normal one).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.counting.released import (
    CONFIDENCE,
    ReleasedPane,
    check_addable,
    check_keys,
    half_width,
    noise_table,
    sum_released,
)
from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import Exact
from tactful_privacy.mechanisms._table import open_share

# Above the rounding error of the convolutions, so that shares near the limit are kept.
_MARGIN = 1e-9
_COARSE, _FINE, _HALVINGS = 41, 121, 8


@dataclass(frozen=True)
class ReleasedShare:
    """Share of a part in a whole."""

    value: float  # the estimate, within 0 and 1; 0 if the noisy whole is not positive
    low: float  # lower end of the interval; 0 if the noise exceeds the whole
    high: float  # upper end of the interval; 1 if the noise exceeds the whole
    # least probability that the interval holds the share of the true bounded counts
    confidence: float


def share_released(
    panes: Sequence[ReleasedPane],
    part: str | Collection[str],
    rest: str | Collection[str],
    confidence: Exact = CONFIDENCE,
) -> ReleasedShare:
    """Estimate ``part / (part + rest)`` over some panes.

    Args:
        panes: Panes of one statistic, each once.
        part: Keys of the part, such as clicks.
        rest: Keys of the rest of the whole, such as non-clicks.
        confidence: Confidence of the interval, exact (``"0.95"``).

    Raises:
        ParameterError: See `sum_released`; or part and rest have a key in common.
    """
    first = check_addable(panes)
    if first.amounts is not None and first.amounts.low < 0:
        raise ParameterError(f"{first.statistic!r} adds up negative amounts: they have no share")
    parts = [part] if isinstance(part, str) else list(part)
    rests = [rest] if isinstance(rest, str) else list(rest)
    check_keys(first, parts)
    check_keys(first, rests)
    if common := sorted(set(parts) & set(rests)):
        raise ParameterError(
            f"part and rest of a share have {', '.join(common)} in common: give disjoint keys"
        )
    alpha = 1 - open_share(confidence, "confidence")
    noise = TwoNoises.of(first, len(panes) * len(parts), len(panes) * len(rests))
    a = sum(pane.values[key] for pane in panes for key in parts)
    b = sum(pane.values[key] for pane in panes for key in rests)
    value = min(1.0, max(0.0, a / (a + b))) if a + b > 0 else 0.0
    low, high = _accepted(a, b, value, noise, float(alpha))
    return ReleasedShare(value, min(low, value), max(high, value), float(1 - alpha))


@dataclass(frozen=True, eq=False)
class TwoNoises:
    """Independent noise of two sums of released cells."""

    # probabilities of the noise of the first sum, around 0, ``[2 R + 1]``
    mass: NDArray[np.float64]
    # probabilities that the noise of the second is at most -Q, ..., Q, ``[2 Q + 1]``
    below: NDArray[np.float64]
    variances: tuple[float, float]  # variances of both sums

    @classmethod
    def of(cls, pane: ReleasedPane, first: int, second: int) -> TwoNoises:
        """Return the noise of sums of so many cells of a pane's statistic."""
        key = pane.sensitivity, pane.epsilon, pane.rho
        terms = first * pane.noise_terms, second * pane.noise_terms
        variance = float(noise_table(*key).variance)
        return cls(
            _mass(*key, terms[0]),
            np.cumsum(_mass(*key, terms[1])),
            (terms[0] * variance, terms[1] * variance),
        )

    def tails(self, a: int, b: int, r: float) -> tuple[float, float]:
        """Return both p-values of ``t = (1 - r) a - r b`` if the true share is r, 0 to 1.

        They are P(noise >= t) and P(noise <= t), neither of them too small; `a` and `b` are the
        noisy counts of the part and of the rest.
        """
        reach, last = len(self.mass) // 2, len(self.below) - 1
        of_part = np.arange(-reach, reach + 1)
        if r == 0:
            return float(self.mass[of_part >= a].sum()), float(self.mass[of_part <= a].sum())
        # Noise of the rest at which both sides are equal, given the noise of the part.
        turn = b + (1 - r) / r * (of_part - a)
        at_most = np.floor(turn + 1e-7) + last // 2
        at_least = np.ceil(turn - 1e-7) + last // 2
        below = np.concatenate([[0.0], self.below])
        cut = np.clip(at_most + 1, 0, last + 1).astype(np.int64)
        over = np.clip(at_least, 0, last + 1).astype(np.int64)
        return float(self.mass @ below[cut]), float(self.mass @ (self.below[-1] - below[over]))


def _accepted(a: int, b: int, value: float, noise: TwoNoises, alpha: float) -> tuple[float, float]:
    """Return the smallest interval that holds every share not ruled out."""

    def is_kept(r: float) -> bool:
        return min(noise.tails(a, b, r)) > alpha / 2 - _MARGIN

    def end(inside: float, outside: float) -> float:
        """Bisect between a kept and a ruled-out share; return the ruled-out side."""
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if is_kept(middle) else (inside, middle)
        return outside

    # Candidates: a coarse grid over 0..1, and a fine grid within eight deviations of the estimate.
    of_part, of_rest = noise.variances
    whole = max(1.0, float(a + b))
    spread = 8 * math.sqrt((1 - value) ** 2 * of_part + value**2 * of_rest) / whole
    near = np.linspace(value - spread, value + spread, _FINE).clip(0, 1)
    candidates = np.unique(np.concatenate([np.linspace(0, 1, _COARSE), near])).tolist()
    kept = [index for index, r in enumerate(candidates) if is_kept(r)]
    if not kept:
        return value, value
    low, high = candidates[kept[0]], candidates[kept[-1]]
    if kept[0] > 0:
        low = end(low, candidates[kept[0] - 1])
    if kept[-1] < len(candidates) - 1:
        high = end(high, candidates[kept[-1] + 1])
    return low, high


@lru_cache(maxsize=32)
def _mass(
    sensitivity: int, epsilon: Fraction, rho: Fraction | None, terms: int
) -> NDArray[np.float64]:
    return noise_table(sensitivity, epsilon, rho).mass_of_sum(terms)


@dataclass(frozen=True)
class ReleasedMean:
    """Mean of amounts, each clamped to its range and rounded to a step."""

    value: float  # the estimate, within the range of the amounts
    low: float  # lower end of the interval
    high: float  # upper end of the interval
    # least probability that the interval holds the mean of the true bounded contributions
    confidence: float


def mean_released(
    sums: Sequence[ReleasedPane],
    counts: Sequence[ReleasedPane],
    keys: str | Collection[str] | None = None,
    confidence: Exact = CONFIDENCE,
) -> ReleasedMean | None:
    """Estimate a mean from a statistic of sums and one of counts of the same contributions.

    Sum and count have exact intervals, each with half of the permitted error (Bonferroni); the
    quotients of their ends bound the mean. None if the interval of the count reaches below 1: then
    the noise may exceed the count, and the quotient says nothing.

    Args:
        sums: Panes of the sums, each once.
        counts: The panes of the counts that start at the same times.
        keys: One key, several, or None for the whole catalogue.
        confidence: Confidence of the interval, exact.

    Raises:
        ParameterError: See `sum_released`; or the panes are not those of sums and their counts.
    """
    first = check_addable(sums, of_other_caps=True)
    if first.amounts is None or [it.start for it in sums] != [it.start for it in counts]:
        raise ParameterError("a mean needs panes of sums, and of counts that start at their times")
    share = open_share(confidence, "confidence")
    each = (1 + share) / 2
    total, number = sum_released(sums, keys, each), sum_released(counts, keys, each)
    fewest, most = number.value - number.half_width, number.value + number.half_width
    if fewest < 1:
        return None
    amounts = first.amounts

    def within_range(quotient: Fraction) -> float:
        return float(
            min(max(quotient, Fraction(amounts.low)), Fraction(amounts.high)) * amounts.step
        )

    ends = [
        Fraction(end, count)
        for end in (total.value - total.half_width, total.value + total.half_width)
        for count in (fewest, most)
    ]
    value = within_range(Fraction(total.value, number.value))
    return ReleasedMean(value, within_range(min(ends)), within_range(max(ends)), float(share))


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
    if first.amounts is not None:
        raise ParameterError(
            f"{first.statistic!r} adds up amounts: a quantile needs counts, by edges"
        )
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
    # For each border of two buckets: p-values of "less than p lies below", and of "p or more".
    borders = [(1.0, 1.0)]
    for upto in range(1, len(keys)):
        noise = TwoNoises.of(first, len(panes) * upto, len(panes) * (len(keys) - upto))
        lower, whole = int(cumulative[upto - 1]), int(cumulative[-1])
        borders.append(noise.tails(lower, whole - lower, p))
    borders.append((1.0, 1.0))
    pairs = enumerate(itertools.pairwise(borders))
    kept = [index for index, (left, right) in pairs if left[0] > limit and right[1] > limit]
    # The estimate may lie outside the kept buckets; the interval always includes it.
    low, high = (kept[0], kept[-1]) if kept else (estimate, estimate)
    return ReleasedQuantile(
        keys[estimate], keys[min(low, estimate)], keys[max(high, estimate)], float(1 - alpha)
    )


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
    half = half_width(first.sensitivity, first.epsilon, terms, confidence_by_key, first.rho)
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

"""The part of alpha that a confidence sequence has spent by a number of units.

A one-sided confidence sequence is valid at all looks, to infinity. A test that stops has spent less
than its alpha and may spend the rest on one last test. The sequence has already rejected in most of
the cases in which that test rejects, so only the additional rejections count.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tactful_bandits.analysis.comparison import Estimate, confidence_sequence
from tactful_bandits.errors import StatisticsError
from tactful_privacy.lazy_imports import LazyModule

special = LazyModule("scipy.special")

# Shorter steps would need more nodes: the spread of a step must be wider than their distance.
_MOST_STEPS, _SHORTEST_STEP = 160, 0.04
_LOWEST = -8.0
_SCALE = 10**9
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(160)
# Continuous monitoring crosses the bound more often than looks at the steps do, as if the bound
# were lower by this number of standard deviations of a step.
_CORRECTION = 0.5826


def spent_alpha(*, alpha: float, tightest_at: float, first: float, last: float) -> float:
    """Compute the probability that the sequence ever excludes the truth on one side.

    The z-score over units is an Ornstein-Uhlenbeck process in the logarithm of the units. Its
    density below the bound is propagated from step to step (Armitage, McPherson, Rowe 1969), and
    the bound is corrected from steps to continuous monitoring (Broadie, Glasserman, Kou, "A
    continuity correction for discrete barrier options", Mathematical Finance 7, 1997). Fewer looks
    spend less than this. Asymptotic, like the sequence. The result is at most `alpha`, which is in
    (0, 0.5]; the looks are given in units.
    """
    return min(alpha, _watched(alpha, *_positions(tightest_at, first, last)).spent)


def last_level(
    *, alpha: float, kept: float, tightest_at: float, first: float, last: float
) -> float:
    """Compute the level of a last test that spends ``alpha + kept`` with the sequence.

    The test uses the same z-score as the sequence, which mostly has rejected before: its level, at
    most 0.5, may be higher than the alpha that is left. Like in group-sequential designs, it
    follows from the density of the paths that never crossed (Jennison and Turnbull, "Group
    Sequential Methods with Applications to Clinical Trials", 1999, chapter 19).
    """
    if not 0 <= kept <= 0.5:
        raise StatisticsError(f"kept must lie between 0 and 0.5, not {kept}")
    spent = spent_alpha(alpha=alpha, tightest_at=tightest_at, first=first, last=last)
    left = alpha + kept - spent
    return _level(alpha, *_positions(tightest_at, first, last), left)


@dataclass(frozen=True)
class _Watched:
    """Shares of paths: `spent` crossed, `beyond(z)` ended above z without crossing."""

    spent: float
    beyond: Callable[[float], float]


def _positions(tightest_at: float, first: float, last: float) -> tuple[float, float]:
    """Compute the logarithms of ``first`` and ``last`` over `tightest_at`.

    They are rounded so that similar looks share a cache entry.
    """
    if not 0 < first <= last < math.inf:
        raise StatisticsError(
            f"the units at the first and last look must be above 0 and rise, not {first} and {last}"
        )
    return round(math.log(first / tightest_at), 2), round(math.log(last / tightest_at), 2)


@lru_cache(maxsize=256)
def _level(alpha: float, start: float, stop: float, left: float) -> float:
    beyond = _watched(alpha, start, stop).beyond
    if beyond(0.0) <= left:
        return 0.5
    # Imported here because a server needs only this part of it, and importing takes long.
    from scipy import optimize

    edge = optimize.brentq(lambda score: beyond(score) - left, 0.0, 40.0)
    return float(special.ndtr(-edge))


@lru_cache(maxsize=256)
def _watched(alpha: float, start: float, stop: float) -> _Watched:
    """Propagate the density of all paths from the first look to the last.

    Arrays have the shape ``[nodes]``; ``before``, ``carried`` and ``crossed`` belong to the last
    step.
    """
    steps = max(1, min(_MOST_STEPS, int((stop - start) / _SHORTEST_STEP)))
    step = (stop - start) / steps
    kept, spread = math.exp(-step / 2), math.sqrt(-math.expm1(-step))
    edge = _bound(alpha, start) - _CORRECTION * spread
    spent = float(special.ndtr(-edge))
    if step <= 0:
        return _Watched(spent, lambda score: max(float(special.ndtr(-score)) - spent, 0.0))
    scores, widths = _nodes(edge)
    masses = np.exp(-(scores**2) / 2) / math.sqrt(2 * math.pi) * widths
    for number in range(1, steps + 1):
        before, carried = kept * scores, masses
        edge = _bound(alpha, start + number * step) - _CORRECTION * spread
        crossed = special.ndtr((before - edge) / spread)
        spent += float(crossed @ masses)
        following, widths = _nodes(edge)
        density = np.exp(-(((following[:, None] - before) / spread) ** 2) / 2) @ masses
        masses = density / (spread * math.sqrt(2 * math.pi)) * widths
        scores = following

    def beyond(score: float) -> float:
        above = special.ndtr((before - score) / spread) - crossed
        return max(float(above @ carried), 0.0)

    return _Watched(spent, beyond)


def _nodes(edge: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Early bounds lie far above all paths; nodes up to there would leave the density unresolved.
    half = (min(edge, -_LOWEST) - _LOWEST) / 2
    return _LOWEST + half * (_NODES + 1), half * _WEIGHTS


def _bound(alpha: float, position: float) -> float:
    """Compute the z-score above which the sequence excludes 0."""
    estimate = Estimate(0.0, 1.0, round(_SCALE * math.exp(position)), math.inf)
    sequence = confidence_sequence(estimate, alpha=alpha, tightest_at=_SCALE, alternative="greater")
    return -sequence.low

"""What of its alpha a confidence sequence has spent by a number of units.

A one-sided confidence sequence is right at all looks, to infinity. Who stops looking has spent less
than its alpha, and may spend the rest on one last test. Most of what that test would find alone is
excluded by the sequence already, so only what it finds besides counts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tactful_bandits.comparison import Estimate, confidence_sequence
from tactful_bandits.errors import StatisticsError

# Shorter steps would need more nodes: a step's spread has to reach from node to node.
_MOST_STEPS, _SHORTEST_STEP = 160, 0.04
_LOWEST = -8.0
_SCALE = 10**9
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(160)
# A path that is watched all the time crosses more often than one that is looked at now and then, as
# if the bound were lower by so many standard deviations of a step.
_CORRECTION = 0.5826


def spent_alpha(*, alpha: float, tightest_at: float, first: float, last: float) -> float:
    """Probability that the sequence excludes the truth, on one given side, while it is watched.

    The z-score of what arrives unit by unit is an Ornstein-Uhlenbeck process in the logarithm of
    the units. Its density below the bound is carried on from step to step (Armitage, McPherson,
    Rowe 1969), and the bound moved from steps to all the time between them (Broadie, Glasserman,
    Kou, "A continuity correction for discrete barrier options", Mathematical Finance 7, 1997). Who
    looks now and then spends less than this. Asymptotic, as the sequence is.

    Args:
        alpha: Of the one-sided sequence, in (0, 0.5].
        tightest_at: What it is tuned for.
        first: Units before which nobody looks, above 0.
        last: Units after which nobody does, at least `first`.

    Returns:
        At most `alpha`.

    Raises:
        StatisticsError: A value is out of range.
    """
    return min(alpha, _watched(alpha, *_positions(tightest_at, first, last)).spent)


def last_level(
    *, alpha: float, kept: float, tightest_at: float, first: float, last: float
) -> float:
    """Level of one last test so that it and the sequence spend ``alpha + kept`` together.

    The test looks at the same z-score as the sequence, so whoever it convicts is mostly convicted
    before: its level may be higher than what is left. As with group-sequential designs, the level
    follows from the density of the paths that never crossed (Jennison and Turnbull, "Group
    Sequential Methods with Applications to Clinical Trials", 1999, chapter 19).

    Args:
        alpha: Of the one-sided sequence, in (0, 0.5].
        kept: What the test may spend on top of what the sequence saves, from 0.
        tightest_at: What the sequence is tuned for.
        first: Units before which nobody looks, above 0.
        last: Units at the last look, at least `first`.

    Returns:
        At least ``alpha + kept`` less what is spent, at most 0.5.

    Raises:
        StatisticsError: A value is out of range.
    """
    if not 0 <= kept <= 0.5:
        raise StatisticsError(f"the last test may spend from 0 to 0.5 on top, not {kept}")
    spent = spent_alpha(alpha=alpha, tightest_at=tightest_at, first=first, last=last)
    left = alpha + kept - spent
    return _level(alpha, *_positions(tightest_at, first, last), left)


@dataclass(frozen=True)
class _Watched:
    """What became of all paths: `spent` crossed, `beyond(z)` ended above z and never did."""

    spent: float
    beyond: Callable[[float], float]


def _positions(tightest_at: float, first: float, last: float) -> tuple[float, float]:
    """Logarithms of units over `tightest_at`, on which alone bounds depend.

    Rounded: looks alike are computed once.

    Raises:
        StatisticsError: They are no first and last look.
    """
    if not 0 < first <= last < math.inf:
        raise StatisticsError(
            f"looks go from some units above 0 to as many or more, not from {first} to {last}"
        )
    return round(math.log(first / tightest_at), 2), round(math.log(last / tightest_at), 2)


@lru_cache(maxsize=256)
def _level(alpha: float, start: float, stop: float, left: float) -> float:
    beyond = _watched(alpha, start, stop).beyond
    if beyond(0.0) <= left:
        return 0.5
    # Here, since a server loads nothing else of it, and what it loads keeps it from serving.
    from scipy import optimize

    edge = optimize.brentq(lambda score: beyond(score) - left, 0.0, 40.0)
    return float(special.ndtr(-edge))


@lru_cache(maxsize=256)
def _watched(alpha: float, start: float, stop: float) -> _Watched:
    """Carry the density of all paths from the first look to the last."""
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
    # Early bounds lie far beyond all paths: nodes up to there would miss where the density is.
    half = (min(edge, -_LOWEST) - _LOWEST) / 2
    return _LOWEST + half * (_NODES + 1), half * _WEIGHTS


def _bound(alpha: float, position: float) -> float:
    """The z-score beyond which the sequence excludes 0."""
    seen = Estimate(0.0, 1.0, round(_SCALE * math.exp(position)), math.inf)
    sequence = confidence_sequence(seen, alpha=alpha, tightest_at=_SCALE, alternative="greater")
    return -sequence.low

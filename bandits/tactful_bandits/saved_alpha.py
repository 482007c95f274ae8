"""What of its alpha a confidence sequence has spent by a number of units.

A one-sided confidence sequence is right at all looks, to infinity. Who stops looking has spent less
than its alpha, and may spend the rest on one last test.
"""

import math
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
    if not 0 < first <= last < math.inf:
        raise StatisticsError(
            f"looks go from some units above 0 to as many or more, not from {first} to {last}"
        )
    # Bounds depend on units over `tightest_at` alone. Rounded: looks alike are computed once.
    start, stop = (round(math.log(units / tightest_at), 2) for units in (first, last))
    return min(alpha, _spent(alpha, start, stop))


@lru_cache(maxsize=256)
def _spent(alpha: float, start: float, stop: float) -> float:
    """The same, by the logarithms of units over `tightest_at`."""
    steps = max(1, min(_MOST_STEPS, int((stop - start) / _SHORTEST_STEP)))
    step = (stop - start) / steps
    kept, spread = math.exp(-step / 2), math.sqrt(-math.expm1(-step))
    edge = _bound(alpha, start) - _CORRECTION * spread
    if step <= 0:
        return float(special.ndtr(-edge))
    scores, widths = _nodes(edge)
    masses = np.exp(-(scores**2) / 2) / math.sqrt(2 * math.pi) * widths
    spent = float(special.ndtr(-edge))
    for number in range(1, steps + 1):
        edge = _bound(alpha, start + number * step) - _CORRECTION * spread
        spent += float(special.ndtr((kept * scores - edge) / spread) @ masses)
        following, widths = _nodes(edge)
        density = np.exp(-(((following[:, None] - kept * scores) / spread) ** 2) / 2) @ masses
        masses = density / (spread * math.sqrt(2 * math.pi)) * widths
        scores = following
    return spent


def _nodes(edge: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Early bounds lie far beyond all paths: nodes up to there would miss where the density is.
    half = (min(edge, -_LOWEST) - _LOWEST) / 2
    return _LOWEST + half * (_NODES + 1), half * _WEIGHTS


def _bound(alpha: float, position: float) -> float:
    """The z-score beyond which the sequence excludes 0."""
    seen = Estimate(0.0, 1.0, round(_SCALE * math.exp(position)), math.inf)
    sequence = confidence_sequence(seen, alpha=alpha, tightest_at=_SCALE, alternative="greater")
    return -sequence.low

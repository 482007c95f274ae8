"""Properties of noise computed from its stated probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tactful_privacy.mechanisms._exact import Exact, exp_bounds
from tactful_privacy.mechanisms._table import BITS

_BUCKETS = 40
_FEW = 50


class StatedNoise(Protocol):
    """Integer noise with stated probabilities."""

    def probability(self, k: int) -> Fraction:
        """Return P(Z = k)."""

    def sample(self, n: int) -> NDArray[Any]:
        """Return n independent draws, ``[n]``."""

    def interval(self, confidence: Exact = ...) -> int:
        """Return the smallest h with P(|Z| <= h) >= confidence."""


def probabilities(noise: StatedNoise) -> dict[int, Fraction]:
    """Return P(Z = k) for every k within `reach`."""
    far = reach(noise)
    return {k: noise.probability(k) for k in range(-far, far + 1)}


def reach(noise: StatedNoise) -> int:
    """Return a value beyond which the probabilities sum to less than 1e-13."""
    far = 1
    while noise.probability(far) > Fraction(1, 10**16):
        far *= 2
    return far * 2


def exact_delta(noise: StatedNoise, change: int, epsilon: Fraction) -> Fraction:
    """Compute delta by its definition, in fractions.

    It is ``sum_k max(0, P(k) - e^epsilon P(k - change))``. The mass beyond `reach` is added as a
    whole.
    """
    factor = Fraction(exp_bounds(epsilon, BITS)[0], 1 << BITS)
    p = probabilities(noise)
    beyond = 1 - sum(p.values(), Fraction(0))
    return sum((max(Fraction(0), v - factor * p.get(k - change, 0)) for k, v in p.items()), beyond)


def gaussian_delta(distance: float, epsilon: float) -> float:
    """Return the smallest delta of normal noise for a change in standard deviations.

    Source: Balle, Wang, ICML 2018, th. 8.
    """
    normal = NormalDist()
    mean, shift = distance / 2, epsilon / distance
    return normal.cdf(mean - shift) - math.exp(epsilon) * normal.cdf(-mean - shift)


def chance_of(draws: NDArray[Any], noise: StatedNoise) -> float:
    """Return the p-value of draws against the stated probabilities.

    Uses chi-square, or an exact test of the number of nonzero draws if these are too few.
    """
    p = probabilities(noise)
    edge, tail = 0, (1 - float(p[0])) / 2
    # The tails are counted together; chi-square needs enough draws in them, too.
    while (share := float(p.get(edge + 1, 0))) and len(draws) * min(share, tail - share) > _FEW:
        edge, tail = edge + 1, tail - share
    if len(draws) * tail <= _FEW:
        return _exact(int(np.count_nonzero(draws)), len(draws), 2 * tail)
    inner = [float(p[k]) for k in range(-edge, edge + 1)]
    observed = np.bincount(np.clip(draws, -edge - 1, edge + 1) + edge + 1, minlength=2 * edge + 3)
    return _chi_square(observed, [tail, *inner, tail])


def chance_of_normal(draws: NDArray[Any], sigma: float) -> float:
    """Return the p-value against normal noise, for integers with sigma far above 1."""
    normal = NormalDist(0, sigma)
    edges = [math.floor(normal.inv_cdf(i / _BUCKETS)) for i in range(1, _BUCKETS)]
    below = [0.0, *(normal.cdf(edge + 0.5) for edge in edges), 1.0]
    observed = np.bincount(np.searchsorted(edges, draws), minlength=_BUCKETS)
    return _chi_square(observed, np.diff(below).tolist())


def _exact(successes: int, draws: int, share: float) -> float:
    """Return the two-sided p-value of a number of successes with probability `share`."""
    fewer = float(special.bdtr(successes, draws, share))
    more = float(special.bdtrc(successes - 1, draws, share)) if successes else 1.0
    return min(1.0, 2 * min(fewer, more))


def _chi_square(observed: NDArray[Any], shares: Sequence[float]) -> float:
    expected = np.array(shares) * observed.sum()
    statistic = float((((observed - expected) ** 2) / expected).sum())
    return float(special.chdtrc(len(expected) - 1, statistic))

"""Group-sequential tests: bounds that spend alpha over a few planned looks.

If the number of looks is planned, say five Mondays, intervals are narrower than for any number of
looks. Each look spends a part of alpha, as a function of the share of the planned information that
has been seen; looks may shift as long as the function stays the same.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tactful_bandits.analysis.comparison import Estimate, Interval, require_alpha
from tactful_bandits.errors import StatisticsError
from tactful_privacy.lazy_imports import LazyModule

special = LazyModule("scipy.special")

Spending = Callable[[float, float], float]
"""Map alpha and the share of the information seen, in [0, 1], to the error spent so far."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(160)
_HALVINGS = 60
_FARTHEST = 10.0  # standard errors; the probability beyond is negligible


def obrien_fleming_spending(alpha: float, information: float) -> float:
    """Spend almost nothing at first; the last bound is close to that of one look.

    On each side ``2 - 2 Φ(z / sqrt t)`` with ``z`` the normal quantile of ``1 - alpha / 4``.

    Source: Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70
    (1983).
    """
    if information <= 0:
        return 0.0
    return float(4 * special.ndtr(special.ndtri(alpha / 4) / math.sqrt(min(information, 1.0))))


def pocock_spending(alpha: float, information: float) -> float:
    """Spend evenly, so that all bounds are nearly equal: ``alpha log(1 + (e - 1) t)``.

    Source: Lan and DeMets (1983).
    """
    return alpha * math.log1p((math.e - 1) * min(max(information, 0.0), 1.0))


def group_sequential_bounds(
    information: Sequence[float],
    *,
    alpha: float = 0.05,
    spending: Spending = obrien_fleming_spending,
) -> tuple[float, ...]:
    """Compute the bound of the absolute z-score for each look.

    Between looks the score moves by independent normal steps. The density of the paths that have
    crossed no bound is propagated from look to look by Gauss-Legendre quadrature; each bound leaves
    as much probability beyond it as the look may spend, and is infinite where that is nothing.

    Args:
        information: Share of the planned information (units, commonly) at each look so far, rising,
            in (0, 1].
        alpha: Two-sided error of all looks together, in (0, 0.5].
        spending: Part of alpha that may be spent up to a share of the information.

    Raises:
        StatisticsError: The shares do not rise within (0, 1], or `alpha` is out of range.

    Source: Armitage, McPherson, Rowe, "Repeated significance tests on accumulating data", JRSS A
    132 (1969).
    """
    shares = list(information)
    if not shares or any(a >= b for a, b in zip([0.0, *shares], [*shares, math.inf], strict=True)):
        raise StatisticsError(f"information must rise from above 0, look by look, not {shares}")
    if shares[-1] > 1:
        raise StatisticsError(
            f"the last look has {shares[-1]} of the planned information; at most 1"
        )
    require_alpha(alpha)
    bounds: list[float] = []
    paths, spent = _Paths.start(), 0.0
    for share in shares:
        target = spending(alpha, share) - spent
        bounds.append(paths.bound(share, target))
        paths, spent = paths.within(share, bounds[-1]), spent + target
    return tuple(bounds)


def crossing_probability(information: Sequence[float], bounds: Sequence[float]) -> float:
    """Compute the probability that any look crosses its bound without a difference.

    Information is the units at each look, rising, in any scale; bounds are above 0.
    """
    looks = list(information)
    if not looks or any(a >= b for a, b in zip([0.0, *looks], [*looks, math.inf], strict=True)):
        raise StatisticsError(f"information must rise from above 0, look by look, not {looks}")
    if len(bounds) != len(looks) or not all(bound > 0 for bound in bounds):
        raise StatisticsError(f"{len(looks)} looks need as many bounds above 0, not {bounds}")
    paths, crossed = _Paths.start(), 0.0
    for look, bound in zip(looks, bounds, strict=True):
        share = look / looks[-1]
        crossed += paths.beyond(share, bound * math.sqrt(share))
        paths = paths.within(share, bound)
    return crossed


def error_of_peeking(information: Sequence[float], *, alpha: float = 0.05) -> float:
    """Compute the real error of repeating a single-look test at each of several looks.

    It is 0.142 for five equally spaced looks at 0.05.

    Args:
        information: Units at each look, rising, in any scale.
        alpha: Two-sided error of each test by itself.

    Raises:
        StatisticsError: The looks do not rise, or `alpha` is out of range.
    """
    require_alpha(alpha)
    bound = float(special.ndtri(1 - alpha / 2))
    return crossing_probability(information, [bound] * len(information))


def repeated_interval(estimate: Estimate, bound: float, *, alpha: float = 0.05) -> Interval:
    """Compute the interval that covers the truth at all planned looks.

    The bound of the latest look is from `group_sequential_bounds` with the same alpha.

    Source: Jennison and Turnbull, "Interim analyses: the repeated confidence interval approach",
    JRSS B 51 (1989).
    """
    half = bound * estimate.standard_error if estimate.standard_error > 0 else math.inf
    method = "group-sequential, planned looks"
    return Interval(estimate.value - half, estimate.value + half, 1 - alpha, method)


@dataclass(frozen=True)
class _Paths:
    """Score distribution of paths that crossed no bound: quadrature nodes and masses.

    ``scores`` and ``masses`` have the shape ``[nodes]``; `share` is the information at this look.
    """

    scores: NDArray[np.float64]
    masses: NDArray[np.float64]
    share: float

    @classmethod
    def start(cls) -> Self:
        """Return the distribution with all mass at a score of 0."""
        return cls(np.zeros(1), np.ones(1), 0.0)

    def beyond(self, share: float, edge: float) -> float:
        """Compute the mass beyond an edge, on either side, at the next look."""
        step = math.sqrt(share - self.share)
        tails = special.ndtr((self.scores - edge) / step)
        tails += special.ndtr((-self.scores - edge) / step)
        return float(tails @ self.masses)

    def bound(self, share: float, target: float) -> float:
        """Compute the absolute z-score that leaves the target mass beyond it."""
        low, high = 0.0, _FARTHEST
        if target <= self.beyond(share, high * math.sqrt(share)):
            return math.inf
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            more = self.beyond(share, middle * math.sqrt(share)) > target
            low, high = (middle, high) if more else (low, middle)
        return high

    def within(self, share: float, bound: float) -> "_Paths":
        """Return the distribution of the paths that stay within a look's bound."""
        step = math.sqrt(share - self.share)
        edge = min(bound, _FARTHEST) * math.sqrt(share)
        scores = edge * _NODES
        density = np.exp(-(((scores[:, None] - self.scores) / step) ** 2) / 2) @ self.masses
        masses = density / (step * math.sqrt(2 * math.pi)) * edge * _WEIGHTS
        return _Paths(scores, masses, share)

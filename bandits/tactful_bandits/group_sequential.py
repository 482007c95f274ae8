"""A few looks that were planned: bounds that spend the error among them.

Where it is known beforehand how many looks there will be, say five Mondays, less width is paid than
for any number of looks. Each look spends a part of alpha, as a function of how much of the planned
information it has seen; looks may shift, as long as the function stays.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tactful_bandits.comparison import Estimate, Interval
from tactful_bandits.errors import StatisticsError

Spending = Callable[[float, float], float]
"""From alpha and the share of the information seen, in [0, 1], to the error spent so far."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(160)
_HALVINGS = 60


def obrien_fleming_spending(alpha: float, seen: float) -> float:
    """Spend nearly nothing at first, so that the last bound is nearly that of a single look.

    On each side ``2 - 2 Φ(z / sqrt t)`` with ``z`` the normal quantile of ``1 - alpha / 4``.

    Source: Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70
    (1983).
    """
    if seen <= 0:
        return 0.0
    return float(4 * special.ndtr(special.ndtri(alpha / 4) / math.sqrt(min(seen, 1.0))))


def pocock_spending(alpha: float, seen: float) -> float:
    """Spend evenly, so that all bounds are nearly equal: ``alpha log(1 + (e - 1) t)``.

    Source: Lan and DeMets (1983).
    """
    return alpha * math.log1p((math.e - 1) * min(max(seen, 0.0), 1.0))


def group_sequential_bounds(
    information: Sequence[float],
    *,
    alpha: float = 0.05,
    spending: Spending = obrien_fleming_spending,
) -> tuple[float, ...]:
    """Compute how many standard errors from 0 each look must see to call a difference.

    Between looks the score moves by independent normal steps. Its density among the paths that have
    crossed no bound is carried from look to look by Gauss and Legendre's quadrature, and each bound
    is where the density beyond it is what the look may spend.

    Args:
        information: Share of the planned information (units, commonly) at each look so far, rising,
            in (0, 1].
        alpha: Two-sided error of all looks together, in (0, 0.5].
        spending: How it is spent.

    Returns:
        One bound per look, for the absolute z-score; infinite where a look may spend nothing.

    Raises:
        StatisticsError: The shares do not rise within (0, 1], or `alpha` is out of range.

    Source: Armitage, McPherson, Rowe, "Repeated significance tests on accumulating data", JRSS A
    132 (1969).
    """
    seen = list(information)
    if not seen or any(a >= b for a, b in zip([0.0, *seen], [*seen, math.inf], strict=True)):
        raise StatisticsError(f"information must rise from above 0, look by look, not {seen}")
    if seen[-1] > 1:
        raise StatisticsError(f"a look has seen {seen[-1]} of what was planned: at most 1")
    if not 0 < alpha <= 0.5:
        raise StatisticsError(f"alpha must be above 0 and at most 0.5, not {alpha}")
    bounds: list[float] = []
    # All paths start at a score of 0: one node that holds everything.
    scores, masses = np.zeros(1), np.ones(1)
    before, spent = 0.0, 0.0
    for share in seen:
        step = math.sqrt(share - before)
        target = spending(alpha, share) - spent
        edge = _edge(scores, masses, step, target, 10 * math.sqrt(share))
        bounds.append(edge / math.sqrt(share) if math.isfinite(edge) else math.inf)
        inner = min(edge, 10 * math.sqrt(share))
        after = inner * _NODES
        density = np.exp(-(((after[:, None] - scores) / step) ** 2) / 2) @ masses
        masses = density / (step * math.sqrt(2 * math.pi)) * inner * _WEIGHTS
        scores, before, spent = after, share, spent + target
    return tuple(bounds)


def repeated_interval(estimate: Estimate, bound: float, *, alpha: float = 0.05) -> Interval:
    """Cover the truth at all planned looks with probability ``1 - alpha``.

    Args:
        estimate: At the latest look.
        bound: Of this look, from `group_sequential_bounds` with the same alpha.
        alpha: Of all looks together.

    Source: Jennison and Turnbull, "Interim analyses: the repeated confidence interval approach",
    JRSS B 51 (1989).
    """
    half = bound * estimate.standard_error if estimate.standard_error > 0 else math.inf
    method = "group-sequential, planned looks"
    return Interval(estimate.value - half, estimate.value + half, 1 - alpha, method)


def _edge(
    scores: NDArray[np.float64],
    masses: NDArray[np.float64],
    step: float,
    target: float,
    farthest: float,
) -> float:
    """The score beyond which, on both sides, there is as much mass as a look may spend."""

    def beyond(edge: float) -> float:
        tails = special.ndtr((scores - edge) / step) + special.ndtr((-scores - edge) / step)
        return float(tails @ masses)

    if target <= beyond(farthest):
        return math.inf
    low, high = 0.0, farthest
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) > target else (low, middle)
    return high

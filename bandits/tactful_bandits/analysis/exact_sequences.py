"""Exact confidence sequences for shares, for any number of units.

The confidence sequence of `tactful_bandits.confidence_sequence` rests on the central limit theorem
and needs about fifty outcomes. These assume only that all units have the same probability of yes,
so they hold from the first unit on, also for one error in a thousand requests. They are wider.
"""

import math
from collections.abc import Callable

from scipy import special

from tactful_bandits.analysis.comparison import Interval
from tactful_bandits.analysis.samples import Proportion
from tactful_bandits.errors import StatisticsError

_METHOD = "beta-binomial mixture, exact, any look"
_HALVINGS = 60


def proportion_sequence(
    sample: Proportion, *, alpha: float = 0.05, prior: tuple[float, float] = (0.5, 0.5)
) -> Interval:
    """Compute an interval of one arm's share that is valid at all looks.

    For any share ``p`` the mixture ``B(a + s, b + f) / B(a, b) / (p^s (1 - p)^f)`` of ``s``
    successes and ``f`` failures is a martingale that starts at 1 if ``p`` is true; by Ville's
    inequality it ever reaches ``1 / alpha`` with probability at most `alpha`. The interval holds
    every ``p`` whose martingale is below ``1 / alpha``.

    Args:
        sample: All units so far.
        alpha: Probability of ever missing the truth, in (0, 1).
        prior: ``a`` and ``b``, above 0; choose them before looking at data. The interval is
            narrowest near ``a / (a + b)``.

    Raises:
        StatisticsError: `alpha` or `prior` is out of range.

    Source: Robbins, "Statistical Methods Related to the Law of the Iterated Logarithm", Ann. Math.
    Statist. 41 (1970); Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric,
    nonasymptotic confidence sequences", Ann. Statist. 49 (2021), arXiv 1810.08240.
    """
    if not 0 < alpha < 1:
        raise StatisticsError(f"alpha must lie between 0 and 1, not {alpha}")
    a, b = prior
    if not (0 < a < math.inf and 0 < b < math.inf):
        raise StatisticsError(f"the prior must be two numbers above 0, not {prior}")
    s, f = sample.successes, sample.units - sample.successes
    threshold = -math.log(alpha)
    mixture = float(special.betaln(a + s, b + f) - special.betaln(a, b))

    def excluded(p: float) -> bool:
        if (p == 0 and s) or (p == 1 and f):
            return True  # impossible after these outcomes
        likelihood = (s * math.log(p) if s else 0.0) + (f * math.log1p(-p) if f else 0.0)
        return mixture - likelihood >= threshold

    best = s / sample.units
    return Interval(_edge(excluded, 0.0, best), _edge(excluded, 1.0, best), 1 - alpha, _METHOD)


def exact_difference_sequence(
    control: Proportion,
    treatment: Proportion,
    *,
    alpha: float = 0.05,
    prior: tuple[float, float] = (0.5, 0.5),
) -> Interval:
    """Compute an interval of treatment minus control that is valid at all looks.

    Each arm's share is covered with probability ``1 - alpha / 2``, hence both with ``1 - alpha``.
    The interval holds exactly; for two large arms it is about a fifth wider than necessary.

    Raises:
        StatisticsError: `alpha` or `prior` is out of range.
    """
    c = proportion_sequence(control, alpha=alpha / 2, prior=prior)
    t = proportion_sequence(treatment, alpha=alpha / 2, prior=prior)
    return Interval(t.low - c.high, t.high - c.low, 1 - alpha, _METHOD)


def _edge(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Bisect between `inside` and `outside` for the end of a set; round outwards."""
    if not excluded(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside

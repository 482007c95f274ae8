"""Compare means of skewed outcomes, such as revenue: few users buy, and few of them pay most.

The normal approximation fails for them. An arm without a large order has a low mean and, because
its variance was measured on the same users, a small error, so a harmless change looks harmful. Here
an outcome above a cap counts as the cap. Bets replace the normal approximation where even
capped outcomes are too few for it.

```text
revenue of a user   0  0  12  0  7  900   …
over the cap of 60  0  0  .2  0  .1   1   = w, between 0 and 1
```
"""

import math
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.analysis.comparison import (
    Comparison,
    Interval,
    conclude,
    difference,
    require_alpha,
)
from tactful_bandits.analysis.samples import Mean, Ratio, Sample, columns
from tactful_bandits.errors import StatisticsError

# Share of the outcomes above 0 that stay below the cap.
_BELOW_CAP = 0.9
# Stakes of the bets, as shares of the largest possible one; each gets an equal part of alpha.
_STAKES = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
_STEPS = 6

SPENT_ON_SKEWED = 0.75
"""Part of alpha that skewed outcomes may spend: capped, they are still not quite normal."""
SPENT_ON_BETS = 0.1
"""Part of that for bets, which replace the normal approximation below `ENOUGH_OUTCOMES`."""
ENOUGH_OUTCOMES = 50
"""Outcomes above 0 that the normal approximation needs in each arm."""
_METHOD = "betting on capped outcomes, any look"


@dataclass(frozen=True, slots=True)
class SkewedMean(Mean):
    """A mean over units of outcomes of at least 0, most of which may be 0.

    Attributes:
        positive: The outcomes above 0, rising, ``[buyers]``.
    """

    positive: NDArray[np.float64] = field(repr=False, compare=False)

    @classmethod
    def from_units(cls, values: ArrayLike) -> Self:
        """Keep one value per unit, shape ``[units]``; none may be negative."""
        (x,) = columns(values)
        if len(x) and not (np.isfinite(x).all() and x.min() >= 0):
            raise StatisticsError("skewed outcomes must be finite and at least 0")
        return cls(len(x), float(x.sum()), float(x @ x), np.sort(x[x > 0]))

    def scaled(self, factor: float) -> Self:
        """Multiply all outcomes by a factor."""
        total, squares = self.total * factor, self.squares * factor**2
        return type(self)(self.units, total, squares, self.positive * factor)


def common_cap(*arms: SkewedMean) -> float:
    """Compute the cap of outcomes: the 90 % quantile of those above 0 in all arms together.

    Both arms enter alike, so a cap from the data of the test does not favour an arm. The cap is 1
    if all outcomes are 0.
    """
    positive = np.concatenate([arm.positive for arm in arms])
    return float(np.quantile(positive, _BELOW_CAP)) if len(positive) else 1.0


def capped_at(cap: float, arm: SkewedMean) -> Mean:
    """Cap the outcomes of an arm."""
    outcomes = np.minimum(arm.positive, cap)
    return Mean(arm.units, float(outcomes.sum()), float(outcomes @ outcomes))


def capped_loss(
    control: SkewedMean,
    treatment: SkewedMean,
    *,
    scale: float = 1.0,
    alpha: float = 0.05,
    cap: float | None = None,
) -> Interval:
    """Compute the interval of the loss ``scale · c - t`` between means of capped outcomes.

    The cap is `common_cap` unless one is given.

    Each end misses the truth with probability at most `alpha`. With outcomes ``w`` in [0, 1] and
    a stake ``θ``, the product of ``1 - θ w`` over the ``n`` units of the treatment and of
    ``1 + θ r w`` over the ``m`` of the control, ``r = scale · n / m``, has a mean of at most
    ``exp(θ n L)`` for the true loss ``L``, since ``1 + x <= exp(x)``. The mean over stakes of the
    products over ``exp(θ n L)`` is therefore above ``1 / alpha`` with probability at most `alpha`
    (Markov), for any distribution and any numbers of units. It is a supermartingale while units
    arrive in the arms at one ratio: then the probability holds for all looks together (Ville).

    Source: Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", J. R.
    Stat. Soc. B 86 (2024), arXiv 2010.09686; the two-sample product is derived above.

    Raises:
        StatisticsError: `alpha` is out of range.
    """
    require_alpha(alpha)
    cap = common_cap(control, treatment) if cap is None else cap
    c, t = (np.minimum(arm.positive / cap, 1.0) for arm in (control, treatment))
    ratio = scale * treatment.units / control.units
    against = _STAKES
    low = _bound(against, _wealth(against, t, c, ratio), treatment.units, alpha)
    in_favour = _STAKES * min(1.0, 1.0 / ratio)
    high = -_bound(in_favour, _wealth(-in_favour, t, c, ratio), treatment.units, alpha)
    return Interval(cap * low, cap * high, 1 - 2 * alpha, _METHOD)


def compare_skewed(
    control: SkewedMean,
    treatment: SkewedMean,
    *,
    cap: float | None = None,
    alpha: float = 0.05,
    tightest_at: float = 5000,
) -> Comparison:
    """Compare means of capped outcomes of two arms, as `compare` compares means.

    The cap is `common_cap` unless one is given. The error is the larger of the usual one and that
    of arms whose users vary alike. If the smaller arm is to expect fewer than `ENOUGH_OUTCOMES`
    outcomes above 0, or no arm varies, the intervals are those of `capped_loss`, and the p-values
    the inverse of its products. Both ways share `SPENT_ON_SKEWED` of alpha, since between looks the
    number of outcomes grows past the limit.

    Raises:
        StatisticsError: `alpha` or `tightest_at` is out of range.
    """
    require_alpha(alpha)
    cap = common_cap(control, treatment) if cap is None else cap
    c, t = capped_at(cap, control), capped_at(cap, treatment)
    estimate = difference(c, t)
    error = max(estimate.standard_error, variance_of_equals(c, t) ** 0.5)
    estimate = replace(estimate, standard_error=error)
    buyers = len(control.positive) + len(treatment.positive)
    smaller = min(control.units, treatment.units) / (control.units + treatment.units)
    if error and buyers * smaller >= ENOUGH_OUTCOMES:
        part = SPENT_ON_SKEWED * (1 - SPENT_ON_BETS)
        normal = conclude(estimate, alpha=alpha * part, tightest_at=tightest_at)
        return replace(
            normal,
            fixed_horizon=replace(normal.fixed_horizon, confidence=1 - alpha),
            anytime=replace(normal.anytime, confidence=1 - alpha),
            fixed_horizon_p=min(normal.fixed_horizon_p / part, 1.0),
            anytime_p=min(normal.anytime_p / part, 1.0),
        )
    part = SPENT_ON_SKEWED * SPENT_ON_BETS
    loss = capped_loss(control, treatment, alpha=alpha * part / 2, cap=cap)
    gain = Interval(-loss.high, -loss.low, 1 - alpha, loss.method)
    p = min(2 * math.exp(-_evidence(control, treatment, cap)) / part, 1.0)
    return Comparison(estimate, False, gain, gain, p, p)


def variance_of_equals(control: Sample, treatment: Sample, scale: float = 1.0) -> float:
    """Compute the variance of ``scale · c - t`` if the units of both arms vary alike; 0 for shares.

    An arm of skewed outcomes that has no large one by chance has a small variance, too, which would
    make its low mean significant.
    """
    if not (isinstance(control, Mean | Ratio) and isinstance(treatment, Mean | Ratio)):
        return 0.0
    freedom = control.degrees_of_freedom, treatment.degrees_of_freedom
    squares = freedom[0] * control.variance + freedom[1] * treatment.variance
    return squares / sum(freedom) * (scale**2 / control.units + 1 / treatment.units)


def _evidence(control: SkewedMean, treatment: SkewedMean, cap: float) -> float:
    """Compute the logarithm of the larger mean of the products of `capped_loss` at no loss.

    There is one mean for a loss and one for a gain. At least 0: p-values are at most 1.
    """
    c, t = (np.minimum(arm.positive / cap, 1.0) for arm in (control, treatment))
    ratio = treatment.units / control.units
    found = 0.0
    for stakes in (_STAKES, -_STAKES * min(1.0, 1.0 / ratio)):
        wealth = _wealth(stakes, t, c, ratio)
        highest = float(wealth.max())
        found = max(found, highest + math.log(float(np.exp(wealth - highest).mean())))
    return found


def _wealth(
    stakes: NDArray[np.float64],
    treatment: NDArray[np.float64],
    control: NDArray[np.float64],
    ratio: float,
) -> NDArray[np.float64]:
    """Compute the logarithms of the products ``[stakes]``; a negative stake bets on a gain."""
    lost = np.log1p(-stakes[:, None] * treatment).sum(axis=1)
    kept = np.log1p(stakes[:, None] * ratio * control).sum(axis=1)
    wealth: NDArray[np.float64] = lost + kept
    return wealth


def _bound(
    stakes: NDArray[np.float64], wealth: NDArray[np.float64], units: int, alpha: float
) -> float:
    """Find the largest loss at which the mean of the products is at least ``1 / alpha``.

    The logarithm of the mean is convex and falls, so Newton's steps from below stay below.
    """
    needed = math.log(len(stakes) / alpha)
    slopes = stakes * units
    bound = float(((wealth - needed) / slopes).max())  # where one stake suffices
    for _ in range(_STEPS):
        logs = wealth - slopes * bound
        products = np.exp(logs - logs.max())
        total = float(products.sum())
        excess = float(logs.max()) + math.log(total) - needed
        bound += excess * total / float(products @ slopes)
    return bound

"""Variance reduction by earlier data: CUPED, strata, capped values.

The behaviour of units before their assignment cannot depend on their arm. CUPED subtracts the
prediction of a regression on it; post-stratification compares units of the same stratum. Both
estimate the same difference as `tactful_bandits.compare`, with a smaller standard error.
Winsorising instead caps the values of a few heavy spenders: it estimates the difference of capped
values, a slightly different quantity, much more precisely.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from tactful_bandits.analysis.comparison import Estimate, difference, welch_freedom
from tactful_bandits.analysis.samples import Mean, Sample, columns
from tactful_bandits.errors import StatisticsError


@dataclass(frozen=True, slots=True)
class Paired:
    """Outcomes of one arm with a covariate from before the experiment.

    Attributes:
        outcome: Sums of the outcomes.
        products: Sum of outcome times covariate.

    Raises:
        StatisticsError: The two have different numbers of units, or no values have these sums.
    """

    outcome: Mean
    covariate: Mean
    products: float

    def __post_init__(self) -> None:
        """Reject sums that no pairs can have."""
        if self.outcome.units != self.covariate.units:
            raise StatisticsError(
                f"outcomes of {self.outcome.units} units beside a covariate of "
                f"{self.covariate.units}: give a unit without history the covariate 0"
            )
        # Cauchy and Schwarz, with tolerance for rounding and for squares too small for a float.
        tolerance = self.outcome.units * sys.float_info.min
        bound = (self.outcome.squares + tolerance) * (self.covariate.squares + tolerance)
        if not math.isfinite(self.products) or self.products**2 > bound * (1 + 1e-9):
            raise StatisticsError(f"no units have these sums: the products are too large: {self}")

    @classmethod
    def from_units(cls, outcomes: ArrayLike, covariates: ArrayLike) -> Self:
        """Sum up one outcome and one covariate per unit, each of shape ``[units]``."""
        y, x = columns(outcomes, covariates)
        return cls(Mean.from_units(y), Mean.from_units(x), float(x @ y))

    @property
    def units(self) -> int:
        """Number of independently randomised units."""
        return self.outcome.units

    @property
    def covariance(self) -> float:
        """Covariance of outcome and covariate over units, with Bessel's correction."""
        return _covariance(self.units, self.outcome.total, self.covariate.total, self.products)


def regression_coefficient(control: Paired, treatment: Paired) -> float:
    """Compute the slope of outcome on covariate over both arms; 0 if it is constant."""
    units = control.units + treatment.units
    x = control.covariate.total + treatment.covariate.total
    y = control.outcome.total + treatment.outcome.total
    squares = control.covariate.squares + treatment.covariate.squares
    variance = _covariance(units, x, x, squares)
    if variance <= 1e-12 * squares / units:
        return 0.0
    return _covariance(units, y, x, control.products + treatment.products) / variance


def adjusted_difference(control: Paired, treatment: Paired, *, relative: bool = False) -> Estimate:
    """Estimate treatment minus control, adjusted for the covariate (CUPED).

    Each mean is reduced by ``θ`` times the mean of the covariate, ``θ`` being the slope over
    both arms; the variance of a unit becomes ``Var y - 2 θ Cov(y, x) + θ² Var x``. A relative
    difference divides by the control's unadjusted mean ``m``; with ``g`` the ratio of the two
    unadjusted means, its variance by the delta method is
    ``[Var_t / n_t + (g² Var y - 2 g θ Cov(y, x) + θ² Var x) / n_c] / m²``, the inner terms those of
    the control.

    Raises:
        StatisticsError: A relative difference is requested and the control's mean is 0.

    Source: Deng, Xu, Kohavi, Walker, "Improving the Sensitivity of Online Controlled Experiments by
    Utilizing Pre-Experiment Data" (WSDM 2013).
    """
    theta = regression_coefficient(control, treatment)
    effect = (treatment.outcome.value - theta * treatment.covariate.value) - (
        control.outcome.value - theta * control.covariate.value
    )
    var_c, var_t = _residual_variance(control, theta), _residual_variance(treatment, theta)
    freedom = welch_freedom(
        var_c / control.units, control.units - 1, var_t / treatment.units, treatment.units - 1
    )
    units = control.units + treatment.units
    if not relative:
        error = math.sqrt(var_c / control.units + var_t / treatment.units)
        return Estimate(effect, error, units, freedom)
    base = control.outcome.value
    if base == 0:
        raise StatisticsError("no relative difference from a control of 0; ask for an absolute one")
    scaled = _residual_variance(control, theta, treatment.outcome.value / base)
    error = math.sqrt(var_t / treatment.units + scaled / control.units) / abs(base)
    return Estimate(effect / abs(base), error, units, freedom)


def stratified_difference(strata: Sequence[tuple[Sample, Sample]]) -> Estimate:
    """Estimate treatment minus control, averaged over strata by their units.

    Strata must be known before assignment, such as country or device. In addition to the error
    within strata, the variance holds ``Σ w (d - mean d)² / units``, because the strata of the units
    are random as well. Degrees of freedom are those of Welch and Satterthwaite over all parts.

    Args:
        strata: Control and treatment of each stratum.

    Raises:
        StatisticsError: There is no stratum.

    Source: Miratrix, Sekhon, Yu, "Adjusting treatment effect estimates by post-stratification in
    randomized experiments", JRSS B 75 (2013).
    """
    if not strata:
        raise StatisticsError("at least one stratum is needed")
    counts = np.array([control.units + treatment.units for control, treatment in strata])
    weights = counts / counts.sum()
    effects = np.array([difference(control, treatment).value for control, treatment in strata])
    effect = float(weights @ effects)
    parts = np.array(
        [
            (weight**2 * arm.variance / arm.units, arm.degrees_of_freedom)
            for weight, pair in zip(weights, strata, strict=True)
            for arm in pair
        ]
    )
    within = float(parts[:, 0].sum())
    between = float(weights @ (effects - effect) ** 2) / int(counts.sum())
    spread = float((parts[:, 0] ** 2 / parts[:, 1]).sum())
    freedom = within**2 / spread if spread > 0 else float(counts.sum() - 2 * len(strata))
    error = math.sqrt(within + between) if within > 0 else 0.0
    return Estimate(effect, error, int(counts.sum()), freedom)


def winsorised(
    control: ArrayLike, treatment: ArrayLike, *, share: float = 0.99
) -> tuple[Mean, Mean]:
    """Cap the values of both arms, one per unit, at one quantile of all of them.

    A cap for each arm would remove part of the effect. `share` is the level of the quantile, in
    (0.5, 1]; 1 caps nothing.

    Raises:
        StatisticsError: The share is out of range, or the values are not one per unit.
    """
    if not 0.5 < share <= 1:
        raise StatisticsError(f"share must be above 0.5 and at most 1, not {share}")
    (c,), (t,) = columns(control), columns(treatment)
    cap = float(np.quantile(np.concatenate([c, t]), share))
    return Mean.from_units(np.minimum(c, cap)), Mean.from_units(np.minimum(t, cap))


def _covariance(units: int, a: float, b: float, products: float) -> float:
    return (products - a * b / units) / (units - 1)


def _residual_variance(arm: Paired, theta: float, scale: float = 1.0) -> float:
    """Variance of one unit's ``scale · y - θ x``."""
    y, x = arm.outcome.variance, arm.covariate.variance
    return max(scale**2 * y - 2 * scale * theta * arm.covariance + theta**2 * x, 0.0)

"""Bayesian comparison of two arms: chance to win, risk and credible interval.

The likelihood of an estimated difference is taken as normal with its standard error, the prior as
normal too, so the posterior is normal and all its quantities have closed forms.

A posterior is valid for one look. Stopping as soon as the chance to win passes a bar finds
differences that do not exist, as repeated significance tests do; for repeated looks use
`tactful_bandits.confidence_sequence`.
"""

import math
from dataclasses import dataclass

from tactful_bandits.analysis.comparison import Estimate, Interval, difference
from tactful_bandits.analysis.samples import Sample
from tactful_bandits.errors import StatisticsError
from tactful_privacy.lazy_imports import LazyModule

special = LazyModule("scipy.special")


@dataclass(frozen=True, slots=True)
class Prior:
    """Normal prior of a difference, in the units of the difference.

    Attributes:
        mean: Expected difference.
        standard_deviation: Standard deviation of the prior; infinity is a flat prior.

    Raises:
        StatisticsError: The deviation is not above 0.
    """

    mean: float = 0.0
    standard_deviation: float = math.inf

    def __post_init__(self) -> None:
        """Validate mean and deviation."""
        if not math.isfinite(self.mean) or not self.standard_deviation > 0:
            raise StatisticsError(
                "a prior needs a finite mean and a standard deviation above 0, not "
                f"{self.mean} and {self.standard_deviation}"
            )

    def scaled(self, factor: float) -> "Prior":
        """Return this prior in other units.

        The prior of a relative difference, times the control's value, is that of an absolute one.
        """
        return Prior(self.mean * factor, self.standard_deviation * abs(factor))


@dataclass(frozen=True, slots=True)
class Posterior:
    """Normal posterior of a difference."""

    mean: float  # expected difference, treatment minus control
    standard_deviation: float  # standard deviation of the posterior

    def chance_to_win(self, *, higher_is_better: bool = True) -> float:
        """Compute the probability that the treatment is better than the control."""
        z = self.mean / self.standard_deviation
        return float(special.ndtr(z if higher_is_better else -z))

    def risk(self, *, higher_is_better: bool = True) -> tuple[float, float]:
        """Compute the expected losses of choosing control and of choosing treatment.

        For the difference ``d`` they are ``E max(d, 0)`` and ``E max(-d, 0)``.
        """
        gain, loss = self._expected_positive(1.0), self._expected_positive(-1.0)
        return (gain, loss) if higher_is_better else (loss, gain)

    def credible_interval(self, *, alpha: float = 0.05) -> Interval:
        """Compute the equal-tailed interval with ``1 - alpha`` of the posterior."""
        if not 0 < alpha < 1:
            raise StatisticsError(f"alpha must lie between 0 and 1, not {alpha}")
        half = float(special.ndtri(1 - alpha / 2)) * self.standard_deviation
        method = "Bayesian, equal tails, one look"
        return Interval(self.mean - half, self.mean + half, 1 - alpha, method)

    def _expected_positive(self, sign: float) -> float:
        mean, sd = sign * self.mean, self.standard_deviation
        z = mean / sd
        density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        # The result is never below 0, but far out the two terms cancel to rounding noise.
        return max(0.0, mean * float(special.ndtr(z)) + sd * density)


def posterior(
    estimate: Estimate | Sample,
    treatment: Sample | Prior | None = None,
    prior: Prior | None = None,
) -> Posterior:
    """Compute the posterior of a difference from its estimate, or from both arms.

    Estimate and prior are weighted by their precision.

    Args:
        estimate: Estimate of the difference, with a standard error above 0; or the sample of the
            control, followed by that of the treatment: then the difference is absolute.
        treatment: The sample of the treatment, after that of the control.
        prior: Prior in the same units, that is shares where the difference is relative; None is a
            flat prior. After an estimate it may stand second.

    Raises:
        StatisticsError: No variation was seen, so the data have no finite precision; or one sample
            is given instead of two.
    """
    if isinstance(treatment, Prior):
        treatment, prior = None, treatment
    if not isinstance(estimate, Estimate) and treatment is not None:
        estimate, treatment = difference(estimate, treatment), None
    if not isinstance(estimate, Estimate) or treatment is not None:
        raise StatisticsError("give an estimate of the difference, or the samples of both arms")
    prior = prior or Prior()
    if not estimate.standard_error > 0:
        raise StatisticsError(
            "no variation was seen, so the error of the difference is unknown; collect more units"
        )
    data_precision = estimate.standard_error**-2
    prior_precision = prior.standard_deviation**-2
    precision = data_precision + prior_precision
    mean = (estimate.value * data_precision + prior.mean * prior_precision) / precision
    return Posterior(mean, precision**-0.5)

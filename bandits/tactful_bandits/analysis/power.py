"""Power analysis: units, detectable effect and duration of an experiment.

Plan before the first unit. An experiment that stops "when it is significant" has no defined power,
and a missing effect means nothing in an experiment that could not have detected it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tactful_bandits.analysis.comparison import Estimate, confidence_sequence
from tactful_bandits.errors import StatisticsError
from tactful_privacy.lazy_imports import LazyModule

special = LazyModule("scipy.special")

_LARGEST = 10**12  # units; larger experiments cannot be run
_WEEK = 7


@dataclass(frozen=True, slots=True)
class Design:
    """Design of an experiment of two arms.

    Attributes:
        variance: Variance of one unit of the metric, such as ``p (1 - p)`` of a share
            (`tactful_bandits.Sample.variance` of a past period).
        treatment_share: Share of the units that get the treatment, in (0, 1).
        alpha: Probability of a false difference, two-sided, in (0, 0.5].
        noise_variance: Variance of private noise in the difference of totals, which does not grow
            with the units: variance of the noise on an arm's total, summed over both
            arms as ``Var_t / share_t² + Var_c / share_c²``. 0 for exact data.
        looks: ``"one"`` planned look, or ``"any"`` number of looks.
        tightest_at: Tuning of `tactful_bandits.confidence_sequence`; None: the planned size.

    Raises:
        StatisticsError: An attribute is out of range.
    """

    variance: float
    treatment_share: float = 0.5
    alpha: float = 0.05
    noise_variance: float = 0.0
    looks: str = "one"
    tightest_at: float | None = None

    def __post_init__(self) -> None:
        """Validate the attributes."""
        if not 0 < self.variance < math.inf or not 0 <= self.noise_variance < math.inf:
            raise StatisticsError(
                f"a plan needs a finite variance above 0, not {self.variance}, and a noise "
                f"variance of at least 0, not {self.noise_variance}"
            )
        if not 0 < self.treatment_share < 1:
            raise StatisticsError(f"treatment_share must lie in (0, 1), not {self.treatment_share}")
        if not 0 < self.alpha <= 0.5:
            raise StatisticsError(f"alpha must be above 0 and at most 0.5, not {self.alpha}")
        if self.looks not in ("one", "any"):
            raise StatisticsError(f'looks must be "one" or "any", not {self.looks!r}')

    def standard_error(self, units: int) -> float:
        """Compute the standard error of the difference for a number of units of both arms."""
        share = self.treatment_share
        sampling = self.variance * (1 / share + 1 / (1 - share)) / units
        return math.sqrt(sampling + self.noise_variance / units**2)

    def power(self, effect: float, units: int) -> float:
        """Compute the probability of detecting a true absolute difference.

        With any number of looks it is the probability at the last look, slightly less than the
        truth, since earlier looks detect as well. It needs at least 4 units.
        """
        if units < 4 or not math.isfinite(effect):
            raise StatisticsError(
                f"power needs a finite effect and at least 4 units, not {effect} and {units}"
            )
        error = self.standard_error(units)
        z, bound = abs(effect) / error, self._bound(units)
        return float(special.ndtr(z - bound) + special.ndtr(-z - bound))

    def units_for(self, effect: float, *, power: float = 0.8) -> int:
        """Compute the smallest number of units of both arms that reaches a power.

        Effects that would need more than 10¹² units are refused.
        """
        _require_power(power, self.alpha)
        if effect == 0:
            raise StatisticsError("the effect must not be 0; give the smallest effect that matters")
        low, high = 4, 8
        while self.power(effect, high) < power:
            low, high = high, 2 * high
            if high > _LARGEST:
                raise StatisticsError(f"more than {_LARGEST} units would be needed for {effect}")
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.power(effect, middle) < power else (low, middle)
        return high

    def detectable_effect(self, units: int, *, power: float = 0.8) -> float:
        """Compute the smallest absolute difference that a number of units detects."""
        _require_power(power, self.alpha)
        low, high = 0.0, 40 * self.standard_error(units)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.power(middle, units) < power else (low, middle)
        return high

    def _bound(self, units: int) -> float:
        """Return the bound of the absolute z-score for a detection."""
        if self.looks == "one":
            return float(special.ndtri(1 - self.alpha / 2))
        unit_error = Estimate(0.0, 1.0, units, math.inf)
        tightest_at = units if self.tightest_at is None else self.tightest_at
        return confidence_sequence(unit_error, alpha=self.alpha, tightest_at=tightest_at).high


def days_needed(units: int, new_units: Sequence[float], *, whole_weeks: bool = True) -> int:
    """Compute the number of days until enough units have arrived.

    Args:
        units: Number of units needed.
        new_units: Units seen for the first time on each day of a past period, from its first day.
            Returning units do not count again, so these numbers fall; beyond the period the mean of
            its last week is used.
        whole_weeks: Round up to whole weeks, since weekdays differ from weekends.

    Raises:
        StatisticsError: No day is given, a number is negative, or too few units would arrive.
    """
    if not new_units or not all(0 <= day < math.inf for day in new_units):
        raise StatisticsError("give the new units of at least one day, none of them negative")
    missing, days = float(units), 0
    for day in new_units:
        days += 1
        missing -= day
        if missing <= 0:
            break
    if missing > 0:
        last = list(new_units)[-_WEEK:]
        rate = sum(last) / len(last)
        if rate <= 0:
            raise StatisticsError(f"{units} units are never reached: the last week had no new ones")
        days += math.ceil(missing / rate)
    return math.ceil(days / _WEEK) * _WEEK if whole_weeks else days


def _require_power(power: float, alpha: float) -> None:
    if not alpha < power < 1:
        raise StatisticsError(f"power must lie between alpha = {alpha} and 1, not {power}")

"""Diagnostics of misleading results: peeking, and effects that change over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from tactful_bandits.analysis.comparison import difference
from tactful_bandits.analysis.group_sequential import crossing_probability
from tactful_bandits.analysis.samples import Sample
from tactful_bandits.errors import StatisticsError

Course = Literal["steady", "fading", "growing"]
"""Course of an effect over time: "fading" is novelty that wears off, "growing" is learning."""


def error_of_peeking(information: Sequence[float], *, alpha: float = 0.05) -> float:
    """Compute the real error of repeating a single-look test at each of several looks.

    Args:
        information: Units at each look, rising, in any scale.
        alpha: Two-sided error of each test by itself.

    Returns:
        Probability of any false difference: 0.142 for five equally spaced looks at 0.05.

    Raises:
        StatisticsError: The looks do not rise, or `alpha` is out of range.
    """
    if not 0 < alpha <= 0.5:
        raise StatisticsError(f"alpha must be above 0 and at most 0.5, not {alpha}")
    bound = float(special.ndtri(1 - alpha / 2))
    return crossing_probability(information, [bound] * len(information))


@dataclass(frozen=True, slots=True)
class Trend:
    """Linear change of an effect over the days since the units' first exposure.

    Attributes:
        slope: Change of the effect per day.
        standard_error: Standard error of the slope.
        p: Two-sided p-value of the hypothesis that the effect does not change.
        effect: Mean effect over all days, weighted by precision.
        alpha: Significance level of the trend.
    """

    slope: float
    standard_error: float
    p: float
    effect: float
    alpha: float

    @property
    def course(self) -> Course:
        """Course of the effect; "steady" also if no change is significant."""
        if self.p >= self.alpha:
            return "steady"
        return "growing" if self.slope * self.effect > 0 else "fading"


def effect_trend(days: Sequence[tuple[Sample, Sample]], *, alpha: float = 0.05) -> Trend:
    """Test whether the effect changes with the days since first exposure.

    A straight line is fitted to the daily effects, weighted by their precision. Novelty wears off,
    and habits form slowly; in both cases the average so far differs from the later effect.

    Args:
        days: Control and treatment on each day *since a unit's first exposure*, not of the
            calendar: there a rising share of new units looks like a trend. Include only units with
            all the days behind them, or late units count on the first days alone. Units that count
            on several days correlate the days, and make the p-value too small where a unit's days
            are more similar in one arm than in the other.
        alpha: Significance level of the trend.

    Returns:
        The trend.

    Raises:
        StatisticsError: Fewer than three days, or a day without any variation.
    """
    if len(days) < 3:
        raise StatisticsError(f"a trend needs at least 3 days, not {len(days)}")
    estimates = [difference(*pair) for pair in days]
    if any(estimate.standard_error == 0 for estimate in estimates):
        raise StatisticsError("a day without any variation has no error; leave it out")
    weights = np.array([estimate.standard_error**-2 for estimate in estimates])
    effects = np.array([estimate.value for estimate in estimates])
    day = np.arange(len(days), dtype=np.float64)
    effect = float(weights @ effects / weights.sum())
    centred = day - weights @ day / weights.sum()
    spread = float(weights @ centred**2)
    slope = float(weights @ (centred * effects)) / spread
    error = spread**-0.5
    return Trend(slope, error, float(2 * special.ndtr(-abs(slope) / error)), effect, alpha)

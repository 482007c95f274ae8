"""Two ways in which a good-looking result misleads: peeking, and effects that do not last."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from tactful_bandits.comparison import difference
from tactful_bandits.errors import StatisticsError
from tactful_bandits.group_sequential import crossing_probability
from tactful_bandits.samples import Sample

Course = Literal["steady", "fading", "growing"]
"""How an effect goes on: "fading" is novelty that wears off, "growing" is people who learn."""


def error_of_peeking(information: Sequence[float], *, alpha: float = 0.05) -> float:
    """Probability that tests meant for one look, taken at each of several, call a false difference.

    Args:
        information: Units at each look, rising, in any scale.
        alpha: Of each test by itself, two-sided.

    Returns:
        What alpha really is: 0.142 for five equally spaced looks at 0.05.

    Raises:
        StatisticsError: The looks do not rise, or `alpha` is out of range.
    """
    if not 0 < alpha <= 0.5:
        raise StatisticsError(f"alpha must be above 0 and at most 0.5, not {alpha}")
    bound = float(special.ndtri(1 - alpha / 2))
    return crossing_probability(information, [bound] * len(information))


@dataclass(frozen=True, slots=True)
class Trend:
    """How an effect changed with the days since units first met the change.

    Attributes:
        slope: Change of the effect per day.
        standard_error: Of the slope.
        p: Two-sided, that the effect does not change.
        effect: The effect over all days, each weighed by its precision.
        alpha: At which a change is called one.
    """

    slope: float
    standard_error: float
    p: float
    effect: float
    alpha: float

    @property
    def course(self) -> Course:
        """Whether the effect wears off, grows, or neither can be told."""
        if self.p >= self.alpha:
            return "steady"
        return "growing" if self.slope * self.effect > 0 else "fading"


def effect_trend(days: Sequence[tuple[Sample, Sample]], *, alpha: float = 0.05) -> Trend:
    """Look for novelty: does the effect change with the days since first exposure?

    A straight line is fitted to the daily effects, each weighed by its precision. What was new
    wears off; what has to be learnt gets better. In both cases the average so far is not what is to
    come.

    Args:
        days: Control and treatment on each day *since a unit's first exposure*, not of the
            calendar: there a rising share of new units looks like a trend. Only units that have
            all the days behind them, or those who joined late weigh on the first days alone. Units
            that count on several days make the days depend on each other, and the p-value too
            small where a unit's days resemble each other in one arm more than in the other.
        alpha: At which a change is called one.

    Returns:
        The trend.

    Raises:
        StatisticsError: Fewer than three days, or a day without any variation.
    """
    if len(days) < 3:
        raise StatisticsError(f"a trend needs at least 3 days, not {len(days)}")
    estimates = [difference(*pair) for pair in days]
    if any(each.standard_error == 0 for each in estimates):
        raise StatisticsError("a day without any variation has no error; leave it out")
    weights = np.array([each.standard_error**-2 for each in estimates])
    effects = np.array([each.value for each in estimates])
    day = np.arange(len(days), dtype=np.float64)
    effect = float(weights @ effects / weights.sum())
    centred = day - weights @ day / weights.sum()
    spread = float(weights @ centred**2)
    slope = float(weights @ (centred * effects)) / spread
    error = spread**-0.5
    return Trend(slope, error, float(2 * special.ndtr(-abs(slope) / error)), effect, alpha)

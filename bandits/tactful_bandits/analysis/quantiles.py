"""Quantiles of an arm, such as the 95th percentile of latency.

Requests of one user are correlated, and the user is the randomised unit. The error of a
quantile is therefore derived from the variance of the *share of events below it* over units, a
ratio, and converted to the scale of the values by the quantiles one standard error to each side.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from tactful_bandits.analysis.samples import Ratio, columns
from tactful_bandits.errors import StatisticsError

_Z = float(special.ndtri(0.975))


@dataclass(frozen=True, slots=True)
class Quantile:
    """Quantile of one arm's values.

    Attributes:
        units: Number of independently randomised units; at least 2.
        level: Share of the values below it, in (0, 1).
        value: The quantile.
        standard_error: Standard error of the quantile, above 0.

    Raises:
        StatisticsError: An attribute is out of range.
    """

    units: int
    level: float
    value: float
    standard_error: float

    def __post_init__(self) -> None:
        """Validate the attributes."""
        if self.units < 2:
            raise StatisticsError(f"a comparison needs at least 2 units per arm, not {self.units}")
        if not 0 < self.level < 1:
            raise StatisticsError(f"a quantile's level must lie between 0 and 1, not {self.level}")
        if not (math.isfinite(self.value) and 0 <= self.standard_error < math.inf):
            raise StatisticsError("values must be finite; some value is NaN or infinite")

    @classmethod
    def from_units(cls, values: ArrayLike, level: float) -> Self:
        """Compute the quantile of one value per unit, shape ``[units]``.

        Raises:
            StatisticsError: There are too few values for this level, or they are not numbers.
        """
        (x,) = columns(values)
        return cls.from_events(x, np.arange(len(x)), level)

    @classmethod
    def from_events(cls, values: ArrayLike, units: ArrayLike, level: float) -> Self:
        """Compute the quantile of many values per unit, such as a user's requests.

        Args:
            values: One value per event, shape ``[events]``.
            units: Number of the unit of each event, the same shape.
            level: Share of the values below the quantile, in (0, 1).

        Raises:
            StatisticsError: There are too few values for this level, or they are not numbers.

        Source: Deng, Knoblich, Lu, "Applying the Delta Method in Metric Analytics" (KDD 2018),
        arXiv 1803.06336, section 4.
        """
        x, owners = columns(values, units)
        if not (0 < level < 1 and len(x) and np.isfinite(x).all()):
            raise StatisticsError(
                f"a quantile needs finite values and a level between 0 and 1, not {level}"
            )
        value = float(np.quantile(x, level))
        _, number = np.unique(owners, return_inverse=True)
        below = Ratio.from_units(np.bincount(number, x <= value), np.bincount(number))
        reach = _Z * math.sqrt(below.variance / below.units)
        if not (level - reach > 0 and level + reach < 1):
            raise StatisticsError(
                f"{below.units} units are too few for the quantile at {level}: its error reaches "
                "beyond all values; collect more units or ask for a less extreme quantile"
            )
        low, high = np.quantile(x, [level - reach, level + reach])
        return cls(below.units, level, value, float(high - low) / (2 * _Z))

    @property
    def variance(self) -> float:
        """Variance of one unit: ``units`` times the squared standard error."""
        return self.units * self.standard_error**2

    @property
    def degrees_of_freedom(self) -> float:
        """One less than `units`."""
        return self.units - 1

"""Outcomes of one arm, reduced to the sums that a comparison needs.

The randomised unit (a user) is the unit of analysis, even where one user asks many questions:
outcomes of one user are not independent. A rate such as hits per question is therefore a *ratio of
two means over users*, and its variance comes from the delta method. Counting questions as if each
were a user would make the intervals too narrow.
"""

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from tactful_bandits.errors import StatisticsError

_ROUNDING = 1e-9  # relative rounding error allowed in sums
_NOTHING = 1e-300  # squares below this have lost their digits


class Sample(Protocol):
    """Interface of one arm's outcomes of one metric."""

    @property
    def units(self) -> int:
        """Number of independently randomised units."""

    @property
    def value(self) -> float:
        """Value of the metric."""

    @property
    def variance(self) -> float:
        """Variance of one unit; divided by `units` the squared standard error of `value`."""

    @property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom of `variance`, those of its chi-square law."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share of units, with one yes or no for each unit.

    Attributes:
        units: Number of units; at least 2.
        successes: Number of units with yes.

    Raises:
        StatisticsError: The counts are impossible.
    """

    units: int
    successes: int

    def __post_init__(self) -> None:
        """Reject impossible counts."""
        _require_units(self.units)
        if not 0 <= self.successes <= self.units:
            raise StatisticsError(f"{self.successes} successes of {self.units} units")

    @property
    def value(self) -> float:
        """The share."""
        return self.successes / self.units

    @property
    def variance(self) -> float:
        """``p (1 - p)``."""
        return self.value * (1 - self.value)

    @property
    def degrees_of_freedom(self) -> float:
        """One less than `units`."""
        return self.units - 1


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over units.

    Attributes:
        units: Number of units; at least 2.
        total: Sum of the values.
        squares: Sum of the squared values.

    Raises:
        StatisticsError: The sums are not finite, or no values have these sums.
    """

    units: int
    total: float
    squares: float

    def __post_init__(self) -> None:
        """Reject sums that no values can have."""
        _require_units(self.units)
        _require_finite(self.total, self.squares)
        _require_possible(self.units, self.total, self.squares)

    @classmethod
    def from_units(cls, values: ArrayLike) -> Self:
        """Sum up one value per unit, shape ``[units]``."""
        (x,) = columns(values)
        return cls(len(x), float(x.sum()), float(x @ x))

    @property
    def value(self) -> float:
        """The mean."""
        return self.total / self.units

    @property
    def variance(self) -> float:
        """The sample variance, with Bessel's correction."""
        spread = _beyond_rounding(self.squares - self.total**2 / self.units, self.squares)
        return spread / (self.units - 1)

    @property
    def degrees_of_freedom(self) -> float:
        """One less than `units`."""
        return self.units - 1


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two totals over the same units, such as hits per question.

    Attributes:
        units: Number of units; at least 2.
        numerator: Sum of the units' numerators.
        denominator: Sum of the units' denominators; above 0.
        numerator_squares: Sum of the squared numerators.
        denominator_squares: Sum of the squared denominators.
        products: Sum of numerator times denominator.

    Raises:
        StatisticsError: The sums are not finite, no values have these sums, or the denominator is
            not above 0.
    """

    units: int
    numerator: float
    denominator: float
    numerator_squares: float
    denominator_squares: float
    products: float

    def __post_init__(self) -> None:
        """Reject sums that no values can have."""
        _require_units(self.units)
        sums = (self.numerator, self.numerator_squares, self.denominator_squares, self.products)
        _require_finite(self.denominator, *sums)
        if self.denominator <= 0:
            raise StatisticsError(f"ratio over a denominator of {self.denominator}: no data yet")
        _require_possible(self.units, self.numerator, self.numerator_squares)
        _require_possible(self.units, self.denominator, self.denominator_squares)
        if self._residual_squares < -_ROUNDING * self._residual_scale:
            raise StatisticsError(f"no units have these sums: their products are too large: {self}")

    @classmethod
    def from_units(cls, numerators: ArrayLike, denominators: ArrayLike) -> Self:
        """Sum up one numerator and one denominator per unit, each of shape ``[units]``."""
        x, y = columns(numerators, denominators)
        return cls(len(x), float(x.sum()), float(y.sum()), float(x @ x), float(y @ y), float(x @ y))

    @property
    def value(self) -> float:
        """Total numerator over total denominator."""
        return self.numerator / self.denominator

    @property
    def variance(self) -> float:
        """Variance of one unit, by the delta method.

        ``(Var x - 2 r Cov(x, y) + r² Var y) / mean(y)²`` with ``r`` the ratio, that is the variance
        of ``x - r y``, whose mean is 0, over the squared mean of ``y``.

        Source: Deng, Knoblich, Lu, "Applying the Delta Method in Metric Analytics" (KDD 2018),
        arXiv 1803.06336, section 3.
        """
        mean_denominator = self.denominator / self.units
        spread = _beyond_rounding(self._residual_squares, self._residual_scale)
        return spread / (self.units - 1) / mean_denominator**2

    @property
    def degrees_of_freedom(self) -> float:
        """One less than `units`."""
        return self.units - 1

    @property
    def _residual_squares(self) -> float:
        """Sum of ``(x - r y)²`` over the units."""
        r = self.value
        return self.numerator_squares - 2 * r * self.products + r**2 * self.denominator_squares

    @property
    def _residual_scale(self) -> float:
        return self.numerator_squares + self.value**2 * self.denominator_squares


def _beyond_rounding(difference: float, scale: float) -> float:
    # For identical units the subtraction leaves only rounding noise; as a variance it would make an
    # interval without width, and any difference certain.
    return difference if difference > 1e-3 * _ROUNDING * scale else 0.0


def columns(*arrays: ArrayLike) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Convert arrays to columns of numbers of one shape ``[units]``.

    Raises:
        StatisticsError: The shapes differ or are not one-dimensional.
    """
    read = [np.asarray(array, dtype=np.float64) for array in arrays]
    if any(column.ndim != 1 or column.shape != read[0].shape for column in read):
        shapes = ", ".join(str(column.shape) for column in read)
        raise StatisticsError(f"one value per unit is needed, shape [units], not {shapes}")
    return read


def _require_units(units: int) -> None:
    if units < 2:
        raise StatisticsError(f"a comparison needs at least 2 units per arm, not {units}")


def _require_finite(*sums: float) -> None:
    if not all(map(math.isfinite, sums)):
        raise StatisticsError("sums must be finite; some value is NaN or infinite")


def _require_possible(units: int, total: float, squares: float) -> None:
    # Cauchy and Schwarz. Sums of a constant miss equality by rounding only; squares below
    # `_NOTHING` have no digits to compare.
    if squares < 0 or squares - total**2 / units < -_ROUNDING * squares - _NOTHING:
        raise StatisticsError(
            f"no {units} values sum to {total} and their squares to {squares}: the squares are "
            "too small"
        )

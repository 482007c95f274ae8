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
from tactful_privacy.lazy_imports import LazyModule

special = LazyModule("scipy.special")

_ROUNDING = 1e-9  # relative rounding error allowed in sums
_NOTHING = 1e-300  # squares below this have lost their digits
_Z = 1.959963984540054  # of a two-sided interval of 95 %


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


class _OfUnits:
    """Base of the samples whose variance was measured between units."""

    __slots__ = ()
    units: int

    @property
    def degrees_of_freedom(self) -> float:
        """One less than `units`."""
        return self.units - 1


@dataclass(frozen=True, slots=True)
class Proportion(_OfUnits):
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


@dataclass(frozen=True, slots=True)
class Mean(_OfUnits):
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


@dataclass(frozen=True, slots=True)
class Ratio(_OfUnits):
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
    def _residual_squares(self) -> float:
        """Sum of ``(x - r y)²`` over the units."""
        r = self.value
        return self.numerator_squares - 2 * r * self.products + r**2 * self.denominator_squares

    @property
    def _residual_scale(self) -> float:
        return self.numerator_squares + self.value**2 * self.denominator_squares


@dataclass(frozen=True, slots=True)
class Quantile(_OfUnits):
    """Quantile of one arm's values, such as the 95th percentile of latency.

    Requests of one user are correlated, and the user is the randomised unit. The error of a
    quantile is therefore derived from the variance of the *share of events below it* over units, a
    ratio, and converted to the scale of the values by the quantiles one standard error to each
    side.
    """

    units: int  # number of independently randomised units; at least 2
    level: float  # share of the values below it, in (0, 1)
    value: float  # the quantile
    standard_error: float  # standard error of the quantile, above 0

    def __post_init__(self) -> None:
        """Validate the attributes."""
        _require_units(self.units)
        if not 0 < self.level < 1:
            raise StatisticsError(f"a quantile's level must lie between 0 and 1, not {self.level}")
        if not (math.isfinite(self.value) and 0 <= self.standard_error < math.inf):
            raise StatisticsError("values must be finite; some value is NaN or infinite")

    @classmethod
    def from_units(cls, values: ArrayLike, level: float) -> Self:
        """Compute the quantile of one value per unit, shape ``[units]``."""
        (x,) = columns(values)
        return cls.from_events(x, np.arange(len(x)), level)

    @classmethod
    def from_events(cls, values: ArrayLike, units: ArrayLike, level: float) -> Self:
        """Compute the quantile of many values per unit, such as a user's requests.

        Values and the numbers of their units have the shape ``[events]``; `level` is the share of
        the values below the quantile, in (0, 1).

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


def retention(
    joined: ArrayLike,
    visitors: ArrayLike,
    visited: ArrayLike,
    *,
    span: tuple[float, float],
    now: float,
) -> Proportion:
    """Compute the share of units that returned within a span after they joined.

    A unit that joined yesterday could not yet return after a week; counting it as lost would
    penalise the arm that grew faster. A unit therefore counts only once its whole span has passed.

    `joined` is the day of each unit's first exposure, ``[units]``; a visit has the index of its
    unit and its day, ``[visits]``. `span` is half-open: ``(7, 14)`` is the second week. Visits are
    known up to the day `now`.
    """
    start, end = span
    if not 0 <= start < end:
        raise StatisticsError(f"span must start at 0 or later and end after its start, not {span}")
    (first,) = columns(joined)
    visitor, day = columns(visitors, visited)
    if len(visitor) and not (visitor.min() >= 0 and visitor.max() < len(first)):
        raise StatisticsError(f"visitors must be numbers of units, from 0 to {len(first) - 1}")
    unit = visitor.astype(np.intp)
    age = day - first[unit]
    returned = np.zeros(len(first), dtype=bool)
    returned[unit[(age >= start) & (age < end)]] = True
    old_enough = first + end <= now
    return Proportion(int(old_enough.sum()), int((returned & old_enough).sum()))


def _beyond_rounding(difference: float, scale: float) -> float:
    # For identical units the subtraction leaves only rounding noise; as a variance it would make an
    # interval without width, and any difference certain.
    return difference if difference > 1e-3 * _ROUNDING * scale else 0.0


def columns(*arrays: ArrayLike) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Convert arrays to columns of numbers of one shape ``[units]``."""
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

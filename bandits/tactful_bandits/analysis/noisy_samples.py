"""Outcomes of one arm from private releases: counts and sums with noise.

The variance of the noise is public. It is added to the sampling variance here, so every interval
and test has the right width. An interval that ignores it covers the truth in 38 % instead of 95 %
of experiments with a thousand users at epsilon 0.2.

Values stay unbiased and may therefore be impossible, such as a share below 0; they are
not clipped, because clipping would bias them.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from tactful_bandits.errors import StatisticsError


@dataclass(frozen=True, slots=True)
class ReleasedProportion:
    """A share of units from two noisy counts, such as clickers and non-clickers.

    A unit adds to one of the two cells, so both together cost as much budget as one cell.

    Attributes:
        successes: Noisy count of units with yes, summed over releases.
        failures: Noisy count of units with no, summed over releases.
        successes_noise: Variance of the noise in `successes`: the sum of k releases has k times the
            variance of one release. 0 for an exact count.
        failures_noise: Variance of the noise in `failures`.

    Raises:
        StatisticsError: Fewer than two units remain, or a variance is impossible.
    """

    successes: float
    failures: float
    successes_noise: float
    failures_noise: float

    def __post_init__(self) -> None:
        """Validate counts and variances."""
        _require_noise((self.successes_noise, self.failures_noise))
        _require_size(self.successes + self.failures)

    @property
    def units(self) -> int:
        """Noisy number of units."""
        return round(self.successes + self.failures)

    @property
    def value(self) -> float:
        """The share; below 0 or above 1 if noise outweighs the data."""
        return self.successes / (self.successes + self.failures)

    @property
    def variance(self) -> float:
        """Variance of one unit: ``p (1 - p)`` plus ``n`` times the share's noise variance.

        The noise variance of the share is ``((1 - p)² Var s + p² Var f) / n²`` (delta method).
        """
        n = self.successes + self.failures
        p = min(max(self.value, 0.0), 1.0)
        noise = (1 - p) ** 2 * self.successes_noise + p**2 * self.failures_noise
        return p * (1 - p) + noise / n

    @property
    def degrees_of_freedom(self) -> float:
        """One less than `units`."""
        return self.units - 1


def units_behind_noise(
    control: ReleasedProportion, treatment: ReleasedProportion, share: float
) -> tuple[int, int]:
    """Convert released counts to exact ones with equal evidence on the sample ratio.

    With ``N`` units, ``d`` more in the treatment than its share ``s``, and noise of variance ``V``
    in ``d``, these are ``f N`` units with ``f d`` more, ``f = N s (1 - s) / (N s (1 - s) + V)``;
    the ratio of ``d`` to its standard error is unchanged. `tactful_bandits.check_sample_ratio`
    accepts them at every look like exact counts.

    Raises:
        StatisticsError: The share ``s`` is not in (0, 1).
    """
    if not 0 < share < 1:
        raise StatisticsError(f"the treatment's share must lie between 0 and 1, not {share}")
    totals = [arm.successes + arm.failures for arm in (control, treatment)]
    noises = [arm.successes_noise + arm.failures_noise for arm in (control, treatment)]
    surplus = (1 - share) * totals[1] - share * totals[0]
    chance = sum(totals) * share * (1 - share)
    kept = chance / (chance + share**2 * noises[0] + (1 - share) ** 2 * noises[1])
    units = kept * sum(totals)
    treated = min(max(share * units + kept * surplus, 0.0), units)
    return round(units - treated), round(treated)


@dataclass(frozen=True, slots=True)
class RatioSums:
    """Sums over units for a ratio, or the variances of the noise in them."""

    numerator: float  # sum of the units' numerators
    denominator: float  # sum of the units' denominators
    numerator_squares: float  # sum of the squared numerators
    denominator_squares: float  # sum of the squared denominators
    products: float  # sum of numerator times denominator


@dataclass(frozen=True, slots=True)
class ReleasedRatio:
    """A ratio of two totals over the same units, from noisy sums.

    Bound each unit's contribution to every sum beforehand, because noise can only hide bounded
    contributions: its clicks, its impressions, and with them the squares and the product.

    Attributes:
        released_units: Noisy number of units.
        sums: The noisy sums; the denominator above 0.
        noise: Variance of the noise in each sum.

    Raises:
        StatisticsError: Fewer than two units remain, the denominator is not above 0, or a variance
            is impossible.
    """

    released_units: float
    sums: RatioSums
    noise: RatioSums

    def __post_init__(self) -> None:
        """Validate sums and variances."""
        _require_noise(astuple(self.noise))
        _require_size(self.released_units)
        if not self.sums.denominator > 0:
            raise StatisticsError(
                f"the released denominator is {self.sums.denominator}: noise outweighs the data; "
                "wait for more units"
            )

    @property
    def units(self) -> int:
        """Noisy number of units."""
        return round(self.released_units)

    @property
    def value(self) -> float:
        """Total numerator over total denominator."""
        return self.sums.numerator / self.sums.denominator

    @property
    def variance(self) -> float:
        """Variance of one unit by the delta method plus ``units`` times the noise.

        With ``r`` the ratio, ``D`` the total denominator and ``n`` the units, the units' part is
        ``n Σ (x - r y)² / D²``, that of the noise ``n (Var N + r² Var D) / D²``. A negative first
        part counts as 0; such a sample is too small for its noise.
        """
        return self.units * self._squares / self.sums.denominator**2

    @property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom; noise in the variance makes them less than ``units - 1``.

        A chi-square law of ``f`` degrees has twice its squared mean, over ``f``, as its variance;
        the noise alone therefore gives ``2 S² / Var S`` degrees, with ``S`` the sum of squares and
        ``Var S = Var Σx² + 4 r² Var Σxy + r⁴ Var Σy²`` (Satterthwaite 1946).
        """
        r, v = self.value, self.noise
        uncertainty = v.numerator_squares + 4 * r**2 * v.products + r**4 * v.denominator_squares
        if uncertainty == 0 or self._squares == 0:
            return self.units - 1
        return 1 / (1 / (self.units - 1) + uncertainty / (2 * self._squares**2))

    @property
    def _squares(self) -> float:
        """Sum of ``(x - r y)²``, at least 0, plus the variance of the noise."""
        r, sums = self.value, self.sums
        squares = sums.numerator_squares - 2 * r * sums.products + r**2 * sums.denominator_squares
        return max(squares, 0.0) + self.noise.numerator + r**2 * self.noise.denominator


def _require_noise(variances: Sequence[float]) -> None:
    if not all(0 <= variance < math.inf for variance in variances):
        raise StatisticsError(f"variances of noise must be finite and not negative: {variances}")


def _require_size(units: float) -> None:
    if not 2 <= units < math.inf:
        raise StatisticsError(
            f"a comparison needs at least 2 units per arm, not {units:.6g} after noise"
        )

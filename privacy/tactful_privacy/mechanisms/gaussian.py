"""Discrete Gaussian noise from an exact integer table."""

from __future__ import annotations

import math
import os
from fractions import Fraction

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import Exact, exp_bounds, fraction
from tactful_privacy.mechanisms._table import MASS, MAX_EPSILON, Entropy, TableNoise, open_share

MAX_SIGMA_SQUARED = 10**10

_BITS = 256
# Beyond e^-50 < 2^-72 a weight is below one, since the distribution's peak is at most 1.
_FARTHEST_EXPONENT = 50
_RHO_GRAIN = 1 << 30


class DiscreteGaussian(TableNoise):
    """Integer noise Z with P(Z = k) proportional to e^(-k^2 / (2 sigma^2)).

    Guarantee: adding independent draws to every cell of an integer table is rho-zCDP, ``rho =
    S / (2 sigma^2)``, for any two integer tables whose squared L2 distance is at most S, up to the
    table's own error (Canonne, Kamath, Steinke, NeurIPS 2020, th. 14). The error is the total
    variation distance `table_error` between the table and the distribution of the theorem, bounded
    by rational arithmetic. Only cells that differ count, and integer tables at squared distance S
    differ in at most S cells. So a release is within ``S * table_error`` of a rho-zCDP release in
    total variation, and `delta` includes this.

    Over several releases the rhos add up, and so do the errors.

    Assumed: the entropy source is a cryptographic one, and each draw is used once and not shown.

    Attributes:
        sensitivity_squared: Largest squared L2 distance S between the integer tables of two
            neighbouring data sets.
        rho: Privacy loss in the sense of zCDP (Bun, Steinke, TCC 2016).
        sigma_squared: S / (2 rho). The variance is a hair below it.
        table_error: Bound on the total variation distance of one draw from the ideal distribution.
    """

    def __init__(
        self, sensitivity_squared: Exact, rho: Exact, *, entropy: Entropy = os.urandom
    ) -> None:
        """Build the table in time proportional to sigma, some 20 ms at sigma = 1,000.

        Args:
            sensitivity_squared: Squared L2 sensitivity, exact and positive.
            rho: Exact and positive.
            entropy: See `DiscreteLaplace`.

        Raises:
            ParameterError: A number is not exact or not positive, or sigma is above 100,000.
        """
        self.sensitivity_squared = _positive(sensitivity_squared, "sensitivity_squared")
        self.rho = _positive(rho, "rho")
        self.sigma_squared = self.sensitivity_squared / (2 * self.rho)
        if self.sigma_squared > MAX_SIGMA_SQUARED:
            raise ParameterError(
                f"sigma is {float(self.sigma_squared) ** 0.5:.0f}, above"
                f" {math.isqrt(MAX_SIGMA_SQUARED)}: lower the contribution cap or spend more rho"
            )
        side = _weights(self.sigma_squared)
        super().__init__(side, entropy)
        # Every weight lies below its share of MASS in the ideal distribution, so the missing share
        # of MASS is the total variation distance.
        self.table_error = Fraction(MASS - self._table.total, MASS)

    def delta(self, epsilon: Exact, *, cells: int | None = None) -> Fraction:
        """Return a delta for which releasing a whole table is (epsilon, delta)-private.

        ``e^((a-1)(a rho - epsilon)) / (a-1) * (1 - 1/a)^a`` at the best order a > 1 (Canonne,
        Kamath, Steinke 2020, cor. 13), plus ``(1 + e^epsilon) * floor(S) * table_error``. Any order
        gives a valid bound, so a search with floats suffices; the result is rounded up.

        Args:
            epsilon: Exact, 0 to 40.
            cells: Most cells that differ between neighbours; replaces floor(S) if smaller.

        Raises:
            ParameterError: epsilon lies outside [0, 40].
        """
        value = fraction(epsilon, "epsilon")
        if not 0 <= value <= MAX_EPSILON:
            raise ParameterError(f"epsilon is {value}: it must lie between 0 and {MAX_EPSILON}")
        ideal = math.exp(min(0.0, _log_delta(float(self.rho), float(value)) + 1e-9))
        differing = self.sensitivity_squared.__floor__()
        if cells is not None:
            differing = min(differing, cells)
        error = (1 + Fraction(exp_bounds(value, 64)[1], 1 << 64)) * differing * self.table_error
        return Fraction(ideal) + error

    def delta_in_one_cell(self, epsilon: Exact) -> Fraction:
        """Return the smallest delta for a change within one cell, computed from the table.

        Uses rational arithmetic like `DiscreteLaplace.delta`. For a change spread over the whole
        table `delta` holds; it is never below this.
        """
        return self._table.excess(epsilon, math.isqrt(self.sensitivity_squared.__floor__()))


def largest_rho(epsilon: Exact, delta: Exact) -> Fraction:
    """Return the largest rho whose rho-zCDP implies (epsilon, delta), rounded down.

    Uses the bound of `DiscreteGaussian.delta`, without the error of a table; epsilon is at most 40.
    """
    value = _positive(epsilon, "epsilon")
    if value > MAX_EPSILON:
        raise ParameterError(f"epsilon is {value}: it must lie above 0 and at most {MAX_EPSILON}")
    limit = math.log(float(open_share(delta, "delta")))
    low, high = 0, math.ceil(value * _RHO_GRAIN)  # rho-zCDP never implies an epsilon below rho
    while high - low > 1:
        middle = (low + high) // 2
        fits = _log_delta(middle / _RHO_GRAIN, float(value)) + 1e-9 <= limit
        low, high = (middle, high) if fits else (low, middle)
    if not low:
        raise ParameterError(
            f"epsilon {value} at delta {float(Fraction(delta)):g} is too small: give a larger one"
        )
    return Fraction(low, _RHO_GRAIN)


def _positive(value: Exact, name: str) -> Fraction:
    number = fraction(value, name)
    if number <= 0:
        raise ParameterError(f"{name} is {number}: it must be above 0")
    return number


def _log_delta(rho: float, epsilon: float) -> float:
    """Return ln of the smallest delta that zCDP gives at epsilon; at most 0."""

    def at(log_order: float) -> float:
        excess = math.exp(log_order)  # the order less one
        order = 1 + excess
        return excess * (order * rho - epsilon) - math.log(order) * order + log_order * excess

    # The logarithm of the bound is convex in the order: golden section finds its one minimum.
    low, high, golden = -30.0, 30.0, (math.sqrt(5) - 1) / 2
    for _ in range(120):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if at(left) < at(right) else (left, high)
    return min(0.0, at((low + high) / 2))


def _weights(sigma_squared: Fraction) -> list[int]:
    """Return the weights of 0, 1, ..., each at most its ideal share of MASS.

    Each step computes e^(-k^2 / (2 sigma^2)) by two multiplications, once rounded down and once up.
    """
    one = 1 << _BITS

    def falling(x: Fraction) -> tuple[int, int]:
        lower, upper = exp_bounds(x, _BITS)
        return (one << _BITS) // upper, -(-(one << _BITS) // lower)

    step_low, step_high = falling(1 / (2 * sigma_squared))
    bend_low, bend_high = falling(1 / sigma_squared)
    low, high = one, one
    lows, total_high = [one], one
    for _ in range(math.isqrt(math.ceil(2 * _FARTHEST_EXPONENT * sigma_squared)) + 1):
        low, high = low * step_low >> _BITS, -(-high * step_high >> _BITS)
        step_low, step_high = step_low * bend_low >> _BITS, -(-step_high * bend_high >> _BITS)
        lows.append(low)
        total_high += 2 * high
    # The omitted weights fall at least as fast as a geometric series.
    total_high += 2 * (-(-high * step_high // (one - step_high)))
    weights = [MASS * value // total_high for value in lows]
    while not weights[-1]:
        weights.pop()
    return weights

"""Discrete Gaussian noise from an exact integer table."""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

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


MAX_WIDE_SIGMA_SQUARED = 10**30

_STEP = 16
_FINE = Fraction(4 * _STEP) ** 2
_TABLE_LIMIT = Fraction(2 * 4 * _STEP) ** 2
_SMOOTHING = Fraction(16)
# 2 e^(-2 pi^2 tau^2) and all further terms of the theta series, at tau^2 = 12 or more.
_SERIES_ERROR = Fraction(1, 2**300)


class WideGaussian:
    """Discrete Gaussian noise of any width, from a few small tables.

    One table of all values would grow with sigma. A sum of Gaussians is Gaussian, also on the
    integers if the finer one is wide enough to fill the gaps of the coarser one (Micciancio,
    Walter, "Gaussian sampling over the integers", CRYPTO 2017).

        Z = 16 * (16 * top + fine) + fine      with two levels

    Guarantee: adding independent draws to every cell of an integer table is, within total
    variation `error` for each cell that differs, post-processing of adding *continuous* Gaussian
    noise of variance `covered`. So every bound on the Gaussian mechanism at that variance applies,
    including its exact (epsilon, delta) (Balle, Wang, ICML 2018), and for many cells and releases
    the errors add up.

    Why: rounding a continuous Gaussian of variance sigma^2 - 16 to n with probability proportional
    to e^(-(n - x)^2 / 32) gives n a probability proportional to e^(-n^2 / (2 sigma^2)), up to the
    normalising sums of these weights. By the theta series these are equal for all x up to a
    factor of 1 +- 3 e^(-32 pi^2). By the same series 16 H + F is discrete Gaussian if H and F are
    and F has sigma 64 = 4 * 16; F may in turn be the finest of several such steps. Rational
    arithmetic bounds the error of the tables (`DiscreteGaussian.table_error`).

    Assumed: see `DiscreteGaussian`.

    Attributes:
        sigma_squared: Variance, up to the error.
        covered: Variance of the equivalent continuous noise: 16 less.
        error: Bound on the total variation distance of one draw.
    """

    def __init__(self, sigma_squared: Exact, *, entropy: Entropy = os.urandom) -> None:
        """Build the tables, some milliseconds each; `ParameterError` outside the range.

        Args:
            sigma_squared: Exact, above 48 and at most 10^30.
            entropy: See `DiscreteLaplace`.
        """
        self.sigma_squared = fraction(sigma_squared, "sigma_squared")
        if not 48 < self.sigma_squared <= MAX_WIDE_SIGMA_SQUARED:
            raise ParameterError(
                f"sigma_squared is {float(self.sigma_squared):g}: it must lie above 48 and at most"
                f" {MAX_WIDE_SIGMA_SQUARED:g}"
            )
        self.covered = self.sigma_squared - _SMOOTHING
        # Variances add up: sigma^2 = 16^2 * top + fine at each level, until top fits a table.
        top, self._levels = self.sigma_squared, 0
        while top > _TABLE_LIMIT:
            top = (top - _FINE) / _STEP**2
            self._levels += 1
        self._top = DiscreteGaussian(1, 1 / (2 * top), entropy=entropy)
        self._fine = DiscreteGaussian(1, 1 / (2 * _FINE), entropy=entropy) if self._levels else None
        fine_error = self._fine.table_error if self._fine else Fraction(0)
        self.error = (
            self._top.table_error + self._levels * fine_error + (self._levels + 1) * _SERIES_ERROR
        )

    def sample(self, n: int) -> NDArray[np.int64]:
        """Return n >= 0 fresh independent draws, shape ``[n]``."""
        draws = self._top.sample(n)
        if self._fine:
            for _ in range(self._levels):
                draws = draws * _STEP + self._fine.sample(n)
        return draws

"""Discrete Gaussian noise of any width, from a few small tables.

One table of all values would grow with sigma. A sum of Gaussians is Gaussian, also on the integers
if the finer one is wide enough to fill the gaps of the coarser one (Micciancio, Walter, "Gaussian
sampling over the integers", CRYPTO 2017).

    Z = 16 * (16 * top + fine) + fine      with two levels
"""

from __future__ import annotations

import os
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import Exact, fraction
from tactful_privacy.mechanisms._table import Entropy
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian

MAX_WIDE_SIGMA_SQUARED = 10**30

_STEP = 16
_FINE = Fraction(4 * _STEP) ** 2
_TABLE_LIMIT = Fraction(2 * 4 * _STEP) ** 2
_SMOOTHING = Fraction(16)
# 2 e^(-2 pi^2 tau^2) and all further terms of the theta series, at tau^2 = 12 or more.
_SERIES_ERROR = Fraction(1, 2**300)


class WideGaussian:
    """Integer noise Z with P(Z = k) proportional to e^(-k^2 / (2 sigma^2)).

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
        """Build the tables, some milliseconds each.

        Args:
            sigma_squared: Exact, above 48 and at most 10^30.
            entropy: See `DiscreteLaplace`.

        Raises:
            ParameterError: sigma_squared lies outside its range.
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
        """Return n fresh independent draws, shape ``[n]``.

        Raises:
            ParameterError: n is negative.
        """
        draws = self._top.sample(n)
        if self._fine:
            for _ in range(self._levels):
                draws = draws * _STEP + self._fine.sample(n)
        return draws

"""Matrix factorisation for totals with Gaussian noise: the square root of summing.

Summing over time is a matrix A of ones on and below the diagonal. Its square root is the Toeplitz
matrix R with the coefficients ``binomial(2k, k) / 4^k``. The release is R x + z, and A x is
estimated as A R^-1 (R x + z), with an error that only grows like ln T / pi (Fichtenberger,
Henzinger, Upadhyay, "Constant matters", ICML 2023, arXiv:2202.11205; Henzinger, Upadhyay, Upadhyay,
SODA 2023).

    R = | 1                  |       A = | 1          |
        | 1/2  1             |           | 1  1       |       R R = A
        | 3/8  1/2  1        |           | 1  1  1    |
        | 5/16 3/8  1/2  1   |           | 1  1  1  1 |

R is rounded to integers here, so that R x is an integer vector and its noise exact. Any invertible
R gives unbiased totals; the rounded R is slightly worse than the root, and its own inverse is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian, largest_rho
from tactful_privacy.mechanisms.laplace import Entropy

_GUARD_BITS = 64
_MOST_BITS = 14
_SHARES_OF_DELTA = (Fraction(999, 1000), Fraction(9, 10), Fraction(1, 2))
_SIGMA_SQUARED = (1_000**2, 20_000**2)


@dataclass(frozen=True)
class RootOfSums:
    """R for the panes of a period, in integers."""

    length: int  # number of panes in a period
    bits: int  # R is rounded at 2^-bits and multiplied by 2^bits

    @cached_property
    def coefficients(self) -> tuple[int, ...]:
        """First column of R times 2^bits: not negative and never rising, ``[length]``."""
        # binomial(2k, k) / 4^k follows from its predecessor by the factor (2k - 1) / 2k.
        exact = 1 << (self.bits + _GUARD_BITS)
        coefficients = []
        for k in range(self.length):
            if k:
                exact = exact * (2 * k - 1) // (2 * k)
            coefficients.append((exact + (1 << (_GUARD_BITS - 1))) >> _GUARD_BITS)
        return tuple(coefficients)

    def sensitivity_squared(self, cap: int, cell_cap: int) -> int:
        """Return the largest squared L2 change of R x by one user and period.

        A contribution in pane i adds column i of R, for its key. Inner products of two columns fall
        as the columns move apart or later, and none is negative; so the worst case fills the first
        panes of one key, `cell_cap` each. If `cap` is no multiple of `cell_cap` it is rounded up to
        one; contributions beyond the panes of one key go to the next key.
        """
        weight = min(cap, cell_cap)
        full, rest = divmod(-(-cap // weight), self.length)
        return weight**2 * (full * self._norm_squared(self.length) + self._norm_squared(rest))

    @cached_property
    def decoder(self) -> NDArray[np.float64]:
        """First column of A R^-1, ``[length]``: the weights of releases k panes back."""
        # The inverse of a triangular Toeplitz matrix is one too: forward substitution gives its
        # first column, and summing (A) turns it into that of A R^-1.
        root = np.array(self.coefficients, dtype=np.float64)
        inverse = np.zeros(self.length)
        inverse[0] = 1 / root[0]
        for k in range(1, self.length):
            inverse[k] = -(root[1 : k + 1] @ inverse[k - 1 :: -1]) / root[0]
        return np.cumsum(inverse)

    def _norm_squared(self, columns: int) -> int:
        """Return the squared norm of the sum of the first columns."""
        total, summed = 0, 0
        for k, coefficient in enumerate(self.coefficients):
            summed += coefficient
            if k >= columns:
                summed -= self.coefficients[k - columns]
            total += summed**2
        return total if columns else 0


@dataclass(frozen=True)
class GaussianTotals:
    """R and the noise of R x for an (epsilon, delta); for single panes R is the number 1."""

    root: RootOfSums  # R
    sensitivity_squared: int  # squared L2 sensitivity of R x, for one user and period
    rho: Fraction  # R x + z is rho-zCDP
    cells: int  # most cells of R x that one user and period changes

    @property
    def sigma_squared(self) -> Fraction:
        """Variance of the noise of one cell of R x."""
        return self.sensitivity_squared / (2 * self.rho)

    def noise(self, entropy: Entropy = os.urandom) -> DiscreteGaussian:
        """Return the noise of one cell of R x."""
        return DiscreteGaussian(self.sensitivity_squared, self.rho, entropy=entropy)

    def delta(self, epsilon: Fraction) -> Fraction:
        """Return the delta of all totals of a period, computed from the noise table."""
        return self.noise().delta(epsilon, cells=self.cells)


@lru_cache(maxsize=64)
def gaussian_totals(
    length: int, cap: int, cell_cap: int, epsilon: Fraction, delta: Fraction
) -> GaussianTotals:
    """Choose R and the noise for totals of a period of so many panes.

    R is as fine as possible with a small noise table: sigma is between 1,000 and 20,000 units. One
    user and period contributes at most `cap`, `cell_cap` of it to one pane and key, and loses
    epsilon at `delta`, which includes the error of the noise table. A cap too large for the epsilon
    raises `ParameterError`.
    """
    return _within(epsilon, delta, lambda rho: _scaled(length, cap, cell_cap, rho))


@lru_cache(maxsize=64)
def gaussian_panes(
    cap: int, cell_cap: int, largest: int, epsilon: Fraction, delta: Fraction
) -> GaussianTotals:
    """Choose the noise of the cells of panes, each released by itself.

    One user and day contributes at most `cap`, `cell_cap` of it to one pane and key, each
    contribution up to `largest`. For parameters outside the range of the tables `ParameterError` is
    raised.
    """
    itself = RootOfSums(length=1, bits=0)
    squared = largest**2 * itself.sensitivity_squared(cap, cell_cap)
    return _within(epsilon, delta, lambda rho: GaussianTotals(itself, squared, rho, cap))


def _within(
    epsilon: Fraction, delta: Fraction, mechanism: Callable[[Fraction], GaussianTotals]
) -> GaussianTotals:
    """Return the mechanism of the largest rho that stays within delta, table error included."""
    for share in _SHARES_OF_DELTA:
        chosen = mechanism(largest_rho(epsilon, delta * share))
        if chosen.delta(epsilon) <= delta:
            return chosen
    raise ParameterError(
        f"the error of the noise table raises delta to {float(chosen.delta(epsilon)):.1e}: allow"
        f" more than {float(delta):.1e}"
    )


def _scaled(length: int, cap: int, cell_cap: int, rho: Fraction) -> GaussianTotals:
    for bits in range(_MOST_BITS, 1, -1):
        root = RootOfSums(length, bits)
        squared = root.sensitivity_squared(cap, cell_cap)
        totals = GaussianTotals(root, squared, rho, cap * length)
        if totals.sigma_squared <= _SIGMA_SQUARED[1]:
            break
    if not _SIGMA_SQUARED[0] <= totals.sigma_squared <= _SIGMA_SQUARED[1]:
        raise ParameterError(
            f"totals with a cap of {cap} and rho {float(rho):.2g} need noise of sigma"
            f" {float(totals.sigma_squared) ** 0.5:.0f} units, outside the range of the tables:"
            " change the cap or epsilon"
        )
    return totals

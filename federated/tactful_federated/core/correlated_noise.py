"""Correlated noise across releases: DP-FTRL with a banded square root.

Server optimisers add up the releases of the rounds, so the noise of *prefix sums* matters. The
mechanism releases C G + Z instead of G + Z, where row t of G is the sum of round t and C is the
square root of the prefix-sum matrix, cut after some bands; each round estimates its row of G from
it. The noise of the estimates then cancels in part in the prefix sums (Kairouz et al., "Practical
and private (deep) learning without sampling or shuffling", ICML 2021; Choquette-Choo et al.,
"(Amplified) banded matrix factorization", NeurIPS 2023; Kalinin, Lampert, "Banded square root
matrix factorization", NeurIPS 2024).

All values that privacy depends on are integers: C is rounded to integers, updates lie on a grid
(`fixed_point`), and Z is exact discrete noise. The floating-point estimates are post-processing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import WeightsError, require
from tactful_federated.model.vectors import IntegerVector
from tactful_privacy.mechanisms.gaussian import WideGaussian
from tactful_privacy.mechanisms.matrix_factorisation import RootOfSums

_BITS = 10


@dataclass(frozen=True)
class BandedRoot:
    """Matrix C: lower triangular, Toeplitz, with `bands` coefficients.

    Coefficient j is binomial(2j, j) / 4^j, rounded to 2^-10. With bands = 3:

        C = [c0         ]
            [c1 c0      ]
            [c2 c1 c0   ]
            [   c2 c1 c0]
    """

    bands: int  # number of coefficients, 1 or more; 1 is independent noise

    def __post_init__(self) -> None:
        """Raise `SettingsError` if `bands` is below 1."""
        require(self.bands >= 1, f"bands is {self.bands}: give 1 or more")

    @cached_property
    def coefficients(self) -> tuple[int, ...]:
        """First column of C times 2^10."""
        return RootOfSums(self.bands, _BITS).coefficients

    @cached_property
    def norm_squared(self) -> int:
        """Squared Euclidean norm of `coefficients`."""
        return sum(c * c for c in self.coefficients)

    def sensitivity_squared(self, participations: int, units: int) -> int:
        """Return the exact squared L2 change of C G by one device.

        The rounds of one device are at least `bands` apart, so its columns have no row in common
        and their squares add up, independently of its updates: participations * units^2 *
        norm_squared (Choquette-Choo et al. 2023, th. 2), with the largest number of releases of one
        device and the largest Euclidean norm of its update in a release.
        """
        return participations * units**2 * self.norm_squared

    def prefix_errors(self, rounds: int) -> NDArray[np.float64]:
        """Return the standard deviation of the noise of each prefix sum, ``[rounds]``.

        The unit is ``sigma / 2^10``, with sigma of Z: row norms of A C^-1, A the prefix-sum matrix.
        """
        c = np.array(self.coefficients, dtype=np.float64) / self.coefficients[0]
        inverse = np.zeros(rounds)
        inverse[0] = 1.0
        for t in range(1, rounds):
            reach = min(t, self.bands - 1)
            inverse[t] = -(c[1 : reach + 1] @ inverse[t - reach : t][::-1])
        errors: NDArray[np.float64] = np.sqrt(np.cumsum(np.cumsum(inverse) ** 2))
        return errors


@dataclass(frozen=True, eq=False)
class NoiseMemory:
    """State of the noise between rounds. **Secret**: it reveals later noise.

    Attributes:
        totals: Exact sums of the latest rounds, latest first, int64 ``[at most bands - 1, size]``.
        estimates: Released estimates of these sums, float64 of the same shape.
    """

    totals: NDArray[np.int64]
    estimates: NDArray[np.float64]

    @classmethod
    def empty(cls, size: int) -> NoiseMemory:
        """Return the state before the first round of a model with `size` parameters."""
        return cls(np.zeros((0, size), np.int64), np.zeros((0, size), np.float64))


class CorrelatedNoise:
    """Mechanism that releases the sums of a run with correlated noise.

    Guarantee: all estimates of a run together are post-processing of C G + Z. For neighbours that
    differ in all updates of one device, set to zero, this is a Gaussian mechanism with the noise
    multiplier ``sqrt(covered / sensitivity_squared)``, up to the total variation of the noise
    tables (`WideGaussian`).

    Assumed: a device takes part in at most as many releases as the sensitivity was computed for, at
    least `bands` releases apart; each sum is released once; the memory stays secret.
    """

    def __init__(
        self,
        root: BandedRoot,
        sigma_squared: int | Fraction,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Prepare the tables of Z with matrix C; a variance of 0 is no noise, for measurements.

        `entropy` is a source of cryptographically secure bytes.
        """
        self._root = root
        self._noise = WideGaussian(sigma_squared, entropy=entropy) if sigma_squared else None

    def release(
        self, total: IntegerVector, memory: NoiseMemory
    ) -> tuple[NDArray[np.float64], NoiseMemory]:
        """Return the noisy estimate of the sum of a round, int64 ``[size]``, and the next memory.

        Raises:
            WeightsError: The total is not an int64 vector of the size of the memory.
        """
        if total.dtype != np.int64 or total.shape != memory.totals.shape[1:]:
            raise WeightsError(
                f"expected an int64 sum of {memory.totals.shape[1:]}, not {total.dtype} of"
                f" {total.shape}"
            )
        # c0 G_t + c1 G_(t-1) + ... + Z_t, then solved for G_t with the earlier estimates.
        first, *rest = self._root.coefficients
        mixed = first * total
        for coefficient, earlier in zip(rest, memory.totals, strict=False):
            mixed += coefficient * earlier
        if self._noise:
            mixed += self._noise.sample(total.size)
        estimate = mixed.astype(np.float64)
        for coefficient, earlier_estimate in zip(rest, memory.estimates, strict=False):
            estimate -= coefficient * earlier_estimate
        estimate /= first
        rows_kept = self._root.bands - 1
        return estimate, NoiseMemory(
            np.concatenate([total[None], memory.totals])[:rows_kept],
            np.concatenate([estimate[None], memory.estimates])[:rows_kept],
        )


def noise_scale(root: BandedRoot, sigma_squared: float) -> float:
    """Return the standard deviation of Z on the scale of the sums."""
    return math.sqrt(sigma_squared) / root.coefficients[0]

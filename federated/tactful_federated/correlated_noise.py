"""Noise of one release that later releases take back: DP-FTRL with a banded square root.

Server optimisers add up what the rounds release, so what matters is the noise of *prefix sums*.
Released is C G + Z instead of G + Z, where row t of G is the sum of round t and C is the square
root of summing, cut after some bands; from it each round estimates its row of G. The noise of the
estimates is then correlated so that it cancels in the prefix sums (Kairouz et al., "Practical and
private (deep) learning without sampling or shuffling", ICML 2021; Choquette-Choo et al.,
"(Amplified) banded matrix factorization", NeurIPS 2023; Kalinin, Lampert, "Banded square root
matrix factorization", NeurIPS 2024).

Everything that privacy rests on is whole numbers: C is rounded to integers, updates lie on a grid
(`fixed_point`), and Z is exact discrete noise. The estimates are computed from what is released,
in floating point.
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
from tactful_federated.fixed_point import IntegerVector
from tactful_privacy import WideGaussian
from tactful_privacy.toeplitz import RootOfSums

_BITS = 10


@dataclass(frozen=True)
class BandedRoot:
    """C: lower triangular Toeplitz with `bands` coefficients binomial(2j, j) / 4^j, rounded.

    Attributes:
        bands: 1 is independent noise.
    """

    bands: int

    def __post_init__(self) -> None:
        """Raise `SettingsError` without a band."""
        require(self.bands >= 1, f"bands is {self.bands}: give 1 or more")

    @cached_property
    def coefficients(self) -> tuple[int, ...]:
        """First column times 2^10."""
        return RootOfSums(self.bands, _BITS).coefficients

    @cached_property
    def norm_squared(self) -> int:
        """Squared Euclidean norm of `coefficients`."""
        return sum(c * c for c in self.coefficients)

    def sensitivity_squared(self, participations: int, units: int) -> int:
        """Squared L2 change of C G by one device, exactly.

        Two rounds of one device are at least `bands` apart, so the columns they touch have no row
        in common and their squares add up, whatever the device sends: participations * units^2 *
        norm_squared (Choquette-Choo et al. 2023, th. 2).

        Args:
            participations: Releases that one device takes part in, at most.
            units: Largest Euclidean norm of what it adds to one of them.
        """
        return participations * units**2 * self.norm_squared

    def prefix_errors(self, rounds: int) -> NDArray[np.float64]:
        """Standard deviation of the noise of every prefix sum, ``[rounds]``.

        In units of ``sigma / 2^10``, sigma that of Z: row norms of A C^-1, A the prefix sum.
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
    """What is left of earlier rounds. **Secret**: with it the noise of later ones can be removed.

    Attributes:
        totals: Exact sums of the latest rounds, latest first, int64 ``[at most bands - 1, size]``.
        estimates: What was released of them, float64 of the same shape.
    """

    totals: NDArray[np.int64]
    estimates: NDArray[np.float64]

    @classmethod
    def empty(cls, size: int) -> NoiseMemory:
        """Before the first round of a model of `size` parameters."""
        return cls(np.zeros((0, size), np.int64), np.zeros((0, size), np.float64))


class CorrelatedNoise:
    """Draws the releases of a run.

    Guarantee: all estimates of a run together are post-processing of C G + Z. For one device's
    whole participation set to zero, that is a Gaussian mechanism of noise multiplier
    ``sqrt(covered / sensitivity_squared)``, within the tables' total variation (`WideGaussian`).

    Assumed: a device takes part in at most the releases that the sensitivity was computed for, at
    least `bands` releases apart; each sum is released once; the memory stays secret.
    """

    def __init__(
        self,
        root: BandedRoot,
        sigma_squared: int | Fraction,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Prepare the tables.

        Args:
            root: C.
            sigma_squared: Of Z; 0 draws none (to measure what noise costs, never to deploy).
            entropy: Cryptographically secure bytes.
        """
        self._root = root
        self._noise = WideGaussian(sigma_squared, entropy=entropy) if sigma_squared else None

    def release(
        self, total: IntegerVector, memory: NoiseMemory
    ) -> tuple[NDArray[np.float64], NoiseMemory]:
        """Estimate one round's sum, and what the next release needs.

        Args:
            total: Exact sum of the round, int64 ``[size]``.
            memory: What the release before returned.

        Raises:
            WeightsError: The total is no int64 vector of the memory's size.
        """
        if total.dtype != np.int64 or total.shape != memory.totals.shape[1:]:
            raise WeightsError(
                f"expected an int64 sum of {memory.totals.shape[1:]}, not {total.dtype} of"
                f" {total.shape}"
            )
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
        kept = self._root.bands - 1
        return estimate, NoiseMemory(
            np.concatenate([total[None], memory.totals])[:kept],
            np.concatenate([estimate[None], memory.estimates])[:kept],
        )


def noise_scale(root: BandedRoot, sigma_squared: float) -> float:
    """Standard deviation of Z on the scale of the sums, so that prefix errors multiply it."""
    return math.sqrt(sigma_squared) / root.coefficients[0]

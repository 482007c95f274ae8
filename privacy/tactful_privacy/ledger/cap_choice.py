"""Choice of a day's cap by a private quantile of the day before."""

import os
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import fraction
from tactful_privacy.mechanisms.laplace import DiscreteLaplace, Entropy, noise_scale

MECHANISM = "discrete Laplace on the histogram of contributions by person"


@dataclass(frozen=True)
class CapChoice:
    """Public parameters for choosing a day's cap from the day before.

    A histogram of people by their number of contributions gets noise. Each user is in one bucket,
    so its L1 sensitivity is 1 and it costs `epsilon` for the day before. It is drawn once and kept
    in the ledger. The cap is computed from the noisy histogram, so it costs nothing more and may
    be shown.

        candidates (2, 5, 20)  ->  buckets 1..2, 3..5, 6 or more contributions

    Attributes:
        candidates: Candidate caps, rising; the last is the `cap` of the statistic.
        epsilon: Privacy loss of one user and one UTC day, beside that of the tables.
        quantile: Share of the people whose contributions should all count.
    """

    candidates: tuple[int, ...]
    epsilon: Fraction
    quantile: Fraction = Fraction(9, 10)

    def __post_init__(self) -> None:
        """Check and normalise."""
        object.__setattr__(self, "candidates", tuple(self.candidates))
        object.__setattr__(self, "epsilon", fraction(self.epsilon, "cap_choice: epsilon"))
        object.__setattr__(self, "quantile", fraction(self.quantile, "cap_choice: quantile"))
        whole = all(type(cap) is int for cap in self.candidates)
        if not whole or not self.candidates or self.candidates[0] < 1:
            raise ParameterError(
                f"cap_choice: candidates are {self.candidates!r}: give positive integers"
            )
        if any(b <= a for a, b in zip(self.candidates, self.candidates[1:], strict=False)):
            raise ParameterError(f"cap_choice: candidates are {self.candidates}: they must rise")
        if not 0 < self.quantile < 1:
            raise ParameterError(f"cap_choice: quantile is {self.quantile}: above 0 and below 1")
        noise_scale(1, self.epsilon)

    def histogram(self, contributions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count people by their contributions of a day, ``[candidates]``. Secret.

        Each of the people, ``[people]``, has one or more, counted up to the last candidate.
        """
        bucket = np.searchsorted(self.candidates, contributions)
        bucket = np.minimum(bucket, len(self.candidates) - 1)
        return np.bincount(bucket, minlength=len(self.candidates)).astype(np.int64)

    def noisy(
        self, contributions: NDArray[np.int64], entropy: Entropy = os.urandom
    ) -> NDArray[np.int64]:
        """Return the histogram with fresh noise: epsilon for one user of the day."""
        noise = DiscreteLaplace(1, self.epsilon, entropy=entropy)
        return self.histogram(contributions) + noise.sample(len(self.candidates))

    def cap(self, noisy: NDArray[np.int64]) -> int:
        """Return the smallest candidate that covers the quantile of the people.

        Negative counts are taken as 0. If the total may be noise alone, the last candidate is
        returned.
        """
        people = np.maximum(noisy, 0).tolist()
        noise = DiscreteLaplace(1, self.epsilon)
        if sum(people) <= len(people) * noise.interval():
            return self.candidates[-1]
        wanted = self.quantile * sum(people)
        below = accumulate(people)
        return next(cap for cap, upto in zip(self.candidates, below, strict=True) if upto >= wanted)

    def to_dict(self) -> dict[str, object]:
        """Return the arguments of the constructor as JSON values."""
        return {
            "candidates": list(self.candidates),
            "epsilon": str(self.epsilon),
            "quantile": str(self.quantile),
        }

"""Audit of totals with Gaussian noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.audit.noise import chance_of_normal, gaussian_delta
from tactful_privacy.audit.pipeline import Contribution, Pipeline
from tactful_privacy.ledger.statistic import GAUSSIAN_TOTALS, Statistic
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian
from tactful_privacy.mechanisms.matrix_factorisation import GaussianTotals

_RANDOM_DAYS = 300
_SEED = 14
_SHARE = 5


class GaussianPipeline(Pipeline):
    """Pipeline of totals with Gaussian noise: 24 panes, delta 1e-6."""

    panes = 24
    delta = Fraction(1, 10**6)
    shares_noise = True
    spreads = ("together",)

    def __init__(self, cap: int, epsilon: Fraction) -> None:
        """See `Pipeline`.

        Raises:
            ParameterError: There is no noise for totals of this cap and epsilon.
        """
        super().__init__(cap, epsilon)
        self.name = "Gaussian totals"
        self._root = np.array(self.statistic(1).gaussian.root.coefficients, dtype=np.float64)

    def statistic(self, keys: int) -> Statistic:
        """See `Pipeline`."""
        return replace(super().statistic(keys), kind=GAUSSIAN_TOTALS, delta=self.delta)

    def noise(self) -> DiscreteGaussian:
        """Return the noise of one stored cell."""
        return self.statistic(1).gaussian.noise()

    def delta_of_noise(self) -> tuple[Fraction | float, str]:
        """See `Pipeline`: uses the largest change over many days of one user.

        The change is measured, not taken from the mechanism's own sensitivity.
        """
        changes = (float(np.linalg.norm(self._weighted(day))) for day in self._days())
        largest = max(changes)
        distance = largest / self._sigma
        delta = gaussian_delta(distance, float(self.epsilon))
        return delta, f"a change of {distance:.4g} standard deviations, the largest of many days"

    def chance_of(self, draws: NDArray[Any]) -> float:
        """See `Pipeline`."""
        return chance_of_normal(draws, self._sigma)

    def exact(
        self, contributions: Iterable[Contribution], keys: int, restart_after: int | None = None
    ) -> NDArray[np.int64]:
        """See `Pipeline`: the totals at the end of each pane."""
        return np.cumsum(super().exact(contributions, keys, restart_after), axis=0)

    def likelihood(
        self, values: NDArray[Any], present: NDArray[np.int64], absent: NDArray[np.int64]
    ) -> NDArray[Any]:
        """See `Pipeline`: projects the recovered stored values on the change."""
        change = self._weighted(np.diff(present - absent, prepend=0))
        stored = np.apply_along_axis(self._weighted, 0, np.diff(values, axis=0, prepend=0))
        return np.asarray(change @ stored)

    @cached_property
    def _sigma(self) -> float:
        return math.sqrt(float(self.statistic(1).gaussian.sigma_squared))

    def _weighted(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Return R x for counts by pane, ``[panes]``."""
        return np.convolve(self._root, counts)[: self.panes]

    def _days(self) -> Iterator[NDArray[np.int64]]:
        """Generate days of one user on one key: one pane, consecutive panes, random panes."""
        generator = np.random.default_rng(_SEED)
        for first, width in itertools.product(range(self.panes), range(1, self.cap + 1)):
            day = np.zeros(self.panes, dtype=np.int64)
            np.add.at(day, first + np.arange(self.cap) % min(width, self.panes - first), 1)
            yield day
        for _ in range(_RANDOM_DAYS):
            yield np.bincount(generator.integers(self.panes, size=self.cap), minlength=self.panes)


class ContributionsForgotten(GaussianPipeline):
    """Planted bug: noise for a fifth of the sensitivity of a user's contributions."""

    def __init__(self, cap: int, epsilon: Fraction) -> None:
        """See `GaussianPipeline`."""
        super().__init__(cap, epsilon)
        self.name = "Gaussian noise of a fifth"

    def statistic(self, keys: int) -> Statistic:
        """See `Pipeline`."""
        correct = super().statistic(keys)
        return _LowNoise(**{field.name: getattr(correct, field.name) for field in fields(correct)})


class _LowNoise(Statistic):
    @cached_property
    def gaussian(self) -> GaussianTotals:
        correct = super().gaussian
        return replace(correct, sensitivity_squared=correct.sensitivity_squared // _SHARE**2)

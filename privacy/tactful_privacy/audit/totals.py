"""Audit of totals: sums of independent node noise, and totals with Gaussian noise."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.audit.pipeline import (
    Contribution,
    Pipeline,
    chance_of_normal,
    gaussian_delta,
    laplace_likelihood,
)
from tactful_privacy.ledger.statistic import GAUSSIAN_TOTALS, RUNNING_TOTALS, Statistic
from tactful_privacy.mechanisms._table import Entropy
from tactful_privacy.mechanisms.counting_tree import best_tree
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian
from tactful_privacy.mechanisms.laplace import DiscreteLaplace
from tactful_privacy.mechanisms.matrix_factorisation import GaussianTotals

_RANDOM_DAYS = 300
_SEED = 14
_SHARE = 5


class TotalsPipeline(Pipeline):
    """Pipeline of totals since midnight with 40 panes, a tree of two levels."""

    name = "running totals"
    panes = 40
    shares_noise = True
    spreads = ("together",)

    def statistic(self, keys: int) -> Statistic:
        """See `Pipeline`."""
        return replace(super().statistic(keys), kind=RUNNING_TOTALS)

    def change(self) -> int:
        """Return the cap times the largest number of used nodes that contain one pane.

        Counted over the nodes of the day's totals, not taken from the tree's own `levels`.
        """
        tree = best_tree(self.panes)
        used = {node.unsigned for t in range(1, self.panes + 1) for node in tree.nodes(t)}
        within = np.zeros(self.panes, dtype=np.int64)
        for node in used:
            width = tree.base**node.level
            within[max(0, node.place * width) : (node.place + 1) * width] += 1
        return self.cap * int(within.max())

    def exact(
        self, contributions: Iterable[Contribution], keys: int, restart_after: int | None = None
    ) -> NDArray[np.int64]:
        """See `Pipeline`: the totals at the end of each pane."""
        return np.cumsum(super().exact(contributions, keys, restart_after), axis=0)

    def likelihood(
        self, values: NDArray[Any], present: NDArray[np.int64], absent: NDArray[np.int64]
    ) -> NDArray[Any]:
        """See `Pipeline`.

        A day's 40 totals use 40 nodes, so the noisy value of each node follows from the totals, and
        each node has independent noise.
        """
        nodes = [np.linalg.solve(self._walks, totals) for totals in (values, present, absent)]
        return laplace_likelihood(nodes[0], nodes[1], nodes[2])

    @cached_property
    def _walks(self) -> NDArray[np.float64]:
        """Signs of the nodes in each total, ``[panes, nodes]``."""
        tree = best_tree(self.panes)
        walks = [tree.nodes(t) for t in range(1, self.panes + 1)]
        used = sorted({node.unsigned for walk in walks for node in walk})
        columns = {node: column for column, node in enumerate(used)}
        signs = np.zeros((len(walks), len(used)))
        for row, walk in zip(signs, walks, strict=True):
            for node in walk:
                row[columns[node.unsigned]] += node.sign
        return signs


class GaussianPipeline(TotalsPipeline):
    """Pipeline of totals with Gaussian noise: 24 panes, delta 1e-6.

    A cap and epsilon for which there is no such noise raise `ParameterError`.
    """

    name = "Gaussian totals"
    panes = 24
    delta = Fraction(1, 10**6)

    def __init__(self, cap: int, epsilon: Fraction) -> None:
        """See `Pipeline`."""
        super().__init__(cap, epsilon)
        self._root = np.array(self.statistic(1).gaussian.root.coefficients, dtype=np.float64)

    def statistic(self, keys: int) -> Statistic:
        """See `Pipeline`."""
        return replace(Pipeline.statistic(self, keys), kind=GAUSSIAN_TOTALS, delta=self.delta)

    def noise(self) -> DiscreteGaussian:
        """Return the noise of one stored cell."""
        return self.statistic(1).gaussian.noise()

    def delta_of_noise(self) -> tuple[Fraction | float, str]:
        """See `Pipeline`: uses the largest change over many days of one user.

        The change is measured, not taken from the mechanism's own sensitivity.
        """
        largest = max(float(np.linalg.norm(self._weighted(day))) for day in self._days())
        distance = largest / self._sigma
        delta = gaussian_delta(distance, float(self.epsilon))
        return delta, f"a change of {distance:.4g} standard deviations, the largest of many days"

    def chance_of(self, draws: NDArray[Any]) -> float:
        """See `Pipeline`."""
        return chance_of_normal(draws, self._sigma)

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


def as_kind(kind: type[Statistic], correct: Statistic) -> Statistic:
    """Return a statistic with the fields of another and the noise of a planted bug."""
    return kind(**{field.name: getattr(correct, field.name) for field in fields(correct)})


class LevelsForgotten(TotalsPipeline):
    """Planted bug: a contribution is charged once, but lies in a node of each level."""

    name = "levels of totals forgotten"

    def statistic(self, keys: int) -> Statistic:
        """See `Pipeline`."""
        return as_kind(_OneLevel, super().statistic(keys))


class _OneLevel(Statistic):
    def mechanism(self, entropy: Entropy = os.urandom) -> DiscreteLaplace:
        return DiscreteLaplace(self.cap, self.epsilon, entropy=entropy)


class ContributionsForgotten(GaussianPipeline):
    """Planted bug: noise for a fifth of the sensitivity of a user's contributions."""

    name = "Gaussian noise of a fifth"

    def statistic(self, keys: int) -> Statistic:
        """See `Pipeline`."""
        return as_kind(_LowNoise, super().statistic(keys))


class _LowNoise(Statistic):
    @cached_property
    def gaussian(self) -> GaussianTotals:
        correct = super().gaussian
        return replace(correct, sensitivity_squared=correct.sensitivity_squared // _SHARE**2)

"""Audit of sums of amounts, and of counts with Gaussian noise."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.audit.pipeline import Pipeline, gaussian_delta
from tactful_privacy.audit.totals import as_kind
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.bounded_state import Contribution
from tactful_privacy.ledger.amounts import Amounts
from tactful_privacy.ledger.statistic import GAUSSIAN_PANES, Statistic
from tactful_privacy.mechanisms.matrix_factorisation import GaussianTotals

_AMOUNTS = Amounts(-2, 3, Fraction(1, 2))


class SumsPipeline(Pipeline):
    """Pipeline of sums: each contribution has an amount far above the declared range."""

    name = "sums of amounts"
    amount = 10**6

    def statistic(self, keys: int) -> Statistic:
        """See `Pipeline`."""
        return replace(super().statistic(keys), amounts=_AMOUNTS)

    def change(self) -> int:
        """Return the cap times the largest amount in steps."""
        return self.cap * max(-_AMOUNTS.low, _AMOUNTS.high)


class AmountsUnclamped(SumsPipeline):
    """Planted bug: amounts are clamped to ten times the range that determines the noise."""

    name = "amounts beyond their range"

    def counter(self, statistic: Statistic, secret: bytes) -> BoundedCounts:
        """See `Pipeline`."""
        return _TenTimes(statistic, secret=secret, start=0)


class _TenTimes(BoundedCounts):
    def _count(self, contribution: Contribution, cap: int) -> bool:
        contribution.amount *= 10
        return super()._count(contribution, cap)


class GaussianPanesPipeline(Pipeline):
    """Pipeline of counts with Gaussian noise, one contribution to a cell, delta 1e-6."""

    name = "panes with Gaussian noise"
    delta = Fraction(1, 10**6)

    def statistic(self, keys: int) -> Statistic:
        """See `Pipeline`."""
        panes = super().statistic(keys)
        return replace(panes, kind=GAUSSIAN_PANES, delta=self.delta, cell_cap=1)

    def delta_of_noise(self) -> tuple[Fraction | float, str]:
        """See `Pipeline`: a user changes as many cells as the cap allows, each by one."""
        distance = math.sqrt(self.cap / float(self.statistic(1).gaussian.sigma_squared))
        delta = gaussian_delta(distance, float(self.epsilon))
        return delta, f"a change of {distance:.4g} standard deviations, one in each of the cells"

    def likelihood(
        self, values: NDArray[Any], present: NDArray[np.int64], absent: NDArray[np.int64]
    ) -> NDArray[Any]:
        """See `Pipeline`: the projection on the change."""
        return np.asarray((present - absent) @ values)


class CellsForgotten(GaussianPanesPipeline):
    """Planted bug: Gaussian noise for the change of one cell, not of as many as the cap allows."""

    name = "Gaussian noise for one cell"

    def statistic(self, keys: int) -> Statistic:
        """See `Pipeline`."""
        return as_kind(_OneCell, super().statistic(keys))


class _OneCell(Statistic):
    @cached_property
    def gaussian(self) -> GaussianTotals:
        return replace(super().gaussian, sensitivity_squared=1)

"""Audit of running totals, whose outputs are sums of independent node noise."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.audit.pipeline import Contribution, Pipeline, laplace_likelihood
from tactful_privacy.ledger.statistic import RUNNING_TOTALS, Statistic
from tactful_privacy.mechanisms._table import Entropy
from tactful_privacy.mechanisms.counting_tree import best_tree
from tactful_privacy.mechanisms.laplace import DiscreteLaplace


class TotalsPipeline(Pipeline):
    """Pipeline of totals since midnight with 40 panes, a tree of two levels."""

    panes = 40
    shares_noise = True
    spreads = ("together",)

    def __init__(self, cap: int, epsilon: Fraction) -> None:
        """See `Pipeline`."""
        super().__init__(cap, epsilon)
        self.name = "running totals"

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


class LevelsForgotten(TotalsPipeline):
    """Planted bug: a contribution is charged once, but lies in a node of each level."""

    def __init__(self, cap: int, epsilon: Fraction) -> None:
        """See `Pipeline`."""
        super().__init__(cap, epsilon)
        self.name = "levels of totals forgotten"

    def statistic(self, keys: int) -> Statistic:
        """See `Pipeline`."""
        correct = super().statistic(keys)
        return _OneLevel(
            correct.name,
            correct.keys,
            correct.pane_ms,
            correct.cap,
            correct.epsilon,
            kind=correct.kind,
        )


class _OneLevel(Statistic):
    def mechanism(self, entropy: Entropy = os.urandom) -> DiscreteLaplace:
        return DiscreteLaplace(self.cap, self.epsilon, entropy=entropy)

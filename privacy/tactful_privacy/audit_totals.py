"""Running totals under audit: what is read of them is a mixture of noise that is independent."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful_privacy._table import Entropy
from tactful_privacy.audit_pipeline import Contribution, Pipeline, laplace_likelihood
from tactful_privacy.counting_tree import best_tree
from tactful_privacy.laplace import DiscreteLaplace
from tactful_privacy.statistic import RUNNING_TOTALS, Statistic


class TotalsPipeline(Pipeline):
    """The same path for totals since midnight: 40 panes, so that the tree has two levels."""

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
        """Return the cap times the most nodes of the tree, signs aside, that one pane lies in.

        Counted over the nodes that the day's totals use, not taken from what the tree says of
        itself.
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

        A day's 40 totals use 40 nodes, so what the nodes held is computed from the totals, noise
        and all; and of the nodes, each has noise of its own.
        """
        nodes = [np.linalg.solve(self._walks, it) for it in (values, present, absent)]
        return laplace_likelihood(nodes[0], nodes[1], nodes[2])

    @cached_property
    def _walks(self) -> NDArray[np.float64]:
        """Which nodes are in which total, with their signs, ``[panes, nodes]``."""
        tree = best_tree(self.panes)
        walks = [tree.nodes(t) for t in range(1, self.panes + 1)]
        places = {
            node: n for n, node in enumerate(sorted({it.unsigned for w in walks for it in w}))
        }
        found = np.zeros((len(walks), len(places)))
        for row, walk in zip(found, walks, strict=True):
            for node in walk:
                row[places[node.unsigned]] += node.sign
        return found


class LevelsForgotten(TotalsPipeline):
    """A contribution is in a node of each level of the tree, but is charged once."""

    def __init__(self, cap: int, epsilon: Fraction) -> None:
        """See `Pipeline`."""
        super().__init__(cap, epsilon)
        self.name = "levels of totals forgotten"

    def statistic(self, keys: int) -> Statistic:
        """See `Pipeline`."""
        right = super().statistic(keys)
        return _OneLevel(
            right.name, right.keys, right.pane_ms, right.cap, right.epsilon, kind=right.kind
        )


class _OneLevel(Statistic):
    def mechanism(self, entropy: Entropy = os.urandom) -> DiscreteLaplace:
        return DiscreteLaplace(self.cap, self.epsilon, entropy=entropy)

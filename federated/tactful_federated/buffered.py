"""Buffered asynchronous aggregation: no rounds, a release whenever enough updates have come.

Nguyen et al., "Federated learning with buffered asynchronous aggregation", AISTATS 2022 (FedBuff).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tactful_federated.errors import BudgetError, WeightsError, require
from tactful_federated.private_rounds import Outcome, PrivateTraining
from tactful_federated.vectors import Vector, check_vector, clip_to_norm


class BufferedTraining:
    """Takes updates whenever they come and releases every `plan.report_goal` of them.

    Guarantee: that of the `PrivateTraining` it fills. A participation counts for the release that
    the update lands in, however old the weights it was trained from; a device that would land too
    early or too often is refused. It is charged on disk before its update is added, so a kill loses
    the buffer and no budget. Weighing old updates down only shortens them.

    Args:
        training: The run; nothing else may run rounds of it meanwhile.
        most_stale: Updates trained from weights that are more releases old are refused.
    """

    def __init__(self, training: PrivateTraining, *, most_stale: int = 20) -> None:
        """Begin with an empty buffer."""
        require(most_stale >= 0, f"most_stale is {most_stale}: give 0 or more")
        self._training, self._most_stale = training, most_stale
        self._empty()

    def hand_out(self) -> tuple[Vector, int]:
        """Weights to train from, and the number of the release that they are."""
        return self._training.weights, self._training.releases

    def able(self, devices: Sequence[int]) -> list[int]:
        """Those of the devices whose update would be taken if it came now."""
        ledger, release = self._training.ledger, self._training.releases
        if not self._count:  # what was in a buffer that a kill took is never released
            ledger.did_not_come(release)
        return ledger.eligible(devices, release)

    def accept(self, device: int, update: Vector, trained_from: int) -> Outcome | None:
        """Take one update; returns the outcome if it filled the buffer.

        An update is weighed by ``1 / sqrt(1 + releases since)``. One that is not finite or has the
        wrong shape counts as zeros.

        Args:
            device: Who sends it.
            update: Change of the weights.
            trained_from: Number that came with the weights.

        Raises:
            BudgetError: The device may not take part now, the update is too old, or all releases
                are spent. Nothing is charged.
        """
        self._training.check_budget()
        stale = self._training.releases - trained_from
        if not 0 <= stale <= self._most_stale:
            raise BudgetError(
                f"an update is {stale} releases old, and up to {self._most_stale} are taken"
            )
        self._training.ledger.charge([device], self._training.releases)
        plan = self._training.plan
        self._count += 1
        try:
            bounded = clip_to_norm(check_vector(update, plan.parameters), plan.update_norm)
            weighed = (bounded / np.float32(np.sqrt(1 + stale))).astype(np.float32)
            self._total += plan.grid.encode(weighed)
        except WeightsError:
            pass  # zeros: whether a release happens must not depend on what an update holds
        if self._count < plan.report_goal:
            return None
        total = self._total
        self._empty()
        return self._training.release(total)

    def _empty(self) -> None:
        self._count = 0
        self._total = np.zeros(self._training.plan.parameters, dtype=np.int64)

"""Buffered asynchronous aggregation: one release for each full buffer of updates.

Nguyen et al., "Federated learning with buffered asynchronous aggregation", AISTATS 2022 (FedBuff).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tactful_federated.core.private_training import Outcome, PrivateTraining
from tactful_federated.errors import BudgetError, WeightsError, require
from tactful_federated.model.vectors import Vector, check_vector, clip_to_norm


class BufferedTraining:
    """Buffer of updates that makes a release for every `plan.report_goal` of them.

    Guarantee: that of its `PrivateTraining`. A participation counts for the release that contains
    the update, regardless of the age of the weights it was trained from; updates of a device that
    come too early or too often are refused. A device is charged on disk before its update is added,
    so a kill loses the buffer but no budget. Weighting old updates only shortens them.

    Args:
        training: Run to release to; it must not run rounds at the same time.
        most_stale: Largest age in releases of the weights an update was trained from, 0 or more.
    """

    def __init__(self, training: PrivateTraining, *, most_stale: int = 20) -> None:
        """Create an empty buffer."""
        require(most_stale >= 0, f"most_stale is {most_stale}: give 0 or more")
        self._training, self._most_stale = training, most_stale
        self._clear()

    def hand_out(self) -> tuple[Vector, int]:
        """Return the weights to train from, and the number of their release."""
        return self._training.weights, self._training.releases

    def able(self, devices: Sequence[int]) -> list[int]:
        """Return the devices whose updates would be accepted now."""
        ledger, release = self._training.ledger, self._training.releases
        if not self._count:  # a buffer lost by a kill is never released
            ledger.did_not_come(release)
        return ledger.eligible(devices, release)

    def accept(self, device: int, update: Vector, trained_from: int) -> Outcome | None:
        """Add one update; return the outcome of the release if the buffer is full.

        An update has the weight ``1 / sqrt(1 + age in releases)``. One that is not finite or has
        the wrong shape counts as zeros.

        Args:
            device: Number of the sending device.
            update: Change of the weights.
            trained_from: Number of the release that it was trained from.

        Raises:
            BudgetError: The device may not take part now, the update is too old, or all releases
                are spent. The device is not charged.
        """
        self._training.check_budget()
        stale = self._training.releases - trained_from
        if not 0 <= stale <= self._most_stale:
            raise BudgetError(
                f"an update is {stale} releases old, and {self._most_stale} are allowed"
            )
        self._training.ledger.charge([device], self._training.releases)
        plan = self._training.plan
        self._count += 1
        try:
            bounded = clip_to_norm(check_vector(update, plan.parameters), plan.update_norm)
            weighted = (bounded / np.float32(np.sqrt(1 + stale))).astype(np.float32)
            self._total += plan.grid.encode(weighted)
        except WeightsError:
            pass  # counts as zeros: the content must not decide whether there is a release
        if self._count < plan.report_goal:
            return None
        total = self._total
        self._clear()
        return self._training.release(total)

    def _clear(self) -> None:
        self._count = 0
        self._total = np.zeros(self._training.plan.parameters, dtype=np.int64)

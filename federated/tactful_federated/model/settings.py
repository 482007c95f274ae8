"""Settings of training on a device; importing them needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tactful_federated.errors import require, require_positive


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of training on a device.

    Attributes:
        epochs: Passes over the windows of the device in a round, at least 1.
        batch_size: Windows per gradient step, at least 1.
        learning_rate: Step size of plain SGD, above 0.
        gradient_norm: Euclidean norm to which the gradient of each step is clipped, above 0.
        update_norm: Euclidean norm to which the update is clipped before it is sent, above 0.
        scored: Questions per window, at least 1.
        context: Positions before the first question of a window, at least 0.
        held_out: Share of the latest baskets held out for evaluation, 0 to below 1.
        proximal: Penalty on the distance from the initial weights, 0 or more: mu of FedProx (Li et
            al., MLSys 2020). 0 is FedAvg.
    """

    epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 3.0
    gradient_norm: float = 5.0
    update_norm: float = 2.0
    scored: int = 24
    context: int = 8
    held_out: float = 0.2
    proximal: float = 0.0

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a setting outside its range."""
        for name in ("epochs", "batch_size", "scored"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")
        require_positive(self, "learning_rate", "gradient_norm", "update_norm")
        require(self.context >= 0, "context must be at least 0")
        require(0 <= self.proximal < math.inf, "proximal must be finite and at least 0")
        require(0 <= self.held_out < 1, "held_out must be at least 0 and below 1")

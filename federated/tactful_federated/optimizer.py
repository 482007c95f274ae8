"""What the server does with a round's average: FedAvg with momentum, FedAdam, FedYogi.

McMahan et al., AISTATS 2017; Hsu et al., arXiv:1909.06335 (momentum); Reddi et al., "Adaptive
federated optimization", ICLR 2021, alg. 2. All of it is computed from the released estimate, so
none of it costs privacy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import WeightsError, require
from tactful_federated.vectors import Vector, check_vector

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Optimizer:
    """How the server steps.

    Attributes:
        kind: `fedavg`, `fedadam` or `fedyogi`.
        learning_rate: Server step size, above 0.
        momentum: Share of the last step that is repeated, 0 to below 1. `fedavg` adds the whole
            average to it, the others one part of (1 - momentum), as their papers do.
        second_moment: Decay of the squared averages, 0 to below 1; without meaning for `fedavg`.
        adaptivity: Added to the root of the second moment, above 0; likewise.
        averaging: Decay of the average of the iterates that is handed out, 0 to below 1, warmed up
            as min(averaging, t / (t + 9)).
    """

    kind: Literal["fedavg", "fedadam", "fedyogi"] = "fedavg"
    learning_rate: float = 1.0
    momentum: float = 0.9
    second_moment: float = 0.99
    adaptivity: float = 1e-3
    averaging: float = 0.9

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a setting outside its range."""
        require(
            self.kind in ("fedavg", "fedadam", "fedyogi"),
            f"optimizer is {self.kind!r}: give fedavg, fedadam or fedyogi",
        )
        for name in ("learning_rate", "adaptivity"):
            value = getattr(self, name)
            require(value > 0 and np.isfinite(value), f"{name} must be finite and above 0")
        for name in ("momentum", "second_moment", "averaging"):
            require(0 <= getattr(self, name) < 1, f"{name} must be at least 0 and below 1")


@dataclass(frozen=True, eq=False)
class ModelState:
    """The model on the server: float64 vectors of shape (parameters,).

    Attributes:
        steps: Steps taken.
        weights: Current iterate; what devices train from.
        velocity: First moment.
        squares: Second moment; zeros for `fedavg`.
        average: Average of the iterates; what is evaluated and used.
    """

    steps: int
    weights: Doubles
    velocity: Doubles
    squares: Doubles
    average: Doubles

    @classmethod
    def begin(cls, weights: Vector) -> ModelState:
        """Before the first step.

        Raises:
            WeightsError: The weights are no finite flat float32 vector.
        """
        initial = check_vector(weights, weights.size).astype(np.float64)
        zeros = np.zeros_like(initial)
        return cls(0, initial, zeros, zeros, initial)

    def broadcast(self) -> Vector:
        """Weights that devices train from, float32."""
        return self.weights.astype(np.float32)

    def release(self) -> Vector:
        """Weights to evaluate and to use, float32."""
        return self.average.astype(np.float32)


def step(state: ModelState, average_update: Doubles, settings: Optimizer) -> ModelState:
    """Move the model by a round's average update.

    Raises:
        WeightsError: The update has another shape or a value that is not finite.
    """
    if average_update.shape != state.weights.shape or not np.isfinite(average_update).all():
        raise WeightsError("the average of a round does not fit the model or is not finite")
    squares = state.squares
    if settings.kind == "fedavg":
        velocity = settings.momentum * state.velocity + average_update
        moved = velocity
    else:
        keep, squared = settings.second_moment, np.square(average_update)
        velocity = settings.momentum * state.velocity + (1 - settings.momentum) * average_update
        if settings.kind == "fedadam":
            squares = keep * squares + (1 - keep) * squared
        else:
            squares = squares - (1 - keep) * squared * np.sign(squares - squared)
        moved = velocity / (np.sqrt(squares) + settings.adaptivity)
    weights = state.weights + settings.learning_rate * moved
    steps = state.steps + 1
    decay = min(settings.averaging, steps / (steps + 9))
    average = decay * state.average + (1 - decay) * weights
    return ModelState(steps, weights, velocity, squares, average)

"""Server optimisers: FedAvg with momentum, FedAdam and FedYogi.

McMahan et al., AISTATS 2017; Hsu et al., arXiv:1909.06335 (momentum); Reddi et al., "Adaptive
federated optimization", ICLR 2021, alg. 2. A step is post-processing of the released estimate, so
it costs no privacy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import WeightsError, require, require_positive
from tactful_federated.model.vectors import Vector, check_vector

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Optimizer:
    """Settings of the server optimiser.

    Attributes:
        kind: `fedavg`, `fedadam` or `fedyogi`.
        learning_rate: Server step size, above 0.
        momentum: Share of the last step that is repeated, 0 to below 1; 0 is plain FedAvg.
            `fedavg` adds the whole update to it, the others (1 - momentum) of the update.
        second_moment: Decay of the squared updates, 0 to below 1; not used by `fedavg`.
        adaptivity: Term added to the root of the second moment, above 0; not used by `fedavg`.
        averaging: Decay of the average of the iterates, 0 to below 1; 0 is the last iterate. It
            warms up as min(averaging, t / (t + 9)) over steps t.
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
            f"kind of optimizer is {self.kind!r}: give fedavg, fedadam or fedyogi",
        )
        require_positive(self, "learning_rate", "adaptivity")
        for name in ("momentum", "second_moment", "averaging"):
            require(0 <= getattr(self, name) < 1, f"{name} must be at least 0 and below 1")


@dataclass(frozen=True, eq=False)
class ModelState:
    """Model and moments on the server: float64 vectors of shape (parameters,).

    Attributes:
        steps: Steps taken.
        weights: Current iterate, from which devices train.
        velocity: First moment.
        squares: Second moment; zeros for `fedavg`.
        average: Average of the iterates, for evaluation and use.
    """

    steps: int
    weights: Doubles
    velocity: Doubles
    squares: Doubles
    average: Doubles

    @classmethod
    def begin(cls, weights: Vector) -> ModelState:
        """Return the state before the first step.

        Raises:
            WeightsError: The weights are not a finite, flat float32 vector.
        """
        initial = check_vector(weights, weights.size).astype(np.float64)
        zeros = np.zeros_like(initial)
        return cls(0, initial, zeros, zeros, initial)

    def broadcast(self) -> Vector:
        """Return the weights that devices train from, float32."""
        return self.weights.astype(np.float32)

    def release(self) -> Vector:
        """Return the weights to evaluate and to use, float32."""
        return self.average.astype(np.float32)


def step(state: ModelState, average_update: Doubles, settings: Optimizer) -> ModelState:
    """Return the state after a step by the average update of a round.

    Raises:
        WeightsError: The update has another shape or a value that is not finite.
    """
    if average_update.shape != state.weights.shape or not np.isfinite(average_update).all():
        raise WeightsError("the average update of a round does not fit the model or is not finite")
    squares = state.squares
    if settings.kind == "fedavg":
        velocity = settings.momentum * state.velocity + average_update
        direction = velocity
    else:
        decay, squared = settings.second_moment, np.square(average_update)
        velocity = settings.momentum * state.velocity + (1 - settings.momentum) * average_update
        if settings.kind == "fedadam":
            squares = decay * squares + (1 - decay) * squared
        else:
            squares = squares - (1 - decay) * squared * np.sign(squares - squared)
        direction = velocity / (np.sqrt(squares) + settings.adaptivity)
    weights = state.weights + settings.learning_rate * direction
    steps = state.steps + 1
    averaging = min(settings.averaging, steps / (steps + 9))
    average = averaging * state.average + (1 - averaging) * weights
    return ModelState(steps, weights, velocity, squares, average)

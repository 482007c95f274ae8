"""Trained policy as a small network in plain arrays, served without torch."""

from __future__ import annotations

import math
from typing import Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.codec import pack, unpack

Floats32 = NDArray[np.float32]

_WIDEST = 5.0  # standard deviations; states are clipped here as in training


class _Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: int
    outputs: int
    weights: bytes
    biases: bytes


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="network"):
    layers: list[_Layer]
    mean: bytes
    deviation: bytes
    lowest: bytes
    highest: bytes


class NetworkPolicy:
    """Multi-layer perceptron from a state to an action between -1 and 1.

    For a state outside the range of the training data the action is 0, the champion.

    Attributes:
        layers: Weights ``[inputs, outputs]`` and biases ``[outputs]`` of each layer; ReLU between
            the layers, tanh after the last.
        mean: Mean of the states in training, ``[states]``.
        deviation: Standard deviation of the states in training, ``[states]``.
        lowest: Lower ends of the range that the network covers, ``[states]``.
        highest: Upper ends of the range, ``[states]``.
    """

    def __init__(
        self,
        layers: list[tuple[Floats32, Floats32]],
        mean: Floats32,
        deviation: Floats32,
        lowest: Floats32,
        highest: Floats32,
    ) -> None:
        """Validate and store the arrays."""
        width = len(mean)
        for weights, biases in layers:
            if weights.shape != (width, *biases.shape) or biases.ndim != 1:
                raise PolicyError(
                    f"a layer of shape {weights.shape} does not fit an input of length {width}"
                )
            width = len(biases)
        arrays = [array for layer in layers for array in layer]
        if not layers or not all(np.isfinite(array).all() for array in (*arrays, mean, deviation)):
            raise PolicyError("a network needs layers, and finite values in all of them")
        if not all(array.shape == mean.shape for array in (deviation, lowest, highest)):
            raise PolicyError("mean, deviation, lowest and highest must have the length of a state")
        if not (deviation > 0).all():
            raise PolicyError("deviations must be above 0")
        self.layers, self.mean, self.deviation = layers, mean, deviation
        self.lowest, self.highest = lowest, highest

    @property
    def actions(self) -> int:
        """Length of an action."""
        return len(self.layers[-1][1])

    def covers(self, state: ArrayLike) -> bool:
        """Return whether a state lies in the range of the training data; NaN never does."""
        x = np.asarray(state, dtype=np.float32)
        if x.shape != self.mean.shape:
            raise PolicyError(f"a state has shape {x.shape}, not {self.mean.shape}")
        return bool(((x >= self.lowest) & (x <= self.highest)).all())

    def act(self, state: ArrayLike) -> Floats32:
        """Compute the action at a state, ``[actions]``; 0 outside the covered range."""
        x = np.asarray(state, dtype=np.float32)
        if not self.covers(x):
            return np.zeros(self.actions, dtype=np.float32)
        x = np.clip((x - self.mean) / self.deviation, -_WIDEST, _WIDEST)
        *hidden, (weights, biases) = self.layers
        for inner, offsets in hidden:
            x = np.maximum(x @ inner + offsets, 0)
        action: Floats32 = np.tanh(x @ weights + biases)
        return action

    def to_bytes(self) -> bytes:
        """Serialise the policy."""
        layers = [_Layer(w.shape[0], w.shape[1], _raw(w), _raw(b)) for w, b in self.layers]
        statistics = (self.mean, self.deviation, self.lowest, self.highest)
        return pack(_State(layers, *map(_raw, statistics)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Restore the policy of `to_bytes`; raise PolicyError if it is damaged."""
        state = unpack(data, _State)
        try:
            layers = [
                (_array(part.weights).reshape(part.inputs, part.outputs), _array(part.biases))
                for part in state.layers
            ]
            statistics = (state.mean, state.deviation, state.lowest, state.highest)
            return cls(layers, *map(_array, statistics))
        except ValueError as error:
            raise PolicyError(f"the state of this network is inconsistent: {error}") from error


def _raw(array: Floats32) -> bytes:
    return array.astype("<f4").tobytes()


def _array(raw: bytes) -> Floats32:
    return np.frombuffer(raw, dtype="<f4").astype(np.float32)


def gaussian_log_density(drawn: ArrayLike, mean: ArrayLike, deviation: float) -> float:
    """Compute the log density of an action with independent normal noise above 0."""
    action, middle = np.asarray(drawn, np.float64), np.asarray(mean, np.float64)
    if not deviation > 0:
        raise PolicyError(f"an action with noise of {deviation} has no density: use noise above 0")
    if action.shape != middle.shape:
        raise PolicyError(f"the action drawn has shape {action.shape}, the policy's {middle.shape}")
    z = (action - middle) / deviation
    return float(-0.5 * (z @ z) - len(z) * math.log(deviation * math.sqrt(2 * math.pi)))

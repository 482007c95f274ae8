"""A trained policy as a small network in plain arrays, for serving: no torch, some microseconds."""

from __future__ import annotations

import math
from typing import Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.bandit_state import pack, unpack
from tactful_bandits.errors import PolicyError

Floats32 = NDArray[np.float32]

_WIDEST = 5.0  # standard deviations; what lies beyond is cut off, here as in training


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
    """From a state to an action between -1 and 1, by a multi-layer perceptron.

    Where a state lies outside what the network was trained on, it is not asked: the action is 0,
    which is the champion.

    Attributes:
        layers: Weights ``[inputs, outputs]`` and biases ``[outputs]`` of each layer; ReLU between
            them, tanh behind the last.
        mean: Of the states in training, ``[states]``.
        deviation: Their standard deviation, ``[states]``.
        lowest: Least value of each state for which the network answers.
        highest: Largest one.
    """

    def __init__(
        self,
        layers: list[tuple[Floats32, Floats32]],
        mean: Floats32,
        deviation: Floats32,
        lowest: Floats32,
        highest: Floats32,
    ) -> None:
        """Take arrays that fit each other.

        Raises:
            PolicyError: Shapes do not fit, or a value is not finite.
        """
        width = len(mean)
        for weights, biases in layers:
            if weights.shape != (width, *biases.shape) or biases.ndim != 1:
                raise PolicyError(
                    f"a layer of shape {weights.shape} does not follow one of {width}"
                )
            width = len(biases)
        arrays = [array for layer in layers for array in layer]
        if not layers or not all(np.isfinite(array).all() for array in (*arrays, mean, deviation)):
            raise PolicyError("a network needs layers, and finite values in all of them")
        if not all(array.shape == mean.shape for array in (deviation, lowest, highest)):
            raise PolicyError("mean, deviation and range must have the length of a state")
        if not (deviation > 0).all():
            raise PolicyError("deviations must be above 0")
        self.layers, self.mean, self.deviation = layers, mean, deviation
        self.lowest, self.highest = lowest, highest

    @property
    def actions(self) -> int:
        """Length of an action."""
        return len(self.layers[-1][1])

    def covers(self, state: ArrayLike) -> bool:
        """Whether a state lies in the range that the network was trained on; NaN never does."""
        x = np.asarray(state, dtype=np.float32)
        if x.shape != self.mean.shape:
            raise PolicyError(f"a state has shape {x.shape}, not {self.mean.shape}")
        return bool(((x >= self.lowest) & (x <= self.highest)).all())

    def act(self, state: ArrayLike) -> Floats32:
        """The action at a state, ``[actions]``; 0 where the network does not cover it.

        Raises:
            PolicyError: The state has another length.
        """
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
        """The whole policy."""
        layers = [_Layer(w.shape[0], w.shape[1], _raw(w), _raw(b)) for w, b in self.layers]
        rest = (self.mean, self.deviation, self.lowest, self.highest)
        return pack(_State(layers, *map(_raw, rest)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The policy that `to_bytes` wrote.

        Raises:
            PolicyError: The bytes are damaged or hold something else.
        """
        state = unpack(data, _State)
        try:
            layers = [
                (_array(part.weights).reshape(part.inputs, part.outputs), _array(part.biases))
                for part in state.layers
            ]
            rest = (state.mean, state.deviation, state.lowest, state.highest)
            return cls(layers, *map(_array, rest))
        except ValueError as error:
            raise PolicyError(f"the state of this network contradicts itself: {error}") from error


def _raw(array: Floats32) -> bytes:
    return array.astype("<f4").tobytes()


def _array(raw: bytes) -> Floats32:
    return np.frombuffer(raw, dtype="<f4").astype(np.float32)


def gaussian_log_density(drawn: ArrayLike, mean: ArrayLike, deviation: float) -> float:
    """Log density of an action with independent normal noise, for off-policy evaluation.

    Raises:
        PolicyError: There is no noise, or the two have not as many numbers.
    """
    action, middle = np.asarray(drawn, np.float64), np.asarray(mean, np.float64)
    if not deviation > 0:
        raise PolicyError(f"an action drawn with noise of {deviation} has no density: give some")
    if action.shape != middle.shape:
        raise PolicyError(f"the action drawn has shape {action.shape}, the policy's {middle.shape}")
    z = (action - middle) / deviation
    return float(-0.5 * (z @ z) - len(z) * math.log(deviation * math.sqrt(2 * math.pi)))

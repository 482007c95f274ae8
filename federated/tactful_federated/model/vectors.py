"""Model weights as one flat vector: norm, clipping, integer grid and views of the layers.

Layout of a vector (`layer_shapes`), E = embedding, H = hidden, V = vocabulary, C = V - 3:

    embedding [V, E] | input weights [4H, E] | recurrent weights [4H, H] | two biases [4H]
    | output weights [C, H + E] | output bias [C]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import WeightsError, require, require_positive
from tactful_federated.model.tokens import FIRST_CATEGORY

Vector = NDArray[np.float32]
"""Flat float32 vector of shape (parameters,)."""

Updates = Iterable[tuple[int, Vector]]
"""Updates by device, in order of arrival."""

IntegerVector = NDArray[np.int64]
"""Flat int64 vector of shape (parameters,)."""

_MAX_UNITS = 1 << 24
_SHRINK = 1 - 1e-12


def l2_norm(vector: NDArray[np.floating]) -> float:
    """Return the Euclidean norm in float64.

    BLAS is not used: its rounding depends on the number of threads.
    """
    return float(np.sqrt(np.square(vector.astype(np.float64)).sum()))


def clip_to_norm(vector: Vector, norm: float) -> Vector:
    """Scale `vector` to a Euclidean norm of at most `norm`, if it is longer.

    Guarantee: the bound holds for the float32 values that are sent, measured in float64, not only
    before rounding. Every sensitivity bound depends on it (McMahan et al., "Learning Differentially
    Private Recurrent Language Models", 2018, "flat clipping").

    Raises:
        WeightsError: A value is not finite, so no scaling can bound the norm.
    """
    length = l2_norm(vector)
    if not np.isfinite(length):
        raise WeightsError("the update holds a value that is not finite, so it cannot be clipped")
    if length <= norm:
        return vector
    # Rounding to float32 may lengthen the vector again: retry with the next smaller target.
    target = norm
    while True:
        clipped = (vector.astype(np.float64) * (target / length)).astype(np.float32)
        if l2_norm(clipped) <= norm:
            return clipped
        target = float(np.nextafter(np.float32(target), np.float32(0.0)))


def check_vector(vector: NDArray[np.generic], size: int) -> Vector:
    """Return `vector` if it is a finite float32 vector of `size` values.

    Raises:
        WeightsError: Wrong dtype or shape, or a value is not finite.
    """
    if vector.dtype != np.float32 or vector.shape != (size,):
        raise WeightsError(
            f"expected float32 weights of shape ({size},), not {vector.dtype} of {vector.shape}"
        )
    weights: Vector = vector.astype(np.float32, copy=False)
    if not np.isfinite(weights).all():
        raise WeightsError("the weights hold a value that is not finite")
    return weights


def layer_shapes(vocabulary_size: int, embedding: int, hidden: int) -> list[tuple[int, ...]]:
    """Return the shapes of the layers of an `IntentModel`, in the order of its vector.

    The layers are the embedding, the LSTM's input and recurrent weights, its two biases, and the
    output layer's weights and bias.
    """
    categories = vocabulary_size - FIRST_CATEGORY
    return [
        (vocabulary_size, embedding),
        (4 * hidden, embedding),
        (4 * hidden, hidden),
        (4 * hidden,),
        (4 * hidden,),
        (categories, hidden + embedding),
        (categories,),
    ]


def parameter_count(vocabulary_size: int, embedding: int = 32, hidden: int = 32) -> int:
    """Return the number of parameters of an `IntentModel`."""
    return sum(math.prod(shape) for shape in layer_shapes(vocabulary_size, embedding, hidden))


def checked_layers(
    weights: Vector, vocabulary_size: int, embedding: int, hidden: int
) -> list[Vector]:
    """Check the vector of a model and return views of its layers.

    Raises:
        WeightsError: The vector does not fit.
    """
    size = parameter_count(vocabulary_size, embedding, hidden)
    return layers(check_vector(weights, size), layer_shapes(vocabulary_size, embedding, hidden))


def layers(vectors: Vector, shapes: Sequence[tuple[int, ...]]) -> list[Vector]:
    """Return views of the layers of a vector, or of vectors stacked on axis 0."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = np.split(vectors, ends, axis=-1)
    return [
        part.reshape(*vectors.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)
    ]


@dataclass(frozen=True)
class FixedPoint:
    """Integer grid of updates: the norm `update_norm` is `units` on the grid.

    Guarantee: rounding is towards zero and never increases a norm. The integers have a Euclidean
    norm of at most `units`, exactly, so the sensitivity of their sum to one device is `units`. From
    2^16 units on the rounding error is small for tens of thousands of parameters.
    """

    update_norm: float  # largest Euclidean norm of an update, above 0
    units: int  # the same norm on the grid, 1 to 2^24

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a setting outside its range."""
        require_positive(self, "update_norm")
        require(
            1 <= self.units <= _MAX_UNITS,
            f"units is {self.units}: give a whole number from 1 to {_MAX_UNITS}",
        )

    def encode(self, update: Vector) -> IntegerVector:
        """Clip an update and round it to the grid, to int64 with a norm of at most `units`.

        Raises:
            WeightsError: The update holds a value that is not finite.
        """
        scaled = clip_to_norm(update, self.update_norm).astype(np.float64)
        scaled *= self.units / self.update_norm
        # float64 may exceed the bound by rounding before it truncates: shrink until it holds.
        while True:
            encoded = np.trunc(scaled).astype(np.int64)
            if self.holds(encoded):
                return encoded
            scaled *= _SHRINK

    def holds(self, encoded: IntegerVector) -> bool:
        """Return whether the exact norm is at most `units`."""
        if encoded.size and int(np.abs(encoded).max()) > self.units:
            return False
        return int(np.square(encoded).sum()) <= self.units**2

    def decode(self, total: NDArray[np.number]) -> NDArray[np.float64]:
        """Convert a sum on the grid to a sum of updates, float64."""
        return total.astype(np.float64) * (self.update_norm / self.units)

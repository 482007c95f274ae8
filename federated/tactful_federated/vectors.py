"""A model as one flat vector, and the arithmetic that must be exact on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import WeightsError
from tactful_federated.tokens import FIRST_CATEGORY

Vector = NDArray[np.float32]
"""Flat float32 vector of shape (parameters,)."""


def l2_norm(vector: NDArray[np.floating]) -> float:
    """Euclidean norm, computed in float64 without BLAS, whose threads change its rounding."""
    return float(np.sqrt(np.square(vector.astype(np.float64)).sum()))


def clip_to_norm(vector: Vector, norm: float) -> Vector:
    """Scale `vector` so that its Euclidean norm is at most `norm`; a shorter one is untouched.

    This is the bound every sensitivity argument rests on (McMahan et al., "Learning
    Differentially Private Recurrent Language Models", 2018, "flat clipping"), so it holds for
    the float32 values that are sent, measured in float64, and not merely before rounding.

    Raises:
        WeightsError: The vector holds a value that is not finite: no scaling makes it safe.
    """
    length = l2_norm(vector)
    if not np.isfinite(length):
        raise WeightsError("an update with values that are not finite cannot be clipped")
    if length <= norm:
        return vector
    target = norm
    while True:
        clipped = (vector.astype(np.float64) * (target / length)).astype(np.float32)
        if l2_norm(clipped) <= norm:
            return clipped
        target = float(np.nextafter(np.float32(target), np.float32(0.0)))


def check_vector(vector: NDArray[np.generic], size: int) -> Vector:
    """Return `vector` if it is a finite float32 vector of `size` values.

    Raises:
        WeightsError: It is not.
    """
    if vector.dtype != np.float32 or vector.shape != (size,):
        raise WeightsError(
            f"expected float32 weights of shape ({size},), not {vector.dtype} of {vector.shape}"
        )
    weights: Vector = vector.astype(np.float32, copy=False)
    if not np.isfinite(weights).all():
        raise WeightsError("the weights hold a value that is not finite")
    return weights


def layer_shapes(vocabulary_size: int, *, embedding: int, hidden: int) -> list[tuple[int, ...]]:
    """Of the layers of an `IntentModel`, in the order in which its vector holds them.

    They are the embedding, the LSTM's weights from the input and from its state, its two biases,
    and the output layer's weights and bias.
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


def parameter_count(vocabulary_size: int, *, embedding: int = 32, hidden: int = 32) -> int:
    """Parameters of an `IntentModel`."""
    shapes = layer_shapes(vocabulary_size, embedding=embedding, hidden=hidden)
    return sum(math.prod(shape) for shape in shapes)


def checked_layers(
    weights: Vector, vocabulary_size: int, *, embedding: int, hidden: int
) -> list[Vector]:
    """Views of the layers of a whole model.

    Raises:
        WeightsError: The vector does not fit.
    """
    size = parameter_count(vocabulary_size, embedding=embedding, hidden=hidden)
    shapes = layer_shapes(vocabulary_size, embedding=embedding, hidden=hidden)
    return layers(check_vector(weights, size), shapes)


def layers(vectors: Vector, shapes: Sequence[tuple[int, ...]]) -> list[Vector]:
    """Views of the layers in one vector, or in a stack of vectors along the first axis."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = np.split(vectors, ends, axis=-1)
    return [
        part.reshape(*vectors.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)
    ]

"""Compression of updates: half precision, or one byte for each parameter.

Guarantee: an encoded update never has a larger norm than the clipped one, so the sensitivity bound
still holds. Secure sums are not compressed: each parameter is a word of the modulus, and a smaller
modulus would need more noise than it saves bytes.
"""

from __future__ import annotations

import zlib
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import WeightsError, require
from tactful_federated.model.vectors import Vector, l2_norm

Encoding = Literal["float32", "float16", "int8"]
"""Encoding of each parameter: four bytes, two, or one."""

ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)

_LEVELS = 127


def compress(update: Vector, encoding: Encoding) -> tuple[NDArray[Any], float]:
    """Encode a finite, flat update, deterministically, to values and their scale.

    `float16` rounds towards zero. `int8` rounds to a multiple of the largest magnitude / 127, up or
    down at random and without bias (Alistarh et al., "QSGD", NeurIPS 2017), then reduces the scale
    until the norm is not larger than before. The scale of the others is 1.

    Raises:
        SettingsError: Unknown encoding.
    """
    require(encoding in ENCODINGS, f"encoding is {encoding!r}: give {', '.join(ENCODINGS)}")
    if encoding == "float32":
        return update, 1.0
    if encoding == "float16":
        limit = np.finfo(np.float16).max
        half = np.clip(update, -limit, limit).astype(np.float16)
        too_large = np.abs(half.astype(np.float32)) > np.abs(update)
        return np.where(too_large, np.nextafter(half, np.float16(0)), half), 1.0
    largest = float(np.abs(update).max(initial=0.0))
    # Subnormal scales are too coarse to reduce a norm with, so the update becomes zero.
    if largest < 2 * _LEVELS * np.finfo(np.float32).tiny:
        return np.zeros(update.shape, np.int8), 1.0
    # Seeded by the update: rounding is not secret, and a repeated training sends equal bytes.
    random = np.random.default_rng(zlib.crc32(np.ascontiguousarray(update).tobytes()))
    steps = update.astype(np.float64) * (_LEVELS / largest)
    values = np.floor(steps + random.random(update.shape)).clip(-_LEVELS, _LEVELS).astype(np.int8)
    scale, norm = largest / _LEVELS, l2_norm(update)
    # Shrink the scale until the decoded float32 vector is not longer than the update.
    while values.any() and l2_norm(restore(values, scale)) > norm:
        current = l2_norm(values.astype(np.float64)) * scale
        scale = float(np.nextafter(scale * min(1.0, norm / current), 0.0)) * (1 - 2**-24)
    return values, scale


def to_bytes(values: NDArray[Any]) -> bytes:
    """Return flat values as little-endian bytes."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def from_bytes(data: bytes, encoding: str) -> NDArray[Any]:
    """Return the values of `to_bytes` as a read-only array; the arguments are untrusted.

    Raises:
        WeightsError: Unknown encoding, or the length does not fit it.
    """
    if encoding not in ENCODINGS:
        raise WeightsError(f"the encoding of an update is not one of {', '.join(ENCODINGS)}")
    dtype = np.dtype(encoding).newbyteorder("<")
    if len(data) % dtype.itemsize:
        raise WeightsError(f"{len(data):,} bytes are not a whole number of {encoding} values")
    return np.frombuffer(data, dtype).astype(np.dtype(encoding), copy=False)


def restore(values: NDArray[Any], scale: float = 1.0) -> Vector:
    """Decode an update to float32; the scale is untrusted.

    Raises:
        WeightsError: The scale is negative or not finite.
    """
    if not 0 <= scale < np.inf:
        raise WeightsError(f"the scale of an update is {scale}: it must be finite and at least 0")
    restored: Vector = values.astype(np.float32)
    return restored if scale == 1.0 else restored * np.float32(scale)

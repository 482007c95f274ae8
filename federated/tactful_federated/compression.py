"""Updates in fewer bytes: half precision, or one byte a parameter.

What is sent never has a larger norm than what was clipped, so a bound on it still bounds one
device. In a secure sum nothing is gained: there every parameter is a word of the modulus, and a
smaller modulus would need more noise than it saves bytes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import WeightsError, require
from tactful_federated.vectors import Vector, l2_norm

Encoding = Literal["float32", "float16", "int8"]
"""How each parameter is sent: in four bytes, two, or one."""

ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)

_LEVELS = 127


@dataclass(frozen=True, eq=False)
class Compressed:
    """An update on its way.

    Attributes:
        values: Flat, of the encoding's type.
        scale: What a value stands for is `scale` times it; 1 but for `int8`.
    """

    values: NDArray[Any]
    scale: float = 1.0


def compress(update: Vector, encoding: Encoding) -> Compressed:
    """Encode an update; the same one always gives the same bytes.

    `float16` rounds towards zero. `int8` rounds to a multiple of the largest magnitude / 127, up or
    down at random so that the mean of many devices is that of their updates (Alistarh et al.,
    "QSGD", NeurIPS 2017), and takes back what this adds to the norm.

    Args:
        update: Finite, flat float32.
        encoding: How.

    Raises:
        SettingsError: There is no such encoding.
    """
    require(encoding in ENCODINGS, f"encoding is {encoding!r}: give {', '.join(ENCODINGS)}")
    if encoding == "float32":
        return Compressed(update)
    if encoding == "float16":
        limit = np.finfo(np.float16).max
        half = np.clip(update, -limit, limit).astype(np.float16)
        beyond = np.abs(half.astype(np.float32)) > np.abs(update)
        return Compressed(np.where(beyond, np.nextafter(half, np.float16(0)), half))
    largest = float(np.abs(update).max(initial=0.0))
    # Steps among subnormal numbers are too coarse to take a norm back by: they count as zero.
    if largest < 2 * _LEVELS * np.finfo(np.float32).tiny:
        return Compressed(np.zeros(update.shape, np.int8))
    # Seeded by the update: its rounding is no secret, and whoever trains again sends the same.
    random = np.random.default_rng(zlib.crc32(np.ascontiguousarray(update).tobytes()))
    steps = update.astype(np.float64) * (_LEVELS / largest)
    values = np.floor(steps + random.random(update.shape)).clip(-_LEVELS, _LEVELS).astype(np.int8)
    scale, norm = largest / _LEVELS, l2_norm(update)
    while values.any() and l2_norm(restore(values, scale)) > norm:
        longer = l2_norm(values.astype(np.float64)) * scale
        scale = float(np.nextafter(scale * min(1.0, norm / longer), 0.0)) * (1 - 2**-24)
    return Compressed(values, scale)


def to_bytes(values: NDArray[Any]) -> bytes:
    """Flat values as they travel, little-endian: weights, or what `compress` gave."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def from_bytes(data: bytes, encoding: str) -> NDArray[Any]:
    """What `to_bytes` was given; read-only.

    Args:
        data: As they arrived, from whomever.
        encoding: Likewise.

    Raises:
        WeightsError: There is no such encoding, or the bytes are not of it.
    """
    if encoding not in ENCODINGS:
        raise WeightsError("an update is of no encoding that is known")
    kind = np.dtype(encoding).newbyteorder("<")
    if len(data) % kind.itemsize:
        raise WeightsError(f"{len(data):,} bytes are no whole number of values of {encoding}")
    return np.frombuffer(data, kind).astype(np.dtype(encoding), copy=False)


def restore(values: NDArray[Any], scale: float = 1.0) -> Vector:
    """What an encoded update stands for, float32.

    Args:
        values: What `from_bytes` or `compress` gave.
        scale: As it arrived, from whomever.

    Raises:
        WeightsError: The scale is none.
    """
    if not 0 <= scale < np.inf:
        raise WeightsError("the scale of an update is not finite and at least 0")
    restored: Vector = values.astype(np.float32)
    return restored if scale == 1.0 else restored * np.float32(scale)

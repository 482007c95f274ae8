"""Reads the records of a Kafka batch where they lie, in machine code.

A record is what the protocol calls version 2: a length, attributes, a time and an offset that
count from the batch's, key, value and headers, numbers as zigzag varints.

All that compiled functions call is in this module, since numba looks at its file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from tactful_streaming.machine_code import array, compiled

_LINE_BREAK: Final = 10
_LONGEST: Final = 64  # bits of a number
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _copy_code(_: Any, target: Any, source: Any, length: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        copy: Any = cgutils.raw_memcpy
        byte = ir.IntType(8).as_pointer()
        copy(builder, *(builder.inttoptr(address, byte) for address in given[:2]), given[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


_copy: Any = intrinsic(_copy_code)


def _compiled(function: _Function) -> _Function:
    made: Any = numba.njit(error_model="numpy")(function)
    return cast("_Function", made)


@_compiled
def _number(data: NDArray[np.uint8], at: int, end: int) -> Any:
    """The number at a place, and where the next begins: beyond the end where it is not whole."""
    value, shift = np.int64(0), 0
    while at < end and shift < _LONGEST:
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            # Its sign is in the lowest bit; a shift to the right would bring the highest along.
            return ((value >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(value & 1), at
        shift += 7
    return 0, end + 1


def _measure(
    data: NDArray[np.uint8],
    at: int,
    base: int,
    before: int,
    last: int,
    wanted: int,
    offsets: NDArray[np.int64],
    places: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> tuple[int, int, int]:
    size, kept = len(data), 0
    for _ in range(len(offsets)):
        length, at = _number(data, at, size)
        if at > size or length < 1 or length > size - at:
            return -1, kept, before
        end = at + length
        _, at = _number(data, at + 1, end)  # after its attributes, its time
        after, at = _number(data, at, end)
        if after <= before or after > last:
            return -1, kept, before
        before = after
        key, at = _number(data, at, end)
        if key > end - at:
            return -1, kept, before
        value, at = _number(data, at + max(key, 0), end)
        if at > end or value > end - at:
            return -1, kept, before
        if base + after >= wanted:
            offsets[kept], places[kept], lengths[kept] = base + after, at, max(value, 0)
            kept += 1
        at = end
    return at, kept, before


def _write_values(
    data: NDArray[np.uint8],
    places: NDArray[np.int64],
    lengths: NDArray[np.int64],
    text: NDArray[np.uint8],
    at: int,
) -> int:
    source: Any = data.ctypes.data
    target: Any = text.ctypes.data
    for number in range(len(places)):
        length = lengths[number]
        _copy(target + at, source + places[number], length)
        text[at + length] = _LINE_BREAK
        at += length + 1
    return at


_NUMBERS = array(types.int64)
_DATA = types.Array(types.uint8, 1, "C", readonly=True)

measure: Callable[..., tuple[int, int, int]] = compiled(
    _measure, (_DATA, *[types.int64] * 5, _NUMBERS, _NUMBERS, _NUMBERS)
)
"""Find the values of the next records, as many as there is room for.

Args:
    data: records of one batch, read-only.
    at: where the first begins.
    base: offset that theirs count from.
    before: that of the one before, counted from there.
    last: highest that one may have, counted from there.
    wanted: lowest offset to keep.
    offsets, places, lengths: of the values that are kept, out.

Returns:
    Where the next record begins, or -1 where one is not whole or out of order; how many were kept;
    and the offset of the last, counted from the base.
"""

write_values: Callable[..., int] = compiled(
    _write_values, (_DATA, _NUMBERS, _NUMBERS, array(types.uint8), types.int64)
)
"""Write values with a line break behind each into a text from a place on; returns where it ends.

There has to be room for all.
"""

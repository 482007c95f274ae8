"""Reads messages of the Kafka client's C library where they lie, in machine code.

A message is the structure ``rd_kafka_message_t`` of librdkafka's public header, whose layout is
part of its binary interface. Nothing is checked of an address.

All that compiled functions call is in this module, since numba looks at its file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from tactful_streaming.machine_code import array, compiled

# Where the fields of a message are on machines with addresses of 64 bits.
_ERROR, _PARTITION, _PAYLOAD, _LENGTH, _OFFSET = 0, 16, 24, 32, 56
_LINE_BREAK: Final = 10
_ADDRESS = ir.IntType(64)


def _load_code(bits: int) -> Callable[..., Any]:
    def load(_: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            value = builder.load(builder.inttoptr(given[0], ir.IntType(bits).as_pointer()))
            return value if bits == 64 else builder.sext(value, _ADDRESS)

        return types.int64(types.int64), emit

    return load


def _copy_code(_: Any, target: Any, source: Any, length: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        copy: Any = cgutils.raw_memcpy
        byte = ir.IntType(8).as_pointer()
        copy(builder, *(builder.inttoptr(address, byte) for address in given[:2]), given[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


def _call_code(_: Any, function: Any, argument: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_ADDRESS])
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), [given[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


_word_at: Any = intrinsic(_load_code(64))
_half_word_at: Any = intrinsic(_load_code(32))
_copy: Any = intrinsic(_copy_code)
_call: Any = intrinsic(_call_code)


def _describe(
    messages: NDArray[np.int64],
    errors: NDArray[np.int64],
    partitions: NDArray[np.int64],
    offsets: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    for number in range(len(messages)):
        message = messages[number]
        errors[number] = _half_word_at(message + _ERROR)
        partitions[number] = _half_word_at(message + _PARTITION)
        offsets[number] = _word_at(message + _OFFSET)
        lengths[number] = _word_at(message + _LENGTH)


def _write_lines(messages: NDArray[np.int64], text: NDArray[np.uint8]) -> None:
    begin: Any = text.ctypes.data
    at = 0
    for number in range(len(messages)):
        message = messages[number]
        length = _word_at(message + _LENGTH)
        _copy(begin + at, _word_at(message + _PAYLOAD), length)
        text[at + length] = _LINE_BREAK
        at += length + 1


def _release(messages: NDArray[np.int64], function: int) -> None:
    for number in range(len(messages)):
        _call(function, messages[number])


_NUMBERS = array(types.int64)

describe: Callable[..., None] = compiled(_describe, (_NUMBERS,) * 5)
"""Error, partition, offset and length of the messages at some addresses, into arrays."""

write_lines: Callable[..., None] = compiled(_write_lines, (_NUMBERS, array(types.uint8)))
"""Write the payload of each message with a line break behind it; there has to be room for all."""

release: Callable[..., None] = compiled(_release, (_NUMBERS, types.int64))
"""Call a function of C with each address: ``rd_kafka_message_destroy``."""

"""Puts rows of JSON together in machine code, and lays them out as messages of the Kafka client.

A column of rows is a text of lines: the JSON encoder wrote one value in each, and no JSON has a
line break in it. So numbers, lists and names look as that encoder writes them, and what is done
here is to copy. Names are between quotes and without escapes, which is for the caller to see to.

Text is copied eight bytes at a time, and looked through for its end on the way (Mycroft's
"determine if a word has a zero byte", as in Warren, Hacker's Delight, chapter 6). So up to eight
bytes behind a text are read, and behind what is written are overwritten. Nothing is checked of an
address.

All that compiled functions call is in this module, since numba looks at its file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from tactful_streaming.machine_code import array, compiled

SLACK: Final = 8
"""So many bytes behind each text may be read, and behind the rows be written."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_ONES, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_LINE_BREAKS = np.uint64(0x0A0A0A0A0A0A0A0A)
_BAR, _CLOSE = np.uint64(ord("|")), np.uint64(ord("}"))
_WORD = ir.IntType(64)

# The words of ``rd_kafka_message_t``, where addresses have 64 bits, that a producer fills in.
_WORDS: Final = 9
_PAYLOAD, _LENGTH, _KEY, _KEY_LENGTH = 3, 4, 5, 6


def _load_code(_: Any, address: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        value = builder.load(builder.inttoptr(given[0], _WORD.as_pointer()))
        value.align = 1
        return value

    return types.uint64(types.int64), emit


def _store_code(_: Any, address: Any, word: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        stored = builder.store(given[1], builder.inttoptr(given[0], _WORD.as_pointer()))
        stored.align = 1
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), emit


def _zeros_code(_: Any, word: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), emit


_word_at: Any = intrinsic(_load_code)
_put: Any = intrinsic(_store_code)
_trailing_zeros: Any = intrinsic(_zeros_code)


def _inner(function: _Function) -> _Function:
    made: Any = numba.njit(error_model="numpy")(function)
    return cast("_Function", made)


@_inner
def _copy(source: int, length: int, target: int) -> None:
    for done in range(0, length, 8):
        _put(target + done, _word_at(source + done))


@_inner
def _copy_line(source: int, target: int) -> Any:
    """Copy up to a line break; how many bytes."""
    done = 0
    while True:
        word = _word_at(source + done)
        _put(target + done, word)
        breaks = word ^ _LINE_BREAKS
        # A borrow can mark a byte wrongly, but only above one that is rightly marked.
        hit = (breaks - _ONES) & ~breaks & _HIGH
        if hit:
            return done + (_trailing_zeros(hit) >> 3)
        done += 8


def _write_rows(
    keys: NDArray[Any],
    groups: NDArray[Any],
    values: NDArray[Any],
    head: NDArray[Any],
    between: NDArray[Any],
    rest: NDArray[Any],
    letters: NDArray[Any],
    ends: NDArray[Any],
) -> None:
    key: Any = keys.ctypes.data
    group: Any = groups.ctypes.data
    value: Any = values.ctypes.data
    begin: Any = letters.ctypes.data
    grouped = len(groups) > SLACK
    key_length = group_length = 0
    at = begin
    for number in range(len(ends) // 2):
        # What is copied behind the opening quote ends with the closing one.
        key_length = 1 + _copy_line(key + 1, at)
        at += key_length - 2
        _put(at, _BAR)
        at += 1
        if grouped:
            group_length = 1 + _copy_line(group + 1, at)
            at += group_length - 2
        ends[2 * number + 1] = at - begin
        _copy(head.ctypes.data, len(head) - SLACK, at)
        at += len(head) - SLACK
        _copy(key, key_length, at)
        at += key_length
        if grouped:
            _copy(between.ctypes.data, len(between) - SLACK, at)
            at += len(between) - SLACK
            _copy(group, group_length, at)
            at += group_length
            group += group_length + 1
        _copy(rest.ctypes.data, len(rest) - SLACK, at)
        at += len(rest) - SLACK
        length = _copy_line(value, at)
        at += length
        _put(at, _CLOSE)
        at += 1
        ends[2 * number + 2] = at - begin
        key += key_length + 1
        value += length + 1


def _lay_out(letters: NDArray[Any], ends: NDArray[Any], messages: NDArray[Any]) -> None:
    begin: Any = letters.ctypes.data
    for number in range(len(messages)):
        key, payload, end = ends[2 * number], ends[2 * number + 1], ends[2 * number + 2]
        message = messages[number]
        message[:] = 0
        message[_PAYLOAD], message[_LENGTH] = begin + payload, end - payload
        if payload > key:
            message[_KEY], message[_KEY_LENGTH] = begin + key, payload - key


_TEXT = types.Array(types.uint8, 1, "C", readonly=True)
_LETTERS, _NUMBERS = array(types.uint8), array(types.int64)

write_rows: Callable[..., None] = compiled(_write_rows, (*(_TEXT,) * 6, _LETTERS, _NUMBERS))
"""Write key and value of each row, one behind the other; there has to be room for all.

Args:
    keys: entity of each row, a line each; this and the next five with the slack behind them.
    groups: its group, likewise; nothing for rows without.
    values: its value, likewise.
    head: what stands before the entity.
    between: what stands before the group.
    rest: what stands before the value.
    letters: where to write.
    ends: zero, then where each key and each value ends.
"""

lay_out: Callable[..., None] = compiled(
    _lay_out, (_LETTERS, _NUMBERS, types.Array(types.int64, 2, "C"))
)
"""Fill in a message for each row that :data:`write_rows` wrote; an empty key is none.

Args:
    letters: the rows.
    ends: where they end.
    messages: shape (rows, words of ``rd_kafka_message_t``).
"""

"""Reads events out of JSON in machine code: where their fields begin and end, checked on the way.

It reads what clients and our own encoder write: an object of plain members, in ASCII, without
escapes, spaces or lists, and its `properties` and `context`, one level down. Whatever else comes it
marks as unusual and passes over, for the general decoder to judge. What it accepts that decoder
accepts, too, and reads the same.

Most events of a stream have the same members in the same order. So the text between two values is
first compared with what stood there in the event before, up to 24 bytes in three comparisons. Text
is looked through eight bytes at a time: the tricks with bits are those of Mycroft ("determine if a
word has a zero byte"), as in Warren, Hacker's Delight, chapter 6.

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

from tactful_streaming import machine_code
from tactful_streaming.machine_code import array

KIND, TYPE, TIME, USER, PROPERTIES, TEXT, OPTIONAL_TEXT, SCALAR = range(8)
"""What a member has to be, and what is made of it."""

ABSENT, STRING, INTEGER, FLOAT, TRUE, FALSE = range(6)
"""What was found of a member."""

UNUSUAL: Final = -1
"""Time of an event that was not read."""

PADDING: Final = 32
"""So many bytes behind the text may be looked at."""

LONGEST_NAME: Final = 16
"""Bytes of the longest name of a member that can be asked for."""

TEMPLATE: Final = (64, 10)
"""Shape of what is remembered of the text between values: of so many members."""

_LATEST = 32_503_680_000_000
_MOST_DIGITS = 17
_TIME_DIGITS = 14

_ONES, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_QUOTES, _BACKSLASHES = np.uint64(0x2222222222222222), np.uint64(0x5C5C5C5C5C5C5C5C)
_SPACES = np.uint64(0x2020202020202020)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_MIX, _MIX_LAST = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_EVENT, _TRUE, _NULL, _FALSE = (
    np.uint64(int.from_bytes(word, "little")) for word in (b"event", b"true", b"null", b"false")
)
_BYTE, _WORD = ir.IntType(8), ir.IntType(64)


def _load_code(bits: int) -> Callable[..., Any]:
    def load(_: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            place = builder.inttoptr(given[0], ir.IntType(bits).as_pointer())
            value = builder.load(place)
            value.align = 1
            return value if bits == 64 else builder.zext(value, _WORD)

        return (types.uint64 if bits == 64 else types.int64)(types.int64), emit

    return load


def _zeros_code(_: Any, word: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), emit


_word_at: Any = intrinsic(_load_code(64))
"""Eight bytes from an address on; nothing asks whether they may be read."""
_byte_at: Any = intrinsic(_load_code(8))
_trailing_zeros: Any = intrinsic(_zeros_code)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    made: Any = numba.njit(error_model="numpy")(function)
    return cast("_Function", made)


@_compiled
def _string_end(at: int) -> Any:
    """Address of the first byte that is a quote, a backslash, a control or not ASCII."""
    while True:
        word = _word_at(at)
        quote, backslash = word ^ _QUOTES, word ^ _BACKSLASHES
        # A borrow can mark a byte wrongly, but only above one that is rightly marked.
        hit = ((quote - _ONES) & ~quote) | ((backslash - _ONES) & ~backslash)
        hit = (hit | ((word - _SPACES) & ~word) | word) & _HIGH
        if hit:
            return at + (_trailing_zeros(hit) >> 3)
        at += 8


@_compiled
def _first(at: int, length: int) -> Any:
    """Up to eight bytes, the others zero."""
    word = _word_at(at)
    if length >= 8:
        return word
    return word & ((np.uint64(1) << np.uint64(8 * length)) - np.uint64(1))


@_compiled
def _hash(at: int, length: int) -> Any:
    value = np.uint64(length) * _MIX
    done = 0
    while done + 8 <= length:
        value = (value ^ _word_at(at + done)) * _MIX
        value ^= value >> np.uint64(32)
        done += 8
    if done < length:
        value = (value ^ _first(at + done, length - done)) * _MIX_LAST
        value ^= value >> np.uint64(29)
    return value


@_compiled
def _same(at: int, other: int, length: int) -> Any:
    done = 0
    while done + 8 <= length:
        if _word_at(at + done) != _word_at(other + done):
            return False
        done += 8
    if done < length:
        return _first(at + done, length - done) == _first(other + done, length - done)
    return True


@_compiled
def _number_of(at: int, length: int, slots: Any, ends: Any, letters: Any, count: Any) -> Any:
    """The number of a text, a new one if it has none; -1 where there is no room.

    A text of up to 16 bytes is in its slot, so that it is found with one look at the memory.
    """
    value = _hash(at, length)
    mask = len(slots) - 1
    slot = np.int64(value & np.uint64(mask))
    first, second = value, np.uint64(0)
    if length <= 16:
        first = _first(at, length)
        second = _first(at + 8, length - 8) if length > 8 else np.uint64(0)
    while slots[slot, 2] != np.uint64(0):
        alike = slots[slot, 0] == first and slots[slot, 1] == second
        if alike and slots[slot, 3] == np.uint64(length):
            number = np.int64(slots[slot, 2]) - 1
            if length <= 16 or _same(at, letters.ctypes.data + ends[number], length):
                return number
        slot = (slot + 1) & mask
    number = count[0]
    begin = ends[number]
    if number + 1 >= len(ends) or begin + length + PADDING > len(letters):
        return -1
    for letter in range(length):
        letters[begin + letter] = _byte_at(at + letter)
    ends[number + 1] = begin + length
    slots[slot, 0], slots[slot, 1] = first, second
    slots[slot, 2], slots[slot, 3] = number + 1, length
    count[0] = number + 1
    return number


@_compiled
def _number_end(at: int) -> int:
    """Address behind a number without exponent and of not too many digits, or -1."""
    if _byte_at(at) == 45:
        at += 1
    begin = at
    while 48 <= _byte_at(at) <= 57:
        at += 1
    digits = at - begin
    if digits == 0 or digits > _MOST_DIGITS or (digits > 1 and _byte_at(begin) == 48):
        return -1
    if _byte_at(at) == 46:
        at += 1
        begin = at
        while 48 <= _byte_at(at) <= 57:
            at += 1
        if at == begin or at - begin > _MOST_DIGITS:
            return -1
    return at


@_compiled
def _scalar_end(at: int) -> Any:
    """Address behind a string, a number or a word, or -1."""
    byte = _byte_at(at)
    if byte == 34:
        end = _string_end(at + 1)
        return end + 1 if _byte_at(end) == 34 else -1
    if byte == 45 or 48 <= byte <= 57:
        return _number_end(at)
    if _first(at, 4) == _TRUE or _first(at, 4) == _NULL:
        return at + 4
    return at + 5 if _first(at, 5) == _FALSE else -1


@_compiled
def _slot_of(at: int, length: int, parent: int, names: Any) -> int:
    """Which of `names` a member has, or -1."""
    if length > LONGEST_NAME:
        return -1
    first = _first(at, length)
    second = _first(at + 8, length - 8) if length > 8 else np.uint64(0)
    for slot in range(len(names)):
        alike = names[slot, 0] == first and names[slot, 1] == second
        alike = alike and names[slot, 2] == np.uint64(length)
        if alike and names[slot, 3] == np.uint64(parent):
            return slot
    return -1


@_compiled
def _remember(template: Any, number: int, at: int, length: int, slot: int, parent: int) -> None:
    for word in range(3):
        left = min(max(length - 8 * word, 0), 8)
        mask = _ALL if left == 8 else (np.uint64(1) << np.uint64(8 * left)) - np.uint64(1)
        template[number, 2 * word] = _word_at(at + 8 * word) & mask
        template[number, 2 * word + 1] = mask
    template[number, 6] = length
    template[number, 7] = slot + 1
    template[number, 8] = parent
    template[number, 9] = 1


def read_events(
    address: int,
    count: int,
    names: NDArray[np.uint64],
    rules: NDArray[np.int64],
    required: int,
    template: NDArray[np.uint64],
    times: NDArray[np.int64],
    type_numbers: NDArray[np.int64],
    user_numbers: NDArray[np.int64],
    found: NDArray[np.uint8],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    type_slots: NDArray[np.uint64],
    type_ends: NDArray[np.int64],
    type_letters: NDArray[np.uint8],
    type_count: NDArray[np.int64],
    user_slots: NDArray[np.uint64],
    user_ends: NDArray[np.int64],
    user_letters: NDArray[np.uint8],
    user_count: NDArray[np.int64],
) -> tuple[int, int]:
    """Read `count` events, one on each line; to be compiled. Nothing is checked of the arguments.

    Args:
        address: of the text: each event ends with a line break, and `PADDING` zeros follow.
        count: how many events.
        names: of each member that is asked for: its first eight bytes, the next eight, its length,
            and 0 at the top or 1 within ``properties``; shape (members, 4).
        rules: what each has to be.
        required: bit of each that has to be there.
        template: what is remembered from call to call; zeros at first.
        times: timestamp of each event, or `UNUSUAL`.
        type_numbers: number of its type.
        user_numbers: number of its user.
        found: what was found of each member of the last three rules; zeros before; shape
            (members, count).
        begins: where it begins, from `address` on; of a string, behind the quote.
        ends: where it ends.
        type_slots: types by hash, zeros at first; shape (a power of two, 4).
        type_ends: where the text of each ends among the letters, after a zero.
        type_letters: texts of all.
        type_count: how many there are, in an array.
        user_slots: as of types; likewise the others.
        user_ends: likewise.
        user_letters: likewise.
        user_count: likewise.

    Returns:
        How many events are unusual, or -1 where there is no room for a new user or type; and how
        much text was read.
    """
    unusual = 0
    line = address
    for event in range(count):
        at: Any = line
        slot: Any
        number: Any
        member, parent, seen = 0, 0, 0
        sound = _byte_at(at) == 123
        while sound:
            # A brace or comma, then the name in quotes, then a colon.
            known = False
            if member < TEMPLATE[0]:
                differs = (_word_at(at) ^ template[member, 0]) & template[member, 1]
                differs |= (_word_at(at + 8) ^ template[member, 2]) & template[member, 3]
                differs |= (_word_at(at + 16) ^ template[member, 4]) & template[member, 5]
                known = (
                    differs == 0
                    and template[member, 9] == np.uint64(1)
                    and template[member, 8] == np.uint64(parent)
                )
            if known:
                slot = np.int64(template[member, 7]) - 1
                at += np.int64(template[member, 6])
            else:
                end = _string_end(at + 2)
                if _byte_at(at + 1) != 34 or _byte_at(end) != 34 or _byte_at(end + 1) != 58:
                    sound = False
                    break
                slot = _slot_of(at + 2, end - at - 2, parent, names)
                if member < TEMPLATE[0] and end + 2 - at <= 24:
                    _remember(template, member, at, end + 2 - at, slot, parent)
                at = end + 2
            member += 1
            byte = _byte_at(at)
            if slot >= 0:
                if (seen >> slot) & 1:
                    sound = False
                    break
                seen |= 1 << slot
                rule = rules[slot]
                if rule == TIME:
                    begin, value = at, 0
                    while 48 <= byte <= 57 and at - begin <= _TIME_DIGITS:
                        value = 10 * value + byte - 48
                        at += 1
                        byte = _byte_at(at)
                    digits = at - begin
                    if digits == 0 or digits > _TIME_DIGITS or value > _LATEST:
                        sound = False
                        break
                    if digits > 1 and _byte_at(begin) == 48:
                        sound = False
                        break
                    times[event] = value
                elif rule == PROPERTIES:
                    if byte != 123:
                        sound = False
                        break
                    if _byte_at(at + 1) != 125:
                        parent = 1
                        continue
                    at += 2
                elif byte == 34:
                    begin = at + 1
                    end = _string_end(begin)
                    if _byte_at(end) != 34:
                        sound = False
                        break
                    at = end + 1
                    if rule == KIND:
                        if end - begin != 5 or _first(begin, 5) != _EVENT:
                            sound = False
                            break
                    elif rule == TYPE:
                        number = _number_of(
                            begin,
                            end - begin,
                            type_slots,
                            type_ends,
                            type_letters,
                            type_count,
                        )
                        if number < 0:
                            return -1, line - address
                        type_numbers[event] = number
                    elif rule == USER:
                        number = _number_of(
                            begin,
                            end - begin,
                            user_slots,
                            user_ends,
                            user_letters,
                            user_count,
                        )
                        if number < 0:
                            return -1, line - address
                        user_numbers[event] = number
                    else:
                        found[slot, event] = STRING
                        begins[slot, event] = begin - address
                        ends[slot, event] = end - address
                elif rule == SCALAR or (rule == OPTIONAL_TEXT and byte == 110):
                    end = _scalar_end(at)
                    if end < 0:
                        sound = False
                        break
                    if byte == 116:
                        found[slot, event] = TRUE
                    elif byte == 102:
                        found[slot, event] = FALSE
                    elif byte != 110:
                        found[slot, event] = INTEGER
                        for digit in range(at, end):
                            if _byte_at(digit) == 46:
                                found[slot, event] = FLOAT
                    begins[slot, event] = at - address
                    ends[slot, event] = end - address
                    at = end
                else:
                    sound = False
                    break
            elif byte == 123 and parent == 0:
                if _byte_at(at + 1) != 125:
                    parent = 2
                    continue
                at += 2
            else:
                at = _scalar_end(at)
                if at < 0:
                    sound = False
                    break
            byte = _byte_at(at)
            if byte == 125 and parent != 0:
                parent = 0
                at += 1
                byte = _byte_at(at)
            if byte == 44:
                continue
            sound = byte == 125
            at += 1
            break
        if sound and (_byte_at(at) != 10 or (seen & required) != required):
            sound = False
        if not sound:
            unusual += 1
            times[event] = UNUSUAL
            at = line
            while _byte_at(at) != 10:
                at += 1
        line = at + 1
    return unusual, line - address


def number_of(
    address: int,
    length: int,
    slots: NDArray[np.uint64],
    ends: NDArray[np.int64],
    letters: NDArray[np.uint8],
    count: NDArray[np.int64],
) -> int:
    """The number of a text at an address, a new one if it has none; -1 without room."""
    number: int = _number_of(address, length, slots, ends, letters, count)
    return number


_TABLE = (
    array(types.uint64, 2),
    array(types.int64),
    array(types.uint8),
    array(types.int64),
)
_SIGNATURES: Final = {
    "read_events": (
        *(types.int64, types.int64),
        *(array(types.uint64, 2), array(types.int64), types.int64, array(types.uint64, 2)),
        *(array(types.int64), array(types.int64), array(types.int64)),
        *(array(types.uint8, 2), array(types.int64, 2), array(types.int64, 2)),
        *_TABLE,
        *_TABLE,
    ),
    "number_of": (types.int64, types.int64, *_TABLE),
}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The machine code of :func:`read_events` or :func:`number_of`."""
    return machine_code.compiled(function, _SIGNATURES[function.__name__])

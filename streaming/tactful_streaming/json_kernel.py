"""Reads events out of JSON in machine code: where their fields begin and end, checked on the way.

It reads what clients and our own encoder write: an object of plain members, in ASCII, without
escapes, spaces or lists, and its `properties` and `context`, one level down. Whatever else comes it
marks as unusual and passes over, for the general decoder to judge. What it accepts that decoder
accepts, too, and reads the same.

Most events of a stream have the same members in the same order. So the text between two values is
first compared with what stood there in the event before, up to 32 bytes in one comparison. Text is
looked through 32 bytes at a time, too: by vectors, as wide as the machine has them. Eight digits
become a number by three multiplications (Lemire, "Quickly parsing eight digits", 2018).

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

TEMPLATE: Final = (64, 16)
"""Shape of what is remembered of the text between values: of so many members."""

# Where what is remembered of a member lies from its address on, in bytes. Behind the text and its
# mask come their length, the slot and the parent, each one more than it is, and the length of the
# value.
_MEMBER, _LENGTH_AT, _SLOT_AT, _PARENT_AT, _VALUE_AT = 128, 64, 72, 80, 96

_LATEST = 32_503_680_000_000
_MOST_DIGITS = 17
_TIME_DIGITS, _USUAL_DIGITS = 14, 13

_ALL, _HIGHEST = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(1 << 63)
_MIX, _MIX_LAST = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_EVENT, _TRUE, _NULL, _FALSE = (
    np.uint64(int.from_bytes(word, "little")) for word in (b"event", b"true", b"null", b"false")
)
_ZEROS = np.uint64(0x3030303030303030)
_WORD, _WIDTH = ir.IntType(64), 32
_VECTOR = ir.VectorType(ir.IntType(8), _WIDTH)


def _load_code(bits: int) -> Callable[..., Any]:
    def load(_: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            place = builder.inttoptr(given[0], ir.IntType(bits).as_pointer())
            value = builder.load(place)
            value.align = 1
            return value if bits == 64 else builder.zext(value, _WORD)

        return (types.uint64 if bits == 64 else types.int64)(types.int64), emit

    return load


def _store_code(_: Any, address: Any, word: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        place = builder.inttoptr(given[0], _WORD.as_pointer())
        builder.store(given[1], place)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), emit


def _vector(builder: Any, address: Any) -> Any:
    value = builder.load(builder.inttoptr(address, _VECTOR.as_pointer()))
    value.align = 1
    return value


def _bits(builder: Any, marked: Any) -> Any:
    return builder.zext(builder.bitcast(marked, ir.IntType(_WIDTH)), _WORD)


def _ends_code(_: Any, address: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def all_of(byte: int) -> Any:
            return ir.Constant(_VECTOR, [byte] * _WIDTH)

        text = _vector(builder, given[0])
        marked = builder.icmp_unsigned("==", text, all_of(34))
        marked = builder.or_(marked, builder.icmp_unsigned("==", text, all_of(92)))
        # As numbers with a sign, what is not ASCII is below all controls.
        marked = builder.or_(marked, builder.icmp_signed("<", text, all_of(32)))
        return _bits(builder, marked)

    return types.uint64(types.int64), emit


def _others_code(_: Any, address: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        zero, ten = (ir.Constant(_VECTOR, [byte] * _WIDTH) for byte in (48, 10))
        from_zero = builder.sub(_vector(builder, given[0]), zero)
        digits = _bits(builder, builder.icmp_unsigned("<", from_zero, ten))
        return builder.not_(digits)

    return types.uint64(types.int64), emit


def _differs_code(_: Any, address: Any, expected: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        mask_at = builder.add(given[1], ir.Constant(_WORD, _WIDTH))
        text, other, mask = (_vector(builder, at) for at in (*given, mask_at))
        differs = builder.and_(builder.xor(text, other), mask)
        zeros = ir.Constant(_VECTOR, [0] * _WIDTH)
        return _bits(builder, builder.icmp_unsigned("!=", differs, zeros))

    return types.uint64(types.int64, types.int64), emit


def _zeros_code(_: Any, word: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), emit


_word_at: Any = intrinsic(_load_code(64))
"""Eight bytes from an address on; nothing asks whether they may be read."""
_byte_at: Any = intrinsic(_load_code(8))
_write_word: Any = intrinsic(_store_code)
_trailing_zeros: Any = intrinsic(_zeros_code)
_ends_at: Any = intrinsic(_ends_code)
"""A bit for each of 32 bytes: whether it is a quote, a backslash, a control or not ASCII."""
_others_at: Any = intrinsic(_others_code)
"""A bit for each of 32 bytes: whether it is no digit; the bits behind are set."""
_differs: Any = intrinsic(_differs_code)
"""A bit for each of 32 bytes that is not as expected; a mask follows the expected ones."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    made: Any = numba.njit(error_model="numpy")(function)
    return cast("_Function", made)


@_compiled
def _string_end(at: int) -> Any:
    """Address of the first byte that is a quote, a backslash, a control or not ASCII."""
    while True:
        ends = _ends_at(at)
        if ends:
            return at + _trailing_zeros(ends)
        at += 32


@_compiled
def _text_end(at: int, here: int) -> Any:
    """As `_string_end`, of the value of a member, of which is remembered what lies `here`.

    It is supposed to be as long as that of the event before, which is checked. So the processor may
    go on with what follows, and need not wait for where this ends.
    """
    if here == 0:
        return _string_end(at)
    ends = _ends_at(at)
    length = _word_at(here + _VALUE_AT)
    if ends << (np.uint64(63) - length) == _HIGHEST:
        return at + np.int64(length)
    if not ends:
        return _string_end(at + 32)
    length = np.uint64(_trailing_zeros(ends))
    _write_word(here + _VALUE_AT, length)
    return at + np.int64(length)


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
def _slot_for(at: int, length: int, slots: int, mask: int, ends: int, letters: int) -> Any:
    """Address of the slot of a text: of its own, or of the empty one that it may have.

    A text of up to 16 bytes is in its slot, so that it is found with one look at the memory. Arrays
    come by their addresses: numba counts references of those that are handed on, at each call.
    """
    value = _hash(at, length)
    # The high bits of a product are those to which all of the text has come.
    slot = np.int64((value * _MIX) >> np.uint64(32)) & mask
    first, second = value, np.uint64(0)
    if length <= 16:
        first = _first(at, length)
        second = _first(at + 8, length - 8) if length > 8 else np.uint64(0)
    while True:
        place = slots + 32 * slot
        number = np.int64(_word_at(place + 16)) - 1
        if number < 0:
            return place
        alike = _word_at(place) == first and _word_at(place + 8) == second
        if alike and _word_at(place + 24) == np.uint64(length):
            if length <= 16:
                return place
            other: Any = letters + np.int64(_word_at(ends + 8 * number))
            if _same(at, other, length):
                return place
        slot = (slot + 1) & mask


@_compiled
def _number_at(place: int) -> Any:
    """The number in a slot; -1 where it is empty."""
    return np.int64(_word_at(place + 16)) - 1


@_compiled
def _insert(at: int, length: int, place: int, ends: Any, letters: Any, count: Any) -> Any:
    """Give a text the empty slot at an address, and a number; -1 where there is no room."""
    number = count[0]
    begin = ends[number]
    if number + 1 >= len(ends) or begin + length + PADDING > len(letters):
        return -1
    for letter in range(length):
        letters[begin + letter] = _byte_at(at + letter)
    ends[number + 1] = begin + length
    first, second = _hash(at, length), np.uint64(0)
    if length <= 16:
        first = _first(at, length)
        second = _first(at + 8, length - 8) if length > 8 else np.uint64(0)
    _write_word(place, first)
    _write_word(place + 8, second)
    _write_word(place + 16, np.uint64(number + 1))
    _write_word(place + 24, np.uint64(length))
    count[0] = number + 1
    return number


@_compiled
def _number_of_digits(word: Any) -> Any:
    """The number that eight digits are: neighbours become one of two digits, these one of four."""
    word = ((word - _ZEROS) * np.uint64(2561)) >> np.uint64(8)
    word = ((word & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(6553601)) >> np.uint64(16)
    word = ((word & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(42949672960001)) >> np.uint64(32)
    return np.int64(word)


@_compiled
def _number_end(at: int) -> int:
    """Address behind a number without exponent and of not too many digits, or -1."""
    if _byte_at(at) == 45:
        at += 1
    digits = _trailing_zeros(_others_at(at))
    if digits == 0 or digits > _MOST_DIGITS or (digits > 1 and _byte_at(at) == 48):
        return -1
    at += digits
    if _byte_at(at) == 46:
        digits = _trailing_zeros(_others_at(at + 1))
        if digits == 0 or digits > _MOST_DIGITS:
            return -1
        at += 1 + digits
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
    for word in range(4):
        left = min(max(length - 8 * word, 0), 8)
        mask = _ALL if left == 8 else (np.uint64(1) << np.uint64(8 * left)) - np.uint64(1)
        template[number, word] = _word_at(at + 8 * word) & mask
        template[number, 4 + word] = mask
    template[number, 8] = length
    template[number, 9] = slot + 1
    template[number, 10] = parent + 1


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
    expected: Any = template.ctypes.data
    of_types: Any = (
        type_slots.ctypes.data,
        len(type_slots) - 1,
        type_ends.ctypes.data,
        type_letters.ctypes.data,
    )
    of_users: Any = (
        user_slots.ctypes.data,
        len(user_slots) - 1,
        user_ends.ctypes.data,
        user_letters.ctypes.data,
    )
    for event in range(count):
        at: Any = line
        slot: Any
        number: Any
        member, parent, seen = 0, 0, 0
        sound = _byte_at(at) == 123
        while sound:
            # A brace or comma, then the name in quotes, then a colon.
            here = expected + _MEMBER * member if member < TEMPLATE[0] else 0
            known = here != 0 and _word_at(here + _PARENT_AT) == np.uint64(parent + 1)
            if known and _differs(at, here) == 0:
                slot = np.int64(_word_at(here + _SLOT_AT)) - 1
                at += np.int64(_word_at(here + _LENGTH_AT))
            else:
                end = _string_end(at + 2)
                if _byte_at(at + 1) != 34 or _byte_at(end) != 34 or _byte_at(end + 1) != 58:
                    sound = False
                    break
                slot = _slot_of(at + 2, end - at - 2, parent, names)
                if member < TEMPLATE[0] and end + 2 - at <= 32:
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
                    value = 0
                    digits = _trailing_zeros(_others_at(at))
                    if digits == 0 or digits > _TIME_DIGITS or (digits > 1 and byte == 48):
                        sound = False
                        break
                    if digits == _USUAL_DIGITS:
                        # The last eight overlap the first.
                        value = 100_000 * _number_of_digits(_word_at(at))
                        value += _number_of_digits(_word_at(at + 5)) % 100_000
                    else:
                        for digit in range(at, at + digits):
                            value = 10 * value + _byte_at(digit) - 48
                    at += digits
                    if value > _LATEST:
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
                    end = _text_end(begin, here)
                    if _byte_at(end) != 34:
                        sound = False
                        break
                    at = end + 1
                    if rule == KIND:
                        if end - begin != 5 or _first(begin, 5) != _EVENT:
                            sound = False
                            break
                    elif rule == TYPE:
                        length = end - begin
                        place = _slot_for(begin, length, *of_types)
                        number = _number_at(place)
                        if number < 0:
                            number = _insert(
                                begin, length, place, type_ends, type_letters, type_count
                            )
                            if number < 0:
                                return -1, line - address
                        type_numbers[event] = number
                    elif rule == USER:
                        length = end - begin
                        place = _slot_for(begin, length, *of_users)
                        number = _number_at(place)
                        if number < 0:
                            number = _insert(
                                begin, length, place, user_ends, user_letters, user_count
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
            elif byte == 34:
                at = _text_end(at + 1, here) + 1
                if _byte_at(at - 1) != 34:
                    sound = False
                    break
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
    begins: Any = (slots.ctypes.data, len(slots) - 1, ends.ctypes.data, letters.ctypes.data)
    place = _slot_for(address, length, *begins)
    number: int = _number_at(place)
    return number if number >= 0 else _insert(address, length, place, ends, letters, count)


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

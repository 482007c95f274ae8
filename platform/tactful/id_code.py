"""What finds the rows of ids and the ids of rows, written to become machine code.

What a list begins with, the ids of what a person looked at, lies anywhere in a catalogue of which
next to nothing is in the processor's cache. So each round looks at one place for every id, and asks
memory for what the next one looks at: their ways to memory overlap, where a search from beginning
to end for one id after the other waits for each.

Numba keeps machine code until this file changes, so that all of its source has to be in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

_GUESSES = 2
_NEAR = 4
_LINE = 8
_ONE = 1.0 / 2.0**64

_INT = ir.IntType(32)
_cg: Any = cgutils
_compiled: Any = numba.njit(error_model="numpy")


def _fetch_code(_: Any, array: Any, place: Any) -> Any:
    """Ask memory for an element of an array, without waiting for it."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
        fetch = _cg.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        elements = context.make_array(signature.args[0])(context, builder, given[0]).data
        element = builder.bitcast(builder.gep(elements, [given[1]]), byte)
        # To read, to be kept, as data.
        builder.call(fetch, [element, *(_INT(x) for x in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


_fetch: Any = intrinsic(_fetch_code)


def _first_code(hashes: NDArray[np.uint64], wanted: np.uint64, guess: int) -> int:
    """The first place of a hash that is not below one, searched for from a guess on."""
    step, count = _NEAR, len(hashes)
    if hashes[guess] < wanted:
        low, high = guess + 1, guess + 1 + step
        while high < count and hashes[high] < wanted:
            step *= 2
            low, high = high + 1, high + 1 + step
        high = min(high, count)
    else:
        low, high = guess - step, guess
        while low >= 0 and hashes[low] >= wanted:
            step *= 2
            low, high = low - step, low
        low = max(low + 1, 0)
    while low < high:
        middle = (low + high) >> 1
        if hashes[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


_first: Any = _compiled(_first_code)


def rows_of(
    asked: NDArray[np.uint8],
    wanted: NDArray[np.uint64],
    text: NDArray[np.uint8],
    ends: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    rows: NDArray[np.int32],
    between: int,
) -> NDArray[np.int64]:
    """The rows of ids, -1 of one that is not there.

    Args:
        asked: the ids, each followed by `between`.
        wanted: the hash of each.
        text: the ids that are there, at least one, one behind the other by row.
        ends: where each of them ends.
        hashes: their hashes, ascending; as evenly spread as hashes are, or it takes longer.
        rows: the row of each hash.
        between: a byte that is in no id.
    """
    count, last = len(wanted), len(hashes) - 1
    density = np.float64(len(hashes)) * _ONE
    places, found = np.empty(count, np.int64), np.empty(count, np.int64)
    starts = np.empty(count, np.int64)
    for number in range(count):
        places[number] = min(int(np.float64(wanted[number]) * density), last)
        _fetch(hashes, places[number])
    # A guess misses by about the root of what the one before it did.
    for _ in range(_GUESSES):
        for number in range(count):
            missed = np.float64(wanted[number]) - np.float64(hashes[places[number]])
            places[number] = min(max(places[number] + int(missed * density), 0), last)
            _fetch(hashes, places[number])
    for number in range(count):
        _fetch(hashes, max(places[number] - _LINE, 0))
        _fetch(hashes, min(places[number] + _LINE, last))
        _fetch(rows, places[number])
    for number in range(count):
        places[number] = _first(hashes, wanted[number], places[number])
    for number in range(count):
        place = min(int(places[number]), last)
        found[number] = rows[place] if hashes[place] == wanted[number] else -1
        _fetch(ends, max(found[number] - 1, 0))
    for number in range(count):
        starts[number] = ends[found[number] - 1] if found[number] > 0 else np.int64(0)
        _fetch(text, starts[number])
    begin = np.int64(0)
    for number in range(count):
        end = begin
        while asked[end] != between:
            end += 1
        while found[number] >= 0:
            start = starts[number]
            if ends[found[number]] - start == end - begin:
                same = np.int64(0)
                while begin + same < end and text[start + same] == asked[begin + same]:
                    same += 1
                if begin + same == end:
                    break
            # Another id has the same hash, which may also be that of the next place.
            places[number] += 1
            more = places[number] <= last and hashes[places[number]] == wanted[number]
            found[number] = rows[places[number]] if more else -1
            starts[number] = ends[found[number] - 1] if found[number] > 0 else np.int64(0)
        begin = end + 1
    return found


def texts_of(
    rows: NDArray[np.int64], text: NDArray[np.uint8], ends: NDArray[np.int64], between: int
) -> NDArray[np.uint8]:
    """The ids of rows, each followed by `between`.

    Args:
        rows: each at least 0 and below the number of ids.
        text: the ids, one behind the other by row.
        ends: where each of them ends.
        between: a byte that is in no id.
    """
    starts, lengths = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    total = len(rows)
    for number in range(len(rows)):
        _fetch(ends, rows[number])
    for number in range(len(rows)):
        row = rows[number]
        starts[number] = ends[row - 1] if row else np.int64(0)
        lengths[number] = ends[row] - starts[number]
        _fetch(text, starts[number])
        total += lengths[number]
    found = np.empty(total, np.uint8)
    at = 0
    for number in range(len(rows)):
        start, length = starts[number], lengths[number]
        for place in range(length):
            found[at + place] = text[start + place]
        at += length
        found[at] = between
        at += 1
    return found

"""What searches the cells of a vector index, written to become machine code.

The vectors of a cell lie one after the other as halves (fp16), as Faiss keeps them. The bits of a
half, moved to where a float has them, are that number times 2**-112, also where it is subnormal; so
a query times 2**112 has with them the inner product that it has with the vector. That is said
outright, as operations on vectors of LLVM, which makes of them what the processor has. As many
vectors are compared at once as their products fill a register.

Keys stand for products, the smaller the larger a product is; a row and its key are one number, so
that ties are by row. Numbers are chosen and sorted by counting how many there are in each of some
thousand parts of their range.

Numba keeps machine code until this file changes, so that all of its source has to be in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 16
"""The length of vectors is a multiple of this."""

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

_HALF_BYTES, _FLOAT_BYTES, _ROW_BYTES, _LINE_BYTES = 2, 4, 8, 64
_SCALE = np.float32(2.0**112)
_SIGN_AND_REST = 0x8FFFE000
_AHEAD = 6
_PARTS = 1 << 12
_ROOM = 3
_SHORT, _INT, _WORD = (ir.IntType(bits) for bits in (16, 32, 64))
_FLOAT = ir.FloatType()
_cg: Any = _cgutils
_compiled: Any = numba.njit(error_model="numpy")
_carray: Any = numba.carray  # type: ignore[attr-defined]


def _products_code(halves: bool) -> Any:
    """What compares the vectors of halves or floats at an address with a query.

    The keys of the products are written; the result has a bit for each that is at most `most`, of
    the first `left`. What is `ahead` is brought nearer meanwhile, if anything is there.
    """
    size = _HALF_BYTES if halves else _FLOAT_BYTES
    floats, ints = (ir.VectorType(kind, LANES) for kind in (_FLOAT, _INT))

    def read(builder: Any, address: Any) -> Any:
        if not halves:
            return builder.load(builder.inttoptr(address, floats.as_pointer()), align=4)
        kind = ir.VectorType(_SHORT, LANES).as_pointer()
        bits = builder.sext(builder.load(builder.inttoptr(address, kind), align=1), ints)
        bits = builder.shl(bits, ir.Constant(ints, [13] * LANES))
        bits = builder.and_(bits, ir.Constant(ints, [_SIGN_AND_REST] * LANES))
        return builder.bitcast(bits, floats)

    def summed(builder: Any, parts: Sequence[Any]) -> Any:
        """The sum of each of some registers, side by side; halves of them are added up."""
        width = LANES
        while len(parts) > 1:
            width //= 2
            low = [
                start + lane for start in range(0, 2 * LANES, 2 * width) for lane in range(width)
            ]
            lanes = ir.VectorType(_INT, LANES)
            parts = [
                builder.fadd(
                    *(
                        builder.shuffle_vector(
                            one, other, ir.Constant(lanes, [lane + by for lane in low])
                        )
                        for by in (0, width)
                    )
                )
                for one, other in zip(parts[::2], parts[1::2], strict=True)
            ]
        return parts[0]

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        address, left, ahead, query, most, keys = given
        query, keys = (
            context.make_array(signature.args[place])(context, builder, given[place])
            for place in (3, 5)
        )
        fused = _cg.get_or_insert_function(
            builder.module, ir.FunctionType(floats, [floats] * 3), f"llvm.fmuladd.v{LANES}f32"
        )
        length = _cg.unpack_tuple(builder, query.shape)[0]
        bytes_each = builder.mul(length, _WORD(size))
        # Beyond the last vector the first is read again: there may be no memory.
        vectors = [
            builder.select(
                builder.icmp_signed("<", _WORD(number), left),
                builder.add(address, builder.mul(bytes_each, _WORD(number))),
                address,
            )
            for number in range(LANES)
        ]
        sums = [_cg.alloca_once_value(builder, ir.Constant(floats, None)) for _ in vectors]
        # One vector after the other, in the order in which memory brings them.
        for number, (vector, total) in enumerate(zip(vectors, sums, strict=True)):
            coming = builder.add(ahead, builder.mul(bytes_each, _WORD(number)))
            with _cg.for_range_slice(
                builder, ir.Constant(_WORD, 0), length, ir.Constant(_WORD, LANES)
            ) as (start, _):
                offset = builder.mul(start, _WORD(size))
                _fetched(builder, builder.add(coming, offset))
                place = builder.bitcast(builder.gep(query.data, [start]), floats.as_pointer())
                part = read(builder, builder.add(vector, offset))
                asked = builder.load(place, align=4)
                builder.store(builder.call(fused, [part, asked, builder.load(total)]), total)
        found = summed(builder, [builder.load(total) for total in sums])
        # The bits of floats are in order as integers are, those of negative ones in reverse; of
        # two zeros one is taken.
        found = builder.fadd(found, ir.Constant(floats, [0.0] * LANES))
        bits = builder.bitcast(found, ints)
        negative = builder.ashr(bits, ir.Constant(ints, [31] * LANES))
        reverse = builder.and_(negative, ir.Constant(ints, [0x7FFFFFFF] * LANES))
        found_keys = builder.not_(builder.xor(bits, reverse))
        builder.store(found_keys, builder.bitcast(keys.data, ints.as_pointer()), align=4)
        every = builder.insert_element(ir.Constant(ints, ir.Undefined), most, _INT(0))
        first = ir.Constant(ints, [0] * LANES)
        every = builder.shuffle_vector(every, ir.Constant(ints, ir.Undefined), first)
        near = builder.and_(
            builder.icmp_signed("<=", found_keys, every), builder.fcmp_ordered("ord", found, found)
        )
        near = builder.zext(builder.bitcast(near, ir.IntType(LANES)), _WORD)
        some = builder.sub(builder.shl(_WORD(1), left), _WORD(1))
        there = builder.icmp_signed("<", left, _WORD(LANES))
        return builder.select(there, builder.and_(near, some), near)

    def code(_: Any, address: Any, left: Any, ahead: Any, query: Any, most: Any, keys: Any) -> Any:
        word = types.int64
        return word(word, word, word, query, types.int32, keys), emit

    return code


def _number_code(_: Any, address: Any) -> Any:
    """The number at an address."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        return builder.load(builder.inttoptr(given[0], _WORD.as_pointer()))

    return types.int64(types.int64), emit


def _lowest_code(_: Any, number: Any) -> Any:
    """The place of the lowest bit of a number that is not 0."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), emit


def _fetch_code(_: Any, address: Any) -> Any:
    """Ask memory for what is at an address, without waiting for it; there may be nothing."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        _fetched(builder, given[0])
        return context.get_dummy_value()

    return types.void(types.int64), emit


def _fetched(builder: Any, address: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
    fetch = _cg.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # To read, to be kept, as data.
    builder.call(fetch, [builder.inttoptr(address, byte), *(_INT(x) for x in (0, 3, 1))])


def _at_code(_: Any, address: Any) -> Any:
    """A pointer to what is at an address."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        return builder.inttoptr(given[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), emit


_at: Any = intrinsic(_at_code)
_fetch: Any = intrinsic(_fetch_code)
_half_products: Any = intrinsic(_products_code(halves=True))
_float_products: Any = intrinsic(_products_code(halves=False))
_number: Any = intrinsic(_number_code)
_lowest: Any = intrinsic(_lowest_code)


def _counted_code(numbers: Rows) -> tuple[NDArray[np.int32], np.int64, np.int64]:
    """How many numbers there are in each part of their range, and what makes a number its part."""
    low = high = numbers[0]
    for number in numbers:
        low, high = min(low, number), max(high, number)
    shift = np.int64(1)
    while (high >> shift) - (low >> shift) >= _PARTS:
        shift += 1
    sizes = np.zeros(_PARTS, np.int32)
    for number in numbers:
        sizes[(number >> shift) - (low >> shift)] += 1
    return sizes, shift, low >> shift


_counted: Any = _compiled(_counted_code)


def _thinned_code(numbers: Rows, count: int) -> np.int64:
    """Moves the smallest `count` of more numbers, and few others, to the front; how many."""
    sizes, shift, first = _counted(numbers)
    last, taken = 0, sizes[0]
    while taken < count:
        last += 1
        taken += sizes[last]
    kept = np.int64(0)
    for number in numbers:
        numbers[kept] = number
        kept += (number >> shift) - first <= last
    return kept


_thinned: Any = _compiled(_thinned_code)


def _ordered_code(numbers: Rows) -> Rows:
    """The numbers in order."""
    if len(numbers) < 2:
        return numbers
    sizes, shift, first = _counted(numbers)
    start = np.int32(0)
    for part in range(_PARTS):
        sizes[part], start = start, start + sizes[part]
    order = np.empty_like(numbers)
    for number in numbers:
        part = (number >> shift) - first
        order[sizes[part]] = number
        sizes[part] += 1
    for end in range(1, len(order)):
        number, place = order[end], end
        while place and order[place - 1] > number:
            order[place] = order[place - 1]
            place -= 1
        order[place] = number
    return order


_ordered: Any = _compiled(_ordered_code)


def _cells_code(query: Floats, centroids: int, cells: int, probes: int) -> Rows:
    """The cells whose centroids are nearest to a query, the nearest first."""
    step_bytes = LANES * len(query) * _FLOAT_BYTES
    keys = np.empty(LANES, np.int32)
    numbers = np.empty(cells, np.int64)
    most = np.int32(0x7FFFFFFF)
    found, room = np.int64(0), _ROOM * probes
    for start in range(0, cells, LANES):
        address = centroids + (start // LANES) * step_bytes
        ahead = address + step_bytes
        near = _float_products(address, cells - start, ahead, query, most, keys)
        while near:
            lane = _lowest(near)
            near &= near - 1
            numbers[found] = (np.int64(keys[lane]) << 32) | (start + lane)
            found += 1
        if found > room:
            found = _thinned(numbers[:found], probes)
            most = np.int32(numbers[:found].max() >> 32)
            room = max(room, 2 * found)
    if found > probes:
        found = _thinned(numbers[:found], probes)
    best: Rows = _ordered(numbers[:found])[:probes] & 0xFFFFFFFF
    return best


_cells: Any = _compiled(_cells_code)


def _steps_code(
    cells: Rows, codes: Rows, ids: Rows, sizes: Rows, vector_bytes: int
) -> tuple[Rows, Rows, Rows]:
    """Where the vectors lie that are compared at once, and their rows; how many are left there."""
    count = 0
    for cell in cells:
        count += (sizes[cell] + LANES - 1) // LANES
    code, of, left = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    step = 0
    for cell in cells:
        for start in range(0, sizes[cell], LANES):
            code[step] = codes[cell] + start * vector_bytes
            of[step] = ids[cell] + start * _ROW_BYTES
            left[step] = sizes[cell] - start
            step += 1
    return code, of, left


_steps: Any = _compiled(_steps_code)


def nearest(
    query: Floats,
    centroids: int,
    probes: int,
    count: int,
    codes: Rows,
    ids: Rows,
    sizes: Rows,
    bits: NDArray[np.uint8],
) -> tuple[Rows, Floats]:
    """The rows in the cells near a query that have the largest inner products with it.

    To be compiled. What was found so far says how near a row has to be to be among the best, and
    what is farther is left out. The addresses are not checked.

    Args:
        query: its components below 2**15, their number a multiple of `LANES`.
        centroids: address of the centroids of the cells, as float32.
        probes: how many of the nearest cells are searched, at least 1.
        count: how many rows are wanted, at least 1.
        codes: address of the vectors of each cell.
        ids: address of the rows of each cell, as int64, below 2**32.
        sizes: number of rows of each cell.
        bits: a bit for each row that may be found; empty where all may.

    Returns:
        The best `count` rows, or all where they are fewer, the best first, ties by row.
    """
    cells = _cells(query, centroids, len(codes), probes)
    code, of, left = _steps(cells, codes, ids, sizes, len(query) * _HALF_BYTES)
    scaled = query * _SCALE
    keys = np.empty(LANES, np.int32)
    numbers = np.empty(len(code) * LANES, np.int64)
    most = np.int32(0x7FFFFFFF)
    found, room = np.int64(0), _ROOM * count
    for step in range(len(code)):
        # Cells lie far from each other: what comes later is on its way while this is read.
        ahead = code[min(step + _AHEAD, len(code) - 1)]
        near = _half_products(code[step], left[step], ahead, scaled, most, keys)
        while near:
            lane = _lowest(near)
            near &= near - 1
            row = _number(of[step] + lane * _ROW_BYTES)
            if len(bits) == 0 or (bits[row >> 3] >> np.uint8(row & 7)) & 1:
                numbers[found] = (np.int64(keys[lane]) << 32) | row
                found += 1
        if found > room:
            found = _thinned(numbers[:found], count)
            most = np.int32(numbers[:found].max() >> 32)
            room = max(room, 2 * found)
    if found > count:
        found = _thinned(numbers[:found], count)
    best = _ordered(numbers[:found])[:count]
    rows, scores = np.empty(len(best), np.int64), np.empty(len(best), np.int32)
    for place in range(len(best)):
        key = ~np.int32(best[place] >> 32)
        rows[place], scores[place] = best[place] & 0xFFFFFFFF, key ^ ((key >> 31) & 0x7FFFFFFF)
    return rows, scores.view(np.float32)


_nearest: Any = _compiled(nearest)


def search(words: Any) -> None:
    """`nearest` as a function of C, for whoever has no more than addresses; to be compiled.

    Args:
        words: address and length of `query`; `centroids`, `probes`, `count`; addresses of `codes`,
            `ids` and `sizes` and their length; address and length of `bits`; addresses that take
            the rows and their products; and last, how many were found.
    """
    cells = words[8]
    rows, scores = _nearest(
        _carray(_at(words[0]), words[1], np.float32),
        words[2],
        words[3],
        words[4],
        _carray(_at(words[5]), cells, np.int64),
        _carray(_at(words[6]), cells, np.int64),
        _carray(_at(words[7]), cells, np.int64),
        _carray(_at(words[9]), words[10], np.uint8),
    )
    _carray(_at(words[11]), len(rows), np.int64)[:] = rows
    _carray(_at(words[12]), len(rows), np.float32)[:] = scores
    words[13] = len(rows)


def _block_code(
    vectors: int, count: int, direction: Floats, keys: NDArray[np.int32], found: NDArray[np.int32]
) -> None:
    """Sets the bits of the products of a direction and of at most `LANES` vectors at an address."""
    _float_products(vectors, count, vectors, direction, np.int32(0x7FFFFFFF), keys)
    for lane in range(min(LANES, count)):
        key = ~keys[lane]
        found[lane] = key ^ ((key >> 31) & 0x7FFFFFFF)


_block: Any = _compiled(_block_code)


def products(
    vectors: Floats, directions: Floats, columns: Rows, found: NDArray[np.float32]
) -> None:
    """Inner products of vectors and directions, each of which depends on its two vectors alone.

    To be compiled. A library for matrices adds up in an order that depends on how many rows there
    are, and what is served would not be to the bit what is trained on.

    Args:
        vectors: shape (n, dimensions), the dimensions a multiple of `LANES`.
        directions: shape (m, dimensions).
        columns: which of `found` each direction fills.
        found: shape (columns, n).
    """
    count, length = vectors.shape
    keys = np.empty(LANES, np.int32)
    begin = vectors.ctypes.data
    for number in range(len(directions)):
        bits = found[columns[number]].view(np.int32)
        for start in range(0, count, LANES):
            address = begin + start * length * _FLOAT_BYTES
            _block(address, count - start, directions[number], keys, bits[start:])


def products_of_rows(words: Any) -> None:
    """`products` as a function of C, of vectors where they lie; to be compiled.

    The vector of a row is the one that replaces it, else the one that was built, else zero.

    Args:
        words: address and length of the rows; addresses of the vectors as built and of a flag for
            each that says whether it holds, 0 where all do, and how many there are; address of the
            ascending rows that have others, of those, and how many; the length of a vector;
            address and number of the directions, and their length, a multiple of `LANES`; the
            address of `found`; and `columns`.
    """
    rows = _carray(_at(words[0]), words[1], np.int64)
    built, kept, changed = words[2], words[3], _carray(_at(words[5]), words[7], np.int64)
    length, width = words[8], words[11]
    directions = _carray(_at(words[9]), (words[10], width), np.float32)
    keys = np.empty(LANES, np.int32)
    vectors = np.zeros((LANES, width), np.float32)
    for start in range(0, len(rows), LANES):
        some = rows[start : start + LANES]
        # Rows lie far from each other: those that come next are on their way meanwhile.
        for row in rows[start + LANES : start + 2 * LANES]:
            for byte in range(0, length * _FLOAT_BYTES, _LINE_BYTES):
                _fetch(built + row * length * _FLOAT_BYTES + byte)
        for lane in range(len(some)):
            row, address = some[lane], 0
            place = np.searchsorted(changed, row)
            if place < len(changed) and changed[place] == row:
                address = words[6] + place * length * _FLOAT_BYTES
            elif row < words[4] and (kept == 0 or _carray(_at(kept), words[4], np.bool_)[row]):
                address = built + row * length * _FLOAT_BYTES
            if address:
                vector = _carray(_at(address), length, np.float32)
                for component in range(length):
                    vectors[lane, component] = vector[component]
            else:
                vectors[lane] = 0.0
        for number in range(len(directions)):
            address = words[12] + (words[13 + number] * len(rows) + start) * _FLOAT_BYTES
            found = _carray(_at(address), len(some), np.int32)
            _block(vectors.ctypes.data, len(some), directions[number], keys, found)

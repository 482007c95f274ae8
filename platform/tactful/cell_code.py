"""What searches the cells of a vector index, written to become machine code.

The vectors of a cell lie one after the other as halves (fp16), as Faiss keeps them. The bits of a
half, moved to where a float has them, are that number times 2**-112, also where it is subnormal; so
a query times 2**112 has with them the inner product that it has with the vector. That is said
outright, as operations on vectors of LLVM, which makes of them what the processor has.

Numba keeps machine code until this file changes, so that all of its source has to be in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 16
"""The length of vectors is a multiple of this."""

_HALF_BYTES = 2
_LINE_BYTES = 64
_SCALE = np.float32(2.0**112)
_SIGN_AND_REST = 0x8FFFE000
_SHORT, _INT, _WORD = (ir.IntType(bits) for bits in (16, 32, 64))
_FLOAT = ir.FloatType()
_cg: Any = _cgutils


def in_cells(
    query: NDArray[np.float32],
    numbers: NDArray[np.int64],
    first: int,
    count: int,
    codes: NDArray[np.int64],
    ids: NDArray[np.int64],
    sizes: NDArray[np.int64],
    bits: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows in some cells and their inner products with a query; to be compiled.

    What the first cells hold says how near a row of the others has to be to be among the best, and
    what is farther is left out. The addresses are not checked.

    Args:
        query: its components below 2**15, their number a multiple of `LANES`.
        numbers: of cells, the nearest first.
        first: so many of them are looked through before.
        count: how many of the best are wanted.
        codes: address of the vectors of each cell.
        ids: address of the rows of each cell, as int64.
        sizes: number of rows of each cell.
        bits: a bit for each row that may be found; empty where all may.

    Returns:
        In any order what holds the best `count` rows, or all rows where they are fewer.
    """
    scaled = query * _SCALE
    total = np.int64(0)
    for number in range(len(numbers)):
        total += sizes[numbers[number]]
    rows, scores = np.empty(total, np.int64), np.empty(total, np.float32)
    least = np.float32(-np.inf)
    found = np.int64(0)
    for number in range(len(numbers)):
        if number == first and found > count:
            least = np.partition(scores[:found], found - count)[found - count]
            kept = np.int64(0)
            for place in range(found):
                if scores[place] >= least:
                    rows[kept], scores[kept] = rows[place], scores[place]
                    kept += 1
            found = kept
        cell = numbers[number]
        code, of = codes[cell], ids[cell]
        # Cells lie far from each other: the next one is on its way while this one is read.
        ahead = codes[numbers[min(number + 1, len(numbers) - 1)]] - code
        for _ in range(sizes[cell]):
            for line in range(0, len(scaled) * _HALF_BYTES, _LINE_BYTES):
                _fetch(code + ahead + line)
            score = _product(code, scaled)
            code += len(scaled) * _HALF_BYTES
            if score >= least:
                row = _row(of)
                if len(bits) == 0 or (bits[row >> 3] >> np.uint8(row & 7)) & 1:
                    rows[found], scores[found] = row, score
                    found += 1
            of += 8
    return rows[:found], scores[:found]


def _product_code(_: Any, address: Any, query: Any) -> Any:
    """The inner product of the halves at an address and a query that is scaled."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        address, query = given
        query = context.make_array(signature.args[1])(context, builder, query)
        floats, ints = (ir.VectorType(kind, LANES) for kind in (_FLOAT, _INT))
        halves = ir.VectorType(_SHORT, LANES)
        fused = _cg.get_or_insert_function(
            builder.module, ir.FunctionType(floats, [floats] * 3), f"llvm.fmuladd.v{LANES}f32"
        )
        total = _cg.alloca_once_value(builder, ir.Constant(floats, None))
        size = _cg.unpack_tuple(builder, query.shape)[0]
        begin = builder.inttoptr(address, _SHORT.as_pointer())
        with _cg.for_range_slice(
            builder, ir.Constant(_WORD, 0), size, ir.Constant(_WORD, LANES)
        ) as (start, _):
            half = builder.bitcast(builder.gep(begin, [start]), halves.as_pointer())
            bits = builder.sext(builder.load(half, align=1), ints)
            bits = builder.shl(bits, ir.Constant(ints, [13] * LANES))
            bits = builder.and_(bits, ir.Constant(ints, [_SIGN_AND_REST] * LANES))
            asked = builder.bitcast(builder.gep(query.data, [start]), floats.as_pointer())
            part = (builder.bitcast(bits, floats), builder.load(asked, align=4))
            builder.store(builder.call(fused, [*part, builder.load(total)]), total)
        sums, width = builder.load(total), LANES
        while width > 1:
            width //= 2
            low, high = (
                builder.shuffle_vector(
                    sums,
                    ir.Constant(sums.type, ir.Undefined),
                    ir.Constant(ir.VectorType(_INT, width), [*range(begin, begin + width)]),
                )
                for begin in (0, width)
            )
            sums = builder.fadd(low, high)
        return builder.extract_element(sums, ir.Constant(_INT, 0))

    return types.float32(types.int64, query), emit


def _row_code(_: Any, address: Any) -> Any:
    """The number at an address."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        return builder.load(builder.inttoptr(given[0], _WORD.as_pointer()))

    return types.int64(types.int64), emit


def _fetch_code(_: Any, address: Any) -> Any:
    """Bring what lies at an address nearer, if anything does; its value does not matter."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        place = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [place, _INT, _INT, _INT])
        fetch = _cg.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To read, to be kept, as data.
        builder.call(fetch, [builder.inttoptr(given[0], place), *(_INT(x) for x in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.int64), emit


_fetch: Any = intrinsic(_fetch_code)
_product: Any = intrinsic(_product_code)
_row: Any = intrinsic(_row_code)

"""What evaluates a binned forest, written to become machine code.

Trees are evaluated for `BLOCK` rows at a time and without a branch. Every split of a tree is
compared for all rows, which gives one bit a row, 64 rows a word. The decisions of the levels above
choose, pair by pair, the answer of the node that a row is at. The decisions of all levels are the
digits of the number of the leaf. So comparing every split takes less time than following one path.

A compiler turns a loop over bytes into vector instructions, but never one that packs the outcomes
of comparisons into the bits of a word. So some steps are said outright, as operations on vectors of
LLVM, which takes vectors of any length and makes of them what the processor has, from SSE2 and NEON
to AVX-512. They take contiguous arrays and places in them.

Numba keeps machine code until this file changes, so that all of its source has to be in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

_LANES = 64
_WORDS = 8

BLOCK = _WORDS * _LANES
"""Rows at a time: what is decided of them fits into one to four vector registers."""

_TABLE = 64
_FLOATS = 32
_LOOKED_UP = 16

_BIT, _BYTE, _INT, _WORD = (ir.IntType(bits) for bits in (1, 8, 32, 64))
_FLOAT = ir.FloatType()
_cg: Any = _cgutils


def evaluate(
    columns: NDArray[np.float32],
    base: np.float32,
    band_column: NDArray[np.int64],
    band_start: NDArray[np.int64],
    thresholds: NDArray[np.float32],
    depth: NDArray[np.int64],
    node_start: NDArray[np.int64],
    plane: NDArray[np.uint16],
    cut: NDArray[np.uint8],
    leaf_start: NDArray[np.int64],
    leaves: NDArray[np.float32],
    margins: NDArray[np.float32],
) -> None:
    """Margins of all rows; to be compiled. Nothing is checked here.

    The arguments are what `tactful.forest.BinnedForest` describes; `columns` are the features of
    shape (columns, n), and `margins` of shape (n,) takes the result.
    """
    yes, no = np.uint8(255), np.uint8(0)
    rows, bands, trees = columns.shape[1], len(band_column), len(depth)
    deepest = 1
    for tree in range(trees):
        deepest = max(deepest, depth[tree])
    planes = np.empty(2 * bands * BLOCK, np.uint8)
    answers = np.empty((1 << deepest) * _WORDS, np.uint64)
    # Two sides of a pair of buffers, one of which is read while the other is written.
    chosen = np.empty((1 << deepest) * _WORDS, np.uint64)
    others = np.empty((1 << deepest) * _WORDS, np.uint64)
    decisions = np.empty(deepest * _WORDS, np.uint64)
    values = np.zeros(BLOCK, np.float32)
    bins = np.empty(BLOCK, np.uint8)
    leaf = np.empty(BLOCK, np.uint8)
    sums = np.empty(BLOCK, np.float32)

    for begin in range(0, rows, BLOCK):
        size = min(BLOCK, rows - begin)

        for band in range(bands):
            column = columns[band_column[band]]
            for row in range(size):
                values[row] = column[begin + row]
            _bin_block(values, thresholds, band_start[band], band_start[band + 1], bins)
            right = 2 * band * BLOCK
            left = right + BLOCK
            for row in range(BLOCK):
                present = values[row] == values[row]
                planes[right + row] = bins[row] if present else yes
                planes[left + row] = bins[row] if present else no

        sums[:] = base
        for tree in range(trees):
            levels, first = depth[tree], node_start[tree]
            # All comparisons before the first choice, which reads what they have written.
            for node in range((1 << levels) - 1):
                where = np.int64(plane[first + node]) * BLOCK
                _compare_block(planes, where, cut[first + node], answers, node * _WORDS)
            for word in range(_WORDS):
                decisions[word] = answers[word]
            for level in range(1, levels):
                # The answers of a level, then of a half of it after the other.
                held, start = answers, ((np.int64(1) << level) - 1) * _WORDS
                for above in range(level - 1, 0, -1):
                    by = above * _WORDS
                    for pair in range(1 << above):
                        where = start + 2 * pair * _WORDS
                        _choose_block(held, where, decisions, by, chosen, pair * _WORDS)
                    chosen, others = others, chosen
                    held, start = others, np.int64(0)
                _choose_block(held, start, decisions, 0, decisions, level * _WORDS)
            _number_block(decisions, levels, leaf)
            of_tree = leaf_start[tree]
            if _TABLES and (1 << levels) <= _TABLE and of_tree + _TABLE <= len(leaves):
                _add_from_table(leaves, of_tree, leaf, sums)
            else:
                for row in range(BLOCK):
                    sums[row] += leaves[of_tree + np.int64(leaf[row])]

        for row in range(size):
            margins[begin + row] = sums[row]


def _has_tables() -> bool:
    """Whether `_add_from_table` can be compiled: the processor keeps tables in its registers."""
    settings: Any = numba.config
    if settings.CPU_NAME or settings.CPU_FEATURES:  # numba compiles for another one
        return False
    return bool(binding.get_host_cpu_features().get("avx512f", False))


def _bin_block_code(_: Any, values: Any, thresholds: Any, begin: Any, end: Any, bins: Any) -> Any:
    """``bins[row]`` becomes the number of ``thresholds[begin:end]`` not above ``values[row]``."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        values, thresholds, begin, end, bins = _places(context, builder, signature, given)
        for start in range(0, BLOCK, _FLOATS):
            asked = _load(builder, values, start, ir.VectorType(_FLOAT, _FLOATS))
            counts = ir.VectorType(_INT, _FLOATS)
            counted = _cg.alloca_once_value(builder, ir.Constant(counts, None))
            with _cg.for_range_slice(builder, begin, end, ir.Constant(_WORD, 1)) as (number, _):
                threshold = builder.load(builder.gep(thresholds, [number]))
                above = builder.fcmp_ordered(">=", asked, _repeated(builder, threshold, _FLOATS))
                more = builder.sub(builder.load(counted), builder.sext(above, counts))
                builder.store(more, counted)
            bytes_ = builder.trunc(builder.load(counted), ir.VectorType(_BYTE, _FLOATS))
            _store(builder, bytes_, bins, start)
        return context.get_dummy_value()

    return types.void(values, thresholds, types.int64, types.int64, bins), emit


def _compare_block_code(_: Any, planes: Any, start: Any, cut: Any, answers: Any, place: Any) -> Any:
    """The words from ``answers[place]`` on become the bits of ``planes[start:][row] > cut``."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        planes, start, cut, answers, place = _places(context, builder, signature, given)
        planes, answers = builder.gep(planes, [start]), builder.gep(answers, [place])
        cuts = _repeated(builder, cut, _LANES)
        for word in range(_WORDS):
            bins = _load(builder, planes, word * _LANES, ir.VectorType(_BYTE, _LANES))
            packed = builder.bitcast(builder.icmp_unsigned(">", bins, cuts), _WORD)
            builder.store(packed, builder.gep(answers, [ir.Constant(_WORD, word)]))
        return context.get_dummy_value()

    return types.void(planes, types.int64, types.uint8, answers, types.int64), emit


def _choose_block_code(
    _: Any, pairs: Any, place: Any, chooser: Any, at: Any, out: Any, to: Any
) -> Any:
    """Words from ``out[to]`` on: of two at ``pairs[place]`` the second where `chooser` has a 1."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        pairs, place, chooser, at, out, to = _places(context, builder, signature, given)
        words = ir.VectorType(_WORD, _WORDS)
        pairs = builder.gep(pairs, [place])
        first, second = (_load(builder, pairs, start, words) for start in (0, _WORDS))
        wanted = _load(builder, builder.gep(chooser, [at]), 0, words)
        differs = builder.and_(builder.xor(first, second), wanted)
        _store(builder, builder.xor(first, differs), builder.gep(out, [to]), 0)
        return context.get_dummy_value()

    return types.void(pairs, types.int64, chooser, types.int64, out, types.int64), emit


def _number_block_code(_: Any, digits: Any, count: Any, numbers: Any) -> Any:
    """``numbers[row]`` becomes the number with these binary digits, `_WORDS` words each."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        digits, count, numbers = _places(context, builder, signature, given)
        kind = ir.VectorType(_BYTE, _LANES)
        for word in range(_WORDS):
            number = _cg.alloca_once_value(builder, ir.Constant(kind, None))
            with _cg.for_range(builder, count, intp=_WORD) as loop:
                place = builder.mul(loop.index, ir.Constant(_WORD, _WORDS))
                place = builder.add(place, ir.Constant(_WORD, word))
                packed = builder.load(builder.gep(digits, [place]))
                digit = builder.sext(builder.bitcast(packed, ir.VectorType(_BIT, _LANES)), kind)
                held = builder.load(number)
                builder.store(builder.sub(builder.add(held, held), digit), number)
            _store(builder, builder.load(number), numbers, word * _LANES)
        return context.get_dummy_value()

    return types.void(digits, types.int64, numbers), emit


def _add_from_table_code(_: Any, table: Any, start: Any, numbers: Any, sums: Any) -> Any:
    """``sums[row] += table[start + numbers[row]]``, numbers below `_TABLE`; where `_has_tables`."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        table, start, numbers, sums = _places(context, builder, signature, given)
        floats, ints = (ir.VectorType(kind, _LOOKED_UP) for kind in (_FLOAT, _INT))
        table = builder.gep(table, [start])
        parts = [_load(builder, table, place, floats) for place in range(0, _TABLE, _LOOKED_UP)]
        look_up = _cg.get_or_insert_function(
            builder.module,
            ir.FunctionType(floats, [floats, ints, floats]),
            "llvm.x86.avx512.vpermi2var.ps.512",
        )
        half = ir.Constant(ints, [_TABLE // 2] * _LOOKED_UP)
        for row in range(0, BLOCK, _LOOKED_UP):
            number = _load(builder, numbers, row, ir.VectorType(_BYTE, _LOOKED_UP))
            number = builder.zext(number, ints)
            low = builder.call(look_up, [parts[0], number, parts[1]])
            high = builder.call(look_up, [parts[2], number, parts[3]])
            in_high = builder.icmp_unsigned(">=", number, half)
            added = builder.select(in_high, high, low)
            _store(builder, builder.fadd(_load(builder, sums, row, floats), added), sums, row)
        return context.get_dummy_value()

    return types.void(table, types.int64, numbers, sums), emit


# Numba keeps code by the kind of the processor, so this is part of what it keeps it by.
_TABLES = _has_tables()

_bin_block: Any = intrinsic(_bin_block_code)
_compare_block: Any = intrinsic(_compare_block_code)
_choose_block: Any = intrinsic(_choose_block_code)
_number_block: Any = intrinsic(_number_block_code)
_add_from_table: Any = intrinsic(_add_from_table_code)


def _places(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> list[Any]:
    """The arguments, and of an array where its elements begin."""
    return [
        context.make_array(kind)(context, builder, value).data
        if isinstance(kind, types.Array)
        else value
        for kind, value in zip(signature.args, given, strict=True)
    ]


def _load(builder: Any, array: Any, start: int, kind: Any) -> Any:
    place = builder.gep(array, [ir.Constant(_WORD, start)])
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=1)


def _store(builder: Any, vector: Any, array: Any, start: int) -> None:
    place = builder.gep(array, [ir.Constant(_WORD, start)])
    builder.store(vector, builder.bitcast(place, vector.type.as_pointer()), align=1)


def _repeated(builder: Any, value: Any, count: int) -> Any:
    kind = ir.VectorType(value.type, count)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_INT, 0))
    everywhere = ir.Constant(ir.VectorType(_INT, count), None)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), everywhere)

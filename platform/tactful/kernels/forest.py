"""The kernel that evaluates a binned forest.

Trees are evaluated for `BLOCK` rows at a time and without a branch. The splits of a forest repeat:
of 19,000 splits of 300 trees some 2,500 differ. So each threshold is compared once for all rows,
which gives one bit a row, 64 rows a word, and trees look their answers up. The decisions of the
levels above choose, pair by pair, the answer of the node that a row is at. The decisions of all
levels are the digits of the number of the leaf.

A compiler turns a loop over numbers into vector instructions, but never one that packs the results
of comparisons into the bits of a word. So some steps are written as operations on vectors of LLVM,
which accepts vectors of any length and maps them to the processor's, from SSE2 and NEON to AVX-512.
They take contiguous arrays and places in them.

Machine code is cached until this file changes, so all source of the kernel must be here.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from tactful_streaming.kernels.compile import array, compiled

_LOG = logging.getLogger(__name__)

Kernel = Callable[..., Any]

_LANES = 64
_WORDS = 8

BLOCK = _WORDS * _LANES
"""Rows at a time: their decisions fit into one to four vector registers."""

_DEEPEST = 8
_NEVER = 255
_TABLE = 64
_LOOKED_UP = 16

_BIT, _BYTE, _INT, _WORD = (ir.IntType(bits) for bits in (1, 8, 32, 64))
_FLOAT = ir.FloatType()
_cg: Any = _cgutils


@functools.cache
def load_kernel() -> Kernel:
    """Compile or load the kernel, which takes long at the first call of a process.

    It never compiles when it is called, refuses other arrays with a `TypeError`, and may be called
    from several threads.
    """
    started = time.perf_counter()
    read = functools.partial(array, readonly=True)
    floats, offsets = read(types.float32), read(types.int64)
    signature = types.void(
        read(types.float32, 2),
        types.float32,
        *(offsets, offsets, floats),
        *(offsets, offsets, read(types.uint16), read(types.uint8)),
        *(offsets, floats),
        array(types.float32),
    )
    kernel = compiled(evaluate, signature)
    _LOG.info("kernel of the forest ready after %.1f s", time.perf_counter() - started)
    return kernel


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
    """Compute the margins of rows; to be compiled. Nothing is checked here.

    For the arguments see `tactful.ranking.forest.BinnedForest`; `columns` are the features, of
    shape (columns, at least n), and `margins` receives the result, shape (n,).
    """
    rows, bands, trees = len(margins), len(band_column), len(depth)
    longest = 0
    for band in range(bands):
        longest = max(longest, band_start[band + 1] - band_start[band])
    # Planes of one length, so that the place of an answer follows from the numbers of the node
    # alone. Before them comes the answer of a split that sends every row left.
    answers = np.empty((1 + 2 * bands * longest) * _WORDS, np.uint64)
    answers[:_WORDS] = 0
    places = np.empty(len(plane), np.uint32)
    for node in range(len(plane)):
        place = 1 + np.uint32(plane[node]) * np.uint32(longest) + cut[node]
        places[node] = 0 if cut[node] == _NEVER else place
    decisions = np.empty(_DEEPEST * _WORDS, np.uint64)
    values = np.zeros(BLOCK, np.float32)
    leaf = np.empty(BLOCK, np.uint8)
    sums = np.empty(BLOCK, np.float32)

    for begin in range(0, rows, BLOCK):
        size = min(BLOCK, rows - begin)

        for band in range(bands):
            column = columns[band_column[band]]
            for row in range(size):
                values[row] = column[begin + row]
            of_band = band_start[band], band_start[band + 1]
            right = 1 + 2 * band * longest
            _compare_block(values, thresholds, *of_band, answers, right, right + longest)

        sums[:] = base
        for tree in range(trees):
            levels, of_tree = depth[tree], leaf_start[tree]
            _decide_block(answers, places, node_start[tree], levels, decisions)
            _number_block(decisions, levels, leaf)
            if _TABLES and (1 << levels) <= _TABLE and of_tree + _TABLE <= len(leaves):
                _add_from_table(leaves, of_tree, leaf, sums)
            else:
                for row in range(BLOCK):
                    sums[row] += leaves[of_tree + np.int64(leaf[row])]

        for row in range(size):
            margins[begin + row] = sums[row]


def _has_tables() -> bool:
    """Whether the processor has tables in registers, for `_add_from_table`."""
    settings: Any = numba.config
    if settings.CPU_NAME or settings.CPU_FEATURES:  # numba compiles for another one
        return False
    return bool(binding.get_host_cpu_features().get("avx512f", False))


def _compare_block_code(
    _: Any, values: Any, thresholds: Any, begin: Any, end: Any, answers: Any, right: Any, left: Any
) -> Any:
    """Write ``values[row] >= threshold``, a bit a row, from `right` and `left` on.

    There is one answer for each of ``thresholds[begin:end]``. For a missing value, those from
    `right` on have a one, the others a zero.
    """

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        values, thresholds, begin, end, answers, right, left = _places(
            context, builder, signature, given
        )
        thresholds, count = builder.gep(thresholds, [begin]), builder.sub(end, begin)
        right, left = (_answer(builder, answers, number) for number in (right, left))
        words = ir.VectorType(_WORD, _WORDS)
        missing = ir.Constant(words, None)
        for word in range(_WORDS):
            asked = _load(builder, values, word * _LANES, ir.VectorType(_FLOAT, _LANES))
            gaps = builder.bitcast(builder.fcmp_unordered("uno", asked, asked), _WORD)
            missing = builder.insert_element(missing, gaps, ir.Constant(_INT, word))
            with _cg.for_range(builder, count, intp=_WORD) as loop:
                threshold = builder.load(builder.gep(thresholds, [loop.index]))
                above = builder.fcmp_ordered(">=", asked, _repeated(builder, threshold, _LANES))
                place = builder.gep(_answer(builder, left, loop.index), [ir.Constant(_WORD, word)])
                builder.store(builder.bitcast(above, _WORD), place)
        with _cg.for_range(builder, count, intp=_WORD) as loop:
            present = _load(builder, _answer(builder, left, loop.index), 0, words)
            _store(builder, builder.or_(present, missing), _answer(builder, right, loop.index), 0)
        return context.get_dummy_value()

    places = (types.int64, types.int64)
    return types.void(values, thresholds, *places, answers, *places), emit


def _decide_block_code(
    _: Any, answers: Any, places: Any, first: Any, levels: Any, decisions: Any
) -> Any:
    """Decide the levels of a tree whose nodes read the answers ``places[first:]``."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        answers, places, first, levels, decisions = _places(context, builder, signature, given)
        places, words = builder.gep(places, [first]), ir.VectorType(_WORD, _WORDS)

        def answer(node: int) -> Any:
            place = builder.load(builder.gep(places, [ir.Constant(_WORD, node)]))
            return _load(builder, _answer(builder, answers, builder.zext(place, _WORD)), 0, words)

        def decided(node: int, deciders: Sequence[Any]) -> Any:
            """Return the answer of the node below this one that a row is at."""
            if not deciders:
                return answer(node)
            left, right = (decided(2 * node + side, deciders[1:]) for side in (1, 2))
            differs = builder.and_(builder.xor(left, right), deciders[0])
            return builder.xor(left, differs)

        above: list[Any] = []
        end = builder.append_basic_block("end")
        for level in range(_DEEPEST):
            more = builder.icmp_signed(">", levels, ir.Constant(_WORD, level))
            block = builder.append_basic_block(f"level{level}")
            builder.cbranch(more, block, end)
            builder.position_at_end(block)
            above.append(decided(0, above))
            _store(builder, above[-1], decisions, level * _WORDS)
        builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(answers, places, types.int64, types.int64, decisions), emit


def _number_block_code(_: Any, digits: Any, count: Any, numbers: Any) -> Any:
    """Set ``numbers[row]`` from its binary digits, `_WORDS` words each."""

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
    """Add ``table[start + numbers[row]]`` to ``sums[row]``, numbers below `_TABLE`."""

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


# Numba caches code by the kind of the processor, so this is a part of its key.
_TABLES = _has_tables()

_compare_block: Any = intrinsic(_compare_block_code)
_decide_block: Any = intrinsic(_decide_block_code)
_number_block: Any = intrinsic(_number_block_code)
_add_from_table: Any = intrinsic(_add_from_table_code)


def _places(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> list[Any]:
    """Return the arguments, arrays as pointers to their first elements."""
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


def _answer(builder: Any, answers: Any, number: Any) -> Any:
    """Return the address of the first word of an answer."""
    return builder.gep(answers, [builder.mul(number, ir.Constant(_WORD, _WORDS))])


def _repeated(builder: Any, value: Any, count: int) -> Any:
    kind = ir.VectorType(value.type, count)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_INT, 0))
    everywhere = ir.Constant(ir.VectorType(_INT, count), None)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), everywhere)

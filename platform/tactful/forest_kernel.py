"""The machine code that evaluates a binned forest, made by numba.

Trees are evaluated for `BLOCK` rows at a time and without a branch. Every split of a tree is
compared for all rows, which gives a mask of bytes. The decisions of the levels above narrow the
masks of a level to the one of the node that a row is at: ``(right & went_right) | (left &
~went_right)``, pair by pair. The decisions of all levels are the digits of the number of the leaf.
Compilers turn each of these loops into a few vector instructions, and so comparing every split
takes less time than following one path.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)

BLOCK = 256
"""Rows at a time: some vector registers of bytes each, so that all of a tree stays in the cache."""

Kernel = Callable[..., None]
"""Called with what `tactful.forest.BinnedForest.margins` lays out."""


@functools.cache
def load_kernel(cache: Path | None = None) -> Kernel:
    """The compiled kernel. The first call of a process compiles it or loads it, which takes long.

    Args:
        cache: directory that keeps the machine code for the next process on a processor of this
            kind; the variable ``NUMBA_CACHE_DIR`` wins. None: where numba keeps it by itself.
            Who can write there can run code here, as in the directory of the package.

    Returns:
        The kernel. It never compiles when it is called, and may be called from several threads.
    """
    started = time.perf_counter()
    kernel = _dispatcher(cache)
    try:
        kernel.compile(_signature())
    except Exception as error:  # a damaged file of the cache may raise anything
        _LOG.warning("the kept ranking kernel is of no use, it is compiled anew: %r", error)
        kernel = numba.njit(error_model="numpy")(_evaluate)
        kernel.compile(_signature())
    kernel.disable_compile()
    _LOG.info("ranking kernel ready after %.1f s", time.perf_counter() - started)
    compiled: Kernel = kernel
    return compiled


def _dispatcher(cache: Path | None) -> Any:
    settings: Any = numba.config
    held = settings.CACHE_DIR
    try:
        if cache is not None and not held:
            settings.CACHE_DIR = str(cache)
        return numba.njit(error_model="numpy", cache=True)(_evaluate)
    except (RuntimeError, OSError) as error:
        _LOG.warning("the ranking kernel is compiled at each start: %s", error)
        return numba.njit(error_model="numpy")(_evaluate)
    finally:
        settings.CACHE_DIR = held


def _signature() -> Any:
    def read_only(kind: Any, dimensions: int = 1) -> Any:
        return types.Array(kind, dimensions, "C", readonly=True)

    floats, offsets = read_only(types.float32), read_only(types.int64)
    return types.void(
        read_only(types.float32, 2),
        types.float32,
        *(offsets, offsets, floats),
        *(offsets, offsets, read_only(types.uint16), read_only(types.uint8)),
        *(offsets, floats),
        types.Array(types.float32, 1, "C"),
    )


def _evaluate(
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
    """Margins of all rows; nothing is checked here."""
    yes, no = np.uint8(255), np.uint8(0)
    rows, bands, trees = columns.shape[1], len(band_column), len(depth)
    deepest = 1
    for tree in range(trees):
        deepest = max(deepest, depth[tree])
    planes = np.empty((2 * bands, BLOCK), np.uint8)
    # Two sides of a pair of buffers, because a loop that reads what it writes is not vectorised.
    masks = np.empty((1 << (deepest - 1), BLOCK), np.uint8)
    others = np.empty((1 << (deepest - 1), BLOCK), np.uint8)
    decisions = np.empty((deepest, BLOCK), np.uint8)
    values = np.empty(BLOCK, np.float32)
    bins = np.empty(BLOCK, np.int32)
    leaf = np.empty(BLOCK, np.uint8)
    sums = np.empty(BLOCK, np.float32)
    values[:] = 0.0

    for begin in range(0, rows, BLOCK):
        size = min(BLOCK, rows - begin)

        for band in range(bands):
            column = columns[band_column[band]]
            for row in range(size):
                values[row] = column[begin + row]
            bins[:] = 0
            for number in range(band_start[band], band_start[band + 1]):
                threshold = thresholds[number]
                for row in range(BLOCK):
                    bins[row] += np.int32(values[row] >= threshold)
            for row in range(BLOCK):
                present = values[row] == values[row]
                binned = np.uint8(bins[row])
                planes[2 * band, row] = binned if present else yes
                planes[2 * band + 1, row] = binned if present else no

        sums[:] = base
        for tree in range(trees):
            levels = depth[tree]
            leaf[:] = 0
            for level in range(levels):
                first = node_start[tree] + (1 << level) - 1
                width = 1 << level
                if level == 0:
                    bin_of, above = planes[plane[first]], cut[first]
                    for row in range(BLOCK):
                        decisions[0, row] = yes if bin_of[row] > above else no
                else:
                    # The comparisons and the first narrowing in one go, so that only half of the
                    # masks are ever stored.
                    width //= 2
                    for pair in range(width):
                        left, right = first + 2 * pair, first + 2 * pair + 1
                        left_bin, left_cut = planes[plane[left]], cut[left]
                        right_bin, right_cut = planes[plane[right]], cut[right]
                        for row in range(BLOCK):
                            went_right = decisions[level - 1, row]
                            on_left = yes if left_bin[row] > left_cut else no
                            on_right = yes if right_bin[row] > right_cut else no
                            masks[pair, row] = (on_right & went_right) | (on_left & ~went_right)
                    for above_level in range(level - 2, -1, -1):
                        width //= 2
                        for pair in range(width):
                            for row in range(BLOCK):
                                went_right = decisions[above_level, row]
                                others[pair, row] = (masks[2 * pair + 1, row] & went_right) | (
                                    masks[2 * pair, row] & ~went_right
                                )
                        masks, others = others, masks
                    for row in range(BLOCK):
                        decisions[level, row] = masks[0, row]
            for level in range(levels):
                digit = np.uint8(1 << (levels - 1 - level))
                for row in range(BLOCK):
                    leaf[row] |= decisions[level, row] & digit
            of_tree = leaves[leaf_start[tree] :]
            for row in range(BLOCK):
                sums[row] += of_tree[leaf[row]]

        for row in range(size):
            margins[begin + row] = sums[row]

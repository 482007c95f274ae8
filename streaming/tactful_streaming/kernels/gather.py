"""Kernel that reads the cached numbers of the entities at some places.

The candidates of a recommendation lie far apart in memory, so that each read waits. Loops that do
nothing else keep the most reads in flight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def gather_cached(
    places: NDArray[np.int64],
    rows: NDArray[np.int64],
    numbers: NDArray[np.float64],
    columns: NDArray[np.int64],
    out: NDArray[np.float64],
    unknown: NDArray[np.int64],
) -> int:
    """Read the cached numbers of the rows at some places, and find those not cached.

    Args:
        places: at least 0.
        rows: row by place, negative where unknown.
        numbers: cached numbers by row and column, NaN where unknown.
        columns: columns to read.
        out: takes the numbers, shape (columns, places).
        unknown: takes in front the positions in `places` without a number; same length as these.

    Returns:
        Number of places without a number.
    """
    # Unsigned, one comparison checks both bounds of a place or row.
    placed, known = np.uint64(len(rows)), np.uint64(len(numbers))
    for number in range(len(places)):
        place = np.uint64(places[number])
        unknown[number] = rows[place] if place < placed else np.int64(-1)
    for column in range(len(columns)):
        source, target = np.uint64(columns[column]), out[column]
        for number in range(len(places)):
            row = np.uint64(unknown[number])
            target[number] = numbers[row, source] if row < known else np.nan
    count = 0
    for number in range(len(places)):
        whole = True
        for column in range(len(columns)):
            whole &= out[column, number] == out[column, number]
        unknown[count] = number
        count += not whole
    return count


@functools.cache
def load_gather() -> Callable[..., int]:
    """Load the compiled `gather_cached`; the first call of a process may compile it."""
    from numba import types  # importing it takes a second: only for readers of columns

    from tactful_streaming.kernels.compile import compiled

    places: Any = types.Array(types.int64, 1, "C", readonly=True)
    numbers: Any = types.Array(types.float64, 2, "C", readonly=True)
    out: Any = types.Array(types.float64, 2, "C")
    unknown: Any = types.Array(types.int64, 1, "C")
    return compiled(gather_cached, (places, places, numbers, places, out, unknown))

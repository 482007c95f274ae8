"""Reads what is kept of the entities at some places, in machine code.

The entities of a list of recommendations lie far apart in memory, so that each is waited for. Loops
that do nothing else have the most of them on their way at once.
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
    found: NDArray[np.float64],
    unknown: NDArray[np.int64],
) -> int:
    """The numbers that are kept of the rows at some places, and which of them have to be read.

    Args:
        places: at least 0.
        rows: by place, below 0 where it is unknown.
        numbers: by row and column, NaN where it is unknown.
        columns: which of them are asked for.
        found: takes the numbers, shape (columns, places).
        unknown: takes in the front which of `places` have something that is unknown; as long.

    Returns:
        How many have.
    """
    # Without a sign one comparison says whether there is such a place or row.
    placed, known = np.uint64(len(rows)), np.uint64(len(numbers))
    for number in range(len(places)):
        place = np.uint64(places[number])
        unknown[number] = rows[place] if place < placed else np.int64(-1)
    for column in range(len(columns)):
        of, taken = np.uint64(columns[column]), found[column]
        for number in range(len(places)):
            row = np.uint64(unknown[number])
            taken[number] = numbers[row, of] if row < known else np.nan
    count = 0
    for number in range(len(places)):
        whole = True
        for column in range(len(columns)):
            whole &= found[column, number] == found[column, number]
        unknown[count] = number
        count += not whole
    return count


@functools.cache
def load_gather() -> Callable[..., int]:
    """The machine code of `gather_cached`. The first call of a process compiles or loads it."""
    from numba import types  # it takes a second, and many read no columns

    from tactful_streaming.kernels.compile import compiled

    places: Any = types.Array(types.int64, 1, "C", readonly=True)
    numbers: Any = types.Array(types.float64, 2, "C", readonly=True)
    found: Any = types.Array(types.float64, 2, "C")
    unknown: Any = types.Array(types.int64, 1, "C")
    return compiled(gather_cached, (places, places, numbers, places, found, unknown))

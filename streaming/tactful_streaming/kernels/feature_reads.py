"""Kernels of feature reads: adding up panes, and gathering cached numbers.

A request reads about a thousand items and some dozen cells of one user. Array operations would take
a dozen numpy calls for each read of panes, which cost more than adding them up. Items lie far apart
in memory, so that each read of a cached number waits: loops that do nothing else keep the most
reads in flight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def add_panes(
    cells: NDArray[np.int64],  # each below the length of `head`
    head: NDArray[np.int32],  # newest entry of each cell
    panes: NDArray[np.int64],  # pane of each entry, descending; the last is before `oldest`
    older: NDArray[np.int32],  # next entry of the list
    values: NDArray[np.float64],  # number of each entry
    oldest: int,
    newest: int,
    weights: NDArray[np.float64],  # by a pane's age, see `weights_of`; empty: all weigh 1
    relative: bool,  # whether ages are those before the newest pane with events, not `newest`
    total: NDArray[np.float64],  # takes the sums, NaN without panes, infinite beyond a double
) -> None:
    """Add up the panes `oldest` to `newest` of cells, in this order."""
    entries = np.empty(max(min(newest - oldest + 1, len(panes)), 0), np.int32)
    for number in range(len(cells)):
        entry = head[cells[number]]
        while panes[entry] > newest:
            entry = older[entry]
        base = panes[entry] if relative else newest
        count = 0
        while panes[entry] >= oldest:
            entries[count] = entry
            count += 1
            entry = older[entry]
        if count == 0:
            total[number] = np.nan
            continue
        amount = 0.0
        while count:
            count -= 1
            value = values[entries[count]]
            if len(weights):
                weight = weights[base - panes[entries[count]]]
                value *= weight
                if weight < 0:
                    value *= weight
            amount += value
        total[number] = amount if amount == amount else np.inf


def gather_cached(
    places: NDArray[np.int64],  # at least 0
    rows: NDArray[np.int64],  # by place, negative where unknown
    numbers: NDArray[np.float64],  # by row and column, NaN where unknown
    columns: NDArray[np.int64],  # to read
    out: NDArray[np.float64],  # takes the numbers, shape (columns, places)
    unknown: NDArray[np.int64],  # takes in front the positions without a number; one for each place
) -> int:
    """Read the cached numbers of the rows at some places; return the number not cached."""
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
def load_add_panes() -> Callable[..., None]:
    """Load the compiled `add_panes`; the first call of a process may compile it."""
    from numba import types  # importing it takes a second: only for readers of panes

    from tactful_streaming.kernels.compile import array, compiled

    rows, links, numbers = (
        array(kind, readonly=True) for kind in (types.int64, types.int32, types.float64)
    )
    panes = (rows, links, rows, links, numbers)
    between = types.int64, types.int64, numbers, types.boolean
    return compiled(add_panes, (*panes, *between, array(types.float64)))


@functools.cache
def load_gather() -> Callable[..., int]:
    """Load the compiled `gather_cached`; the first call of a process may compile it."""
    from numba import types  # importing it takes a second: only for readers of columns

    from tactful_streaming.kernels.compile import array, compiled

    places, numbers = array(types.int64, readonly=True), array(types.float64, 2, readonly=True)
    written = array(types.float64, 2), array(types.int64)
    return compiled(gather_cached, (places, places, numbers, places, *written))

"""Kernel that counts events in the panes of their cells, adding the panes that are missing.

The same with array operations takes a sort of the new panes and some thirty numpy calls, each of
which costs as much as counting a hundred events: most batches of one partition of many are smaller.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def count_panes(
    cells: NDArray[np.int64],  # cell of each event, below the length of `head`
    events: NDArray[np.int64],  # pane of each event
    amounts: NDArray[np.float64],  # number of each event; empty: all are 1
    head: NDArray[np.int32],  # newest entry of each cell
    panes: NDArray[np.int64],  # pane of each entry, descending along a list
    values: NDArray[np.float64],  # number of each entry
    older: NDArray[np.int32],  # next entry of the list
    cell_of: NDArray[np.int32],  # cell of each entry
    size: int,  # first unused entry; there is one for each event
) -> int:
    """Add events in their order; return the first unused entry."""
    for number in range(len(cells)):
        cell, pane = cells[number], events[number]
        newer: Any = -1
        entry: Any = head[cell]
        while panes[entry] > pane:
            newer, entry = entry, older[entry]
        if panes[entry] != pane:
            panes[size], values[size], older[size], cell_of[size] = pane, 0.0, entry, cell
            if newer < 0:
                head[cell] = size
            else:
                older[newer] = size
            entry = size
            size += 1
        values[entry] += amounts[number] if len(amounts) else 1.0
    return size


@functools.cache
def load_count_panes() -> Callable[..., int]:
    """Load the compiled `count_panes`; the first call of a process may compile it."""
    from numba import types  # importing it takes a second: only for engines with panes

    from tactful_streaming.kernels.compile import array, compiled

    rows, amounts = array(types.int64, readonly=True), array(types.float64, readonly=True)
    links, values = array(types.int32), array(types.float64)
    table = (links, array(types.int64), values, links, links)
    return compiled(count_panes, (rows, rows, amounts, *table, types.int64))

"""Kernel that adds up the panes of many cells.

A request reads about a thousand items and some dozen cells of one user. Array operations would take
a dozen numpy calls for each read, which cost more than adding the few panes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def add_panes(
    cells: NDArray[np.int64],
    head: NDArray[np.int32],
    panes: NDArray[np.int64],
    older: NDArray[np.int32],
    values: NDArray[np.float64],
    oldest: int,
    newest: int,
    weights: NDArray[np.float64],
    total: NDArray[np.float64],
) -> None:
    """Add up the panes `oldest` to `newest` of cells, in this order.

    Args:
        cells: the cells; each below the length of `head`.
        head: newest entry of each cell.
        panes: pane of each entry, descending along a list; the last of a list is before `oldest`.
        older: next entry of the list.
        values: number of each entry.
        oldest: first pane.
        newest: last pane.
        weights: weight of a pane by its distance from the newest; empty: all weigh 1.
        total: takes the sums, NaN without panes.
    """
    entries = np.empty(max(min(newest - oldest + 1, len(panes)), 0), np.int32)
    for number in range(len(cells)):
        entry = head[cells[number]]
        while panes[entry] > newest:
            entry = older[entry]
        count = 0
        while panes[entry] >= oldest:
            entries[count] = entry
            count += 1
            entry = older[entry]
        amount = 0.0 if count else np.nan
        while count:
            count -= 1
            value = values[entries[count]]
            if len(weights):
                value *= weights[newest - panes[entries[count]]]
            amount += value
        total[number] = amount


@functools.cache
def load_kernel() -> Callable[..., None]:
    """Load the compiled `add_panes`; the first call of a process may compile it."""
    from numba import types  # importing it takes a second: only for readers of panes

    from tactful_streaming.kernels.compile import compiled

    rows, links, numbers = (
        types.Array(kind, 1, "C", readonly=True)
        for kind in (types.int64, types.int32, types.float64)
    )
    written: Any = types.Array(types.float64, 1, "C")
    return compiled(
        add_panes,
        (rows, links, rows, links, numbers, types.int64, types.int64, numbers, written),
    )

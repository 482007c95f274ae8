"""Compiled kernel that adds up the panes of many cells.

A request reads about a thousand items and some dozen cells of one user. As array operations each
read is a dozen numpy calls, which cost more than the few panes behind them.
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
    """Sums of panes `oldest` to `newest` of cells, each added up from the oldest to the newest.

    Args:
        cells: which; each below the length of `head`.
        head: newest entry of each cell.
        panes: pane of each entry, descending along a chain; the last of a chain is before `oldest`.
        older: next entry of the chain.
        values: number of each entry.
        oldest: first pane.
        newest: last pane.
        weights: weight of a pane by its distance from the newest; empty where all weigh 1.
        total: takes the sums, NaN where there is no pane.
    """
    found = np.empty(max(min(newest - oldest + 1, len(panes)), 0), np.int32)
    for number in range(len(cells)):
        entry = head[cells[number]]
        while panes[entry] > newest:
            entry = older[entry]
        count = 0
        while panes[entry] >= oldest:
            found[count] = entry
            count += 1
            entry = older[entry]
        added = 0.0 if count else np.nan
        while count:
            count -= 1
            value = values[found[count]]
            if len(weights):
                value *= weights[newest - panes[found[count]]]
            added += value
        total[number] = added


@functools.cache
def load_kernel() -> Callable[..., None]:
    """The machine code of `add_panes`. The first call of a process compiles or loads it."""
    from numba import types  # it takes a second, and many read no panes

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

"""Adds to the panes of many cells, and adds them up, in machine code.

A list of recommendations reads a thousand items and some dozen cells of one person. As operations
on whole arrays each read is a dozen calls, which cost more than the few panes that are behind them.
A batch of events is a dozen calls, too, each of which goes through all of it.
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


def count_events(
    begin: int,
    cells: NDArray[np.int64],
    numbers: NDArray[np.int64],
    amounts: NDArray[np.float64],
    head: NDArray[np.int32],
    panes: NDArray[np.int64],
    older: NDArray[np.int32],
    values: NDArray[np.float64],
    owners: NDArray[np.int32],
    size: int,
) -> tuple[int, int]:
    """Add to panes of cells, in order; those that are missing are made as long as there is room.

    Args:
        begin: which addition is the first.
        cells: cell of each; each below the length of `head`.
        numbers: pane of each.
        amounts: what is added; empty where it is always 1.
        head: newest entry of each cell.
        panes: pane of each entry, descending along a chain; the last of a chain is before all.
        older: next entry of the chain.
        values: number of each entry.
        owners: cell of each entry.
        size: how many entries there are.

    Returns:
        Which addition was not made for want of room, or how many there are; and how many entries
        there are now.
    """
    for event in range(begin, len(cells)):
        cell, number = cells[event], numbers[event]
        newer, entry = np.int32(0), head[cell]
        while panes[entry] > number:
            newer, entry = entry, older[entry]
        if panes[entry] != number:
            if size == len(panes):
                return event, size
            made = np.int32(size)
            size += 1
            panes[made], values[made] = number, 0.0
            owners[made], older[made] = cell, entry
            if newer:
                older[newer] = made
            else:
                head[cell] = made
            entry = made
        values[entry] += amounts[event] if len(amounts) else 1.0
    return len(cells), size


@functools.cache
def load_counting() -> Callable[..., tuple[int, int]]:
    """The machine code of `count_events`. The first call of a process compiles or loads it."""
    from numba import types

    from tactful_streaming.machine_code import compiled

    read = [types.Array(kind, 1, "C", readonly=True) for kind in (types.int64, types.float64)]
    links, panes, values = (
        types.Array(kind, 1, "C") for kind in (types.int32, types.int64, types.float64)
    )
    signature: Any = (types.int64, read[0], read[0], read[1])
    return compiled(count_events, (*signature, links, panes, links, values, links, types.int64))


@functools.cache
def load_kernel() -> Callable[..., None]:
    """The machine code of `add_panes`. The first call of a process compiles or loads it."""
    from numba import types  # it takes a second, and many read no panes

    from tactful_streaming.machine_code import compiled

    rows, links, numbers = (
        types.Array(kind, 1, "C", readonly=True)
        for kind in (types.int64, types.int32, types.float64)
    )
    written: Any = types.Array(types.float64, 1, "C")
    return compiled(
        add_panes,
        (rows, links, rows, links, numbers, types.int64, types.int64, numbers, written),
    )

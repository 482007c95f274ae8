"""Takes what lies at many places of an array, and says what is unknown, in machine code.

Rows of a list of recommendations lie far apart in memory, so that each is waited for. A loop that
does nothing else has the most of them on their way at once; numpy looks through the places before,
and afterwards again for what is unknown.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def take_rows(
    places: NDArray[np.int64],
    rows: NDArray[np.int64],
    found: NDArray[np.int64],
    unknown: NDArray[np.int64],
) -> int:
    """The rows at some places, and which of them are below 0.

    Args:
        places: at least 0.
        rows: by place.
        found: takes the rows, unless a place is beyond them.
        unknown: takes which, in the front; as long as `places`.

    Returns:
        How many are below 0, or -1 if a place is beyond `rows`.
    """
    last = np.int64(-1)
    for number in range(len(places)):
        last = max(last, places[number])
    if last >= len(rows):
        return -1
    for number in range(len(places)):
        found[number] = rows[places[number]]
    count = 0
    for number in range(len(places)):
        if found[number] < 0:
            unknown[count] = number
            count += 1
    return count


def take_numbers(
    places: NDArray[np.int64],
    numbers: NDArray[np.float64],
    found: NDArray[np.float64],
    unknown: NDArray[np.int64],
) -> int:
    """As `take_rows`, of numbers, of which those that are NaN are unknown."""
    last = np.int64(-1)
    for number in range(len(places)):
        last = max(last, places[number])
    if last >= len(numbers):
        return -1
    for number in range(len(places)):
        found[number] = numbers[places[number]]
    count = 0
    for number in range(len(places)):
        if found[number] != found[number]:
            unknown[count] = number
            count += 1
    return count


@functools.cache
def load_taking() -> tuple[Callable[..., int], Callable[..., int]]:
    """The machine code of both. The first call of a process compiles or loads it."""
    from numba import types  # it takes a second, and many read no columns

    from tactful_streaming.machine_code import compiled

    def made(function: Callable[..., int], kind: Any) -> Callable[..., int]:
        places, read = (types.Array(each, 1, "C", readonly=True) for each in (types.int64, kind))
        found, unknown = (types.Array(each, 1, "C") for each in (kind, types.int64))
        return compiled(function, (places, read, found, unknown))

    return made(take_rows, types.int64), made(take_numbers, types.float64)

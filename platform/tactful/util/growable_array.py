"""Arrays that grow at their end in amortised constant time for each element."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

_SHARE = 8
_LEAST = 64


def filled_array(count: int, value: float, dtype: type[_Scalar]) -> NDArray[_Scalar]:
    """Return an array of one value with spare capacity behind it."""
    room = np.zeros(_with_room(count), dtype)
    if value:  # untouched pages of zeros take no memory
        room[:count] = value
    return room[:count]


def append_to(array: NDArray[_Scalar], more: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Append `more` to `array`, in its spare capacity or else in a copy with capacity.

    The result shares memory with `array`. Only the latest array of such a chain may grow: an
    earlier one would overwrite the elements appended to it.
    """
    count = len(array) + len(more)
    room: NDArray[Any] = array if array.base is None else array.base
    if len(room) < count:
        room = np.empty(_with_room(count), array.dtype)
        room[: len(array)] = array
    room[len(array) : count] = more
    return room[:count]


def _with_room(count: int) -> int:
    return count + count // _SHARE + _LEAST

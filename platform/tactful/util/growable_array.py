"""Arrays that grow at their end, at the cost of what is added."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

_SHARE = 8
_LEAST = 64


def filled(count: int, value: float, dtype: type[_Scalar]) -> NDArray[_Scalar]:
    """An array of one value that has room from the beginning: it is not copied to be lengthened.

    Args:
        count: how long.
        value: of each element.
        dtype: of the same.
    """
    room = np.zeros(_with_room(count), dtype)
    if value:  # zeros that nobody writes over take no memory
        room[:count] = value
    return room[:count]


def lengthened(array: NDArray[_Scalar], more: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """`more` behind `array`: in the memory of `array` while that has room, else copied with room.

    The two share their rows from then on. Only the latest of those that grew from one another may
    be lengthened: the others would write over what was added to it.

    Args:
        array: shape (n,); from an earlier call, or an array of its own.
        more: shape (m,).
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

"""Arrays that grow at their end, at the cost of what is added."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

_SHARE = 8
_LEAST = 64


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
        room = np.empty(count + count // _SHARE + _LEAST, array.dtype)
        room[: len(array)] = array
    room[len(array) : count] = more
    return room[:count]

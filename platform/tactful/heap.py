"""What the C library does with memory that is given back to it."""

from __future__ import annotations

import ctypes
import os

_MMAP_THRESHOLD = ("MALLOC_MMAP_THRESHOLD_", -3, 1 << 20)
_TRIM_THRESHOLD = ("MALLOC_TRIM_THRESHOLD_", -1, 16 << 20)


def return_large_pieces() -> None:
    """Have large pieces of memory go back to the system as soon as they are not used any more.

    A column of a million items is taken and given back at every swap of a model and every count of
    what is popular. Left to itself, glibc soon serves such pieces from its heaps, of which there
    is one for each few threads, and which hardly ever shrink again: ``mallopt(3)``. Whoever sets
    the variables of the environment that say otherwise has their way; other libraries have no such
    heaps, or none that can be told.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for name, parameter, number in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
        if name not in os.environ:
            mallopt(parameter, number)

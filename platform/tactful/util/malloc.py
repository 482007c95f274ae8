"""What the C library does with memory that is given back to it.

A column of a million items is taken and given back at every swap of a model and every count of what
is popular. Left to itself, glibc soon serves such pieces from its heaps, of which there is one for
each few threads, and which hardly ever shrink again (``mallopt(3)``). Here large pieces go back to
the system as soon as they are not used any more. Whoever sets the variables of the environment that
say otherwise has their way.

Small pieces are served from the heaps all the same, and what is free between those in use stays.
"""

from __future__ import annotations

import ctypes
import os

_SETTINGS = (
    ("MALLOC_MMAP_THRESHOLD_", -3, 1 << 20),
    ("MALLOC_TRIM_THRESHOLD_", -1, 16 << 20),
)


def returning_large_pieces() -> dict[str, str]:
    """The environment of a process that does so from its first step on."""
    return {name: str(number) for name, _, number in _SETTINGS}


def return_large_pieces() -> None:
    """Have this process do so from now on, where its C library can be told."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for name, parameter, number in _SETTINGS:
        if name not in os.environ:
            mallopt(parameter, number)


def return_free_pages() -> None:
    """Give back what lies free in the heaps, pages of it, where the C library can be told.

    Takes some milliseconds for a hundred megabytes, without the interpreter; a thread that takes or
    gives back memory of the heap that is gone through waits for its turn (``malloc_trim(3)``).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

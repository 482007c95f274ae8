"""Settings of glibc's allocator, so that large freed blocks return to the system at once.

A model swap and a count of popular items allocate and free columns of a million items. By default
glibc soon serves such blocks from its arenas, which hardly ever shrink (``mallopt(3)``). The
environment variables of glibc take precedence. Small blocks still come from the arenas, and free
space between blocks in use stays.
"""

from __future__ import annotations

import ctypes
import os

_SETTINGS = (
    ("MALLOC_MMAP_THRESHOLD_", -3, 1 << 20),
    ("MALLOC_TRIM_THRESHOLD_", -1, 16 << 20),
)


def returning_large_pieces() -> dict[str, str]:
    """Return environment variables that set the allocator of a new process."""
    return {name: str(number) for name, _, number in _SETTINGS}


def return_large_pieces() -> None:
    """Set the allocator of this process, where its C library supports that."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for name, parameter, number in _SETTINGS:
        if name not in os.environ:
            mallopt(parameter, number)


def return_free_pages() -> None:
    """Return free pages of all arenas to the system, where the C library supports that.

    Takes some milliseconds for a hundred megabytes and releases the interpreter lock. A thread
    that allocates from or frees to the arena at hand waits meanwhile (``malloc_trim(3)``).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

"""Settings of a serving process: interpreter, collector, allocator; long work beside it.

A model swap and a count of popular items allocate and free columns of a million items. By default
glibc soon serves such blocks from its arenas, which hardly ever shrink (``mallopt(3)``). The
environment variables of glibc take precedence. Small blocks still come from the arenas, and free
space between blocks in use stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

_MAPS = Path("/proc/self/smaps")
_DONTNEED = 4  # of madvise(2)
_COMPILER = "libllvmlite"

_SWITCH_INTERVAL_S = 0.0005
_COLLECT_AFTER = (5_000, 20, 500)
_ALLOCATOR = (
    ("MALLOC_MMAP_THRESHOLD_", -3, 1 << 20),
    ("MALLOC_TRIM_THRESHOLD_", -1, 16 << 20),
    # Each arena keeps free space, and the interpreter lock lets hardly two threads allocate.
    ("MALLOC_ARENA_MAX", -8, 2),
)


@contextlib.contextmanager
def short_delays() -> Iterator[None]:
    """Shorten the switch interval and tune the collector while the context lasts.

    A short switch interval keeps a computing thread from delaying one that answers requests. The
    collector visits new objects often and old ones seldom: a full collection of a large engine
    state would stop the process for hundreds of milliseconds.
    """
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def freeze_living_objects() -> None:
    """Collect once, then exclude all living objects from later collections."""
    gc.collect()
    gc.freeze()


def end_start() -> None:
    """Set the process for the time after its start: collector and resident memory."""
    freeze_living_objects()
    drop_code()


def drop_code() -> None:
    """Take mapped code out of resident memory; what is still used is mapped again at once.

    The start compiles or links kernels: the code of the compiler takes 66 MB, which nothing runs
    afterwards. The kernel reads a page again from its cache or the file. Only pages that equal the
    file are dropped: code of any library, and the constants of the compiler.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None or not _MAPS.exists():
        return
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for begin, size in _unchanged(_MAPS.read_text("utf-8", "replace")):
        madvise(begin, size, _DONTNEED)


def _unchanged(maps: str) -> Iterator[tuple[int, int]]:
    """Yield begin and size of the mappings of code whose pages equal their file.

    ``7f0a70365000-7f0a75394000 r-xp 00365000 fe:00 5320183   /…/libllvmlite.so`` begins each, and
    ``Anonymous:   0 kB`` is among its lines.
    """
    begin = size = 0
    for line in maps.splitlines():
        parts = line.split(maxsplit=5)
        if "-" in parts[0] and not parts[0].endswith(":"):
            start, end = (int(number, 16) for number in parts[0].split("-"))
            file = parts[5] if len(parts) == 6 else ""
            code = parts[1] == "r-xp" or (parts[1] == "r--p" and _COMPILER in file)
            begin, size = start, end - start if code and file.startswith("/") else 0
        elif parts[0] == "Anonymous:" and size and parts[1] == "0":
            yield begin, size


def returning_large_pieces() -> dict[str, str]:
    """Return environment variables that set the allocator of a new process."""
    return {name: str(number) for name, _, number in _ALLOCATOR}


def return_large_pieces() -> None:
    """Set the allocator of this process, where its C library supports that."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for name, parameter, number in _ALLOCATOR:
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


@contextlib.contextmanager
def low_priority() -> Iterator[futures.Executor]:
    """Yield an executor of one low-priority process, which ends with the context or its parent."""
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=context, initializer=_begin_low) as pool:
        yield pool


def _begin_low() -> None:
    os.nice(10)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process once its parent has: it would wait for work for ever after `kill -9`.

    A signal of the kernel would come at the end of the thread that began this process.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

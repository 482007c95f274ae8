"""The kernel that evaluates a binned forest, compiled by numba and kept for the next process."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import types

from tactful.forest_code import evaluate

_LOG = logging.getLogger(__name__)

Kernel = Callable[..., None]
"""Called with what `tactful.forest.BinnedForest.margins` lays out."""


@functools.cache
def load_kernel(cache: Path | None = None) -> Kernel:
    """The compiled kernel. The first call of a process compiles it or loads it, which takes long.

    Args:
        cache: directory that keeps the machine code for the next process on a processor of this
            kind; the variable ``NUMBA_CACHE_DIR`` wins. None: where numba keeps it by itself.
            Who can write there can run code here, as in the directory of the package.

    Returns:
        The kernel. It never compiles when it is called, and may be called from several threads.
    """
    started = time.perf_counter()
    kernel = _dispatcher(cache)
    try:
        kernel.compile(_signature())
    except Exception as error:  # a damaged file of the cache may raise anything
        _LOG.warning("the kept ranking kernel is of no use, it is compiled anew: %r", error)
        kernel = numba.njit(error_model="numpy")(evaluate)
        kernel.compile(_signature())
    kernel.disable_compile()
    _LOG.info("ranking kernel ready after %.1f s", time.perf_counter() - started)
    compiled: Kernel = kernel
    return compiled


def _dispatcher(cache: Path | None) -> Any:
    settings: Any = numba.config
    held = settings.CACHE_DIR
    try:
        if cache is not None and not held:
            settings.CACHE_DIR = str(cache)
        return numba.njit(error_model="numpy", cache=True)(evaluate)
    except (RuntimeError, OSError) as error:
        _LOG.warning("the ranking kernel is compiled at each start: %s", error)
        return numba.njit(error_model="numpy")(evaluate)
    finally:
        settings.CACHE_DIR = held


def _signature() -> Any:
    def read_only(kind: Any, dimensions: int = 1) -> Any:
        return types.Array(kind, dimensions, "C", readonly=True)

    floats, offsets = read_only(types.float32), read_only(types.int64)
    return types.void(
        read_only(types.float32, 2),
        types.float32,
        *(offsets, offsets, floats),
        *(offsets, offsets, read_only(types.uint16), read_only(types.uint8)),
        *(offsets, floats),
        types.Array(types.float32, 1, "C"),
    )

"""Compilation of functions to machine code by numba, cached for the next process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import types

_LOG = logging.getLogger(__name__)

Kernel = Callable[..., Any]


def compiled(function: Kernel, signature: Any, cache: Path | None = None) -> Kernel:
    """Compile a function for one signature, or load its machine code from a cache.

    Args:
        function: code for numba; all that it calls is in its module.
        signature: numba's types; a call with other arrays raises `TypeError`.
        cache: directory that keeps the machine code for the next process on a processor of this
            kind; the variable ``NUMBA_CACHE_DIR`` wins. None is numba's own choice, beside the
            module or with the user. Write access to it allows to run code here, as write access
            to the package does.

    Returns:
        A function that never compiles when it is called, and may be called from several threads.
    """
    started = time.perf_counter()
    kernel = _cached(function, cache)
    try:
        kernel.compile(signature)
    except Exception as error:  # a damaged file of the cache may raise anything
        _LOG.warning("cached machine code cannot be used, it is compiled anew: %r", error)
        kernel = numba.njit(error_model="numpy")(function)
        kernel.compile(signature)
    kernel.disable_compile()
    _LOG.info("%s ready after %.1f s", function.__name__, time.perf_counter() - started)
    made: Kernel = kernel
    return made


def array(kind: Any, dimensions: int = 1, *, written: bool = False) -> Any:
    """Return the type of a contiguous array, read-only unless `written`."""
    return types.Array(kind, dimensions, "C", readonly=not written)


def _cached(function: Kernel, cache: Path | None) -> Any:
    """Make a numba function that keeps its machine code, if there is a place for it."""
    settings: Any = numba.config
    before = settings.CACHE_DIR
    try:
        if cache is not None and not before:
            settings.CACHE_DIR = str(cache)
        return numba.njit(error_model="numpy", cache=True)(function)
    except (RuntimeError, OSError) as reason:
        _LOG.warning("%s is compiled at each start: %s", function.__name__, reason)
        return numba.njit(error_model="numpy")(function)
    finally:
        settings.CACHE_DIR = before

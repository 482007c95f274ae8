"""Functions made into machine code by numba, and kept for the next process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numba
from numba import types

_LOG = logging.getLogger(__name__)

Kernel = Callable[..., Any]


def compiled(
    function: Kernel, signature: Any, *caches: Path | None, releases: bool = False
) -> Kernel:
    """The machine code of a function for one signature; it is compiled or loaded here.

    Args:
        function: what numba can compile; all that it calls is in its module.
        signature: of numba's types; a call with other arrays raises `TypeError`.
        caches: directories that may keep the machine code for the next process on a processor of
            this kind: the first that can is used; the variable ``NUMBA_CACHE_DIR`` wins. None is
            where numba keeps it by itself, beside the module or with the user. Who can write there
            can run code here, as in the directory of the package.
        releases: whether other threads may run Python while it is at work.

    Returns:
        What never compiles when it is called, and may be called from several threads.
    """
    started = time.perf_counter()
    make = partial(numba.njit, error_model="numpy", nogil=releases)
    kernel = _kept(make, function, caches)
    try:
        kernel.compile(signature)
    except Exception as error:  # a damaged file of the cache may raise anything
        _LOG.warning("kept machine code is of no use, it is compiled anew: %r", error)
        kernel = make()(function)
        kernel.compile(signature)
    kernel.disable_compile()
    _LOG.info("%s ready after %.1f s", function.__name__, time.perf_counter() - started)
    made: Kernel = kernel
    return made


def array(kind: Any, dimensions: int = 1, *, written: bool = False) -> Any:
    """The type of a contiguous array, which is only read unless it is said."""
    return types.Array(kind, dimensions, "C", readonly=not written)


def _kept(make: Callable[..., Any], function: Kernel, caches: Sequence[Path | None]) -> Any:
    """What `make` makes of a function, kept where the first of the caches allows it."""
    settings: Any = numba.config
    held = settings.CACHE_DIR
    reason: Exception | None = None
    for cache in caches:
        try:
            if cache is not None and not held:
                settings.CACHE_DIR = str(cache)
            return make(cache=True)(function)
        except (RuntimeError, OSError) as error:
            reason = error
        finally:
            settings.CACHE_DIR = held
    _LOG.warning("%s is compiled at each start: %s", function.__name__, reason)
    return make()(function)

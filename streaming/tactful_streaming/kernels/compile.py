"""Compiles functions with numba, cached for later processes where possible."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
from numba import types

_logger = logging.getLogger(__name__)


def array(kind: Any, dimensions: int = 1, *, readonly: bool = False) -> Any:
    """Return the numba type of contiguous arrays of `kind`."""
    return types.Array(kind, dimensions, "C", readonly=readonly)


def compiled(function: Callable[..., Any], signature: tuple[Any, ...]) -> Callable[..., Any]:
    """Compile `function` for arguments of the types of `signature`, and no others.

    Numba caches the code beside the module of the function or in the home directory. It compiles
    again when the file of that module changes; changes of other files do not count.
    """
    try:
        kernel = numba.njit(error_model="numpy", cache=True)(function)
        kernel.compile(signature)
    except Exception as error:  # a damaged file of the cache may raise anything
        _logger.warning(
            "The cache of compiled code is unusable; functions are compiled at each start: %r",
            error,
        )
        kernel = numba.njit(error_model="numpy")(function)
        kernel.compile(signature)
    kernel.disable_compile()
    result: Callable[..., Any] = kernel
    return result

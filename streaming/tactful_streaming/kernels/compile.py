"""Compiles functions to machine code, and keeps it for the next process where that is possible."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
from numba import types

_logger = logging.getLogger(__name__)


def array(kind: Any, dimensions: int = 1) -> Any:
    """The type of contiguous arrays of `kind`, for a signature."""
    return types.Array(kind, dimensions, "C")


def compiled(function: Callable[..., Any], signature: tuple[Any, ...]) -> Callable[..., Any]:
    """The machine code of `function` for arguments of the types of `signature`, and no others.

    It is kept where numba can: beside the module of the function, or with the user. Whether what
    was kept still fits is judged by the file of that module alone.
    """
    try:
        kernel = numba.njit(error_model="numpy", cache=True)(function)
        kernel.compile(signature)
    except Exception as error:  # a damaged file of the cache may raise anything
        _logger.warning("kept machine code is of no use, it is compiled at each start: %r", error)
        kernel = numba.njit(error_model="numpy")(function)
        kernel.compile(signature)
    kernel.disable_compile()
    made: Callable[..., Any] = kernel
    return made

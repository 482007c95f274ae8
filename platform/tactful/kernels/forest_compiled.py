"""The kernels that evaluate a binned forest, compiled for the arrays it is laid out as."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from numba import types

from tactful.kernels.compile import Kernel as Kernel
from tactful.kernels.compile import array, compiled
from tactful.kernels.forest import evaluate


@functools.cache
def load_kernel(cache: Path | None = None) -> Kernel:
    """The compiled kernel. The first call of a process compiles it or loads it, which takes long.

    Args:
        cache: directory that keeps the machine code, as of `tactful.kernels.compile.compiled`.

    Returns:
        The kernel, called with what `tactful.ranking.forest.BinnedForest.margins` lays out. It never
        compiles when it is called, and may be called from several threads.
    """
    return compiled(evaluate, _signature(), cache)


def _signature() -> Any:
    floats, offsets = array(types.float32), array(types.int64)
    return types.void(
        array(types.float32, 2),
        types.float32,
        *(offsets, offsets, floats),
        *(offsets, offsets, array(types.uint16), array(types.uint8)),
        *(offsets, floats),
        array(types.float32, written=True),
    )

"""Arrays from files, checked before code that checks no index reads them.

A checksum finds damage, but anybody who changes an array can write a new one. So arrays are
compared with each other when they are loaded, and the file that does not fit is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tactful.errors import ModelError

_BLOCK = 1 << 20


def map_array(path: Path, dtype: DTypeLike, dimensions: int = 1) -> NDArray[Any]:
    """Map an ``.npy`` file as a plain read-only array, contiguous in C's order.

    Raises:
        ModelError: if it is no such file, or has another type or number of dimensions.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy may raise anything for a damaged header
        raise ModelError(f"{path}: cannot be read as an array: {error}") from error
    require(
        isinstance(array, np.ndarray)
        and (array.dtype, array.ndim) == (np.dtype(dtype), dimensions)
        and array.flags.c_contiguous,
        path,
        f"it must have {dimensions} dimensions of {np.dtype(dtype)}",
    )
    return np.asarray(array)  # indexing a ``memmap`` costs five times as much


def require(fits: bool, path: Path, problem: str) -> None:
    """Raise `ModelError` about a file unless its content fits."""
    if not fits:
        raise ModelError(f"{path}: its numbers do not fit the files beside it: {problem}")


def within(values: NDArray[Any], end: int, *, begin: int = 0) -> bool:
    """Return whether all integers are at least `begin` and below `end`."""
    return not values.size or (int(values.min()) >= begin and int(values.max()) < end)


def is_partition(starts: NDArray[np.int64], parts: int, length: int) -> bool:
    """Return whether `starts` cuts `length` elements into parts: 0, ascending, and the end."""
    return (
        len(starts) == parts + 1
        and int(starts[0]) == 0
        and int(starts[-1]) == length
        and bool((starts[1:] >= starts[:-1]).all())
    )


def is_finite(values: NDArray[np.floating[Any]]) -> bool:
    """Return whether no number is infinite or missing; in parts, to take little memory."""
    flat = values.reshape(-1)
    return all(
        bool(np.isfinite(flat[begin : begin + _BLOCK]).all())
        for begin in range(0, len(flat), _BLOCK)
    )

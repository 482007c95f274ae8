"""Arrays whose numbers lie in a nameless file: their pages leave resident memory on demand.

A training reads all its rows a few times, in order. In memory they cost their whole size from the
replay to the end; in a file, the portion that is being read. The pages stay in the cache of the
system as long as there is room, so the disk is seldom read again.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_PORTION_BYTES = 16 << 20


def mapped(shape: tuple[int, int], directory: Path) -> NDArray[np.float32]:
    """Return an array of zeros in a file of `directory`, which ends with the array.

    Raises:
        OSError: if the disk has no room for it.
    """
    size = 4 * shape[0] * shape[1]
    if not size:
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile(dir=directory) as file:
        # The room is taken at once: a write to a mapping without room would end the process.
        os.posix_fallocate(file.fileno(), 0, size)
        mapping = mmap.mmap(file.fileno(), size)
    return np.frombuffer(mapping, np.float32).reshape(shape)


def release(array: NDArray[Any]) -> None:
    """Take an array of `mapped`, or all that shares its file, out of resident memory.

    It keeps its numbers: they are read again from the file. Other arrays stay as they are.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    mapping = base.obj if isinstance(base, memoryview) else base
    if isinstance(mapping, mmap.mmap):
        mapping.madvise(mmap.MADV_DONTNEED)


def portions(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the rows of an array, some at a time, and release each portion afterwards."""
    width = array.itemsize * int(np.prod(array.shape[1:]))
    rows = max(1, _PORTION_BYTES // max(1, width))
    for begin in range(0, len(array), rows):
        yield array[begin : begin + rows]
        release(array)


def save_arrays(file: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name as `numpy.savez` does, some rows at a time."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            header = {**np.lib.format.header_data_from_array_1_0(array), "fortran_order": False}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                for part in portions(array):
                    entry.write(np.ascontiguousarray(part).view(np.uint8).data)

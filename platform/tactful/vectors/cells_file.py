"""Check of a file of cells before Faiss maps it.

Faiss trusts the sizes and ids in a file, and its mapping reads wherever they point. All but the
numbers is known, so the file is compared with what Faiss writes::

    IwSq  dimensions, vectors, cells   IxFI  centroids   fp16 quantizer
    ilar  cells, size of each cell     of each cell: codes [size, dimensions] fp16, ids [size] int64
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.util.checked_arrays import is_finite, require, within

_HEAD = struct.Struct("<4siqqq?i")  # kind, dimensions, vectors, twice 2**20, trained, metric
_UNUSED = 1 << 20
_FP16 = 4
_INFINITE = np.uint16(0x7C00)  # exponent of infinite and missing numbers in fp16


def check_cells(path: Path, present: NDArray[np.bool_], dimensions: int, cells: int) -> None:
    """Check a file of `cells` cells that hold each present row once.

    Raises:
        ModelError: if Faiss would not have written it for these vectors.
    """
    try:
        file = _File(np.memmap(path, np.uint8, "r"), path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    rows = np.flatnonzero(present)
    file.expect(_HEAD.pack(b"IwSq", dimensions, len(rows), _UNUSED, _UNUSED, True, 0))
    file.expect(struct.pack("<QQ", cells, 1))  # cells, probes of a search without parameters
    file.expect(_HEAD.pack(b"IxFI", dimensions, cells, _UNUSED, _UNUSED, True, 0))
    file.expect(struct.pack("<Q", cells * dimensions))
    require(is_finite(file.take(cells * dimensions, "<f4")), path, "a centroid is not finite")
    code = 2 * dimensions
    file.expect(struct.pack("<BQiifQQQQB", 0, 0, _FP16, 0, 0.0, dimensions, code, 0, code, 0))
    file.expect(struct.pack("<4sQQ", b"ilar", cells, code))
    sizes = _sizes(file, cells, len(rows))
    ids = np.empty(len(rows), np.int64)
    filled = 0
    for size in sizes.tolist():
        codes = file.take(size * dimensions, "<u2")
        require(bool(((codes & _INFINITE) != _INFINITE).all()), path, "a vector is not finite")
        ids[filled : filled + size] = file.take(size, "<i8")
        filled += size
    ids.sort()
    require(not file.left and np.array_equal(ids, rows), path, "ids are not those of the vectors")


def _sizes(file: _File, cells: int, rows: int) -> NDArray[np.int64]:
    """Read the size of each cell, which Faiss lists in full or only where it is not 0."""
    kind = file.take(4, np.uint8).tobytes()
    (count,) = file.take(1, "<i8").tolist()
    sizes = np.zeros(cells, np.int64)
    if kind == b"full":
        require(count == cells, file.path, "cells")
        sizes[:] = file.take(cells, "<i8")
    else:
        require(kind == b"sprs" and 0 <= count <= 2 * cells, file.path, "cells")
        pairs = file.take(count, "<i8").reshape(-1, 2) if count % 2 == 0 else np.full((1, 2), -1)
        fits = within(pairs[:, 0], cells) and bool((np.diff(pairs[:, 0]) > 0).all())
        require(fits, file.path, "numbers of cells")
        sizes[pairs[:, 0]] = pairs[:, 1]
    fits = within(sizes, rows + 1) and int(sizes.sum()) == rows
    require(fits, file.path, "sizes of cells")
    return sizes


class _File:
    """Bytes of a file, read from front to back."""

    def __init__(self, content: NDArray[np.uint8], path: Path) -> None:
        """Begin at the front."""
        self.path = path
        self._content = np.asarray(content)
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes behind those that were read."""
        return len(self._content) - self._at

    def take(self, count: int, kind: Any) -> NDArray[Any]:
        """Return the next `count` numbers of a kind."""
        size = count * np.dtype(kind).itemsize
        require(size <= self.left, self.path, "the end is missing")
        self._at += size
        return self._content[self._at - size : self._at].view(kind)

    def expect(self, wanted: bytes) -> None:
        """Read bytes, and compare them."""
        read = self.take(len(wanted), np.uint8).tobytes()
        require(read == wanted, self.path, f"the {len(wanted)} bytes before {self._at}")

"""File ``bounds`` of a log directory: the acknowledged end, for other processes.

::

    offset of the last segment 8 | acknowledged end 8 | CRC-32 of both 4
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

_BOUNDS = struct.Struct("<QQ")


class Bounds(NamedTuple):
    """Acknowledged bounds of a log.

    Attributes:
        last: offset of the first record of the last segment.
        end: offset behind the last acknowledged record.
    """

    last: int
    end: int


class BoundsFile:
    """The open file ``bounds`` of one log directory."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open the file in directory `path`; a writer creates it."""
        self._file: int | None = None
        if writable:
            self._file = os.open(path / "bounds", os.O_RDWR | os.O_CREAT, 0o644)
        else:
            with contextlib.suppress(FileNotFoundError):
                self._file = os.open(path / "bounds", os.O_RDONLY)

    def read(self) -> Bounds | None:
        """Read the bounds; None if the file does not exist or is not intact."""
        if self._file is None:
            return None
        data = os.pread(self._file, _BOUNDS.size + 4, 0)
        fields, checksum = data[: _BOUNDS.size], data[_BOUNDS.size :]
        if len(fields) < _BOUNDS.size or checksum != _checksum(fields):
            return None
        return Bounds(*_BOUNDS.unpack(fields))

    def write(self, last: int, end: int) -> None:
        """Publish new bounds. After a refused write, readers see them with the next one."""
        assert self._file is not None
        fields = _BOUNDS.pack(last, end)
        with contextlib.suppress(OSError):
            os.pwrite(self._file, fields + _checksum(fields), 0)

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")

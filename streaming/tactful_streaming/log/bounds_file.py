"""The file with the acknowledged end of a log."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

_BOUNDS = struct.Struct("<QQ")
_TIME = struct.Struct("<q")
_TIME_AT = _BOUNDS.size + 4


class Bounds(NamedTuple):
    """Acknowledged bounds of a log."""

    last: int  # offset of the first record of the last segment
    end: int  # offset behind the last acknowledged record
    received: int | None  # time of its receipt, epoch milliseconds; None in an earlier version


class BoundsFile:
    """File ``bounds`` of a log directory: the acknowledged end, for other processes.

    ::

        offset of the last segment 8 | acknowledged end 8 | CRC-32 of both 4
        time of receipt of the last record 8 | CRC-32 of all four 4
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open the file in directory `path`; the writer of the log creates it."""
        self._file: int | None = None
        with contextlib.suppress(FileNotFoundError):
            flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
            self._file = os.open(path / "bounds", flags, 0o644)

    @property
    def damaged(self) -> bool:
        """Whether the file holds something else; zeros are what a power cut leaves of it."""
        return self._file is not None and self.read() is None and any(os.pread(self._file, 64, 0))

    def read(self) -> Bounds | None:
        """Read the bounds; None if the file does not exist or is not intact."""
        if self._file is None:
            return None
        data = os.pread(self._file, 2 * _BOUNDS.size, 0)
        fields, checksum = data[: _BOUNDS.size], data[_BOUNDS.size : _TIME_AT]
        if len(fields) < _BOUNDS.size or checksum != _checksum(fields):
            return None
        time = data[_TIME_AT : _TIME_AT + _TIME.size]
        known = len(data) == 2 * _BOUNDS.size and data[-4:] == _checksum(data[:-4])
        last, end = _BOUNDS.unpack(fields)
        return Bounds(last, end, _TIME.unpack(time)[0] if known else None)

    def write(self, bounds: Bounds) -> None:
        """Publish new bounds. After a refused write, readers see them with the next one."""
        assert self._file is not None
        fields = _BOUNDS.pack(bounds.last, bounds.end)
        data = fields + _checksum(fields) + _TIME.pack(bounds.received or 0)
        with contextlib.suppress(OSError):
            os.pwrite(self._file, data + _checksum(data), 0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")

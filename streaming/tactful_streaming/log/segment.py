"""One file of the embedded log: its record format and a sparse index.

A record is a 20-byte header and a payload::

    marker 2 | flags 2 | payload length 4 | received ms 8 | CRC-32 of the rest 4 | payload

The first record of an append has a flag, which distinguishes damage from a torn tail.
"""

from __future__ import annotations

import bisect
import os
import struct
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tactful_streaming.contract.log_entries import Tick, encode_entry
from tactful_streaming.errors import LogCorruptedError, LogError, LogWriteError

MAX_PAYLOAD = 16 * 1024 * 1024
"""Largest record, bytes."""

UNFINISHED = ".redacting"
"""Suffix of a file that will replace a segment."""

BLANK = encode_entry(Tick(timestamp=0))
"""Replacement of a removed or lost record: a tick that moves no clock."""

_HEADER = struct.Struct("<2sHIqI")
HEADER_BYTES = _HEADER.size
"""Size of the header of a record."""

_FIELDS = struct.Struct("<2sHIq")
_CHECKSUM = struct.Struct("<I")
_LENGTH = struct.Struct("<2s2xI")
_MARKER = b"\xf1T"
_FIRST_OF_APPEND = 1
_CHUNK = 1024 * 1024
_INDEX_EVERY = 128


def encode_records(payloads: Sequence[bytes], received: int) -> tuple[bytes, list[int]]:
    """Encode one append; returns its bytes and the position of each record in them.

    Raises:
        LogError: if a payload is over 16 MiB.
    """
    parts: list[bytes] = []
    positions: list[int] = []
    position = 0
    flags = _FIRST_OF_APPEND
    for payload in payloads:
        if len(payload) > MAX_PAYLOAD:
            raise LogError(f"a record of {len(payload)} bytes; at most {MAX_PAYLOAD} fit")
        fields = _FIELDS.pack(_MARKER, flags, len(payload), received)
        checksum = zlib.crc32(payload, zlib.crc32(fields))
        parts += (fields, _CHECKSUM.pack(checksum), payload)
        positions.append(position)
        position += _HEADER.size + len(payload)
        flags = 0
    return b"".join(parts), positions


def record_bounds(data: bytes) -> list[int]:
    """Find the begin of each record in a segment, and the end of the last one.

    This reads the lengths alone, which is fast; `intact_payload` checks a record.
    """
    unpack, size, end = _LENGTH.unpack_from, _HEADER.size, len(data)
    bounds, at = [0], 0
    while at + size <= end:
        marker, length = unpack(data, at)
        at += size + length
        if marker != _MARKER or at > end:
            break
        bounds.append(at)
    return bounds


def intact_payload(data: bytes, at: int) -> bytes | None:
    """Return the payload of the record at `at`; None if it is damaged."""
    record = _parse(data, at)
    return None if record is None else data[at + _HEADER.size : record.end]


def rewrite_record(record: bytes, payload: bytes) -> bytes:
    """Replace the payload of an encoded record; flags and time of receipt stay."""
    _, flags, _, received, _ = _HEADER.unpack_from(record)
    fields = _FIELDS.pack(_MARKER, flags, len(payload), received)
    return fields + _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(fields))) + payload


class _Mark(NamedTuple):
    offset: int
    position: int


class UnknownTailError(LogWriteError):
    """A failed write may have left a part of its data, which opening the log again finds."""


class Segment:
    """One file of the log; the descriptor is closed with the last reference to the object.

    The sparse index holds the position of every 128th record::

        _marks  [(4096, 0), (4224, 18_176), …]   offset, position in the file

    Each method that reads raises LogCorruptedError for a damaged or missing record.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open `path`, named after its first offset."""
        try:
            self.base = int(path.stem)
        except ValueError:
            raise LogError(f"{path}: a segment is named after its first offset") from None
        self.path = path
        self.file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        # A reader may still use a file that retention removed.
        self.close = weakref.finalize(self, os.close, self.file)
        self.size = os.fstat(self.file).st_size
        self.index_built = False
        self._marks: list[_Mark] = []

    def begin_index(self) -> None:
        """Start the index of an empty segment."""
        self._marks = [_Mark(self.base, 0)]
        self.index_built = True

    def write(self, data: bytes, *, force: bool) -> None:
        """Write `data` behind the last record; the caller then indexes it and adds to `size`.

        Raises:
            LogWriteError: if the disk refuses; the file is as before.
            UnknownTailError: if it is not known to be.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[os.pwrite(self.file, view, self.size + len(data) - len(view)) :]
        except OSError as error:
            try:
                os.ftruncate(self.file, self.size)
            except OSError:
                raise UnknownTailError(
                    error.errno, f"{self.path}: a failed append could not be undone: {error}"
                ) from error
            raise LogWriteError(error.errno, f"{self.path}: append refused: {error}") from error
        if force:
            try:
                os.fdatasync(self.file)
            except OSError as error:
                # The kernel may have dropped the pages.
                raise UnknownTailError(
                    error.errno, f"{self.path}: fdatasync failed: {error}"
                ) from error

    def probe(self, size: int) -> None:
        """Raise LogWriteError if the disk refuses `size` more bytes; the file stays as it is."""
        self.write(bytes(size), force=False)
        try:
            os.ftruncate(self.file, self.size)
        except OSError as error:
            raise UnknownTailError(
                error.errno, f"{self.path}: a probe could not be undone: {error}"
            ) from error

    def note(self, first: int, positions: Sequence[int]) -> None:
        """Add every 128th of the new records to the index."""
        due = self._marks[-1].offset + _INDEX_EVERY
        for number in range(max(due - first, 0), len(positions), _INDEX_EVERY):
            self._marks.append(_Mark(first + number, positions[number]))

    def build_index(self) -> tuple[int, int, str | None]:
        """Read the whole file.

        Returns:
            Offset and position behind the last intact record, and the damage there or None.
        """
        marks: list[_Mark] = []
        offset, position, damage = self.base, 0, None
        for offset, position, damage in self._walk():
            if damage is None and (offset - self.base) % _INDEX_EVERY == 0:
                marks.append(_Mark(offset, position))
        self._marks = marks or [_Mark(self.base, 0)]
        self.index_built = True
        return offset, position, damage

    def seek(self, offset: int) -> int:
        """Find the position of record `offset` from the nearest indexed record before it."""
        mark = self._marks[bisect.bisect_right(self._marks, offset, key=lambda m: m.offset) - 1]
        position = mark.position
        for number in range(mark.offset, offset):
            position += _HEADER.size + self._header(number, position).length
            if number + 1 == self._marks[-1].offset + _INDEX_EVERY:
                self._marks.append(_Mark(number + 1, position))
        return position

    def received(self, offset: int) -> int:
        """Return the time of receipt of record `offset`, epoch milliseconds."""
        return self._header(offset, self.seek(offset)).received

    def first_received(self) -> int:
        """Return the time of receipt of the first record, epoch milliseconds."""
        return self._header(self.base, 0).received

    def header(self, offset: int) -> bytes:
        """Return the encoded header of record `offset`."""
        return os.pread(self.file, HEADER_BYTES, self.seek(offset))

    def cut(self, offset: int) -> None:
        """Remove record `offset` and later ones, durably."""
        self.size = self.seek(offset)
        os.ftruncate(self.file, self.size)
        os.fsync(self.file)
        self.build_index()

    def read(self, position: int, offset: int, until: int, into: list[tuple[int, bytes]]) -> int:
        """Append records `offset` to `until` to `into`; return the position after them."""
        header_size, unpack, crc32 = _HEADER.size, _HEADER.unpack_from, zlib.crc32
        data, at = b"", 0
        while offset < until:
            if len(data) - at < header_size:
                position += at
                data, at = os.pread(self.file, _CHUNK, position), 0
                if len(data) < header_size:
                    raise self._corrupted(offset, position, "the file ends early")
            marker, _, length, _, checksum = unpack(data, at)
            start = at + header_size
            if marker != _MARKER or length > MAX_PAYLOAD:
                raise self._corrupted(offset, position + at, "no record begins here")
            if start + length > len(data):
                position += at
                data, at = os.pread(self.file, max(_CHUNK, header_size + length), position), 0
                start = header_size
                if start + length > len(data):
                    raise self._corrupted(offset, position, "the file ends early")
            payload = data[start : start + length]
            if crc32(payload, crc32(data[at : start - 4])) != checksum:
                raise self._corrupted(offset, position + at, "its checksum is wrong")
            into.append((offset, payload))
            offset += 1
            at = start + length
        return position + at

    def copy(self, path: Path, size: int | None, copied: Callable[[int], None]) -> None:
        """Copy the first `size` bytes, or all, to the new file `path`, forced to disk."""
        wanted = os.fstat(self.file).st_size if size is None else size
        position = 0
        with path.open("xb") as file:
            while position < wanted:
                data = os.pread(self.file, min(_CHUNK, wanted - position), position)
                if not data:
                    raise LogCorruptedError(
                        f"{self.path}: the file ends at byte {position}, before its last record. "
                        "Restore it from a backup"
                    )
                file.write(data)
                position += len(data)
                copied(len(data))
            file.flush()
            os.fsync(file.fileno())

    def find_acknowledged_after(self, position: int) -> int | None:
        """Find an intact first record of an append behind `position`."""
        data = os.pread(self.file, self.size - position, position)
        at = data.find(_MARKER, 1)
        while at >= 0:
            record = _parse(data, at)
            if record is not None and record.flags & _FIRST_OF_APPEND:
                return position + at
            at = data.find(_MARKER, at + 1)
        return None

    def _header(self, offset: int, position: int) -> _Header:
        data = os.pread(self.file, _HEADER.size, position)
        if len(data) < _HEADER.size or data[:2] != _MARKER:
            raise self._corrupted(offset, position, "no record begins here")
        _, _, length, received, _ = _HEADER.unpack(data)
        return _Header(length, received)

    def _walk(self) -> Iterator[tuple[int, int, str | None]]:
        """Yield offset and position of each record and of the end, with the damage there."""
        offset, position = self.base, 0
        data, at = b"", 0
        while True:
            start = position + at
            if start == self.size:
                yield offset, start, None
                return
            record = _parse(data, at)
            if record is None:
                position += at
                data, at = os.pread(self.file, _CHUNK, position), 0
                record = _parse(data, 0)
            if record is None and len(data) >= _HEADER.size:
                length = min(_HEADER.unpack_from(data)[2], MAX_PAYLOAD)
                data = os.pread(self.file, _HEADER.size + length, position)
                record = _parse(data, 0)
            if record is None:
                whole = len(data) >= _HEADER.size and data[:2] == _MARKER
                yield offset, position, "checksum or length is wrong" if whole else "no header"
                return
            yield offset, start, None
            offset += 1
            at = record.end

    def _corrupted(self, offset: int, position: int, damage: str) -> LogCorruptedError:
        return LogCorruptedError(
            f"{self.path}: record {offset} at byte {position} is damaged: {damage}. "
            "Nothing was changed; restore the segment from a backup"
        )


class _Header(NamedTuple):
    length: int
    received: int


class _Parsed(NamedTuple):
    flags: int
    end: int


def _parse(data: bytes, at: int) -> _Parsed | None:
    """Parse the record at `at`; None if no intact record begins there."""
    start = at + _HEADER.size
    if start > len(data):
        return None
    marker, flags, length, _, checksum = _HEADER.unpack_from(data, at)
    end = start + length
    if marker != _MARKER or length > MAX_PAYLOAD or end > len(data):
        return None
    if zlib.crc32(data[start:end], zlib.crc32(data[at : start - 4])) != checksum:
        return None
    return _Parsed(flags, end)

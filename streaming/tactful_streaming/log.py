"""The durable event log: segmented append-only files with dense integer offsets.

A segment is a file named after its first offset. A record is a 20-byte header and a payload::

    marker 2 | flags 2 | payload length 4 | received ms 8 | CRC-32 of the rest 4 | payload

The first record of an append carries a flag. In ``power`` durability an append begins only when the
one before is on disk, so damage followed by the first record of a later append has hit acknowledged
records: that is corruption and never truncated. Damage with nothing, or only more of the same
append, behind it is the torn tail of a crash and is cut off.
"""

from __future__ import annotations

import bisect
import fcntl
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from tactful_streaming.errors import (
    LogCorruptedError,
    LogError,
    LogLockedError,
    LogWriteError,
    OffsetError,
)

_logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<2sHIqI")
_FIELDS = struct.Struct("<2sHIq")
_CHECKSUM = struct.Struct("<I")
_MARKER = b"\xf1T"
_FIRST_OF_APPEND = 1
_CHUNK = 1024 * 1024
_INDEX_EVERY = 128
_MAX_CURSORS = 64

MAX_PAYLOAD = 16 * 1024 * 1024
"""Largest record, bytes."""

Durability = Literal["power", "process"]


class EventLog(Protocol):
    """An append-only sequence of payloads with integer offsets."""

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""

    @property
    def end(self) -> int:
        """Offset the next record will get."""

    def append(self, payloads: Sequence[bytes]) -> int:
        """Append; durable on return. Returns the offset after the last payload."""

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from `offset` on; empty at the end of the log."""

    def close(self) -> None:
        """Release files and locks."""


class EmbeddedLog:
    """An :class:`EventLog` in a directory: one writer, any number of reading threads.

    Durability ``power``: an append returns when the data is on disk (fdatasync). ``process``: when
    the kernel has it, so that it outlives the process but not the machine.
    """

    def __init__(
        self,
        path: Path,
        *,
        segment_bytes: int = 64 * 1024 * 1024,
        durability: Durability = "power",
        read_only: bool = False,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Open the log in directory `path`, which is made if need be; cut off a torn tail.

        Args:
            path: directory of the segments.
            segment_bytes: size beyond which the next append starts a new segment.
            durability: what an append outlives.
            read_only: read beside the process that writes, as far as the log reached on opening;
                takes no lock and changes nothing.
            clock: time of receipt, epoch milliseconds.

        Raises:
            LogLockedError: if another process has it open for writing.
            LogCorruptedError: if acknowledged records are damaged.
        """
        self._path = path
        self._segment_bytes = segment_bytes
        self._durability = durability
        self._read_only = read_only
        self._clock = clock
        self._append_lock = threading.Lock()
        self._index_lock = threading.Lock()
        self._failed: str | None = None
        self._closed = False
        self._lock_file: int | None = None
        self._cursors: dict[int, tuple[_Segment, int]] = {}
        self._segments: list[_Segment] = []
        self._end = 0
        if not read_only:
            path.mkdir(parents=True, exist_ok=True)
            self._lock_file = _lock(path / "lock")
        try:
            for file in sorted(path.glob("*.log")):
                self._segments.append(_Segment(file, writable=not read_only))
            if self._segments:
                self._open_last()
            elif read_only:
                raise LogError(f"{path}: there is no event log here")
            else:
                self._add_segment(0)
        except BaseException:
            self._release()
            raise

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""
        return self._segments[0].base

    @property
    def end(self) -> int:
        """Offset the next record will get."""
        return self._end

    def append(self, payloads: Sequence[bytes]) -> int:
        """Append `payloads` in one write; durable on return.

        Returns:
            The offset after the last payload.

        Raises:
            LogWriteError: if the disk refused, or had refused before: nothing is acknowledged.
            LogError: if the log is closed or read-only, or a payload is over 16 MiB.
        """
        with self._append_lock:
            if self._closed or self._read_only:
                raise LogError(f"{self._path}: the log is not open for writing")
            if self._failed is not None:
                raise LogWriteError(f"{self._failed}; open the log again once the disk is well")
            if not payloads:
                return self._end
            data, positions = self._encode(payloads)
            if self._segments[-1].size and (
                self._segments[-1].size + len(data) > self._segment_bytes
            ):
                self._add_segment(self._end)
            segment = self._segments[-1]
            self._write(segment, data)
            first = self._end
            segment.note(first, [segment.size + position for position in positions])
            segment.size += len(data)
            self._end = first + len(payloads)
            return self._end

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from `offset` on; empty at the end of the log.

        Raises:
            OffsetError: if `offset` lies outside ``[begin, end]``.
            LogCorruptedError: if a record is damaged.
        """
        end = self._end
        if not self.begin <= offset <= end:
            raise OffsetError(f"offset {offset} is outside the log [{self.begin}, {end}]")
        records: list[tuple[int, bytes]] = []
        stop = min(end, offset + max(limit, 0))
        while offset < stop:
            number = bisect.bisect_right(self._segments, offset, key=lambda s: s.base) - 1
            segment = self._segments[number]
            last = number + 1 == len(self._segments)
            segment_end = end if last else self._segments[number + 1].base
            until = min(stop, segment_end)
            cursor = self._cursors.pop(offset, None)
            if cursor is not None and cursor[0] is segment:
                position = cursor[1]
            elif offset == segment.base:
                position = 0
            else:
                position = self._seek(segment, offset, segment_end)
            position = segment.read(position, offset, until, records)
            if len(self._cursors) >= _MAX_CURSORS:
                self._cursors.clear()
            self._cursors[until] = (segment, position)
            offset = until
        return records

    def close(self) -> None:
        """Release files and the lock. Closing twice is harmless."""
        with self._append_lock:
            if not self._closed:
                self._closed = True
                self._release()

    def __enter__(self) -> EmbeddedLog:
        """Use the log as a context manager that closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _encode(self, payloads: Sequence[bytes]) -> tuple[bytes, list[int]]:
        received = self._clock()
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

    def _write(self, segment: _Segment, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(segment.file, view, segment.size + len(data) - len(view))
                view = view[written:]
        except OSError as error:
            try:
                os.ftruncate(segment.file, segment.size)
            except OSError:
                self._failed = f"{segment.path}: a failed append could not be undone"
            raise LogWriteError(error.errno, f"{segment.path}: append refused: {error}") from error
        if self._durability == "power":
            try:
                os.fdatasync(segment.file)
            except OSError as error:
                # The kernel may have dropped the pages: what is on disk is unknown until reopened.
                self._failed = f"{segment.path}: fdatasync failed: {error}"
                raise LogWriteError(error.errno, self._failed) from error

    def _add_segment(self, base: int) -> None:
        path = self._path / f"{base:020d}.log"
        try:
            path.touch()
            directory = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            segment = _Segment(path, writable=True)
        except OSError as error:
            raise LogWriteError(error.errno, f"{path}: new segment refused: {error}") from error
        segment.index_built = True
        segment.note(base, [0])
        self._segments.append(segment)
        self._end = base

    def _open_last(self) -> None:
        last = self._segments[-1]
        self._end, position, damage = last.build_index()
        if damage is None:
            return
        flaw = f"{last.path}: record {self._end} at byte {position} is damaged ({damage})"
        later = last.find_acknowledged_after(position)
        if later is not None:
            raise LogCorruptedError(
                f"{flaw}, and intact records follow at byte {later}: this is no torn tail. "
                "Nothing was changed; restore the segment from a backup"
            )
        if not self._read_only:
            _logger.warning("%s: cutting off a torn tail at byte %d", last.path, position)
            os.ftruncate(last.file, position)
            os.fsync(last.file)
        last.size = position

    def _seek(self, segment: _Segment, offset: int, segment_end: int) -> int:
        if not segment.index_built:
            with self._index_lock:
                if not segment.index_built:
                    end, position, damage = segment.build_index()
                    if damage is not None or end != segment_end:
                        raise LogCorruptedError(
                            f"{segment.path}: record {end} at byte {position} is damaged "
                            f"({damage or 'the next segment begins elsewhere'}). "
                            "Nothing was changed; restore the segment from a backup"
                        )
        return segment.seek(offset)

    def _release(self) -> None:
        for segment in self._segments:
            segment.close()
        if self._lock_file is not None:
            os.close(self._lock_file)


class _Mark(NamedTuple):
    offset: int
    position: int


class _Segment:
    """One file of the log, and a sparse index of it."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        try:
            self.base = int(path.stem)
        except ValueError:
            raise LogError(f"{path}: a segment is named after its first offset") from None
        self.path = path
        self.file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        self.size = os.fstat(self.file).st_size
        self.index_built = False
        self._marks: list[_Mark] = []

    def close(self) -> None:
        os.close(self.file)

    def note(self, first: int, positions: Sequence[int]) -> None:
        """Index new records, every so many."""
        due = self._marks[-1].offset + _INDEX_EVERY if self._marks else first
        for number in range(max(due - first, 0), len(positions), _INDEX_EVERY):
            self._marks.append(_Mark(first + number, positions[number]))

    def build_index(self) -> tuple[int, int, str | None]:
        """Walk the whole file.

        Returns:
            Offset and position behind the last intact record, and what is wrong there, if anything.
        """
        marks: list[_Mark] = []
        offset, position, damage = self.base, 0, None
        for offset, position, damage in self._walk():
            if damage is None and (offset - self.base) % _INDEX_EVERY == 0:
                marks.append(_Mark(offset, position))
        self._marks = marks
        self.index_built = True
        return offset, position, damage

    def seek(self, offset: int) -> int:
        """Position of record `offset`, found from the nearest indexed one before."""
        mark = self._marks[bisect.bisect_right(self._marks, offset, key=lambda m: m.offset) - 1]
        position = mark.position
        for number in range(mark.offset, offset):
            header = os.pread(self.file, _HEADER.size, position)
            if len(header) < _HEADER.size or header[:2] != _MARKER:
                raise self._corrupted(number, position, "no record begins here")
            position += _HEADER.size + _HEADER.unpack(header)[2]
        return position

    def read(self, position: int, offset: int, until: int, into: list[tuple[int, bytes]]) -> int:
        """Append records `offset` to `until` to `into`; returns the position after them."""
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

    def find_acknowledged_after(self, position: int) -> int | None:
        """Position of an intact first record of an append behind `position`."""
        data = os.pread(self.file, self.size - position, position)
        at = data.find(_MARKER, 1)
        while at >= 0:
            record = _parse(data, at)
            if record is not None and record.flags & _FIRST_OF_APPEND:
                return position + at
            at = data.find(_MARKER, at + 1)
        return None

    def _walk(self) -> Iterator[tuple[int, int, str | None]]:
        """Offset and position of each record and of the end, with what is damaged there."""
        offset, position = self.base, 0
        data, at = b"", 0
        while True:
            yield_position = position + at
            if yield_position == self.size:
                yield offset, yield_position, None
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
            yield offset, yield_position, None
            offset += 1
            at = record.end

    def _corrupted(self, offset: int, position: int, what: str) -> LogCorruptedError:
        return LogCorruptedError(
            f"{self.path}: record {offset} at byte {position} is damaged: {what}. "
            "Nothing was changed; restore the segment from a backup"
        )


class _Parsed(NamedTuple):
    flags: int
    end: int


def _parse(data: bytes, at: int) -> _Parsed | None:
    """The intact record at `at`, if one lies there."""
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


def _lock(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise LogLockedError(f"{path.parent}: another process writes to this log") from None
    return file

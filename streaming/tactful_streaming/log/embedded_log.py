"""The durable event log: segmented append-only files with dense integer offsets.

In ``power`` durability an append begins only when the one before is on disk, so damage followed by
the first record of a later append has hit acknowledged records: that is corruption and never
truncated. Damage with nothing, or only more of the same append, behind it is the torn tail of a
crash and is cut off.

Beside the segments lies a file ``bounds``: how far the log is acknowledged. Other processes follow
the log up to there, and so never see a record that a failing disk makes the writer take back.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import itertools
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from tactful_privacy.durable_files import sync
from tactful_streaming.errors import (
    LogCorruptedError,
    LogError,
    LogLockedError,
    LogWriteError,
    OffsetError,
)
from tactful_streaming.log.segment import (
    MAX_PAYLOAD,
    UNFINISHED,
    Segment,
    encode_records,
)

__all__ = [
    "MAX_PAYLOAD",
    "Durability",
    "EmbeddedLog",
    "EndedSegment",
    "EventLog",
    "PartitionedLog",
    "Positions",
]

_logger = logging.getLogger(__name__)

_BOUNDS = struct.Struct("<QQ")
_MAX_CURSORS = 64
_SHARE = 16

Durability = Literal["power", "process"]


class EventLog(Protocol):
    """An append-only sequence of payloads with integer offsets; one partition of a larger log."""

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

    def offset_at(self, timestamp: int) -> int:
        """Offset of the first record received at or after `timestamp`, epoch milliseconds."""

    def close(self) -> None:
        """Release files and locks."""


Positions = Mapping[int, int]
"""By partition, the offset behind the last record of an append there."""


class PartitionedLog(Protocol):
    """A log in partitions, to which records go by key; an :class:`EventLog` lies in each."""

    @property
    def partitions(self) -> int:
        """How many partitions there are."""

    def partition_of(self, key: str) -> int:
        """The partition that holds all records of `key`."""

    def submit(self, payloads: Sequence[bytes], keys: Sequence[str | None]) -> Future[Positions]:
        """Begin to append; done when durable. A record without a key goes to every partition."""

    def close(self) -> None:
        """Finish what was submitted and release what is held."""


class EndedSegment(NamedTuple):
    """A file of a log that nothing is appended to any more.

    Attributes:
        path: of the file.
        begin: offset of its first record.
        end: offset behind its last one.
    """

    path: Path
    begin: int
    end: int


class EmbeddedLog:
    """An :class:`EventLog` in a directory: one writer, any number of reading threads.

    Durability ``power``: an append returns when the data is on disk (fdatasync). ``process``: when
    the kernel has it, so that it outlives the process but not the machine.

    Other processes open it ``read_only`` and follow it: their `end` and `read` look for what the
    writer has acknowledged meanwhile.

    Attributes:
        rewriting: held from the reading of an ended segment until :meth:`adopt` has put what was
            made of it in its place. Two that write one anew at once would undo each other's work.
    """

    def __init__(
        self,
        path: Path,
        *,
        segment_bytes: int = 64 * 1024 * 1024,
        durability: Durability = "power",
        read_only: bool = False,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Open the log in directory `path`, which is made if need be; cut off a torn tail.

        Args:
            path: directory of the segments.
            segment_bytes: size beyond which the next append starts a new segment.
            durability: what an append outlives.
            read_only: read beside the process that writes; takes no lock and changes nothing.
            retention_ms: age since receipt at which :meth:`trim` may drop a record; None: never.
            retention_bytes: size of the log beyond which :meth:`trim` may drop its oldest part;
                None: whatever its size.
            clock: time of receipt, epoch milliseconds; one that steps back is not followed.

        Raises:
            LogLockedError: if another process has it open for writing.
            LogCorruptedError: if acknowledged records are damaged.
        """
        self._path = path
        self._segment_bytes = segment_bytes
        self._durability = durability
        self._read_only = read_only
        self._retention_ms = retention_ms
        self._retention_bytes = retention_bytes
        self._clock = clock
        self.rewriting = threading.Lock()
        self._append_lock = threading.Lock()
        self._index_lock = threading.Lock()
        self._failed: str | None = None
        self._closed = False
        self._lock_file: int | None = None
        self._bounds_file: int | None = None
        self._cursors: dict[int, tuple[Segment, int]] = {}
        self._segments: list[Segment] = []
        self._end = 0
        self._received = 0
        if not read_only:
            path.mkdir(parents=True, exist_ok=True)
            self._lock_file = lock_directory(path)
        try:
            if not read_only:
                for leftover in path.glob(f"*{UNFINISHED}"):
                    leftover.unlink()
            self._open_segments()
            if self._segments:
                self._open_last()
            elif read_only:
                raise LogError(f"{path}: there is no event log here")
            else:
                self._add_segment(0)
            self._open_bounds()
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
        if self._read_only:
            self._follow()
        return self._end

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self._segments)

    def append(self, payloads: Sequence[bytes]) -> int:
        """Append `payloads` in one write; durable on return.

        Returns:
            The offset after the last payload.

        Raises:
            LogWriteError: if the disk refused, or had refused before: nothing is acknowledged.
            LogError: if the log is closed or read-only, or a payload is over 16 MiB.
        """
        with self._append_lock:
            self._check_writable()
            if self._failed is not None:
                raise LogWriteError(f"{self._failed}; open the log again once the disk is well")
            if not payloads:
                return self._end
            received = max(self._clock(), self._received)
            data, positions = encode_records(payloads, received)
            if self._segments[-1].size and (
                self._segments[-1].size + len(data) > self._segment_bytes
            ):
                self._add_segment(self._end)
            segment = self._segments[-1]
            self._write(segment, data)
            first = self._end
            segment.note(first, [segment.size + position for position in positions])
            segment.size += len(data)
            self._received = received
            self._end = first + len(payloads)
            self._write_bounds()
            return self._end

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from `offset` on; empty at the end of the log.

        Raises:
            OffsetError: if `offset` lies outside ``[begin, end]``.
            LogCorruptedError: if a record is damaged.
        """
        if self._read_only and offset >= self._end:
            self._follow()
        end = self._end
        segments = self._segments
        if not segments[0].base <= offset <= end:
            raise OffsetError(
                f"offset {offset} is outside the log [{segments[0].base}, {end}] in {self._path}: "
                "what lay before was trimmed by retention, what lies behind was never acknowledged"
            )
        records: list[tuple[int, bytes]] = []
        stop = min(end, offset + max(limit, 0))
        while offset < stop:
            number = bisect.bisect_right(segments, offset, key=lambda s: s.base) - 1
            segment = segments[number]
            last = number + 1 == len(segments)
            segment_end = end if last else segments[number + 1].base
            until = min(stop, segment_end)
            cursor = self._cursors.pop(offset, None)
            if cursor is not None and cursor[0] is segment:
                position = cursor[1]
            elif offset == segment.base:
                position = 0
            else:
                with self._index_lock:
                    self._build_index(segment, segment_end)
                    position = segment.seek(offset)
            position = segment.read(position, offset, until, records)
            if len(self._cursors) >= _MAX_CURSORS:
                self._cursors.clear()
            self._cursors[until] = (segment, position)
            offset = until
        return records

    def offset_at(self, timestamp: int) -> int:
        """Offset of the first record received at or after `timestamp`; the end if there is none.

        Args:
            timestamp: epoch milliseconds, compared with the time of receipt, not of the event.

        Raises:
            LogCorruptedError: if a record is damaged.
        """
        end = self.end
        segments = self._segments
        filled = [segment for segment in segments if segment.base < end]
        after = bisect.bisect_left(filled, timestamp, key=Segment.first_received)
        following = filled[after].base if after < len(filled) else end
        if after == 0:
            return following
        # The first one at or after lies in the last segment that begins before, or begins the next.
        segment = filled[after - 1]
        with self._index_lock:
            self._build_index(segment, following)
            offsets = range(segment.base, following)
            return segment.base + bisect.bisect_left(offsets, timestamp, key=segment.received)

    def trim(self, retain_from: int) -> int:
        """Drop segments that retention gives up; without retention settings, none.

        Only whole segments go, oldest first, and never the one that is written to; that is ended
        when its first record has a sixteenth of the age at which records go, so none stays for
        longer than a sixteenth beyond it. Readers in the midst of a dropped segment finish
        undisturbed.

        Args:
            retain_from: lowest offset that is still needed: what an engine has not committed, and
                what a replay has yet to read.

        Returns:
            Offset of the oldest record left.

        Raises:
            LogError: if the log is closed or read-only.
        """
        with self._append_lock:
            self._check_writable()
            if self._retention_ms is not None:
                self._end_if_older(self._clock() - self._retention_ms // _SHARE)
            segments = self._segments
            count = 0
            size = sum(segment.size for segment in segments)
            while count + 1 < len(segments) and segments[count + 1].base <= retain_from:
                if not (
                    self._is_expired(segments[count], segments[count + 1]) or self._is_excess(size)
                ):
                    break
                size -= segments[count].size
                count += 1
            if count:
                self._segments = segments[count:]
                self._cursors.clear()
                self._write_bounds()
                for segment in segments[:count]:
                    segment.path.unlink()
                sync(self._path)
            return self.begin

    def ended(self, *, older_than: int | None = None) -> list[EndedSegment]:
        """The segments that are not written to, oldest first.

        Args:
            older_than: end the segment that is written to if its first record was received by
                then, epoch milliseconds.

        Raises:
            LogError: if the log is closed, read-only, or the disk refused.
        """
        with self._append_lock:
            self._check_writable()
            if older_than is not None:
                self._end_if_older(older_than)
            return [
                EndedSegment(segment.path, segment.base, following.base)
                for segment, following in itertools.pairwise(self._segments)
            ]

    def received_by(self, segment: EndedSegment, time: int) -> bool:
        """Whether all records of a segment were received by a time, epoch milliseconds.

        Raises:
            LogCorruptedError: if a record is damaged.
        """
        with self._append_lock:
            for number, one in enumerate(self._segments[:-1]):
                if one.path == segment.path:
                    return self._received_by(one, self._segments[number + 1], time)
        return False

    def seal(self) -> list[Path]:
        """End the segment that is written to, if anything is in it; later appends begin another.

        Returns:
            The files of all segments that are ended, oldest first.

        Raises:
            LogWriteError: if the disk refused.
            LogError: if the log is closed or read-only.
        """
        with self._append_lock:
            self._check_writable()
            if self._segments[-1].size:
                self._add_segment(self._end)
                self._write_bounds()
            return [segment.path for segment in self._segments[:-1]]

    def adopt(self, draft: Path) -> bool:
        """Put what `tactful_streaming.draft_segment` wrote in the place of its segment.

        Offsets stay. Readers in the midst of the old file finish undisturbed; those of other
        processes take up the new one when they follow the log into its next segment.

        Args:
            draft: beside the segment, which :meth:`seal` named; made with `rewriting` held.

        Returns:
            Whether the segment was still there; else the draft is removed.

        Raises:
            LogError: if the log is closed or read-only.
        """
        target = draft.with_suffix("").with_suffix("")
        with self._append_lock:
            self._check_writable()
            for number, segment in enumerate(self._segments[:-1]):
                if segment.path == target:
                    draft.replace(target)
                    sync(self._path)
                    fresh = Segment(target, writable=True)
                    self._segments = [
                        *self._segments[:number],
                        fresh,
                        *self._segments[number + 1 :],
                    ]
                    self._cursors.clear()
                    return True
            draft.unlink(missing_ok=True)
            return False

    def copy(
        self, path: Path, *, copied: Callable[[int], None] = lambda size: None
    ) -> tuple[int, int]:
        """Copy what is acknowledged now into the new directory `path`, while others go on writing.

        Segments that are open here are copied even if retention drops them meanwhile. The copy is
        forced to disk, and is whole when this returns.

        Args:
            path: for the copy.
            copied: told of every piece that was copied, in bytes.

        Returns:
            The copy's begin and end.

        Raises:
            LogCorruptedError: if a segment is shorter than its records.
        """
        end = self.end
        segments = self._segments
        path.mkdir(mode=0o700, parents=True)
        for number, segment in enumerate(segments):
            last = number + 1 == len(segments)
            size = None
            if last:
                with self._index_lock:
                    size = segment.seek(end)
            segment.copy(path / segment.path.name, size, copied)
        sync(path)
        return segments[0].base, end

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

    def _check_writable(self) -> None:
        if self._closed or self._read_only:
            raise LogError(f"{self._path}: the log is not open for writing")

    def _is_expired(self, segment: Segment, following: Segment) -> bool:
        if self._retention_ms is None:
            return False
        return self._received_by(segment, following, self._clock() - self._retention_ms)

    def _received_by(self, segment: Segment, following: Segment, time: int) -> bool:
        """Whether all records of a segment were received by a time; it is read only in doubt."""
        if following.base == self._end:
            return self._received <= time
        if following.first_received() <= time:
            return True
        if segment.first_received() > time:
            return False
        with self._index_lock:
            self._build_index(segment, following.base)
            return segment.received(following.base - 1) <= time

    def _end_if_older(self, time: int) -> None:
        """End the segment that is written to if its first record was received by then."""
        active = self._segments[-1]
        if active.size and active.first_received() <= time:
            self._add_segment(self._end)
            self._write_bounds()

    def _is_excess(self, size: int) -> bool:
        return self._retention_bytes is not None and size > self._retention_bytes

    def _write(self, segment: Segment, data: bytes) -> None:
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
            sync(self._path)
            segment = Segment(path, writable=True)
        except OSError as error:
            raise LogWriteError(error.errno, f"{path}: new segment refused: {error}") from error
        segment.begin_index()
        self._segments.append(segment)
        self._end = base

    def _open_segments(self) -> None:
        for file in sorted(self._path.glob("*.log")):
            try:
                self._segments.append(Segment(file, writable=not self._read_only))
            except FileNotFoundError:
                if self._segments:
                    raise
                # The oldest may be trimmed between being listed and being opened.

    def _open_last(self) -> None:
        last = self._segments[-1]
        self._end, position, damage = last.build_index()
        if damage is not None:
            self._cut_tail(last, position, damage)
        if self._end > last.base:
            self._received = last.received(self._end - 1)
        elif len(self._segments) > 1:
            before = self._segments[-2]
            with contextlib.suppress(LogCorruptedError):  # which a reader of it will be told of
                self._build_index(before, last.base)
                self._received = before.received(last.base - 1)

    def _cut_tail(self, last: Segment, position: int, damage: str) -> None:
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

    def _build_index(self, segment: Segment, segment_end: int) -> None:
        if segment.index_built:
            return
        end, position, damage = segment.build_index()
        if damage is not None or end != segment_end:
            segment.index_built = False
            raise LogCorruptedError(
                f"{segment.path}: record {end} at byte {position} is damaged "
                f"({damage or 'the next segment begins elsewhere'}). "
                "Nothing was changed; restore the segment from a backup"
            )

    def _open_bounds(self) -> None:
        path = self._path / "bounds"
        if self._read_only:
            with contextlib.suppress(FileNotFoundError):
                self._bounds_file = os.open(path, os.O_RDONLY)
            bounds = self._read_bounds()
            if bounds is not None:
                self._end = min(self._end, bounds[1])
            return
        self._bounds_file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        bounds = self._read_bounds()
        if bounds is not None and bounds[1] > self._end:
            _logger.error(
                "%s: acknowledged records are missing at the end: the log ends at %d and was "
                "acknowledged up to %d",
                self._path,
                self._end,
                bounds[1],
            )
        self._write_bounds()

    def _write_bounds(self) -> None:
        """Tell other processes how far the log is acknowledged, and in which segment it ends."""
        fields = _BOUNDS.pack(self._segments[-1].base, self._end)
        assert self._bounds_file is not None
        # Where this write is refused, others see the append together with the next one.
        with contextlib.suppress(OSError):
            os.pwrite(self._bounds_file, fields + _checksum(fields), 0)

    def _read_bounds(self) -> tuple[int, int] | None:
        """Base of the last segment and the acknowledged end, unless that cannot be read."""
        if self._bounds_file is None:
            return None
        data = os.pread(self._bounds_file, _BOUNDS.size + 4, 0)
        fields, checksum = data[: _BOUNDS.size], data[_BOUNDS.size :]
        if len(fields) < _BOUNDS.size or checksum != _checksum(fields):
            return None
        base, end = _BOUNDS.unpack(fields)
        return base, end

    def _follow(self) -> None:
        """Take up what the writing process has acknowledged since the last look."""
        bounds = self._read_bounds()
        if bounds is None or bounds[1] <= self._end:
            return
        with self._index_lock:
            if bounds[0] > self._segments[-1].base:
                self._follow_segments(bounds[0])
            self._end = max(self._end, bounds[1])

    def _follow_segments(self, last: int) -> None:
        """Open segments up to the one that begins at `last`, forget those that were trimmed."""
        segments = [s for segment in self._segments if (s := _as_it_is(segment)) is not None]
        newest = self._segments[-1].base
        for file in sorted(self._path.glob("*.log")):
            if file.stem.isdecimal() and newest < int(file.stem) <= last:
                with contextlib.suppress(FileNotFoundError):
                    segment = Segment(file, writable=False)
                    segment.begin_index()
                    segments.append(segment)
        self._segments = segments
        self._cursors.clear()

    def _release(self) -> None:
        for segment in self._segments:
            segment.close()
        for file in (self._bounds_file, self._lock_file):
            if file is not None:
                os.close(file)
        self._bounds_file = self._lock_file = None


def _as_it_is(segment: Segment) -> Segment | None:
    """A segment, opened again if it was written anew; None if it was trimmed."""
    try:
        if segment.path.stat().st_ino == os.fstat(segment.file).st_ino:
            return segment
        return Segment(segment.path, writable=False)
    except FileNotFoundError:
        return None


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def lock_directory(path: Path) -> int:
    """Take the lock of the writer of the log in a directory; closing the descriptor releases it.

    Raises:
        LogLockedError: if another process has it.
    """
    file = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise LogLockedError(f"{path}: another process writes to this log") from None
    return file

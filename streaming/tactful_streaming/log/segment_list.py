"""All segments of an embedded log: find and index records, add and remove files."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tactful_privacy.durable_files import sync
from tactful_streaming.errors import LogCorruptedError, LogWriteError
from tactful_streaming.log.segment import Segment
from tactful_streaming.log.segment_catalogue import (
    Loss,
    add_segment,
    refuse,
    replace_segment,
    segment_file,
)

_logger = logging.getLogger(__name__)

_MAX_CURSORS = 64


class EndedSegment(NamedTuple):
    """A segment to which nothing is appended any more."""

    path: Path
    begin: int  # offset of its first record
    end: int  # offset behind its last record


class SegmentList:
    """Segments in the order of their offsets; one writer, any number of reading threads.

    ::

        00000000000000000000.log   00000000000000004096.log   00000000000000009000.log
        offsets 0 to 4095          4096 to 8999               9000 to the end: active

    A reader continues with the list that it began with: the list is replaced, or grows at its end.
    Each method that reads raises LogCorruptedError for a damaged record.
    """

    def __init__(self, path: Path, bases: Sequence[int], *, writable: bool) -> None:
        """Open the segments in directory `path` at the offsets `bases`."""
        self._path = path
        self._writable = writable
        self._index_lock = threading.Lock()
        # By offset, the segment and position there: sequential reads continue without a search.
        self._cursors: dict[int, tuple[Segment, int]] = {}
        self._segments: list[Segment] = []
        try:
            for file in (segment_file(path, base) for base in bases):
                try:
                    self._segments.append(Segment(file, writable=writable))
                except FileNotFoundError:
                    if self._segments:
                        raise
                    # Another process may trim the oldest one after it was listed.
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Number of segments."""
        return len(self._segments)

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""
        return self._segments[0].base

    @property
    def active(self) -> Segment:
        """The last segment, to which the writer appends."""
        return self._segments[-1]

    @property
    def ended(self) -> list[EndedSegment]:
        """All segments but the last, oldest first."""
        return [
            EndedSegment(segment.path, segment.base, following.base)
            for segment, following in itertools.pairwise(self._segments)
        ]

    @property
    def sizes(self) -> list[int]:
        """Size of each segment, bytes."""
        return [segment.size for segment in self._segments]

    def add(self, base: int) -> None:
        """Create an empty segment that begins at offset `base`."""
        path = segment_file(self._path, base)
        try:
            path.touch()
            sync(self._path)
            add_segment(self._path, [*(segment.base for segment in self._segments), base])
            segment = Segment(path, writable=True)
        except OSError as error:
            raise LogWriteError(error.errno, f"{path}: new segment refused: {error}") from error
        segment.begin_index()
        self._segments.append(segment)

    def open_active(self, acknowledged: int) -> tuple[int, int]:
        """Index the last segment and cut off a torn tail.

        Returns:
            Offset behind the last record, and its time of receipt, epoch milliseconds (0: none).

        Raises:
            LogCorruptedError: if records before offset `acknowledged` are damaged or missing.
        """
        last = self.active
        end, position, damage = last.build_index()
        if end < acknowledged and (
            damage is None or last.find_acknowledged_after(position) is None
        ):
            refuse(self._path, [Loss(last.path, end, acknowledged, "was shortened or emptied")])
        if damage is not None:
            self._cut_tail(last, end, position, damage)
        received = 0
        if end > last.base:
            received = last.received(end - 1)
        elif len(self._segments) > 1:
            before = self._segments[-2]
            with contextlib.suppress(LogCorruptedError):  # its readers raise it
                self._build_index(before, last.base)
                received = before.received(last.base - 1)
        return end, received

    def read(self, offset: int, stop: int, end: int) -> list[tuple[int, bytes]]:
        """Read records `offset` to `stop` of a log that ends at `end`."""
        segments = self._segments
        records: list[tuple[int, bytes]] = []
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

    def offset_at(self, timestamp: int, end: int) -> int:
        """Find the first record received at or after `timestamp`; `end` if there is none."""
        segments = [segment for segment in self._segments if segment.base < end]
        after = bisect.bisect_left(segments, timestamp, key=Segment.first_received)
        following = segments[after].base if after < len(segments) else end
        if after == 0:
            return following
        # The record lies in the last segment that begins before `timestamp`, or begins the next.
        segment = segments[after - 1]
        with self._index_lock:
            self._build_index(segment, following)
            offsets = range(segment.base, following)
            return segment.base + bisect.bisect_left(offsets, timestamp, key=segment.received)

    def received_by(self, number: int, time: int) -> bool:
        """Whether ended segment `number` was received by `time`, epoch milliseconds."""
        segment, following = self._segments[number : number + 2]
        # These two checks usually save the index of the segment.
        if following.size and following.first_received() <= time:
            return True
        if segment.first_received() > time:
            return False
        with self._index_lock:
            self._build_index(segment, following.base)
            return segment.received(following.base - 1) <= time

    def drop(self, count: int) -> None:
        """Remove the oldest `count` segments from the list."""
        self._segments = self._segments[count:]
        self._cursors.clear()

    def replace(self, path: Path, draft: Path) -> bool:
        """Put file `draft` in the place of ended segment `path`; False if that was dropped."""
        for number, segment in enumerate(self._segments[:-1]):
            if segment.path == path:
                replace_segment(path, draft)
                fresh = Segment(path, writable=True)
                self._segments = [*self._segments[:number], fresh, *self._segments[number + 1 :]]
                self._cursors.clear()
                return True
        return False

    def received(self, offset: int, end: int) -> int:
        """Return the time of receipt of a record of a log that ends at `end`."""
        segments = self._segments
        number = bisect.bisect_right(segments, offset, key=lambda s: s.base) - 1
        following = segments[number + 1].base if number + 1 < len(segments) else end
        with self._index_lock:
            self._build_index(segments[number], following)
            return segments[number].received(offset)

    def copy(self, path: Path, end: int, copied: Callable[[int], None]) -> int:
        """Copy the records before `end` to directory `path`; returns the offset of the oldest."""
        segments = self._segments
        count = max(1, bisect.bisect_left(segments, end, key=lambda s: s.base))
        *ended, last = segments[:count]
        for segment in ended:
            segment.copy(path / segment.path.name, None, copied)
        with self._index_lock:
            if count < len(segments):
                self._build_index(last, segments[count].base)
            size = last.seek(end)
        last.copy(path / last.path.name, size, copied)
        return (ended or [last])[0].base

    def follow(self, last: int) -> None:
        """Open the writer's segments up to the one at offset `last`; drop trimmed ones."""
        with self._index_lock:
            newest = self._segments[-1].base
            if last <= newest:
                return
            segments = [s for segment in self._segments if (s := _reopened(segment)) is not None]
            for file in sorted(self._path.glob("*.log")):
                if file.stem.isdecimal() and newest < int(file.stem) <= last:
                    with contextlib.suppress(FileNotFoundError):
                        segment = Segment(file, writable=False)
                        segment.begin_index()
                        segments.append(segment)
            self._segments = segments
            self._cursors.clear()

    def close(self) -> None:
        """Close all files."""
        for segment in self._segments:
            segment.close()

    def _cut_tail(self, last: Segment, end: int, position: int, damage: str) -> None:
        flaw = f"{last.path}: record {end} at byte {position} is damaged ({damage})"
        later = last.find_acknowledged_after(position)
        if later is not None:
            raise LogCorruptedError(
                f"{flaw}, and intact records follow at byte {later}: this is no torn tail. "
                "Nothing was changed; restore the segment from a backup"
            )
        if self._writable:
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


def _reopened(segment: Segment) -> Segment | None:
    """Return a segment, opened again if it was rewritten; None if it was trimmed."""
    try:
        if segment.path.stat().st_ino == os.fstat(segment.file).st_ino:
            return segment
        return Segment(segment.path, writable=False)
    except FileNotFoundError:
        return None

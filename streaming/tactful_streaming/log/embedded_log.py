"""The durable event log: segmented append-only files with dense integer offsets.

With durability ``power`` an append begins only when the one before is on disk, so damage followed
by the first record of a later append is in acknowledged records: that is corruption and never
truncated. Damage followed by nothing, or by more of the same append, is the torn tail of a crash
and is cut off.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tactful_privacy.durable_files import sync
from tactful_streaming.errors import (
    LogCorruptedError,
    LogError,
    LogLockedError,
    LogWriteError,
    OffsetError,
)
from tactful_streaming.log.bounds_file import Bounds, BoundsFile
from tactful_streaming.log.event_log import Durability
from tactful_streaming.log.segment import BLANK, UNFINISHED, UnknownTailError, encode_records
from tactful_streaming.log.segment_catalogue import (
    BLANKS_AT_ONCE,
    Loss,
    accept,
    compare,
    cure,
    present_segments,
    read_catalogue,
    record_losses,
    refuse,
    remove_segments,
    segment_file,
    write_catalogue,
)
from tactful_streaming.log.segment_list import EndedSegment, SegmentList

_logger = logging.getLogger(__name__)

_SHARE = 16
_PROBE_BYTES = 65_536


class EmbeddedLog(contextlib.AbstractContextManager["EmbeddedLog"]):
    """An `EventLog` in a directory: one writer, any number of reading threads.

    Other processes open it ``read_only`` and follow it: their `end` and `read` look for records
    that the writer has acknowledged since, and so never see a record that a failing disk makes the
    writer take back. Each method raises LogCorruptedError for a damaged record; one that writes
    raises LogError if the log is closed or read-only, and LogWriteError if the disk refuses (then
    nothing of the append is acknowledged). `read` raises OffsetError outside ``[begin, end]``.

    ::

        DIRECTORY/00000000000000000000.log   segments, named after their first offset
                  00000000000000004096.log
                  segments                   their catalogue
                  bounds                     acknowledged end
                  lock                       held by the writer

    >>> import tempfile
    >>> with EmbeddedLog(Path(tempfile.mkdtemp())) as log:
    ...     log.append([b"one", b"two"]), log.read(1, limit=10)
    (2, [(1, b'two')])

    Attributes:
        rewriting: lock, held from the reading of an ended segment until :meth:`adopt` has replaced
            it. Two concurrent rewrites of a segment would undo each other.
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
        accept_loss: bool = False,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Open the log in directory `path`, created if needed; cut off a torn tail.

        Args:
            path: directory of the segments.
            segment_bytes: size beyond which the next append begins a new segment.
            durability: ``power``: an append returns when the data is on disk (fdatasync);
                ``process``: when the kernel has it, which a crash of the machine loses.
            read_only: read beside the process that writes; takes no lock and changes nothing.
            retention_ms: age since receipt at which :meth:`trim` may drop a record; None: never.
            retention_bytes: size of the log beyond which :meth:`trim` may drop its oldest part;
                None: no limit.
            accept_loss: replace lost records by empty ones, and record the loss in the file
                ``losses``. If the oldest segments are lost, the log begins behind them.
            clock: time of receipt, epoch milliseconds; times in the log never decrease.

        Raises:
            LogLockedError: if another process has it open for writing.
            LogCorruptedError: if acknowledged records are damaged.
            LogIncompleteError: if segments are missing, exchanged, foreign or shortened.
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
        self._failed: str | None = None
        self._closed = False
        self._end = self._received = 0
        with contextlib.ExitStack() as resources:
            if not read_only:
                path.mkdir(parents=True, exist_ok=True)
                resources.enter_context(lock_directory(path))
                for leftover in path.glob(f"*{UNFINISHED}"):
                    leftover.unlink()
            self._bounds = BoundsFile(path, writable=not read_only)
            resources.callback(self._bounds.close)
            bounds = self._bounds.read()
            if not read_only and not accept_loss and self._bounds.damaged:
                raise LogCorruptedError(f"{path / 'bounds'}: damaged. {cure(path)}")
            self._segments = self._open_segments(bounds, accept_loss)
            resources.callback(self._segments.close)
            self._open_active(bounds, accept_loss)
            self._resources = resources.pop_all()

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""
        return self._segments.begin

    @property
    def end(self) -> int:
        """Offset of the next record."""
        if self._read_only:
            self._follow()
        return self._end

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(self._segments.sizes)

    def append(self, payloads: Sequence[bytes]) -> int:
        """Append `payloads` in one write, durable on return; return the offset after them."""
        with self._append_lock:
            self._check_intact()
            if not payloads:
                return self._end
            received = max(self._clock(), self._received)
            data, positions = encode_records(payloads, received)
            size = self._segments.active.size
            if size and size + len(data) > self._segment_bytes:
                self._segments.add(self._end)
            segment = self._segments.active
            with self._note_failure():
                segment.write(data, force=self._durability == "power")
            segment.note(self._end, [segment.size + position for position in positions])
            segment.size += len(data)
            self._received = received
            self._end += len(payloads)
            self._write_bounds()
            return self._end

    def probe(self) -> None:
        """Raise LogWriteError if an append would be refused now; the log stays as it is."""
        with self._append_lock:
            self._check_intact()
            with self._note_failure():
                self._segments.active.probe(_PROBE_BYTES)

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Read up to `limit` records from `offset` on; empty at the end of the log."""
        if self._read_only and offset >= self._end:
            self._follow()
        begin, end = self.begin, self._end
        if not begin <= offset <= end:
            raise OffsetError(
                f"offset {offset} is outside the log [{begin}, {end}] in {self._path}: retention "
                "trimmed earlier records, later ones were never acknowledged"
            )
        return self._segments.read(offset, min(end, offset + max(limit, 0)), end)

    def offset_at(self, timestamp: int) -> int:
        """Find the first record received at or after `timestamp`, epoch ms, or the end."""
        return self._segments.offset_at(timestamp, self.end)

    def received(self, offset: int) -> int:
        """Return when a record was received, epoch ms; OffsetError outside the log."""
        if not self.begin <= offset < self.end:
            raise OffsetError(f"{self._path}: there is no record {offset}")
        return self._segments.received(offset, self._end)

    def trim(self, retain_from: int) -> int:
        """Drop the oldest segments that exceed the retention; return the new begin.

        Only whole segments are dropped, and never the active one, which is ended when its first
        record has a sixteenth of the retention age, so no record stays longer than a sixteenth
        beyond it. Reads of a dropped segment that have begun are completed. Records from offset
        `retain_from` on stay: an engine has not committed them, or a replay needs them.
        """
        with self._append_lock:
            self._check_writable()
            if self._retention_ms is not None:
                with contextlib.suppress(LogWriteError):  # a full disk: older segments free it
                    self._end_if_older(self._clock() - self._retention_ms // _SHARE)
            most = math.inf if self._retention_bytes is None else self._retention_bytes
            sizes = self._segments.sizes
            size, count = sum(sizes), 0
            for segment in self._segments.ended:
                if segment.end > retain_from or not (size > most or self._is_old(count)):
                    break
                size -= sizes[count]
                count += 1
            if count:
                dropped = self._segments.ended[:count]
                remove_segments(self._path, [segment.path for segment in dropped], dropped[-1].end)
                self._segments.drop(count)
                self._write_bounds()
            return self.begin

    def ended(self, *, older_than: int | None = None) -> list[EndedSegment]:
        """List all segments but the active one, oldest first.

        First the active one is ended if its first record was received by `older_than`, epoch ms.
        """
        with self._append_lock:
            self._check_writable()
            if older_than is not None:
                self._end_if_older(older_than)
            return self._segments.ended

    def received_by(self, segment: EndedSegment, time: int) -> bool:
        """Whether all records of a segment were received by a time, epoch milliseconds."""
        with self._append_lock:
            for number, ended in enumerate(self._segments.ended):
                if ended.path == segment.path:
                    return self._segments.received_by(number, time)
        return False

    def seal(self) -> list[Path]:
        """End the active segment if not empty; return the files of all ended ones."""
        with self._append_lock:
            self._check_writable()
            self._end_active()
            return [segment.path for segment in self._segments.ended]

    def adopt(self, draft: Path) -> bool:
        """Replace an ended segment by the file that `draft_segment` wrote beside it.

        The caller has held `rewriting` since. Reads of the old file that have begun are completed;
        other processes open the new one when they follow the log into its next segment. If
        retention has dropped the segment, the draft is removed and the result is False.
        """
        with self._append_lock:
            self._check_writable()
            replaced = self._segments.replace(draft.with_suffix("").with_suffix(""), draft)
            if not replaced:
                draft.unlink(missing_ok=True)
            return replaced

    def copy(
        self,
        path: Path,
        *,
        until: int | None = None,  # offset of the first record that is left out; None: all
        copied: Callable[[int], None] = lambda size: None,
    ) -> tuple[int, int]:
        """Copy acknowledged records to the new directory `path`; appends may continue.

        Segments that are open here are copied also if retention drops them meanwhile. The copy is
        complete and forced to disk on return. `copied` is called after every piece with its size,
        bytes. The result is the copy's begin and end.
        """
        end = self.end if until is None else min(max(until, self.begin), self.end)
        path.mkdir(mode=0o700, parents=True)
        begin = self._segments.copy(path, end, copied)
        sync(path)
        return begin, end

    def close(self) -> None:
        """Release files and the lock. Closing twice is harmless."""
        with self._append_lock:
            self._closed = True
            self._resources.close()

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _check_writable(self) -> None:
        if self._closed or self._read_only:
            raise LogError(f"{self._path}: the log is not open for writing")

    def _check_intact(self) -> None:
        self._check_writable()
        if self._failed is not None:
            raise LogWriteError(f"{self._failed}; repair the disk, then open the log again")

    @contextlib.contextmanager
    def _note_failure(self) -> Iterator[None]:
        """Refuse all further appends after a failure that left an unknown tail."""
        try:
            yield
        except UnknownTailError as error:
            self._failed = error.strerror
            raise

    def _is_old(self, number: int) -> bool:
        if self._retention_ms is None:
            return False
        return self._segments.received_by(number, self._clock() - self._retention_ms)

    def _end_if_older(self, time: int) -> None:
        """End the active segment if its first record was received by then."""
        active = self._segments.active
        if active.size and active.first_received() <= time:
            self._end_active()

    def _end_active(self) -> None:
        if self._segments.active.size:
            self._segments.add(self._end)
            self._write_bounds()

    def _open_segments(self, bounds: Bounds | None, accept_loss: bool) -> SegmentList:
        """Open all segments after a comparison with the catalogue."""
        path, end = self._path, 0 if bounds is None else bounds.end
        catalogue, losses = compare(path, end, accept_loss)
        if losses and accept_loss:
            assert catalogue is not None
            at = self._clock()
            received = at if bounds is None or bounds.received is None else bounds.received
            accept(path, catalogue, losses, received, at)
            catalogue = read_catalogue(path)
        refuse(path, [] if accept_loss else losses)
        bases = present_segments(path, catalogue)
        if not bases and self._read_only:
            raise LogError(f"{path}: there is no event log here")
        if not self._read_only and catalogue is not None:
            for leftover in set(path.glob("*.log")) - {segment_file(path, base) for base in bases}:
                leftover.unlink()
        segments = SegmentList(path, bases, writable=not self._read_only)
        if not bases:
            if end:
                losses = [Loss(path / "*.log", 0, end, "are missing")]
                if not accept_loss:
                    refuse(path, losses)
                record_losses(path, losses, self._clock())
            segments.add(end)
        elif not self._read_only and catalogue is None:
            write_catalogue(path, bases)  # of a log of an earlier version
        return segments

    def _open_active(self, bounds: Bounds | None, accept_loss: bool) -> None:
        """Find the end of the log, which must reach the acknowledged one."""
        lenient = self._read_only or accept_loss or bounds is None
        acknowledged = 0 if bounds is None else bounds.end
        self._end, self._received = self._segments.open_active(0 if lenient else acknowledged)
        if self._read_only:
            if bounds is not None:
                self._end = min(self._end, acknowledged)
            return
        if bounds is not None and (loss := self._flaw(bounds)) is not None:
            if not accept_loss:
                refuse(self._path, [loss])
            record_losses(self._path, [loss], self._clock())
            self._segments.active.cut(loss.begin)
            self._end, self._received = self._segments.open_active(0)
            while self._end < acknowledged:
                self.append([BLANK] * min(BLANKS_AT_ONCE, acknowledged - self._end))
        self._write_bounds()

    def _flaw(self, bounds: Bounds) -> Loss | None:
        """Compare the newest segment with the acknowledged records."""
        active, end = self._segments.active, bounds.end
        if end > self._end:
            return Loss(active.path, self._end, end, "was shortened or emptied")
        if bounds.received is None or end <= active.base:
            return None
        if active.received(end - 1) != bounds.received:
            return Loss(active.path, active.base, end, "was exchanged")
        # Times of receipt never decrease, and only a crash leaves unacknowledged records.
        if end < self._end and (
            active.received(end) < bounds.received
            or active.header(end) == active.header(active.base)
        ):
            return Loss(active.path, end, end, f"holds records twice from offset {end} on")
        return None

    def _write_bounds(self) -> None:
        self._bounds.write(Bounds(self._segments.active.base, self._end, self._received))

    def _follow(self) -> None:
        """Read what the writing process has acknowledged since the last call."""
        if (bounds := self._bounds.read()) is not None and bounds.end > self._end:
            with self._append_lock:
                self._segments.follow(bounds.last)
                self._end = max(self._end, bounds.end)


@contextlib.contextmanager
def lock_directory(path: Path) -> Iterator[None]:
    """Hold the writer's lock of a log directory; raise LogLockedError if it is taken."""
    file = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LogLockedError(f"{path}: another process writes to this log") from None
        yield
    finally:
        os.close(file)

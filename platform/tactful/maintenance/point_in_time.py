"""Cut of a restored log at a time, so that a restore ends at that time.

The log of the backup is continued by the one of the data directory, if that is the same log. Its
records stay as they are in the backup, also those that were erased since: by them the erasure after
a restore finds all ids of an erased user in the state of the backup.

::

    backup    log 0 ─────── 20        state at 18
    present   log 0 ─────── 20 ─────────── 35
    until                      27              records 0 to 26 are restored, 27 to 34 are lost

The state of the backup is kept if it does not reach beyond the cut; the next start applies the
records after it. Otherwise the next start computes the state from the first record, so the log must
still have that.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from tactful.config.settings import Settings
from tactful.errors import BackupError
from tactful.maintenance.backup import Copied, Manifest
from tactful_privacy.durable_files import sync
from tactful_streaming.contract.log_entries import Event, Restricted, decode_entry
from tactful_streaming.errors import EntryError, LogError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.segment import BLANK

_LOG, _STATE = "log", "state"
_COMPARED = 200  # records by which two logs are compared
_READ = 10_000  # records at once
_ENCRYPTED = "encrypted"


@dataclass(frozen=True)
class PointInTime:
    """Time up to which a restore brings an installation."""

    until: int  # epoch milliseconds; what was received earlier is restored
    only_show: bool = False  # change nothing, and return what would be lost


@dataclass(frozen=True)
class Cut:
    """Records that a restore up to a time keeps and loses."""

    until: int  # epoch milliseconds
    continued: bool  # whether the log of the data directory continues that of the backup
    end: int  # offset of the first lost record
    records: int  # number of lost records
    first_at: int | None  # receipt of the first lost record, epoch milliseconds
    last_at: int | None  # receipt of the last one
    kinds: dict[str, int]  # lost records by type of event, or kind of another record
    state: Literal["kept", "computed"]  # ``computed``: from the log, at the next start


def check_until(settings: Settings) -> None:
    """Raise BackupError if the log of an installation cannot be cut."""
    if not settings.log.in_files:
        raise BackupError(
            f"the log is topic {settings.log.topic!r} in Kafka, from which no records can be cut: "
            "restore without --until, or copy the topic up to the time into a new one"
        )


def cut_log(
    settings: Settings,
    staged: Path,  # restored files, with the log of the backup
    manifest: Manifest,
    until: int,  # epoch milliseconds
    copied: Copied,
) -> Cut:
    """Bring the restored log to the records that were received before a time.

    Raises:
        BackupError: if no record is that old, or the state of that time cannot be computed.
        StreamingError: if a log is damaged.
    """
    restored = staged / _LOG
    if manifest.log is None or not restored.is_dir():
        raise BackupError("the backup has no log, so there is no time to restore up to")
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(EmbeddedLog(restored, read_only=True))
        present = stack.enter_context(_present_log(settings.storage.data / _LOG))
        continued = present is not None and _continues(present, log)
        longest = present if present is not None and continued else log
        end = longest.offset_at(until)
        if end <= log.begin:
            raise BackupError("no record of the log is that old: name a later time")
        computed = manifest.state is None or manifest.state > end
        if computed and log.begin:
            raise BackupError(
                f"the state of the backup is of a later time, and the log begins with record "
                f"{log.begin}, so the state of the named time cannot be computed: use a backup "
                "that was made before that time"
            )
        lost = longest.end - end
        cut = Cut(
            until=until,
            continued=continued,
            end=end,
            records=lost,
            first_at=longest.received(end) if lost else None,
            last_at=longest.received(longest.end - 1) if lost else None,
            kinds=dict(sorted(Counter(_kinds(longest, end)).items())),
            state="computed" if computed else "kept",
        )
        draft = staged / f".{_LOG}"
        begin = log.copy(draft, until=end, copied=copied)[1]
        _append(draft, longest, begin, end, copied)
    shutil.rmtree(restored)
    draft.rename(restored)
    if computed:
        shutil.rmtree(staged / _STATE, ignore_errors=True)
    return cut


@contextlib.contextmanager
def _present_log(path: Path) -> Iterator[EmbeddedLog | None]:
    """Open the log of the data directory, if there is one."""
    if not (path / "bounds").exists():
        yield None
        return
    try:
        log = EmbeddedLog(path, read_only=True)
    except LogError as error:
        raise BackupError(
            f"{error}. To restore up to a time without the records since the backup, move {path} "
            "away"
        ) from error
    with log:
        yield log


def _append(path: Path, source: EmbeddedLog, begin: int, end: int, copied: Copied) -> None:
    """Append records `begin` to `end` of another log to the one in `path`, with their times."""
    if begin == end:
        return
    time = 0
    with EmbeddedLog(path, durability="process", clock=lambda: time) as log:
        while begin < end:
            records = source.read(begin, min(_READ, end - begin))
            for received, group in groupby(records, lambda record: source.received(record[0])):
                time = received
                payloads = [payload for _, payload in group]
                log.append(payloads)
                copied(sum(map(len, payloads)))
            begin += len(records)
    for file in path.iterdir():
        sync(file)


def _continues(later: EmbeddedLog, earlier: EmbeddedLog) -> bool:
    """Whether a log has the records of an earlier one, as far as it reaches back, and more."""
    begin = max(later.begin, earlier.begin)
    if later.end < earlier.end or begin > earlier.end:
        return False
    offsets = range(begin, earlier.end, max(1, (earlier.end - begin) // _COMPARED))
    last = range(max(begin, earlier.end - 1), earlier.end)
    return all(_is_same(later, earlier, offset) for offset in (*offsets, *last))


def _is_same(later: EmbeddedLog, earlier: EmbeddedLog, offset: int) -> bool:
    """Compare a record, which may have been erased from one of the logs."""
    if later.received(offset) != earlier.received(offset):
        return False
    ((_, one),), ((_, other),) = later.read(offset, 1), earlier.read(offset, 1)
    return one == other or BLANK in (one, other)


def _kinds(log: EmbeddedLog, offset: int) -> Iterator[str]:
    while records := log.read(offset, _READ):
        for _, payload in records:
            if payload != BLANK:
                yield _kind(payload)
        offset += len(records)


def _kind(payload: bytes) -> str:
    try:
        entry = decode_entry(payload)
    except EntryError:
        return _ENCRYPTED
    if isinstance(entry, Restricted):
        entry = entry.event
    return entry.type if isinstance(entry, Event) else type(entry).__name__.lower()

"""Removes what records say from the files of an embedded log, whose offsets stay as they are.

A segment in which something is to go is written anew beside its place, forced to disk and moved
there in one step; so a process that dies on the way leaves each segment old or new, and doing it
again ends the same. Where nobody writes to the log, `redact` does all of it under the writer's
lock. A process that does write gives the segments that it has ended to `draft_segment`, best in a
process of its own, and adopts what comes out. A reader that has an old file open goes on reading
that.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tactful_privacy.durable_files import sync
from tactful_streaming.contract.log_entries import Tick, encode_entry
from tactful_streaming.errors import LogCorruptedError
from tactful_streaming.log.directory_lock import lock_directory
from tactful_streaming.log.segment import (
    UNFINISHED,
    intact_payload,
    record_bounds,
    rewrite_record,
)

BLANK = encode_entry(Tick(timestamp=0))
"""What stands in the place of a record that was removed: a tick that moves no clock."""


@dataclass(frozen=True)
class Redacted:
    """What was done to a log.

    Attributes:
        records: how many records were replaced.
        segments: names of the files that were written anew.
    """

    records: int
    segments: tuple[str, ...]


def matching_records(path: Path, needles: Collection[bytes]) -> Iterator[tuple[int, bytes]]:
    """Offsets and payloads of the records in which any of `needles` occurs, oldest first.

    Args:
        path: directory of a log that nobody writes to.
        needles: what to look for, as bytes.

    Raises:
        LogCorruptedError: if a record in the midst of the log is damaged.
    """
    if not needles:
        return
    for segment in _segments(path):
        for offset, _, _, payload in _matches(segment, segment.read_bytes(), needles):
            yield offset, payload


def redact(
    path: Path,
    needles: Collection[bytes],
    replace: Callable[[int, bytes], bytes | None],
    *,
    written: Callable[[Path], None] = lambda segment: None,
) -> Redacted:
    """Replace records of the log in directory `path`.

    Args:
        path: directory of a log; one that is not there has nothing to replace.
        needles: a record in which none of them occurs stays.
        replace: gets offset and payload of the others, and gives what shall stand there; None
            leaves a record as it is.
        written: told of each segment that was written anew.

    Raises:
        LogLockedError: if a process writes to the log.
        LogCorruptedError: if a record in the midst of the log is damaged.
    """
    if not path.is_dir() or not needles:
        return Redacted(0, ())
    count, names = 0, []
    with _alone(path):
        for leftover in path.glob(f"*{UNFINISHED}"):
            leftover.unlink()
        for segment in _segments(path):
            draft, replaced = draft_segment(segment, needles, replace)
            if draft is not None:
                draft.replace(segment)
                sync(path)
                written(segment)
                count += replaced
                names.append(segment.name)
    return Redacted(count, tuple(names))


def draft_segment(
    segment: Path, needles: Collection[bytes], replace: Callable[[int, bytes], bytes | None]
) -> tuple[Path | None, int]:
    """Write a segment anew beside its place, with some of its records replaced.

    Args:
        segment: file of a segment that nobody appends to.
        needles: a record in which none of them occurs stays.
        replace: gets offset and payload of the others, and gives what shall stand there; None
            leaves a record as it is.

    Returns:
        The draft, forced to disk, None where nothing is to be replaced; and how many records were.

    Raises:
        LogCorruptedError: if a record in it is damaged.
    """
    data = segment.read_bytes()
    parts: list[bytes] = []
    copied = 0
    for offset, begin, end, payload in _matches(segment, data, needles):
        new = replace(offset, payload)
        if new is not None and new != payload:
            parts += (data[copied:begin], rewrite_record(data[begin:end], new))
            copied = end
    if not parts:
        return None, 0
    # Of this process alone: one whose server was killed may still be at work on the same segment.
    draft = segment.with_name(f"{segment.name}.{os.getpid()}{UNFINISHED}")
    with draft.open("wb") as file:
        file.writelines((*parts, data[copied:]))
        file.flush()
        os.fsync(file.fileno())
    return draft, len(parts) // 2


def _segments(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("*.log") if file.stem.isdecimal())


def _matches(
    segment: Path, data: bytes, needles: Collection[bytes]
) -> Iterator[tuple[int, int, int, bytes]]:
    """Offset, begin, end and payload of the records in which any of `needles` occurs, in order."""
    if not any(needle in data for needle in needles):
        return
    bounds = record_bounds(data)
    if bounds[-1] < len(data) and segment != _segments(segment.parent)[-1]:
        raise _damaged(segment, len(bounds) - 1, bounds[-1])
    numbers: set[int] = set()
    for needle in needles:
        place = data.find(needle)
        while 0 <= place < bounds[-1]:
            number = bisect.bisect_right(bounds, place) - 1
            numbers.add(number)
            place = data.find(needle, max(place + 1, bounds[number + 1] - len(needle) + 1))
    for number in sorted(numbers):
        begin, end = bounds[number], bounds[number + 1]
        payload = intact_payload(data, begin)
        if payload is None:
            raise _damaged(segment, number, begin)
        if any(needle in payload for needle in needles):
            yield int(segment.stem) + number, begin, end, payload


def _damaged(segment: Path, number: int, begin: int) -> LogCorruptedError:
    return LogCorruptedError(
        f"{segment}: record {int(segment.stem) + number} at byte {begin} is damaged. Nothing was "
        "changed in this segment; restore it from a backup"
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = lock_directory(path)
    try:
        yield
    finally:
        os.close(lock)

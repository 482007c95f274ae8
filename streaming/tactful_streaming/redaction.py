"""Removes what records say from the files of an embedded log, whose offsets stay as they are.

A segment in which something is to go is written anew beside its place, forced to disk and moved
there in one step; so a process that dies on the way leaves each segment old or new, and doing it
again ends the same. Nobody may have the log open meanwhile: the lock of its writer is held, and a
reader that has an old file open goes on reading that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tactful_streaming._segment import parse_records, rewrite_record
from tactful_streaming.entries import Tick, encode_entry
from tactful_streaming.errors import LogCorruptedError
from tactful_streaming.log import lock_directory

BLANK = encode_entry(Tick(timestamp=0))
"""What stands in the place of a record that was removed: a tick that moves no clock."""

_UNFINISHED = ".redacting"


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
        data = segment.read_bytes()
        if not any(needle in data for needle in needles):
            continue
        for offset, _, payload in _records(segment, data):
            if any(needle in payload for needle in needles):
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
        for leftover in path.glob(f"*{_UNFINISHED}"):
            leftover.unlink()
        for segment in _segments(path):
            data = segment.read_bytes()
            if not any(needle in data for needle in needles):
                continue
            parts, replaced = [], 0
            end = 0
            for offset, record, payload in _records(segment, data):
                new = None
                if any(needle in payload for needle in needles):
                    new = replace(offset, payload)
                parts.append(record if new is None else rewrite_record(record, new))
                replaced += new is not None
                end += len(record)
            parts.append(data[end:])  # the torn tail of a crash, which the log cuts off itself
            if replaced:
                _put(segment, b"".join(parts))
                written(segment)
                count += replaced
                names.append(segment.name)
    return Redacted(count, tuple(names))


def _segments(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("*.log") if file.stem.isdecimal())


def _records(segment: Path, data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Offset, bytes and payload of each record; ends at a torn tail."""
    offset, end = int(segment.stem), 0
    for record, payload in parse_records(data):
        yield offset, record, payload
        offset, end = offset + 1, end + len(record)
    following = [
        other for other in _segments(segment.parent) if int(other.stem) > int(segment.stem)
    ]
    if end < len(data) and following:
        raise LogCorruptedError(
            f"{segment}: record {offset} at byte {end} is damaged. Nothing was changed in this "
            "segment; restore it from a backup"
        )


def _put(segment: Path, data: bytes) -> None:
    draft = segment.with_name(segment.name + _UNFINISHED)
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(segment)
    directory = os.open(segment.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = lock_directory(path)
    try:
        yield
    finally:
        os.close(lock)

"""Replaces records in the files of an embedded log; offsets stay.

A segment is rewritten beside its file, forced to disk and renamed, so a process that dies leaves
each segment old or new, and a repetition has the same result. If no process writes to the log,
`redact` rewrites all segments under the writer's lock. A process that writes rewrites its ended
segments by `draft_segment`, best in another process, and adopts the results. Readers with an old
file open continue to read it. A damaged record before the end of the log raises LogCorruptedError.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tactful_streaming.errors import LogCorruptedError
from tactful_streaming.log.embedded_log import lock_directory
from tactful_streaming.log.segment import UNFINISHED, intact_payload, record_bounds, rewrite_record
from tactful_streaming.log.segment_catalogue import replace_segment


@dataclass(frozen=True)
class Redacted:
    """Result of a redaction."""

    records: int  # number of replaced records
    segments: tuple[str, ...]  # names of the rewritten files


def matching_records(
    path: Path,
    needles: Collection[bytes],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[int, bytes]]:
    """Iterate over offset and payload of records with one of `needles`, oldest first.

    No process may write to the log in directory `path`. `progress` is called with the number of
    searched segments and of all.
    """
    if not needles:
        return
    segments = _segments(path)
    for number, segment in enumerate(segments, 1):
        for offset, _, _, payload in _matches(segment, segment.read_bytes(), needles):
            yield offset, payload
        progress(number, len(segments))


def redact(
    path: Path,
    needles: Collection[bytes],
    replace: Callable[[int, bytes], bytes | None],
    *,
    written: Callable[[Path], None] = lambda segment: None,
) -> Redacted:
    """Replace records of the log in directory `path`, which need not exist.

    `replace` gets offset and payload of each record with one of `needles`; None keeps the record.
    `written` is called with each rewritten segment.

    Raises:
        LogLockedError: if a process writes to the log.
        LogCorruptedError: if a record before the end of the log is damaged.
    """
    if not path.is_dir() or not needles:
        return Redacted(0, ())
    count, names = 0, []
    with lock_directory(path):
        for leftover in path.glob(f"*{UNFINISHED}"):
            leftover.unlink()
        for segment in _segments(path):
            draft, replaced = draft_segment(segment, needles, replace)
            if draft is not None:
                replace_segment(segment, draft)
                written(segment)
                count += replaced
                names.append(segment.name)
    return Redacted(count, tuple(names))


def draft_segment(
    segment: Path, needles: Collection[bytes], replace: Callable[[int, bytes], bytes | None]
) -> tuple[Path | None, int]:
    """Write a copy of an ended segment with some of its records replaced, as `redact`.

    Returns the draft, forced to disk, or None without replacements; and their number.
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
    # Unique: a process whose server was killed may still write a draft of the same segment.
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
    """Iterate over offset, begin, end and payload of records with one of `needles`."""
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

"""Batches of elements: the rows of a file, converted, cut for requests, sorted if need be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tactful.client.calls import chunks
from tactful.imports.convert import Converter
from tactful.imports.formats.json_rows import JsonLinesReader
from tactful.imports.formats.rows import ChangedFile, Place, Reader, RejectedRow, RejectedRows
from tactful.imports.plan import Plan
from tactful.imports.send import Batch
from tactful.imports.time_order import Timed, by_time

_BATCH_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Source:
    """A file, and how its rows become elements."""

    reader: Reader
    plan: Plan
    folder: Path | None = None  # holds the pictures that cells name


@dataclass
class Count:
    """Rows on their way through the conversion."""

    rows: int = 0
    skipped: int = 0
    repeated: int = 0
    sent: int = 0
    rejected: RejectedRows = field(default_factory=RejectedRows)  # before the rows were sorted


def batches_of(
    source: Source, start: Place, count: int, counts: Count, advanced: Callable[[int], object]
) -> Generator[Batch]:
    """Yield the elements behind a place, at most `count` in a batch.

    `advanced` is called with units of progress that do not wait for an answer of the server.

    Raises:
        ChangedFile: if the part before `start` is not what it was.
        DatasetError: if the file cannot be read.
    """
    plan, reader = source.plan, source.reader
    if plan.raw and isinstance(reader, JsonLinesReader):
        return _raw_batches(reader, start, count, counts)
    if plan.by_time:
        return _sorted_batches(source, start, count, counts, advanced)
    return _converted_batches(source, start, count, counts)


def _raw_batches(
    reader: JsonLinesReader, start: Place, count: int, counts: Count
) -> Generator[Batch]:
    """Yield the lines of a file unchanged."""
    offset = 0
    for lines, numbers, end in reader.lines(start, count):
        counts.rows += len(lines)
        yield from _cut(lines, numbers, end, (), count, end.offset - offset, identified=False)
        offset = end.offset


def _converted_batches(source: Source, start: Place, count: int, counts: Count) -> Generator[Batch]:
    """Yield elements in the order of the file."""
    reader = source.reader
    convert = Converter(source.plan, reader.columns, reader.types, source.folder)
    reached = 0
    for rows in reader.rows(start, count):
        converted = convert(rows)
        counts.rows += len(rows.numbers) + len(rows.rejected)
        counts.skipped += converted.skipped
        counts.repeated += converted.repeated
        now = rows.end.offset if reader.unit == "B" else rows.end.rows
        yield from _cut(
            converted.lines, converted.numbers, rows.end, converted.rejected, count, now - reached
        )
        reached = now


def _sorted_batches(
    source: Source, start: Place, count: int, counts: Count, advanced: Callable[[int], object]
) -> Generator[Batch]:
    """Yield elements in the order of time; `start` counts elements in this order.

    Reading and sending are each half of the progress.
    """
    reader = source.reader
    convert = Converter(source.plan, reader.columns, reader.types, source.folder)
    size = total = 0
    end = Place()

    def elements() -> Iterator[Timed]:
        nonlocal end, total, size
        for rows in reader.rows(Place(), count):
            converted = convert(rows)
            counts.rows += len(rows.numbers) + len(rows.rejected)
            counts.skipped += converted.skipped
            if not start.rows:  # the run before has reported them
                for rejection in converted.rejected:
                    counts.rejected.add(rejection)
            total += len(converted.lines)
            before, size = size, rows.end.offset if reader.unit == "B" else rows.end.rows
            advanced(size // 2 - before // 2)
            end = rows.end
            yield from map(Timed, converted.times, converted.numbers, converted.lines)

    ordered = by_time(elements())
    first = [*itertools.islice(ordered, 1)]  # after which all rows are read
    if start.rows and (start.offset, start.sha256) != (end.offset, end.sha256):
        raise ChangedFile(f"{reader.path}: the file is not the one of the last run")
    remaining = itertools.islice(itertools.chain(first, ordered), start.rows, None)
    done, half = start.rows, size - size // 2
    advanced(half * done // max(total, 1))
    while block := list(itertools.islice(remaining, count)):
        begun, done = done, done + len(block)
        lines, numbers = [element.line for element in block], [element.number for element in block]
        share = half * done // total - half * begun // total
        yield from _cut(lines, numbers, Place(done, end.offset, end.sha256), (), count, share)


def _cut(
    lines: list[bytes],
    numbers: Sequence[int],
    place: Place,
    rejected: Sequence[RejectedRow],
    count: int,
    advanced: int,
    *,
    identified: bool = True,
) -> Generator[Batch]:
    """Cut elements into requests by number and size; only the last one reaches the place."""
    parts = list(chunks(lines, count, _BATCH_BYTES))
    begin = 0
    for part in parts[:-1]:
        rows = numbers[begin : begin + len(part)]
        yield Batch(part, rows, None, identified=identified)
        begin += len(part)
    last = parts[-1] if parts else []
    yield Batch(last, numbers[begin:], place, rejected, advanced, identified)

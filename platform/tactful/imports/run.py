"""Imports a file: opens and understands it, resumes an earlier run, converts and sends.

::

    job = prepare(path, options, url, store, restart=False)
    outcome = await run(job, client, batch=500, in_flight=4, advanced=bar.update)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from tactful.client import AsyncClient, Kind
from tactful.client.calls import chunks
from tactful.errors import DatasetError
from tactful.imports.convert import Converter
from tactful.imports.formats.json_rows import JsonLinesReader
from tactful.imports.formats.open_file import open_file
from tactful.imports.formats.rows import ChangedFile, Place, Reader, Refusal, Refusals, readable
from tactful.imports.guess import guess
from tactful.imports.options import ImportOptions
from tactful.imports.plan import Guess
from tactful.imports.progress import ProgressStore, Record
from tactful.imports.send import Batch, Sender, Sent
from tactful.imports.time_order import Timed, by_time
from tactful.schemas.positions import Position

_BATCH_BYTES = 1024 * 1024
_PREVIEWED = 5  # elements


@dataclass
class Job:
    """An import that can begin.

    Attributes:
        reader: the file.
        guess: the plan with remarks.
        start: place behind what an earlier run has sent.
        notes: remarks on the earlier run.
    """

    reader: Reader
    guess: Guess
    options: ImportOptions
    url: str
    store: ProgressStore
    start: Place = field(default_factory=Place)
    notes: list[str] = field(default_factory=list)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one run.

    Attributes:
        kind: kind of the elements.
        accepted: elements that the server has stored.
        duplicates: events that it knew before.
        refused: number of refused rows.
        refusals: the first of them.
        refused_by_reason: number of refused rows by code.
        skipped: rows that the plan skips.
        repeated: descriptions that were equal to the one before, and not sent.
        resumed_at: first row of the run, from 1.
        rows: rows that were read.
        position: position in the log behind what was stored.
    """

    kind: Kind
    accepted: int
    duplicates: int
    refused: int
    refusals: Sequence[Refusal]
    refused_by_reason: dict[str, int]
    skipped: int
    repeated: int
    resumed_at: int
    rows: int
    position: Position


@dataclass
class _Count:
    """Rows on their way through the conversion."""

    rows: int = 0
    skipped: int = 0
    repeated: int = 0
    sent: int = 0
    refused: Refusals = field(default_factory=Refusals)  # before the rows were sorted


def prepare(
    path: Path, options: ImportOptions, url: str, store: ProgressStore, *, restart: bool
) -> Job:
    """Understand a file, and find the place where an earlier run ended.

    Raises:
        ConfigError: if an option does not fit the file.
        DatasetError: if the file cannot be read or understood.
    """
    with readable(path):
        reader = open_file(path, options)
        understood = guess(reader, options)
        understood.notes[:0] = reader.notes
    job = Job(reader, understood, options, url, store)
    record = None if restart else store.load(path, url, understood.plan.kind)
    if record is None:
        return job
    if record.options != options and record.plan != understood.plan:
        job.notes.append("the last run had other options: this one starts at the beginning")
        return job
    job.guess.plan, job.start = record.plan, record.place
    return job


def preview(job: Job) -> tuple[list[msgspec.Raw], Refusals]:
    """Return the first elements as they would be sent, and the refused rows before them.

    Raises:
        DatasetError: if the file cannot be read.
    """
    found: list[msgspec.Raw] = []
    refusals = Refusals()
    plan = msgspec.structs.replace(job.guess.plan, by_time=False)
    first = replace(job, guess=replace(job.guess, plan=plan))
    with (
        readable(job.reader.path),
        closing(_batches(first, Place(), 100, _Count(), _ignored)) as batches,
    ):
        for batch in batches:
            found += [msgspec.Raw(line.strip()) for line in batch.lines]
            for refusal in batch.refused:
                refusals.add(refusal)
            if len(found) >= _PREVIEWED:
                break
    return found[:_PREVIEWED], refusals


async def run(
    job: Job,
    client: AsyncClient,
    *,
    batch: int,
    in_flight: int,
    advanced: Callable[[int], object],
    now_ms: Callable[[], int],
) -> Outcome:
    """Send a file, `batch` elements a request, and up to `in_flight` requests at once.

    `advanced` is called with units of progress: those of an earlier run first.

    Raises:
        DatasetError: if the file cannot be read, was changed since the earlier run, or if nothing
            in it can be sent.
        ClientError: if the server refuses; the progress is kept.
    """
    counts = _Count()
    with readable(job.reader.path):
        try:
            return await _run(job, client, counts, batch, in_flight, advanced, now_ms)
        except ChangedFile as error:
            if job.guess.plan.kind == "events":
                raise DatasetError(
                    f"{error}; nothing was sent. --restart sends the whole file: events in "
                    "unchanged rows count once"
                ) from error
        job.notes.append("the file was changed since the last run: this one sent all of it")
        job.start = Place()
        return await _run(job, client, _Count(), batch, in_flight, advanced, now_ms)


async def _run(
    job: Job,
    client: AsyncClient,
    counts: _Count,
    batch: int,
    in_flight: int,
    advanced: Callable[[int], object],
    now_ms: Callable[[], int],
) -> Outcome:
    place = job.start

    def save(reached: Place, *, done: bool = False) -> None:
        nonlocal place
        place = reached
        try:
            job.store.save(_record(job, reached, done=done, sent_at=now_ms()))
        except OSError as error:
            note = f"the progress could not be kept: {error}"
            if note not in job.notes:
                job.notes.append(note)

    kind = job.guess.plan.kind
    proved = job.start.rows > 0
    sender = Sender(client, kind, in_flight=in_flight, proved=proved, saved=save, advanced=advanced)
    try:
        for ready in _batches(job, job.start, batch, counts, advanced):
            counts.sent += len(ready.lines)
            await sender.send(ready)
        await sender.finish()
    finally:
        await sender.stop()
    sender.sent.refusals.merge(counts.refused)
    if not proved and not counts.sent:
        raise _nothing_sent(job, counts, sender.sent.refusals)
    save(place, done=True)
    return _outcome(job, counts, sender.sent)


def _batches(
    job: Job, start: Place, count: int, counts: _Count, advanced: Callable[[int], object]
) -> Generator[Batch]:
    plan, reader = job.guess.plan, job.reader
    if plan.raw and isinstance(reader, JsonLinesReader):
        return _raw_batches(reader, start, count, counts)
    if plan.by_time:
        return _sorted_batches(job, start, count, counts, advanced)
    return _converted_batches(job, start, count, counts)


def _raw_batches(
    reader: JsonLinesReader, start: Place, count: int, counts: _Count
) -> Generator[Batch]:
    """Yield the lines of a file unchanged."""
    offset = 0
    for lines, numbers, end in reader.lines(start, count):
        counts.rows += len(lines)
        yield from _cut(lines, numbers, end, (), count, end.offset - offset, identified=False)
        offset = end.offset


def _converted_batches(job: Job, start: Place, count: int, counts: _Count) -> Generator[Batch]:
    """Yield elements in the order of the file."""
    reader = job.reader
    convert = Converter(job.guess.plan, reader.columns, reader.types)
    reached = 0
    for rows in reader.rows(start, count):
        converted = convert(rows)
        counts.rows += len(rows.numbers) + len(rows.refused)
        counts.skipped += converted.skipped
        counts.repeated += converted.repeated
        now = rows.end.offset if reader.unit == "B" else rows.end.rows
        yield from _cut(
            converted.lines, converted.numbers, rows.end, converted.refused, count, now - reached
        )
        reached = now


def _sorted_batches(
    job: Job, start: Place, count: int, counts: _Count, advanced: Callable[[int], object]
) -> Generator[Batch]:
    """Yield elements in the order of time; `start` counts elements in this order.

    Reading and sending are each half of the progress.
    """
    reader = job.reader
    convert = Converter(job.guess.plan, reader.columns, reader.types)
    size = total = 0
    end = Place()

    def elements() -> Iterator[Timed]:
        nonlocal end, total, size
        for rows in reader.rows(Place(), count):
            converted = convert(rows)
            counts.rows += len(rows.numbers) + len(rows.refused)
            counts.skipped += converted.skipped
            if not start.rows:  # the run before has reported them
                for refusal in converted.refused:
                    counts.refused.add(refusal)
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
        lines, numbers = [it.line for it in block], [it.number for it in block]
        share = half * done // total - half * begun // total
        yield from _cut(lines, numbers, Place(done, end.offset, end.sha256), (), count, share)


def _cut(
    lines: list[bytes],
    numbers: Sequence[int],
    place: Place,
    refused: Sequence[Refusal],
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
    yield Batch(last, numbers[begin:], place, refused, advanced, identified)


def _record(job: Job, place: Place, *, done: bool, sent_at: int) -> Record:
    return Record(
        file=str(job.reader.path.resolve()),
        url=job.url,
        kind=job.guess.plan.kind,
        options=job.options,
        plan=job.guess.plan,
        place=place,
        done=done,
        sent_at=sent_at,
    )


def _nothing_sent(job: Job, counts: _Count, refusals: Refusals) -> DatasetError:
    path = job.reader.path
    if refusals.count:
        first = refusals.first[0]
        reasons = ", ".join(f"{number} {code}" for code, number in refusals.by_code.items())
        return DatasetError(
            f"{path}: none of {counts.rows:,} rows could be sent ({reasons}). Row {first.row}: "
            f"{first.code}: {first.message}"
        )
    if counts.skipped:
        return DatasetError(f"{path}: --map-type skips all of its {counts.rows:,} rows")
    return DatasetError(f"{path}: has no rows")


def _outcome(job: Job, counts: _Count, sent: Sent) -> Outcome:
    return Outcome(
        kind=job.guess.plan.kind,
        accepted=sent.accepted,
        duplicates=sent.duplicates,
        refused=sent.refusals.count,
        refusals=sent.refusals.first,
        refused_by_reason=dict(sent.refusals.by_code),
        skipped=counts.skipped,
        repeated=counts.repeated,
        resumed_at=job.start.rows + 1,
        rows=counts.rows,
        position=sent.position,
    )


def _ignored(_: int) -> None:
    pass

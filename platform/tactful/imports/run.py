"""Imports a file: opens and understands it, resumes an earlier run, converts and sends.

::

    job = prepare(path, options, url, store, restart=False)
    await begin(job, client)
    outcome = await run(
        job, client, batch=500, in_flight=4, advanced=bar.update, now_ms=now_ms
    )
    await end(job, client, outcome)
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import get_args

import msgspec

from tactful.client import AsyncClient, Kind
from tactful.client.routes import data as routes
from tactful.errors import BadRequest, DatasetError
from tactful.imports.batches import Count, Source, batches_of
from tactful.imports.formats.open_file import open_file
from tactful.imports.formats.rows import (
    ChangedFile,
    Place,
    Reader,
    RejectedRow,
    RejectedRows,
    readable,
)
from tactful.imports.guess import guess
from tactful.imports.options import ImportOptions
from tactful.imports.plan import Guess, Plan
from tactful.imports.progress import ProgressStore, Record
from tactful.imports.send import Sender, Sent
from tactful.schemas.data.imports import NewImport
from tactful.schemas.positions import Position

_PREVIEWED = 5  # elements


@dataclass
class Job:
    """An import that can begin.

    Attributes:
        reader: the file.
        guess: the plan with remarks.
        start: place behind what an earlier run has sent.
        notes: remarks on the earlier run.
        import_id: id of the import at the server, the same in every run; empty before `begin`.
        folder: folder whose pictures cells may name; None: no file is read but the imported one.
    """

    reader: Reader
    guess: Guess
    options: ImportOptions
    url: str
    store: ProgressStore
    start: Place = field(default_factory=Place)
    notes: list[str] = field(default_factory=list)
    import_id: str = ""
    folder: Path | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one run.

    Attributes:
        kind: kind of the elements.
        accepted: elements that the server has stored.
        duplicates: events that it knew before.
        rejected: number of rejected rows.
        rejections: the first of them.
        rejected_by_code: number of rejected rows by code.
        refused_unsent: rejected rows that were not sent.
        skipped: rows that the plan skips.
        repeated: descriptions that were equal to the one before, and not sent.
        resumed_at: first row of the run, from 1.
        rows: rows that were read.
        position: position in the log behind what was stored.
    """

    kind: Kind
    accepted: int
    duplicates: int
    rejected: int
    rejections: Sequence[RejectedRow]
    rejected_by_code: dict[str, int]
    refused_unsent: int
    skipped: int
    repeated: int
    resumed_at: int
    rows: int
    position: Position


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
        record = None if restart else _same_options(store, path, url, options)
        if record is not None and _fits(record.plan, reader):
            # An appended part must not change how the file is understood.
            understood = Guess(record.plan, "as in the last run")
            job = Job(reader, understood, options, url, store, record.place)
            job.import_id = record.import_id
            return job
        understood = _guessed(reader, options)
    job = Job(reader, understood, options, url, store)
    record = None if restart else store.load(path, url, understood.plan.kind)
    if record is not None and record.plan == understood.plan:
        job.start, job.import_id = record.place, record.import_id
    elif record is not None:
        job.notes.append(
            "the last run had other options or columns: this one starts at the beginning"
        )
    return job


def _guessed(reader: Reader, options: ImportOptions) -> Guess:
    understood = guess(reader, options)
    understood.notes[:0] = reader.notes
    return understood


def _same_options(
    store: ProgressStore, path: Path, url: str, options: ImportOptions
) -> Record | None:
    """Return the record of a run with the same options."""
    kinds = get_args(Kind) if options.kind is None else (options.kind,)
    records = [store.load(path, url, kind) for kind in kinds]
    return next(
        (record for record in records if record is not None and record.options == options), None
    )


def _fits(plan: Plan, reader: Reader) -> bool:
    """Whether a file still has the columns of a plan."""
    names = {name for mapped in plan.fields for name in mapped.columns}
    return names <= {*reader.columns} and (plan.guest or "") in {"", *reader.columns}


def preview(job: Job, most: int = _PREVIEWED) -> tuple[list[msgspec.Raw], RejectedRows]:
    """Return the first `most` elements as they would be sent, and the rejected rows before them.

    Raises:
        DatasetError: if the file cannot be read.
    """
    found: list[msgspec.Raw] = []
    rejections = RejectedRows()
    plan = msgspec.structs.replace(job.guess.plan, by_time=False)
    source = Source(job.reader, plan, job.folder)
    with (
        readable(job.reader.path),
        closing(batches_of(source, Place(), 100, Count(), lambda _: None)) as batches,
    ):
        for batch in batches:
            found += [msgspec.Raw(line.strip()) for line in batch.lines]
            for rejection in batch.rejected:
                rejections.add(rejection)
            if len(found) >= most:
                break
    return found[:most], rejections


async def begin(job: Job, client: AsyncClient) -> None:
    """Begin the import at the server, or go on with that of the earlier run.

    If that was undone, all of the file is sent again. Servers of earlier versions keep no imports.

    Raises:
        ClientError: if the server refuses.
    """
    resumed = bool(job.import_id)
    job.import_id = job.import_id or uuid.uuid4().hex
    try:
        await _register(job, client)
    except BadRequest as error:
        if error.status == HTTPStatus.NOT_FOUND:
            job.import_id = ""
            job.notes.append("the server keeps no imports, so this one cannot be undone")
        elif resumed:
            job.start, job.import_id = Place(), uuid.uuid4().hex
            job.notes.append("the earlier import was undone: this one sends the whole file")
            await _register(job, client)
        else:
            raise


async def end(job: Job, client: AsyncClient, outcome: Outcome) -> None:
    """Tell the server that all of the file was sent.

    Raises:
        ClientError: if the server refuses.
    """
    if job.import_id:
        await _register(job, client, done=True, refused=outcome.refused_unsent)


async def _register(job: Job, client: AsyncClient, *, done: bool = False, refused: int = 0) -> None:
    new = NewImport(
        name=job.reader.path.name[:255],
        kind=job.guess.plan.kind,
        state="done" if done else "running",
        refused=refused,
    )
    await client.run(routes.register_import(job.import_id, new))


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
    counts = Count()
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
        job.start, job.guess = Place(), _guessed(job.reader, job.options)
        return await _run(job, client, Count(), batch, in_flight, advanced, now_ms)


async def _run(
    job: Job,
    client: AsyncClient,
    counts: Count,
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
    sender = Sender(
        client,
        kind,
        in_flight=in_flight,
        proved=proved,
        saved=save,
        advanced=advanced,
        import_id=job.import_id,
    )
    try:
        source = Source(job.reader, job.guess.plan, job.folder)
        for ready in batches_of(source, job.start, batch, counts, advanced):
            counts.sent += len(ready.lines)
            await sender.send(ready)
        await sender.finish()
    finally:
        await sender.stop()
    sender.sent.rejections.merge(counts.rejected)
    if not proved and not counts.sent:
        raise _nothing_sent(job, counts, sender.sent.rejections)
    save(place, done=True)
    return _outcome(job, counts, sender.sent)


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
        import_id=job.import_id,
    )


def _nothing_sent(job: Job, counts: Count, rejections: RejectedRows) -> DatasetError:
    path = job.reader.path
    if rejections.count:
        first = rejections.first[0]
        reasons = ", ".join(f"{number} {code}" for code, number in rejections.by_code.items())
        return DatasetError(
            f"{path}: none of {counts.rows:,} rows could be sent ({reasons}). Row {first.row}: "
            f"{first.code}: {first.message}"
        )
    if counts.skipped:
        return DatasetError(f"{path}: --map-type skips all of its {counts.rows:,} rows")
    return DatasetError(f"{path}: has no rows")


def _outcome(job: Job, counts: Count, sent: Sent) -> Outcome:
    return Outcome(
        kind=job.guess.plan.kind,
        accepted=sent.accepted,
        duplicates=sent.duplicates,
        rejected=sent.rejections.count,
        rejections=sent.rejections.first,
        rejected_by_code=dict(sent.rejections.by_code),
        refused_unsent=sent.rejections.count - sent.refused,
        skipped=counts.skipped,
        repeated=counts.repeated,
        resumed_at=job.start.rows + 1,
        rows=counts.rows,
        position=sent.position,
    )

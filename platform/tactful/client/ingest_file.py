"""Send an NDJSON file to a server, several batches at once; an interrupted run resumes.

The progress is kept beside the file, four times a second and at the end. Elements that a killed run
had sent beyond it are sent again; events count once, since those without an ``event_id`` get one
from file name, place and content.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import BinaryIO

import msgspec

from tactful.client import AsyncClient, Kind
from tactful.client.calls import chunks
from tactful.errors import ClientError, DatasetError
from tactful.schemas.ingestion import EventsAccepted, Rejection, Upserted
from tactful.schemas.positions import Position
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file

_HEAD_BYTES = 4096
_BATCH_BYTES = 1024 * 1024
_SAVE_S = 0.25


class Progress(msgspec.Struct, kw_only=True, frozen=True):
    """Progress of sending a file."""

    head: str  # SHA-256 of the beginning of the file, which identifies it
    offset: int = 0  # acknowledged bytes
    lines: int = 0  # acknowledged lines, with blank ones


@dataclass
class Outcome:
    """Result of one run."""

    accepted: int = 0
    duplicates: int = 0
    # line number, from 1, and reason of each rejected element
    rejected: list[tuple[int, Rejection]] = field(default_factory=list)
    resumed_at: int = 1  # first line of the run, from 1
    position: Position = 0


async def ingest_file(
    client: AsyncClient,
    path: Path,
    kind: Kind,
    *,
    batch: int,
    in_flight: int,
    restart: bool,
    advanced: Callable[[int], object],
) -> Outcome:
    """Send an NDJSON file, `batch` lines a request, from the progress of the last run on.

    Up to `in_flight` requests are sent at once; the server appends them in the order of the file.
    `restart` ignores the progress. `advanced` is called with the bytes of an earlier run, then of
    each acknowledged batch.

    Raises:
        DatasetError: if the file cannot be read, or changed since the earlier run.
        ClientError: if the server refuses; the progress is kept.
    """
    try:
        with path.open("rb") as file:
            progress = _resume(path, file, restart)
            file.seek(0)
            head = file.read(_HEAD_BYTES)
            file.seek(progress.offset)
            advanced(progress.offset)
            sender = _Sender(client, path, kind, head, progress, advanced)
            try:
                for lines in chunks(file, batch, _BATCH_BYTES):
                    if len(sender.flying) == in_flight:
                        await sender.settle()
                    sender.send(lines)
                while sender.flying:
                    await sender.settle()
            finally:
                await sender.stop()
    except ClientError:  # some of them are OSErrors, too
        raise
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    return sender.outcome


@dataclass
class _Batch:
    """Lines that are on their way."""

    size: int  # bytes
    numbers: list[int]  # number of each line that is not blank, from 1
    lines: int  # with blank ones
    name: str
    answer: asyncio.Task[EventsAccepted | Upserted] | None = None  # None if all are blank

    @property
    def acknowledged(self) -> bool:
        """Whether the server has answered that they are durable."""
        answer = self.answer
        if answer is None or not answer.done() or answer.cancelled():
            return False
        return answer.exception() is None


class _Sender:
    """Sends batches at once, and keeps the progress of those that are settled in order."""

    def __init__(
        self,
        client: AsyncClient,
        path: Path,
        kind: Kind,
        head: bytes,
        progress: Progress,
        advanced: Callable[[int], object],
    ) -> None:
        self.flying: deque[_Batch] = deque()  # in the order of the file
        self.outcome = Outcome(resumed_at=progress.lines + 1)
        self._client = client
        self._path = path
        self._kind = kind
        self._head = head
        self._progress = progress
        self._advanced = advanced
        self._offset, self._lines = progress.offset, progress.lines  # of the next batch
        self._names = (f"{uuid.uuid4().hex[:16]}.{number}" for number in count())
        self._saved, self._saved_at = progress, time.monotonic()

    def send(self, lines: list[bytes]) -> None:
        """Begin to send a batch."""
        begin, numbers, offsets, sent = self._offset, [], list[int](), list[bytes]()
        for index, line in enumerate(lines):
            if line.strip():
                numbers.append(self._lines + index + 1)
                offsets.append(begin)
                sent.append(line)
            begin += len(line)
        batch = _Batch(begin - self._offset, numbers, len(lines), next(self._names))
        if numbers:
            before = next((b for b in reversed(self.flying) if b.answer is not None), None)
            call = self._client.send_lines(
                self._kind,
                b"".join(sent),
                new_id=partial(self._new_id, sent, offsets),
                headers=partial(_headers, batch.name, before),
            )
            batch.answer = asyncio.create_task(call)
        self._offset, self._lines = begin, self._lines + len(lines)
        self.flying.append(batch)

    def _new_id(self, lines: list[bytes], offsets: list[int], index: int) -> str:
        """Make the id of an event without one, the same in a repeated run."""
        place = f"{self._path.name}:{offsets[index]}:".encode()
        return hashlib.blake2b(place + lines[index].strip(), digest_size=16).hexdigest()

    async def settle(self) -> None:
        """Wait for the answer to the oldest batch."""
        batch = self.flying[0]
        if batch.answer is not None:
            self._count(await batch.answer, batch.numbers)
        self.flying.popleft()
        offset = self._progress.offset + batch.size
        lines = self._progress.lines + batch.lines
        self._progress = Progress(head=_fingerprint(self._head, offset), offset=offset, lines=lines)
        if time.monotonic() - self._saved_at >= _SAVE_S:
            self._save()
        self._advanced(batch.size)

    async def stop(self) -> None:
        """Give up the batches on their way, and save the progress."""
        answers = [batch.answer for batch in self.flying if batch.answer is not None]
        for answer in answers:
            answer.cancel()
        await asyncio.gather(*answers, return_exceptions=True)
        self._save()

    def _count(self, answer: EventsAccepted | Upserted, numbers: list[int]) -> None:
        outcome = self.outcome
        outcome.accepted += answer.accepted
        outcome.position = answer.position
        if isinstance(answer, EventsAccepted):
            outcome.duplicates += answer.duplicates
        outcome.rejected += [(numbers[refusal.index], refusal) for refusal in answer.rejected]

    def _save(self) -> None:
        if self._progress is not self._saved:
            replace_file(_progress_path(self._path), msgspec.json.encode(self._progress))
            self._saved, self._saved_at = self._progress, time.monotonic()


def _headers(name: str, before: _Batch | None) -> dict[str, str]:
    """Return the place of a batch, behind the one before it while that has no answer."""
    headers = {"Tactful-Batch": name}
    if before is not None and not before.acknowledged:
        headers["Tactful-After"] = before.name
    return headers


def _progress_path(path: Path) -> Path:
    return path.with_name(path.name + ".progress")


def _resume(path: Path, file: BinaryIO, restart: bool) -> Progress:
    kept = _progress_path(path)
    if restart or not kept.exists():
        return Progress(head=_fingerprint(b"", 0))
    try:
        progress = msgspec.json.decode(kept.read_bytes(), type=Progress)
    except DECODE_ERRORS as error:
        raise DatasetError(f"{kept}: damaged; begin anew with --restart") from error
    same = progress.head == _fingerprint(file.read(_HEAD_BYTES), progress.offset)
    if not same or progress.offset > path.stat().st_size:
        raise DatasetError(f"{path}: not the file {kept.name} is about; begin anew with --restart")
    return progress


def _fingerprint(head: bytes, offset: int) -> str:
    """Hash the sent part of the head, so that a file may grow between two runs."""
    return hashlib.sha256(head[:offset]).hexdigest()

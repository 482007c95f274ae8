"""Send an NDJSON file to a server; an interrupted run resumes.

The progress is kept beside the file after every acknowledged batch. After a crash at most one
batch is sent twice; events with an ``event_id`` count once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from tactful.client import Client, Kind
from tactful.client.calls import chunks
from tactful.errors import ClientError, DatasetError
from tactful.schemas.ingestion import EventsAccepted, Rejection
from tactful.schemas.positions import Position
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file

_HEAD_BYTES = 4096
_BATCH_BYTES = 1024 * 1024


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


def ingest_file(
    client: Client,
    path: Path,
    kind: Kind,
    *,
    batch: int,
    restart: bool,
    advanced: Callable[[int], object],
) -> Outcome:
    """Send an NDJSON file, `batch` lines a request, from the progress of the last run on.

    `restart` ignores that progress. `advanced` is called with the bytes of an earlier run, then of
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
            outcome = Outcome(resumed_at=progress.lines + 1)
            advanced(progress.offset)
            file.seek(progress.offset)
            for lines in chunks(file, batch, _BATCH_BYTES):
                _send(client, kind, lines, progress.lines + 1, outcome)
                size = sum(map(len, lines))
                progress = Progress(
                    head=_fingerprint(head, progress.offset + size),
                    offset=progress.offset + size,
                    lines=progress.lines + len(lines),
                )
                replace_file(_progress_path(path), msgspec.json.encode(progress))
                advanced(size)
    except ClientError:  # some of them are OSErrors, too
        raise
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    return outcome


def _send(client: Client, kind: Kind, lines: list[bytes], first: int, outcome: Outcome) -> None:
    numbers = [first + index for index, line in enumerate(lines) if line.strip()]
    if not numbers:
        return
    answer = client.send_lines(kind, b"".join(line for line in lines if line.strip()))
    outcome.accepted += answer.accepted
    outcome.position = answer.position
    if isinstance(answer, EventsAccepted):
        outcome.duplicates += answer.duplicates
    outcome.rejected += [(numbers[refusal.index], refusal) for refusal in answer.rejected]


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

"""Catalogue of the segments of a log: finds missing, exchanged and foreign files.

The file ``segments`` of a log directory is replaced durably before a new segment gets its first
record, before an old one is removed, and around a rewrite; so it agrees with the files after a
crash, too::

    {"begin": 0, "segments": {"0": ["f154…"], "4096": ["f154…", "f154…"], "9000": []}}

A segment that has ended is identified by the header of its first record, in hexadecimal, which
holds the time of receipt and a checksum; there are two while it is rewritten. Segments before
`begin` may be absent: retention dropped them. A log of an earlier version has no such file.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file, sync
from tactful_streaming.errors import LogCorruptedError, LogError, LogIncompleteError
from tactful_streaming.log.segment import BLANK, HEADER_BYTES, UNFINISHED, Segment, encode_records

_logger = logging.getLogger(__name__)

LOSSES = "losses"
"""File of a log directory with accepted losses, one JSON object a line."""

BLANKS_AT_ONCE = 10_000
"""Largest number of blank records that are written at once."""

_CATALOGUE = "segments"


class Catalogue(msgspec.Struct, frozen=True):
    """Segments of a log by first offset, in their order; see the module."""

    begin: int
    segments: dict[int, list[str]]


class _Sealed(msgspec.Struct, frozen=True):
    crc32: int
    catalogue: msgspec.Raw


class Loss(NamedTuple):
    """A file that keeps a log from being opened, and the offsets of its records."""

    file: Path
    begin: int
    end: int
    reason: str

    def __str__(self) -> str:
        """Describe the loss for an operator."""
        lost = f"offsets {self.begin} to {self.end - 1}" if self.end > self.begin else "no offsets"
        return f"{self.file.name} {self.reason} ({lost})"


def segment_file(path: Path, base: int) -> Path:
    """Return the file of the segment at offset `base`."""
    return path / f"{base:020d}.log"


def read_catalogue(path: Path) -> Catalogue | None:
    """Read the catalogue of the log in directory `path`; None if there is none.

    Raises:
        LogCorruptedError: if it is damaged.
    """
    file = path / _CATALOGUE
    try:
        sealed = msgspec.json.decode(file.read_bytes(), type=_Sealed)
        if zlib.crc32(sealed.catalogue) != sealed.crc32:
            raise LogCorruptedError(f"{file}: damaged: its checksum differs. {cure(path)}")
        catalogue = msgspec.json.decode(sealed.catalogue, type=Catalogue)
    except FileNotFoundError:
        return None
    except DECODE_ERRORS as error:
        raise LogCorruptedError(f"{file}: damaged: {error}. {cure(path)}") from error
    return catalogue if catalogue.segments else None


def write_catalogue(path: Path, bases: Sequence[int]) -> None:
    """Record the segments at `bases` as all those of the log."""
    segments = {base: [_identity(segment_file(path, base))] for base in bases[:-1]}
    _write(path, Catalogue(bases[0], {**segments, bases[-1]: []}))


def add_segment(path: Path, bases: Sequence[int]) -> None:
    """Record that the newest of the segments at `bases` follows the others, which have ended."""
    try:
        catalogue = read_catalogue(path)
    except LogCorruptedError:
        catalogue = None
    known = {} if catalogue is None else catalogue.segments
    ended = [base for base in known if base < bases[-1]]
    if catalogue is None or not ended:
        write_catalogue(path, bases)
        return
    last = max(ended)
    newest = {last: [_identity(segment_file(path, last))], bases[-1]: []}
    _write(path, Catalogue(catalogue.begin, {**known, **newest}))


def remove_segments(path: Path, files: Sequence[Path], begin: int) -> None:
    """Remove the oldest segments, durably, so that the log begins at `begin`.

    The catalogue is written before, or after if the disk is full: then only a crash in between
    makes the next opening refuse the log.
    """
    catalogue = read_catalogue(path)
    full = False
    if catalogue is not None:
        catalogue = msgspec.structs.replace(catalogue, begin=begin)
        try:
            _write(path, catalogue)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full:
                raise
    for file in files:
        file.unlink(missing_ok=True)
    if catalogue is not None and full:
        _write(path, catalogue)
    sync(path)


def replace_segment(segment: Path, draft: Path) -> None:
    """Put file `draft` in the place of an ended or the newest segment, atomically and durably."""
    path, base = segment.parent, int(segment.stem)
    catalogue = read_catalogue(path)
    ended = catalogue is not None and bool(catalogue.segments.get(base))
    if catalogue is not None and ended:
        both = [*catalogue.segments[base], _identity(draft)]
        _write(path, Catalogue(catalogue.begin, {**catalogue.segments, base: both}))
    draft.replace(segment)
    sync(path)
    if catalogue is not None and ended:
        new = {**catalogue.segments, base: [_identity(segment)]}
        _write(path, Catalogue(catalogue.begin, new))


def present_segments(path: Path, catalogue: Catalogue | None) -> list[int]:
    """List the first offsets of the segments that are there, oldest first.

    Segments before the begin of the catalogue count as far as they join it.

    Raises:
        LogError: if a file is not named after an offset.
    """
    present = sorted(map(_base, path.glob("*.log")))
    if catalogue is None:
        return present
    listed = sorted(catalogue.segments)
    dropped = [base for base in listed if base < catalogue.begin]
    joined = list(itertools.takewhile(set(present).__contains__, reversed(dropped)))
    first = min([*joined, catalogue.begin])
    return [base for base in present if base >= first and base in catalogue.segments]


def find_losses(path: Path, catalogue: Catalogue, end: int) -> list[Loss]:
    """Compare the files of a log, which was acknowledged up to `end`, with its catalogue."""
    losses = []
    bases = sorted(catalogue.segments)
    for base, following in zip(bases, [*bases[1:], max(end, bases[-1])], strict=True):
        file, known = segment_file(path, base), catalogue.segments[base]
        if not file.exists():
            if base >= catalogue.begin:
                losses.append(Loss(file, base, following, "is missing"))
        elif known and _identity(file) not in known:
            reason = "was emptied or exchanged: record at byte 0 is not the one that was written"
            losses.append(Loss(file, base, following, reason))
    for file in sorted(path.glob("*.log")):
        base = _base(file)
        # An empty file is that of a process which was killed before it wrote to it.
        if base not in catalogue.segments and file.stat().st_size:
            losses.append(Loss(file, base, base, "is not of this log"))
    return losses


def compare(path: Path, end: int, accept_loss: bool) -> tuple[Catalogue | None, list[Loss]]:
    """Read the catalogue and find losses, again if the writer of the log changes it meanwhile.

    Raises:
        LogCorruptedError: if the catalogue is damaged, unless the loss of it is accepted.
    """
    while True:
        try:
            catalogue = read_catalogue(path)
        except LogCorruptedError as error:
            if not accept_loss:
                raise
            _logger.error("%s: made anew", error)
            return None, []
        if catalogue is None:
            return None, []
        try:
            losses = find_losses(path, catalogue, end)
        except FileNotFoundError:
            continue
        if not losses or read_catalogue(path) == catalogue:
            return catalogue, losses


def refuse(path: Path, losses: Sequence[Loss]) -> None:
    """Raise LogIncompleteError if there are losses."""
    if losses:
        more = f" and {len(losses) - 5} more" if len(losses) > 5 else ""
        raise LogIncompleteError(
            f"{path}: the log is not whole: {'; '.join(map(str, losses[:5]))}{more}. {cure(path)}"
        )


def accept(
    path: Path, catalogue: Catalogue, losses: Sequence[Loss], received: int, at: int
) -> None:
    """Make a log without its lost records, and record them and the time in the file ``losses``.

    `received` is the time of receipt of the newest record.

    The log begins behind lost oldest segments. Other lost records are replaced by empty ones, so
    that offsets stay. Files that are not of the log are removed.
    """
    record_losses(path, losses, at)
    bases = sorted(catalogue.segments)
    lost = {loss.begin for loss in losses}
    missing = {loss.begin for loss in losses if not loss.file.exists()}
    kept = list(itertools.dropwhile(missing.__contains__, bases[:-1])) + bases[-1:]
    for loss in losses:
        if loss.begin not in catalogue.segments:
            loss.file.unlink()
        elif loss.begin in kept:
            later = [base for base in kept if base > loss.begin and base not in lost]
            _write_blanks(loss, _first_received(path, later) or received)
    for base in set(bases) - set(kept):
        segment_file(path, base).unlink(missing_ok=True)
    write_catalogue(path, kept)


def record_losses(path: Path, losses: Sequence[Loss], at: int) -> None:
    """Add accepted losses to the file ``losses`` and to the program's log."""
    with (path / LOSSES).open("ab") as file:
        for loss in losses:
            _logger.error("%s: loss accepted: %s", path, loss)
            fields = {"at": at, "file": loss.file.name, "reason": loss.reason}
            file.write(msgspec.json.encode(fields | {"begin": loss.begin, "end": loss.end}) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, catalogue: Catalogue) -> None:
    segments = {
        base: known
        for base, known in sorted(catalogue.segments.items())
        if base >= catalogue.begin or segment_file(path, base).exists()
    }
    encoded = msgspec.json.encode(Catalogue(catalogue.begin, segments))
    sealed = _Sealed(zlib.crc32(encoded), msgspec.Raw(encoded))
    replace_file(path / _CATALOGUE, msgspec.json.encode(sealed), private=True)


def _base(segment: Path) -> int:
    if not segment.stem.isdecimal():
        raise LogError(f"{segment}: a segment is named after its first offset")
    return int(segment.stem)


def _identity(segment: Path) -> str:
    with segment.open("rb") as file:
        return file.read(HEADER_BYTES).hex()


def _first_received(path: Path, bases: Sequence[int]) -> int:
    """Return the time of receipt of the first record of intact segments; 0 without records."""
    for file in (segment_file(path, base) for base in bases):
        if file.stat().st_size:
            return Segment(file, writable=False).first_received()
    return 0


def _write_blanks(loss: Loss, received: int) -> None:
    draft = loss.file.with_name(f"{loss.file.name}.{os.getpid()}{UNFINISHED}")
    with draft.open("wb") as file:
        for begin in range(loss.begin, loss.end, BLANKS_AT_ONCE):
            count = min(BLANKS_AT_ONCE, loss.end - begin)
            file.write(encode_records([BLANK] * count, received)[0])
        file.flush()
        os.fsync(file.fileno())
    draft.replace(loss.file)
    sync(loss.file.parent)


def cure(path: Path) -> str:
    """Return the last sentence of a refusal of the log in directory `path`."""
    return (
        "Nothing was changed; restore it from a backup, or open the log once with --accept-loss "
        f"(`tactful serve`, `tactful worker`), which records the loss in {path / LOSSES}"
    )

"""Batched reading of a log between two offsets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tactful.schemas.positions import Position
from tactful_streaming.contract.log_entries import Entry, decode_entry
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.event_log import EventLog

Record = tuple[int, bytes]


class Readable(Protocol):
    """The reading side of a log."""

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""

    def read(self, offset: int, limit: int) -> list[Record]:
        """Read up to `limit` records from `offset` on."""


@dataclass
class SharedReading:
    """A log that is read from its beginning once, for two: a listener gets the same records."""

    log: Readable
    listen: Callable[[Sequence[Record]], None]
    end: int  # offset at which the listener stops

    def __post_init__(self) -> None:
        """Begin."""
        self._heard = self.log.begin

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""
        return self.log.begin

    def read(self, offset: int, limit: int) -> list[Record]:
        """Read up to `limit` records from `offset` on."""
        records = self.log.read(offset, limit)
        self._hear(records)
        return records

    def finish(self, until: int | None = None, size: int = 2_048) -> None:
        """Read the rest for the listener, up to its end or an earlier offset."""
        end = self.end if until is None else min(until, self.end)
        for records in read_batches(self.log, self._heard, end, size=size):
            self._hear(records)

    def _hear(self, records: Sequence[Record]) -> None:
        if records:
            self.listen([record for record in records if self._heard <= record[0] < self.end])
            self._heard = records[-1][0] + 1


@runtime_checkable
class Bounded(Protocol):
    """A log with a fixed end, that of its opening."""

    @property
    def reach(self) -> Position:
        """End of the log."""

    def reach_to(self, position: Position) -> bool:
        """End the log at an earlier end; return whether it reaches that."""


def reach_of(log: EventLog) -> Position:
    """Return the present end of a log."""
    return log.reach if isinstance(log, Bounded) else log.end


def reach_to(log: EventLog, position: object) -> bool:
    """End a bounded log at an earlier end; return whether a log reaches that."""
    if isinstance(log, Bounded):
        return isinstance(position, int | str) and log.reach_to(position)
    return isinstance(position, int) and position <= log.end


def read_batches(log: Readable, begin: int, end: int, *, size: int) -> Iterator[Sequence[Record]]:
    """Read from `begin` to `end` or the log's end; StreamingError if unreadable."""
    while begin < end:
        records = log.read(begin, min(size, end - begin))
        if not records:
            return
        yield records
        begin = records[-1][0] + 1


def decoded(records: Iterable[Record]) -> Iterator[tuple[int, Entry]]:
    """Decode records; damaged ones are skipped, as in the engine."""
    for offset, payload in records:
        try:
            entry = decode_entry(payload)
        except StreamingError:
            continue
        yield offset, entry

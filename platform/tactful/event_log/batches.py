"""Batched reading of a log between two offsets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from tactful.schemas.positions import Position
from tactful_streaming.contract.log_entries import Entry, decode_entry
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.event_log import EventLog

Record = tuple[int, bytes]


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


def read_batches(log: EventLog, begin: int, end: int, *, size: int) -> Iterator[Sequence[Record]]:
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

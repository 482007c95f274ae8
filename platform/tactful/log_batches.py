"""Reads a log from one offset to another, some records at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tactful_streaming import Entry, EventLog, StreamingError, decode_entry

Record = tuple[int, bytes]


def read_batches(log: EventLog, begin: int, end: int, *, size: int) -> Iterator[Sequence[Record]]:
    """Offsets and payloads in log order; nothing where `begin` is not before `end`.

    Args:
        log: whose records.
        begin: first offset.
        end: offset to stop at; where the log ends earlier, there.
        size: how many records at a time at most.

    Raises:
        StreamingError: if the log cannot be read, or begins later by now.
    """
    while begin < end:
        records = log.read(begin, min(size, end - begin))
        if not records:
            return
        yield records
        begin = records[-1][0] + 1


def decoded(records: Iterable[Record]) -> Iterator[tuple[int, Entry]]:
    """Offsets and entries; what cannot be decoded is skipped, as the engine does."""
    for offset, payload in records:
        try:
            entry = decode_entry(payload)
        except StreamingError:
            continue
        yield offset, entry

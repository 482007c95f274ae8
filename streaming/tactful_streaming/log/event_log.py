"""Interfaces of event logs: one partition, and a log of many partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Literal, Protocol

Durability = Literal["power", "process"]
"""``power``: an append survives a power cut; ``process``: the death of the process alone."""

Positions = Mapping[int, int]
"""By partition, the offset behind the last record of an append."""


class EventLog(Protocol):
    """An append-only sequence of payloads with integer offsets; one partition of a log."""

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""

    @property
    def end(self) -> int:
        """Offset of the next record."""

    def append(self, payloads: Sequence[bytes]) -> int:
        """Append; durable on return. Returns the offset after the last payload."""

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Read up to `limit` records from `offset` on; empty at the end of the log."""

    def offset_at(self, timestamp: int) -> int:
        """Find the first record received at or after `timestamp`, epoch milliseconds."""

    def close(self) -> None:
        """Release files and locks."""


class PartitionedLog(Protocol):
    """A log of partitions, selected by the key of a record; each is an :class:`EventLog`.

    `submit` raises BackpressureError if too many bytes wait (nothing was queued) and LogError if
    the log is closed or refuses; its future fails with a LogError: nothing is acknowledged. Until a
    broker has answered once, `partitions` and `partition_of` raise LogUnreachableError.
    """

    @property
    def partitions(self) -> int:
        """Number of partitions."""

    def partition_of(self, key: str) -> int:
        """Return the partition that holds all records of `key`."""

    def submit(self, payloads: Sequence[bytes], keys: Sequence[str | None]) -> Future[Positions]:
        """Begin to append; done when durable. A record without a key goes to all partitions.

        The result is, by partition, the offset behind the last record.
        """

    def close(self) -> None:
        """Finish submitted appends and release resources."""

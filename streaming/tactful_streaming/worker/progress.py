"""Progress of a worker and of its partitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PartitionProgress:
    """Progress of a partition."""

    offset: int  # next offset to apply
    committed: int  # next offset to apply after a crash
    watermark: int  # epoch milliseconds
    records: int  # records not read yet, by the last answer of the broker
    behind_ms: int  # age of the newest record read, while more wait; 0 at the end
    idle: bool  # whether no record came for a while
    paused: bool  # whether it waits for slower partitions


@dataclass(frozen=True)
class WorkerProgress:
    """Counts of a worker since its start."""

    partitions: Mapping[int, PartitionProgress]  # owned partitions, by number
    entries: int = 0  # entries of the log applied
    rows: int = 0  # rows of window results, matches and late events written
    actions: int = 0  # actions appended to the log
    handovers: int = 0  # entries appended to other partitions
    ticks: int = 0  # ticks appended to the log
    late: int = 0  # times an event came too late for a feature
    duplicates: int = 0  # events that had been applied before
    invalid: int = 0  # records that are no entry
    dropped: int = 0  # events that the rules kept back

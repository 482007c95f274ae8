"""The sink: fired windows from a Kafka topic into a database that serves them.

Flink and our own workers write what fires to a topic, one JSON object a row. The sink reads the
topic, writes each batch of rows to a target and only then commits its offsets. After a crash rows
come again, which changes nothing: a target keeps, of each feature, entity and group, the row of
the newest window, and among several of one window the one that came last in the topic.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta, Struct

from tactful_streaming.contract.log_entries import LATEST_TIMESTAMP
from tactful_streaming.errors import OnlineStoreError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.consumer_group import PartitionGroup

_logger = logging.getLogger(__name__)

_LIMIT = 5_000
_WAIT_S = 0.2
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_LARGEST_VALUE = 1 << 20

# Longer than any key the engine makes (``device:`` and an id) and any value it groups by.
_Name = Annotated[str, Meta(min_length=1, max_length=255)]
_Text = Annotated[str, Meta(max_length=4_096)]
_Moment = Annotated[int, Meta(ge=-LATEST_TIMESTAMP, le=2 * LATEST_TIMESTAMP)]


class FiredRow(Struct, frozen=True, gc=False):
    """One value that a window had when it fired.

    Attributes:
        feature: name of the feature.
        entity_key: whom or what it describes.
        window_start: epoch milliseconds.
        window_end: epoch milliseconds.
        feature_value: JSON of the value.
        group_key: the group, of a feature with ``group_by``.
        offset: place in its partition of the topic: of two rows of a window the later one counts.
    """

    feature: _Name
    entity_key: _Text
    window_start: _Moment
    window_end: _Moment
    feature_value: msgspec.Raw
    group_key: _Text | None = None
    offset: int = 0


@dataclass(frozen=True)
class FiredValue:
    """What a target holds of a feature.

    Attributes:
        window_start: of the newest window, epoch milliseconds.
        window_end: its end. Windows without events do not fire: a value whose window ended long ago
            is one of the past, and has to be read as nothing.
        value: the value; with ``group_by``, the value of each group that the newest window has.
    """

    window_start: int
    window_end: int
    value: Any


class RowSource(Protocol):
    """Where rows come from; :class:`~tactful_streaming.PartitionGroup` is one."""

    def poll(self, limit: int, wait_s: float) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Up to `limit` records by partition, with their offsets; waits `wait_s` for the first."""

    def commit(self, offsets: Mapping[int, int], *, wait: bool = False) -> None:
        """Note the next offset to read of partitions."""


class RowTarget(Protocol):
    """Where rows go."""

    def write(self, rows: Sequence[FiredRow]) -> None:
        """Keep `rows` durably, where they are newer than what is there.

        Raises:
            OnlineStoreError: if they cannot be written now; some may have been.
        """

    def read(self, entity_keys: Sequence[str]) -> list[dict[str, FiredValue]]:
        """Values by feature, of each of `entity_keys`, in their order."""

    def close(self) -> None:
        """Release what is held."""


@dataclass(frozen=True)
class SinkProgress:
    """What a sink has done since it started.

    Attributes:
        rows: rows written.
        invalid: records that are no fired row: left out.
        empty: records without a value, such as Flink's retractions: left out.
        failures: attempts of the target to write that failed.
        positions: next offset to read, by partition.
    """

    rows: int = 0
    invalid: int = 0
    empty: int = 0
    failures: int = 0
    positions: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))


def open_rows(settings: KafkaSettings, group: str) -> PartitionGroup:
    """Join a group that reads fired rows; several sinks of one group share the partitions.

    Args:
        settings: where the topic of the rows lies.
        group: name of the group, under which Kafka keeps what was written already. A new group
            begins at the oldest row.

    Raises:
        LogError: if the client is not installed or refuses the settings.
    """
    return PartitionGroup(
        settings,
        group,
        assigned=lambda _: None,
        # What was read and not committed is read again by whoever gets the partition.
        revoked=lambda _: None,
        lost=lambda _: None,
    )


def run_sink(
    source: RowSource,
    target: RowTarget,
    *,
    stop: Callable[[], bool],
    progress: Callable[[SinkProgress], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> SinkProgress:
    """Move rows until told to stop.

    While the target cannot be reached, the batch at hand is tried again with growing pauses, and
    nothing more is read.

    Args:
        source: where rows come from; not closed.
        target: where they go; not closed.
        stop: asked before each batch and each attempt.
        progress: told after each batch and each failure.
        sleep: waits between attempts, seconds.

    Returns:
        What was done.

    Raises:
        LogError: if the topic cannot be read any more; what was written is committed.
    """
    done = SinkProgress()
    while not stop():
        records = source.poll(_LIMIT, _WAIT_S)
        if not records:
            progress(done)
            continue
        rows, invalid, empty = _decode(records)
        pause = _FIRST_PAUSE_S
        while True:
            try:
                target.write(newest_rows(rows))
                break
            except OnlineStoreError as error:
                _logger.warning("the target does not take rows, trying again: %s", error)
                done = replace(done, failures=done.failures + 1)
                progress(done)
                if stop():
                    return done
                sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        positions = {number: run[-1][0] + 1 for number, run in records.items()}
        source.commit(positions, wait=True)
        done = replace(
            done,
            rows=done.rows + len(rows),
            invalid=done.invalid + invalid,
            empty=done.empty + empty,
            positions=MappingProxyType({**done.positions, **positions}),
        )
        progress(done)
    return done


def newest_rows(rows: Iterable[FiredRow]) -> list[FiredRow]:
    """Of each feature, entity and group the row that counts."""
    newest: dict[tuple[str, str, str | None], FiredRow] = {}
    for row in rows:
        key = (row.feature, row.entity_key, row.group_key)
        held = newest.get(key)
        if held is None or (held.window_end, held.offset) <= (row.window_end, row.offset):
            newest[key] = row
    return list(newest.values())


def _decode(
    records: Mapping[int, Sequence[tuple[int, bytes]]],
) -> tuple[list[FiredRow], int, int]:
    """The rows, how many records are none, and how many are empty."""
    rows: list[FiredRow] = []
    empty = 0
    problems: list[str] = []
    for partition, run in records.items():
        for offset, payload in run:
            if not payload:
                empty += 1
                continue
            try:
                rows.append(_row(payload, offset))
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                problems.append(f"offset {offset} of partition {partition}: {error}")
    if problems:
        _logger.warning("left out records that are no fired rows, the first at %s", problems[0])
    return rows, len(problems), empty


def _row(payload: bytes, offset: int) -> FiredRow:
    row = _decoder.decode(payload)
    value = bytes(row.feature_value)
    if len(value) > _LARGEST_VALUE:
        raise ValueError(f"a value of {len(value)} bytes; the most is {_LARGEST_VALUE}")
    msgspec.json.decode(value)  # what readers could not decode must not get in
    # In memory of its own: as it was decoded it keeps the whole record.
    return msgspec.structs.replace(row, feature_value=msgspec.Raw(value), offset=offset)


_decoder = msgspec.json.Decoder(FiredRow)

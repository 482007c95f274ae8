"""The sink: window results from a Kafka topic to a database that serves them.

Flink and our own workers write window results to a topic, one JSON object for each row. The sink
reads the topic, writes each batch of rows to a target and then commits its offsets. After a crash
it repeats rows, which is harmless: a target stores, for each feature, entity and group, the row of
the newest window, and among rows of the same window the last one in the topic.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta, Struct

from tactful_privacy.decoding import DECODE_ERRORS
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

# Longer than any key of the engine (``device:`` and an id) and any value of a group.
_Name = Annotated[str, Meta(min_length=1, max_length=255)]
_Text = Annotated[str, Meta(max_length=4_096)]
_Time = Annotated[int, Meta(ge=-LATEST_TIMESTAMP, le=2 * LATEST_TIMESTAMP)]


class WindowRow(Struct, frozen=True, gc=False):
    """One value of a window result."""

    feature: _Name
    entity_key: _Text  # key of the user, session, item or category
    window_start: _Time  # epoch milliseconds
    window_end: _Time  # epoch milliseconds
    feature_value: msgspec.Raw  # the value as JSON
    group_key: _Text | None = None  # the group, for a feature with `group_by`
    offset: int = 0  # offset in its partition of the topic; the greatest of a window counts


@dataclass(frozen=True)
class WindowValue:
    """The stored value of a feature."""

    window_start: int  # start of the newest window, epoch milliseconds
    # Its end. Windows without events have no result: if this end is long past, there is no present
    # value.
    window_end: int
    value: Any  # the value; with `group_by`, the value of each group of the newest window


class RowSource(Protocol):
    """Source of rows; `PartitionGroup` is one."""

    def poll(self, limit: int, wait_s: float) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Read up to `limit` records by partition; wait at most `wait_s` for the first."""

    def commit(self, offsets: Mapping[int, int], *, wait: bool = False) -> None:
        """Commit the next offsets to read."""

    def at_end(self) -> bool:
        """Whether all that is in the assigned partitions has been read."""


class RowTarget(Protocol):
    """Database of rows."""

    def write(self, rows: Sequence[WindowRow]) -> None:
        """Store those of `rows` durably that are newer than the stored ones."""

    def read(self, entity_keys: Sequence[str]) -> list[dict[str, WindowValue]]:
        """Read the values by feature of each of `entity_keys`, in their order."""

    def erase(self, entity_keys: Sequence[str]) -> int:
        """Delete all values of `entity_keys`; return the number of deleted rows."""

    def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True)
class SinkProgress:
    """Counts of a sink since its start."""

    rows: int = 0
    invalid: int = 0  # skipped records that are no rows
    empty: int = 0  # skipped records without a value, such as Flink's retractions
    failures: int = 0  # failed writes to the target
    positions: Mapping[int, int] = field(default_factory=dict)  # next offsets


def open_rows(settings: KafkaSettings, group: str) -> PartitionGroup:
    """Join a group that reads rows: its sinks share the partitions, from the oldest row."""
    return PartitionGroup(
        settings,
        group,
        assigned=lambda _: None,
        # The next owner of a partition reads again from the committed offset.
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
    """Copy rows from the source to the target until `stop` returns True.

    While the target cannot be reached, the batch is retried with growing pauses, and no more rows
    are read. `stop` is called before each batch and each attempt, `progress` after each batch and
    each failure. The result is the final counts.

    Raises:
        LogError: if the topic cannot be read; offsets of written rows are committed.
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
                _logger.warning("the target refused rows, trying again: %s", error)
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
            positions={**done.positions, **positions},
        )
        progress(done)
    return done


def newest_rows(rows: Iterable[WindowRow]) -> list[WindowRow]:
    """Select the newest row of each feature, entity and group."""
    newest: dict[tuple[str, str, str | None], WindowRow] = {}
    for row in rows:
        key = (row.feature, row.entity_key, row.group_key)
        held = newest.get(key)
        if held is None or (held.window_end, held.offset) <= (row.window_end, row.offset):
            newest[key] = row
    return list(newest.values())


def _decode(records: Mapping[int, Sequence[tuple[int, bytes]]]) -> tuple[list[WindowRow], int, int]:
    """Return the rows, the number of invalid records, and the number of empty ones."""
    rows: list[WindowRow] = []
    empty = 0
    problems: list[str] = []
    for partition, run in records.items():
        for offset, payload in run:
            if not payload:
                empty += 1
                continue
            try:
                rows.append(_row(payload, offset))
            except (ValueError, *DECODE_ERRORS) as error:
                problems.append(f"offset {offset} of partition {partition}: {error}")
    if problems:
        _logger.warning("skipped records that are no rows, the first at %s", problems[0])
    return rows, len(problems), empty


def _row(payload: bytes, offset: int) -> WindowRow:
    row = _decoder.decode(payload)
    value = bytes(row.feature_value)
    if len(value) > _LARGEST_VALUE:
        raise ValueError(f"a value of {len(value)} bytes; the most is {_LARGEST_VALUE}")
    msgspec.json.decode(value)  # readers must be able to decode it
    # A copy: the decoded value refers to the whole record.
    return msgspec.structs.replace(row, feature_value=msgspec.Raw(value), offset=offset)


_decoder = msgspec.json.Decoder(WindowRow)

"""Sinks that are killed while rows come in, on every target."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.kills.faults import find_fault
from benchmarks.kills.load import DEFINITIONS, Stream
from benchmarks.kills.processes import TACTFUL, Process, Victim, kill_at_random
from benchmarks.kills.topics import BrokerFault, Committed, Stalled
from benchmarks.kills.truth import Outcome, Served, Truth, served, table
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.sinks.redis import RedisRows
from tactful_streaming.sinks.sink import RowTarget
from tactful_streaming.sinks.sql import SqlRows

_PARTITIONS = 4
_FAR_MS = 7_200_000
_ARRIVAL_S = 180.0
_PAUSE_S = 0.1
_ROWS = 50
_SESSION_MS = 1500


def on_target(
    kills: int,
    folder: Path,
    seed: int,
    servers: str,
    location: str,
    *,
    launcher: Sequence[str] = TACTFUL,
) -> Outcome:
    """One sink, from a topic to a database.

    Args:
        kills: how often to kill.
        folder: empty, for all files.
        seed: of rows and kills.
        servers: address of Kafka.
        location: address of the database; SQLite and MySQL without rows, Redis with any.
        launcher: what starts the command line.

    Raises:
        BrokerFault: if the run stood still, and the broker is at fault.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = location.partition(":")[0].partition("+")[0]
    topic = f"rows-{folder.name}-{seed}"
    ensure_topic(KafkaSettings(servers, topic), consumer_threads=_PARTITIONS // 2)
    # So that a restarted sink does not wait long for its own partitions.
    (folder / "kafka.properties").write_text(f"session.timeout.ms={_SESSION_MS}\n")
    arguments = ["sink", "--kafka", servers, "--topic", topic, "--group", topic, "--json"]
    arguments += ["--kafka-properties", "kafka.properties", "--prefix", topic]
    environment = {"TACTFUL_SINK_TARGET": location}
    sink = Process(arguments, folder, "sink", environment=environment, launcher=launcher)
    committed = Committed(servers, topic, topic, _PARTITIONS)
    outcome = Outcome(f"sink to {name}")
    try:
        sink.start()
        victim = Victim(sink, committed)
        with Rows(servers, topic, seed) as rows:
            outcome.kills = kill_at_random([victim], kills, random.Random(seed), check=rows.check)
        _await_end(committed, rows.ends, sink.check)
        outcome.comparison.same("exit code", sink.stop(), 0)
    except Stalled as stall:
        sink.kill()
        if fault := find_fault(servers, topic, group=topic):
            raise BrokerFault(f"{fault}: {stall}") from stall
        raise
    finally:
        sink.kill()
        committed.close()
    outcome.acknowledged = sum(rows.ends)
    target: RowTarget = RedisRows(location, prefix=topic) if name == "redis" else SqlRows(location)
    compare_rows(outcome, target, served(table(rows.rows)))
    target.close()
    return outcome


def compare_rows(outcome: Outcome, target: RowTarget, expected: Served) -> None:
    """Compare the rows of a database with those that a sink should have written."""
    found = {
        entity: {
            feature: (value.window_start, value.window_end, value.value)
            for feature, value in features.items()
        }
        for entity, features in zip(expected, target.read([*expected]), strict=True)
    }
    for entity, features in expected.items():
        outcome.lost += len(features.keys() - found[entity].keys())
        outcome.comparison.same_all(f"{entity}:", found[entity], features)


class Rows:
    """A thread that fires windows into a topic until the context ends, and then all that are left.

    Every other window is of an entity of its own, so that its row is never overwritten: one that is
    lost is missed in the end.

    Attributes:
        rows: what has been fired.
        ends: number of rows acknowledged by the broker, by partition.
    """

    def __init__(self, servers: str, topic: str, seed: int) -> None:
        """Fire into `topic`."""
        from confluent_kafka import Producer

        self.rows: list[bytes] = []
        self._waiting: list[tuple[str, bytes]] = []
        self.ends = [0] * _PARTITIONS
        self._stream = Stream(seed)
        self._topic = topic
        self._producer = Producer(
            {"bootstrap.servers": servers, "acks": "all", "enable.idempotence": True}
        )
        self._truth = Truth(load_definitions(DEFINITIONS))
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Begin to fire."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all windows, and wait until the broker has acknowledged all rows."""
        self._stopping.set()
        self._thread.join()
        if kind is None:
            self.check()
            end = self._stream.newest + _FAR_MS
            self._apply([Event(event_id="close", type="leave", timestamp=end, user_id="close")])
            self._write(len(self._waiting))

    def check(self) -> None:
        """See that all is well.

        Raises:
            RuntimeError: if rows could not be fired.
        """
        if self._failure is not None:
            raise RuntimeError("the rows came to an end") from self._failure

    def _run(self) -> None:
        try:
            while not self._stopping.wait(_PAUSE_S):
                # Windows fire many at once; the rows go out evenly.
                while len(self._waiting) < _ROWS:
                    self._apply(self._stream.batch())
                self._write(_ROWS)
        except BaseException as error:
            self._failure = error

    def _apply(self, events: list[Event]) -> None:
        before = len(self._truth.rows)
        self._truth.apply(events)
        for fired in self._truth.rows[before:]:
            row = json.loads(fired)
            if row["window_end"] // 60_000 % 2:
                row["entity_key"] += f"@{row['window_end']}"
            self._waiting.append((row["entity_key"], json.dumps(row).encode()))

    def _write(self, count: int) -> None:
        for key, value in self._waiting[:count]:
            self._producer.produce(self._topic, value, key, on_delivery=self._delivered)
            self._producer.poll(0)
            self.rows.append(value)
        del self._waiting[:count]
        if self._producer.flush(30.0):
            raise RuntimeError("the broker does not take rows")

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            raise RuntimeError(f"the broker refused a row: {error}")
        number = message.partition()
        self.ends[number] = max(self.ends[number], message.offset() + 1)


def _await_end(committed: Committed, ends: Sequence[int], check: Callable[[], None]) -> None:
    """Wait until the sink has committed all rows, as long as it goes on."""
    before: list[int] = []
    until = 0.0
    while (reached := [max(at, 0) for at in committed()]) != list(ends):
        check()
        if reached != before:
            before, until = reached, time.monotonic() + _ARRIVAL_S
        elif time.monotonic() > until:
            raise Stalled(f"the sink stays at {reached} and does not come to {ends}")
        time.sleep(0.05)

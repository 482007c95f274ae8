"""Windows of many rows are written in portions, and each row once, also after a stop between two.

The log, the group and the transactions are in memory: rows count once they are committed.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.streaming.streams import START, event_of

from tactful_streaming.contract.log_entries import Records, Row, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.worker import partition_job
from tactful_streaming.worker import worker as workers
from tactful_streaming.worker.partition_job import JobOptions
from tactful_streaming.worker.worker import Worker, WorkerOptions

_MINUTE, _DAY = 60_000, 86_400_000
_DEFINITIONS = load_definitions(
    "- {name: v, entity: user, event: view, aggregate: count, window: {size: 5m, slide: 1m}}"
)


def _log() -> dict[int, list[bytes]]:
    """A day passes at once in partition 0, while partition 1 has events to read."""
    pause = [(n * _MINUTE, f"a{user}") for n in range(3) for user in range(30)]
    pause += [(_DAY, "a0"), (_DAY + 5 * _MINUTE, "a0")]
    steady = [(n * _MINUTE, f"b{user}") for n in range(40) for user in range(10)]
    return {
        number: [
            encode_entry(event_of(f"{number}-{place}", "view", START + at, user), "json")
            for place, (at, user) in enumerate(events)
        ]
        for number, events in enumerate((pause, steady))
    }


class _Group:
    """Delivers fifteen records of each partition that is not paused."""

    trouble = None

    def __init__(self, *_: object, assigned: Any, **__: object) -> None:
        self._assigned, self._log = assigned, _log()
        self._next: dict[int, int] = {}
        self._paused: set[int] = set()

    def poll(self, limit: int, wait_s: float) -> Mapping[int, Records]:
        if not self._next:
            self._next = {number: self._assigned(number) for number in self._log}
            return {}
        records: dict[int, Records] = {}
        for number in self._log.keys() - self._paused:
            begin = self._next[number]
            if run := self._log[number][begin : begin + 15]:
                self._next[number] += len(run)
                records[number] = Records(range(begin, begin + len(run)), run)
        return records

    def pause(self, numbers: Collection[int]) -> None:
        self._paused |= set(numbers)

    def resume(self, numbers: Collection[int]) -> None:
        self._paused -= set(numbers)

    def commit(self, offsets: Mapping[int, int]) -> None:
        return


def _work(folder: Path, portion_rows: int, stop_at: int = 0) -> tuple[int, bool]:
    """Work to the end, or close after some portions without a commit.

    Returns the portions between which others could go on, and whether they did.
    """
    options = JobOptions(
        kafka=KafkaSettings("nowhere:1", "log"),
        data=folder,
        features_topic="fired",
        engine=EngineOptions(portion_rows=portion_rows, allowed_lateness_ms=0),
    )
    pace = WorkerOptions(commit_interval_s=0, alignment_ms=None, sends_ticks=False)
    worker, ends = Worker(_DEFINITIONS, options, pace=pace), _log()
    worker.step()
    portions, moved, before = 0, False, 0
    while any(job.offset < len(ends[n]) or job.is_emitting for n, job in worker.jobs.items()):
        worker.step()
        emitting, other = worker.jobs[0].is_emitting, worker.jobs[1].offset
        portions += emitting
        moved |= emitting and other > before
        before = other
        if portions == stop_at > 0:
            break
    for job in worker.jobs.values():
        if not stop_at:
            job.commit()
        job.close()
    return portions, moved


def test_portions_are_written_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed: list[Row] = []

    class Producer:
        def __init__(self, *_: object) -> None:
            self._rows: list[Row] = []

        def write(self, topic: str, rows: list[Row]) -> None:
            self._rows += rows

        def commit(self) -> None:
            committed.extend(self._rows)
            self._rows.clear()

        def close(self) -> None:
            self._rows.clear()

    monkeypatch.setattr(partition_job, "TransactionalProducer", Producer)
    monkeypatch.setattr(partition_job, "check_topic", lambda *_, **__: None)
    monkeypatch.setattr(workers, "PartitionGroup", _Group)

    def written() -> list[Row]:
        rows = sorted(committed, key=lambda row: row[0])  # stable: in order for each key
        committed.clear()
        return rows

    assert _work(tmp_path / "whole", 50_000) == (0, False)
    whole = written()
    assert len(whole) > 500
    portions, moved = _work(tmp_path / "portions", 10)
    assert portions > 10 and moved
    assert written() == whole
    for stop_at in (3, 7):
        assert _work(tmp_path / "stopped", 10, stop_at)[0] == stop_at
    _work(tmp_path / "stopped", 10)
    assert written() == whole

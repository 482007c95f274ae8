"""Times at which a worker polls its client and commits to its group."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.streaming.shard import definitions

from tactful_streaming.contract.log_entries import Records
from tactful_streaming.engine.batches import Applied
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.worker.partition_job import JobOptions
from tactful_streaming.worker.worker import Worker, WorkerOptions

pytest.importorskip("confluent_kafka")


class SilentGroup:
    """A group without partitions, which notes what it is asked and told."""

    made: "SilentGroup"

    def __init__(self, *_: object, **__: object) -> None:
        SilentGroup.made = self
        self.waits: list[float] = []
        self.commits = 0

    def poll(self, limit: int, wait_s: float) -> dict[int, list[tuple[int, bytes]]]:
        self.waits.append(wait_s)
        return {}

    def commit(self, offsets: Mapping[int, int], *, wait: bool = False) -> None:
        self.commits += 1


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> JobOptions:
    monkeypatch.setattr("tactful_streaming.worker.worker.PartitionGroup", SilentGroup)
    return JobOptions(kafka=KafkaSettings("127.0.0.1:9092"), data=tmp_path)


def paced(silent: JobOptions, clock: Callable[[], float], commit_s: float) -> Worker:
    pace = WorkerOptions(commit_interval_s=commit_s)
    return Worker(definitions(), silent, pace=pace, clock=clock)


def test_a_wait_is_never_shorter_than_the_client_can_wait(silent: JobOptions) -> None:
    now = [0.0]
    worker = paced(silent, lambda: now[0], 0.01)
    worker.step()
    for left in (0.0096, 0.0008, 0.00001, 0.0):
        now[0] = 0.01 - left
        worker.step()
    # A wait of less than a millisecond is none to it, and would be asked for again and again.
    assert SilentGroup.made.waits == pytest.approx([0.0, 0.0096, 0.001, 0.001, 0.0])


def test_the_group_is_told_of_commits_now_and_then(silent: JobOptions) -> None:
    now = [0.0]
    worker = paced(silent, lambda: now[0], 0.0)
    for _ in range(1000):
        worker.step()
        now[0] += 0.004
    assert 2 <= SilentGroup.made.commits <= 10


class OneRecord(SilentGroup):
    """A group whose only partition has a record whenever it is asked."""

    def poll(self, limit: int, wait_s: float) -> dict[int, Any]:
        super().poll(limit, wait_s)
        return {0: Records([len(self.waits)], [b""])}


class Noting:
    """A partition job that records its calls."""

    rows = watermark = 0

    def __init__(self) -> None:
        self.told: list[str] = []

    def apply(self, run: Records) -> Applied:
        self.told.append("apply")
        return Applied()

    def publish(self) -> None:
        self.told.append("publish")

    def commit(self) -> int:
        self.told.append("commit")
        return 0

    def append_actions(self, now: int = 0) -> int:
        return 0

    append_transfers = append_actions


def timed(
    silent: JobOptions, sleep: Callable[[float], None], *, publish_s: float, commit_s: float
) -> tuple[Worker, Noting, list[float]]:
    """Return a worker, its only job, which records its calls, and their clock."""
    now, job = [0.0], Noting()
    pace = WorkerOptions(publish_interval_s=publish_s, commit_interval_s=commit_s)
    worker = Worker(definitions(), silent, pace=pace, clock=lambda: now[0], sleep=sleep)
    worker.jobs[0] = job  # type: ignore[index]
    return worker, job, now


def test_batches_are_copied_before_commits(
    monkeypatch: pytest.MonkeyPatch, silent: JobOptions
) -> None:
    """Each batch is copied at once, and commits are less frequent."""
    monkeypatch.setattr("tactful_streaming.worker.worker.PartitionGroup", OneRecord)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    worker, job, now = timed(silent, sleep, publish_s=0.004, commit_s=0.01)
    for _ in range(4):
        worker.step()
        now[0] += 0.001
    # The time that a batch took counts towards that until the next.
    assert slept == pytest.approx([0.0, 0.003, 0.003, 0.003])
    batch = ["apply", "publish"]
    assert job.told == [*batch, *batch, *batch, *batch, "commit"]


def test_a_commit_waits_for_a_moment_without_records(
    monkeypatch: pytest.MonkeyPatch, silent: JobOptions
) -> None:
    come = [True, True, False, True]

    class Bursts(OneRecord):
        def poll(self, limit: int, wait_s: float) -> dict[int, Any]:
            records = super().poll(limit, wait_s)
            return records if come[len(self.waits) - 1] else {}

    monkeypatch.setattr("tactful_streaming.worker.worker.PartitionGroup", Bursts)
    worker, job, now = timed(silent, lambda _: None, publish_s=0.0, commit_s=1.0)
    committed = []
    for _ in come:
        committed.append(worker.step())
        now[0] += 0.1
    assert committed == [False, False, True, False]
    assert job.told == [*["apply", "publish"] * 2, "commit", "apply", "publish"]


class Acting(Noting):
    """A partition in whose log an action follows, once, when its clock comes to 100."""

    watermark = 100

    def __init__(self) -> None:
        super().__init__()
        self.log: list[int] = []
        self.offset = 0
        self.waiting = 0
        self.acted = False

    def append_tick(self, timestamp: int) -> int:
        self.log.append(timestamp)
        return len(self.log)

    def apply(self, run: Records) -> Applied:
        reached = 100 in self.log[self.offset : self.offset + len(run)]
        self.offset += len(run)
        if reached and not self.acted:
            self.waiting, self.acted = 1, True
        return Applied()

    def append_actions(self, now: int = 0) -> int:
        sent, self.waiting = self.waiting, 0
        self.log += [0] * sent
        return sent


def test_draining_reads_entries_appended_at_the_end(
    monkeypatch: pytest.MonkeyPatch, silent: JobOptions
) -> None:
    """A log is drained once entries appended because of its end are read."""
    job = Acting()

    class Reading(SilentGroup):
        def poll(self, limit: int, wait_s: float) -> dict[int, Any]:
            ahead = range(job.offset, len(job.log))
            return {0: Records(ahead, [b""] * len(ahead))} if ahead else {}

    monkeypatch.setattr("tactful_streaming.worker.worker.PartitionGroup", Reading)
    worker = paced(silent, lambda: 0.0, 0.0)
    worker.jobs[0] = job  # type: ignore[index]
    assert worker.drain(1, patience_s=0, stop=lambda: False)
    assert job.acted
    assert job.offset == len(job.log)

"""Times at which a worker polls its client and commits to its group."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.streaming.shard import definitions

from tactful_streaming.contract.log_entries import Records
from tactful_streaming.engine.batches import Applied
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.worker.partition_job import JobOptions, PartitionJob
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
    is_emitting = False

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
    silent: JobOptions,
    sleep: Callable[[float], None],
    *,
    publish_s: float | None,
    commit_s: float,
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


@pytest.mark.parametrize(("publish_s", "between"), [(None, 1.0), (0.0, 2.0)])
def test_commits_while_records_keep_coming(
    monkeypatch: pytest.MonkeyPatch, silent: JobOptions, publish_s: float | None, between: float
) -> None:
    """Under load a commit follows the last one after the interval; with copies, after twice it."""
    monkeypatch.setattr("tactful_streaming.worker.worker.PartitionGroup", OneRecord)
    worker, _, now = timed(silent, lambda _: None, publish_s=publish_s, commit_s=1.0)
    commits: list[float] = []
    while len(commits) < 4:
        if worker.step():
            commits.append(now[0])
        now[0] += 0.125
    gaps = [later - earlier for earlier, later in pairwise(commits)]
    assert gaps == [between] * 3


def test_a_commit_stores_all_partitions_before_it_appends(silent: JobOptions) -> None:
    """Actions and transfers are appended after the states of all partitions are stored."""
    worker, told = paced(silent, lambda: 0.0, 0.0), list[str]()

    class Telling(Noting):
        def commit(self) -> int:
            told.append("commit")
            return 0

        def append_actions(self, now: int = 0) -> int:
            told.append("actions")
            return 0

        def append_transfers(self, now: int = 0) -> int:
            told.append("transfers")
            return 0

    for number in range(2):
        worker.jobs[number] = Telling()  # type: ignore[index]
    worker.commit()
    assert told == ["commit", "commit", "actions", "transfers", "actions", "transfers"]


def test_a_commit_of_a_partition_publishes_then_stores() -> None:
    """Rows are published and dead letters stored before the state, and only if there is news."""
    calls: list[str] = []

    def noting(name: str) -> Any:
        return SimpleNamespace(**{name.split(".")[1]: lambda *_: calls.append(name)})

    job = object.__new__(PartitionJob)
    job._producer, job._dead_letters = noting("rows.commit"), noting("letters.add")
    job._online, job._rejected, job._committed = noting("copy.committed"), [], 7
    job.engine = noting("state.commit")
    job.engine.offset = 8  # type: ignore[misc]
    assert job.commit() == 8
    assert calls == ["rows.commit", "letters.add", "state.commit", "copy.committed"]
    assert job.commit() == 8
    assert calls[4:] == ["copy.committed"], "a copy that was refused meanwhile is noticed"


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


@pytest.mark.parametrize("sends_ticks", [True, False])
def test_ticks_only_by_the_wall_clock(silent: JobOptions, sends_ticks: bool) -> None:
    """A pause while history is loaded appends no tick if time passes by events alone."""
    now, ticks = [0.0], list[int]()

    class Waiting(Noting):
        def tick(self, now: int) -> bool:
            ticks.append(now)
            return True

    pace = WorkerOptions(commit_interval_s=0.0, idle_ms=1_000, sends_ticks=sends_ticks)
    worker = Worker(definitions(), silent, pace=pace, clock=lambda: now[0], now=lambda: 9_000)
    worker.jobs[0] = Waiting()  # type: ignore[index]
    worker._heard[0] = now[0]
    worker.commit()
    assert ticks == [], "a partition that was just read is not idle"
    now[0] += 1.0
    worker.commit()
    assert ticks == [8_000] * sends_ticks


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

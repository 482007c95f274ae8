"""Workers while the brokers do not take what they write."""

import contextlib
from pathlib import Path
from typing import Any, ClassVar

import pytest
from confluent_kafka import KafkaError
from tests.streaming.fake_client import TOPIC, FakeClient, patched_client
from tests.streaming.shard import definitions

from tactful_streaming.errors import FencedError, LogError, LogUnreachableError, TopicError
from tactful_streaming.kafka.client import explain, missing_topic
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.consumer_group import PartitionGroup
from tactful_streaming.worker import worker as workers
from tactful_streaming.worker.partition_job import JobOptions
from tactful_streaming.worker.worker import Worker

SETTINGS = KafkaSettings("127.0.0.1:1", TOPIC)

OUTAGES = {
    "commit timed out": explain(KafkaError(KafkaError._TIMED_OUT), SETTINGS),
    "disk full": explain(KafkaError(KafkaError._INCONSISTENT), SETTINGS),
    "storage error": explain(KafkaError(KafkaError.KAFKA_STORAGE_ERROR), SETTINGS),
    "broker restarts": missing_topic(SETTINGS),
}


class Job:
    """A partition job without engine: its state is a number of commits."""

    commits: ClassVar[dict[int, int]] = {}  # by partition: what the disk holds
    open: ClassVar[set[int]] = set()
    failure: LogError | None = None
    rows = watermark = offset = 0
    is_emitting = False

    def __init__(self, number: int, *_: object) -> None:
        assert number not in Job.open, "a state has one owner"
        self._do()
        self.number = number
        Job.open.add(number)

    def _do(self, *_: object) -> int:
        if Job.failure is not None:
            raise Job.failure
        return 0

    def commit(self) -> int:
        self._do()
        Job.commits[self.number] = Job.commits.get(self.number, 0) + 1
        return 0

    append_actions = append_transfers = tick = checkpoint = _do

    def close(self) -> None:
        Job.open.remove(self.number)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    Job.commits, Job.open, Job.failure = {}, set(), None
    monkeypatch.setattr(workers, "PartitionJob", Job)
    return patched_client(monkeypatch)


def new_worker(folder: Path, clock: Clock) -> Worker:
    def clocked(*arguments: Any, **named: Any) -> Any:
        return PartitionGroup(*arguments, **named, clock=clock)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(workers, "PartitionGroup", clocked)
        return Worker(definitions(), JobOptions(kafka=SETTINGS, data=folder), clock=clock)


def step(worker: Worker, clock: Clock, seconds: float) -> None:
    until = clock.now + seconds
    while clock.now < until:
        clock.now += 0.5
        worker.step()
        assert Job.open == set(worker.jobs)


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_worker_waits_for_the_brokers(tmp_path: Path, fake: FakeClient, outage: str) -> None:
    """A minute without brokers, and a broker's full disk, ended workers."""
    clock = Clock()
    worker = new_worker(tmp_path, clock)
    fake.rebalance("assign", [0, 1])
    step(worker, clock, 3)
    before = dict(Job.commits)
    assert before.keys() == {0, 1}
    Job.failure, fake.code = OUTAGES[outage], KafkaError._TIMED_OUT
    step(worker, clock, 600)
    assert worker.trouble is not None
    assert not worker.jobs
    assert Job.commits == before
    # Brokers answer, and do not take what is written yet.
    fake.code = None
    step(worker, clock, 60)
    assert not worker.jobs
    Job.failure = None
    step(worker, clock, 15)
    assert worker.trouble is None
    assert all(Job.commits[number] > before[number] for number in (0, 1))
    worker.close()
    assert not Job.open


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("end", ["revoke", "lost", "close", "stop"])
def test_partitions_leave_in_an_outage(
    tmp_path: Path, fake: FakeClient, outage: str, end: str
) -> None:
    """The next owner continues from the last commit, and the former one goes on or ends."""
    clock = Clock()
    worker = new_worker(tmp_path, clock)
    fake.rebalance("assign", [0, 1])
    step(worker, clock, 3)
    Job.failure, fake.code = OUTAGES[outage], KafkaError._TIMED_OUT
    if end in ("revoke", "lost"):
        fake.rebalance(end, [0])
        step(worker, clock, 30)
        fake.code = Job.failure = None
        step(worker, clock, 15)
        assert set(worker.jobs) == {1}
    elif end == "stop":
        worker.run(lambda: True)
    worker.close()
    assert not Job.open
    assert not fake.assigned


@pytest.mark.parametrize("failure", [FencedError("taken over"), LogError("refused us")])
def test_errors_that_last_end_a_worker(tmp_path: Path, fake: FakeClient, failure: LogError) -> None:
    clock = Clock()
    worker = new_worker(tmp_path, clock)
    fake.rebalance("assign", [0, 1])
    step(worker, clock, 3)
    Job.failure = failure
    with pytest.raises(type(failure), match=str(failure)):
        step(worker, clock, 3)
    worker.abandon()
    assert not Job.open


def test_a_missing_topic_of_rows_is_named(tmp_path: Path, fake: FakeClient) -> None:
    """A worker whose topic of rows is gone ends with the name of that topic, after a while."""
    clock = Clock()
    worker = new_worker(tmp_path, clock)
    fake.rebalance("assign", [0])
    step(worker, clock, 3)
    Job.failure = missing_topic(KafkaSettings("127.0.0.1:1", "rows"))
    asked = []

    def topic_exists(settings: KafkaSettings, timeout_s: float) -> bool:
        asked.append(settings.topic)
        return settings.topic != "rows"

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tactful_streaming.kafka.client.topic_exists", topic_exists)
        with pytest.raises(TopicError, match=r"topic 'rows' at .*is not there any more"):
            step(worker, clock, 60)
    assert set(asked) == {"rows"}
    worker.abandon()


def test_rescaling_names_the_outage(tmp_path: Path, fake: FakeClient) -> None:
    """Partitions that wait for brokers were said to be at another worker."""
    clock = Clock()
    worker = new_worker(tmp_path, clock)
    fake.code = KafkaError._TIMED_OUT
    fake.rebalance("assign", [0])

    def stop() -> bool:
        clock.now += 0.5
        return False

    with pytest.raises(LogUnreachableError, match="no broker answers"):
        worker.drain(1, patience_s=20, stop=stop)
    with contextlib.suppress(LogError):
        worker.close()


def test_all_states_are_closed_although_some_fail(tmp_path: Path, fake: FakeClient) -> None:
    closed: list[int] = []

    class Failing(Job):
        def close(self) -> None:
            super().close()
            closed.append(self.number)
            raise LogError(f"{self.number} does not close")

    clock = Clock()
    worker = new_worker(tmp_path, clock)
    fake.rebalance("assign", [0, 1, 2])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(workers, "PartitionJob", Failing)
        step(worker, clock, 3)
    with pytest.raises(LogError, match="does not close"):
        worker.abandon()
    assert sorted(closed) == [0, 1, 2]

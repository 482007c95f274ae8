import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
from confluent_kafka import KafkaError, Message
from tests.streaming import brokers
from tests.streaming.brokers import (
    broker_behind_proxy,
    new_log,
    patiently,
    session_ms,
    topic_name,
)

from tactful_streaming.errors import LogError, OffsetError, TopicError
from tactful_streaming.kafka import topic_watch
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.consumer_group import PartitionGroup
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.kafka.transactional_producer import TransactionalProducer


@pytest.fixture
def log(kafka_servers: str) -> Iterator[KafkaLog]:
    with new_log(kafka_servers, linger_ms=1) as log:
        yield log


class Worker:
    """A member that counts, with state that outlives it by partition."""

    def __init__(self, settings: KafkaSettings, state: dict[int, list[bytes]]) -> None:
        self.state = state
        self.told: list[tuple[str, list[int]]] = []
        self.group = PartitionGroup(
            settings,
            settings.topic,
            assigned=self.assigned,
            revoked=self.revoked,
            lost=self.lost,
        )

    def assigned(self, number: int) -> int:
        self.told.append(("assigned", [number]))
        return len(self.state.setdefault(number, []))

    def revoked(self, numbers: Sequence[int]) -> None:
        assert self.group.partitions >= set(numbers)
        self.told.append(("revoked", [*numbers]))

    def lost(self, numbers: Sequence[int]) -> None:
        self.told.append(("lost", [*numbers]))

    def work(self, limit: int = 100, wait_s: float = 0.05) -> int:
        records = self.group.poll(limit, wait_s)
        for number, run in records.items():
            assert number in self.group.partitions
            start = len(self.state[number])
            assert [at for at, _ in run] == [*range(start, start + len(run))]
            self.state[number] += [payload for _, payload in run]
        self.group.commit({number: len(self.state[number]) for number in records})
        return sum(map(len, records.values()))


def member(
    settings: KafkaSettings, assigned: Callable[[int], int | None], group: str | None = None
) -> PartitionGroup:
    """A member of a group, by default of the one with the topic's name."""
    return PartitionGroup(
        settings,
        group or settings.topic,
        assigned=assigned,
        revoked=lambda _: None,
        lost=lambda _: None,
    )


def first_offsets(group: PartitionGroup, count: int) -> dict[int, int]:
    """Poll until the group has all partitions and `count` have given records; their offsets."""
    starts: dict[int, int] = {}

    def begun() -> bool:
        for number, run in group.poll(1000, 0.05).items():
            starts.setdefault(number, run[0][0])
        return len(group.partitions) == 4 and len(starts) >= count

    patiently(begun)
    group.close()
    return starts


def filled(log: KafkaLog, count: int) -> dict[int, list[bytes]]:
    """Append records of a hundred users and return them by partition."""
    expected: dict[int, list[bytes]] = {number: [] for number in range(log.partitions)}
    fill(log, expected, count)
    return expected


def fill(log: KafkaLog, expected: dict[int, list[bytes]], count: int, start: int = 0) -> None:
    payloads = [b"%d" % (start + number) for number in range(count)]
    keys = [f"{number % 100}" for number in range(count)]
    for payload, key in zip(payloads, keys, strict=True):
        expected[log.partition_of(key)].append(payload)
    log.append(payloads, keys)


def finish(workers: Sequence[Worker], expected: dict[int, list[bytes]]) -> None:
    until = time.monotonic() + 120
    while {number: run for worker in workers for number, run in worker.state.items()} != expected:
        assert time.monotonic() < until
        for worker in workers:
            worker.work()


def test_one_member_reads_all_records_from_its_state(log: KafkaLog) -> None:
    expected = filled(log, 1000)
    state = {number: run[: 40 * number] for number, run in expected.items()}
    worker = Worker(log.settings, state)
    finish([worker], expected)
    assert worker.group.partitions == {0, 1, 2, 3}
    worker.group.close()
    assert sorted(worker.told[-1][1]) == [0, 1, 2, 3]
    assert worker.told[-1][0] == "revoked"
    assert worker.group.partitions == frozenset()


def test_a_member_without_state_begins_at_the_groups_offset(log: KafkaLog) -> None:
    expected = filled(log, 200)
    first = Worker(log.settings, {})
    finish([first], expected)
    first.group.commit({0: 3, 1: 5, 77: 1}, wait=True)
    first.group.close()
    assert first_offsets(member(log.settings, lambda _: None), 2) == {0: 3, 1: 5}
    fresh = first_offsets(member(log.settings, lambda _: None, "other"), 4)
    assert set(fresh.values()) == {0}


@pytest.mark.slow
def test_rebalances_lose_and_repeat_no_record(log: KafkaLog) -> None:
    state: dict[int, list[bytes]] = {}
    expected = filled(log, 500)
    first = Worker(log.settings, state)
    finish([first], expected)
    second = Worker(log.settings, state)
    until = time.monotonic() + 120
    turn = 0
    while len(second.group.partitions) < 2:
        assert time.monotonic() < until
        turn += 1
        log.append([b"more %d" % turn], [f"{turn}"])
        expected[log.partition_of(f"{turn}")].append(b"more %d" % turn)
        first.work(limit=3)
        second.work(limit=3)
    assert first.group.partitions | second.group.partitions == {0, 1, 2, 3}
    assert not first.group.partitions & second.group.partitions
    # Only what changed hands was taken away.
    assert [kind for kind, _ in first.told].count("revoked") == 1
    finish([first, second], expected)
    second.group.close()
    patiently(lambda: first.work() >= 0 and len(first.group.partitions) == 4)
    log.append([b"everywhere"], [None])
    for run in expected.values():
        run.append(b"everywhere")
    finish([first], expected)
    first.group.close()


def test_paused_partitions_wait(log: KafkaLog) -> None:
    worker = Worker(log.settings, {})
    patiently(lambda: worker.work() >= 0 and len(worker.group.partitions) == 4)
    worker.group.pause([0, 2, 77])
    log.append([b"%d" % n for n in range(10)] * 4, [None] * 40)
    patiently(lambda: worker.work() >= 0 and len(worker.state[1]) == len(worker.state[3]) == 40)
    for _ in range(5):
        worker.work()
    assert worker.state[0] == worker.state[2] == []
    worker.group.resume([0, 2])
    patiently(lambda: worker.work() >= 0 and len(worker.state[0]) == len(worker.state[2]) == 40)
    assert worker.state[0] == worker.state[1]
    worker.group.close()


def test_the_end_is_that_of_the_topic(log: KafkaLog) -> None:
    expected = filled(log, 300)
    worker = Worker(log.settings, {})
    assert not worker.group.at_end(), "no partitions are assigned yet"
    read = 0
    while read < 300:
        read += worker.work(limit=50)
        assert worker.group.at_end() is (read == 300)
    fill(log, expected, 10, start=300)
    assert not worker.group.at_end()
    patiently(lambda: worker.work() == 0 and worker.state == expected)
    assert worker.group.at_end()
    # Of more members than partitions one has none, and nothing to wait for.
    others = [Worker(log.settings, {}) for _ in range(4)]
    members = [worker, *others]

    def shared() -> bool:
        for each in members:
            each.work(wait_s=0.01)
        return sum(len(it.group.partitions) for it in members) == 4 and any(
            not it.group.partitions for it in members
        )

    patiently(shared)
    patiently(lambda: (shared(), all(it.group.at_end() for it in members))[1])
    for each in members:
        each.group.close()


def test_lag_in_records_and_time(log: KafkaLog) -> None:
    filled(log, 400)
    worker = Worker(log.settings, {})

    def no_lag() -> bool:
        lags = [] if worker.work() else worker.group.lag().values()
        return bool(lags) and all((lag.records, lag.behind_ms) == (0, 0) for lag in lags)

    patiently(lambda: worker.work(limit=1) > 0)
    time.sleep(0.05)
    (number,) = (number for number, run in worker.state.items() if run)
    lag = worker.group.lag()
    assert lag.keys() == {0, 1, 2, 3}
    assert lag[number].behind_ms >= 50
    patiently(lambda: worker.work() == 0 and sum(map(len, worker.state.values())) == 400)
    patiently(no_lag)
    # The mark that ends a transaction has an offset, and nobody reads it.
    producer = TransactionalProducer(log.settings, topic_name())
    producer.write(log.settings.topic, [(b"", b"x")], number)
    producer.commit()
    producer.close()
    patiently(lambda: worker.work() == 1)
    patiently(no_lag, 20)
    log.append_to(number, [b"x"] * 3)
    patiently(lambda: worker.group.poll(1, 0.05))
    time.sleep(0.002)
    assert worker.group.lag()[number].behind_ms > 0
    worker.group.close()


def test_errors_of_callbacks_are_raised(log: KafkaLog) -> None:
    class StateGoneError(Exception):
        pass

    def assigned(_: int) -> int:
        raise StateGoneError

    group = member(log.settings, assigned)
    with pytest.raises(StateGoneError):
        patiently(lambda: group.poll(1, 0.05) and False)
    group.close()


def test_a_refusal_is_raised_once() -> None:
    """Brokers that refuse a reader refuse it again while it leaves."""
    group = member(KafkaSettings(servers="127.0.0.1:1", topic=topic_name()), lambda _: 0)

    def refuse(*_: float) -> None:
        group._on_error(KafkaError(KafkaError._AUTHENTICATION))

    group._consumer = consumer = Mock(wraps=group._consumer)
    consumer.poll.side_effect = consumer.close.side_effect = refuse
    with pytest.raises(LogError, match="refused us"):
        group.poll(1, 0.0)
    group.close()


def test_an_absent_topic(kafka_servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = KafkaSettings(kafka_servers, topic_name(), session_timeout_ms=session_ms(2_000))
    monkeypatch.setattr(topic_watch, "_BELIEVED_AFTER_S", 1.0)
    monkeypatch.setattr(topic_watch, "_ASK_EVERY_S", 0.2)
    group = member(settings, lambda _: 0)
    with pytest.raises(TopicError, match=r"does not exist .*make it first"):
        patiently(lambda: group.poll(1, 0.05) and False)
    group.close()


@pytest.mark.slow  # the client looks for missing topics after five seconds only
def test_a_topic_made_after_its_reader(kafka_servers: str) -> None:
    settings = KafkaSettings(servers=kafka_servers, topic=topic_name(), session_timeout_ms=6000)
    group = member(settings, lambda _: 0)
    patiently(lambda: group.poll(1, 0.05) or group.trouble is not None)
    ensure_topic(settings, consumer_threads=2)
    with KafkaLog(settings) as log:
        log.append([b"x"], ["u"])
    patiently(lambda: group.poll(1, 0.05), 60)
    assert group.trouble is None
    group.close()


@pytest.mark.slow
def test_a_state_ahead_of_the_log_is_refused() -> None:
    with brokers.mock_cluster() as servers, KafkaLog(brokers.mock_topic(servers)) as log:
        log.append([b"x"], [None])
        group = member(log.settings, lambda _: 500)
        with pytest.raises(OffsetError, match="does not hold offset 500"):
            patiently(lambda: group.poll(1, 0.05) and False)
        group.close()


@pytest.mark.slow
def test_an_outage_is_logged_once_and_reading_continues(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tactful_streaming.kafka.consumer_group")

    def told(words: str) -> int:
        return sum(words in record.message for record in caplog.records)

    with (
        broker_behind_proxy() as (broker, proxy),
        new_log(broker.servers, threads=1, linger_ms=1, session_timeout_ms=1000) as log,
    ):
        log.append([b"x"] * 10, ["u"] * 10)
        worker = Worker(log.settings, {})
        patiently(lambda: worker.work() and sum(map(len, worker.state.values())) == 10)
        proxy.cut()
        patiently(lambda: worker.work() or told("no broker answers"))
        for _ in range(10):
            assert worker.work() == 0
        proxy.restore()
        patiently(lambda: worker.work() or log.problem is None)
        log.append([b"more"], ["u"])
        patiently(lambda: worker.work() == 1)
        assert told("nothing is read until the brokers serve it: topic") == 1
        assert told("is read again") == 1
        worker.group.close()


def test_records_of_revoked_partitions_are_skipped() -> None:
    settings = KafkaSettings(servers="127.0.0.1:1", topic=topic_name())
    group = member(settings, lambda _: 0)
    # It delivers messages of a partition after its revocation.
    group._consumer = consumer = Mock(wraps=group._consumer)
    consumer.poll.return_value = Message(topic="t", partition=5, offset=0, value=b"x")
    consumer.consume.return_value = [
        Message(topic="t", partition=5, offset=1, value=b"x"),
        Message(topic="t", partition=5, offset=7, error=KafkaError(KafkaError._PARTITION_EOF)),
    ]
    assert group.poll(10, 0.0) == {}
    assert group.partitions == frozenset()
    # It comes back to where its state is, and its end of before says nothing of its age.
    group._next[5], group._newest[5] = 3, 0
    assert group.lag()[5].behind_ms > 0
    group.close()


WORK = """
import json, os, sys
from pathlib import Path
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.consumer_group import PartitionGroup

servers, topic, folder, total = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
states = {}

def assigned(number):
    file = folder / f"{number}.json"
    states[number] = json.loads(file.read_text()) if file.exists() else {"offset": 0, "sum": 0}
    return states[number]["offset"]

def forget(numbers):
    for number in numbers:
        del states[number]

group = PartitionGroup(
    KafkaSettings(servers=servers, topic=topic, session_timeout_ms=int(sys.argv[5])), topic,
    assigned=assigned, revoked=forget, lost=forget,
)
while True:
    for number, records in group.poll(37, 0.05).items():
        state = states[number]
        assert records[0][0] == state["offset"], (records[0], state)
        state["offset"] = records[-1][0] + 1
        state["sum"] += sum(int(payload) for _, payload in records)
        # State and offset in one atomic step, as an engine does it.
        written = folder / f"{number}.{os.getpid()}"
        written.write_text(json.dumps(state))
        written.replace(folder / f"{number}.json")
        group.commit({number: state["offset"]})
        print(number, state["offset"], flush=True)
"""


@pytest.mark.slow  # waits for the group to give up on who was killed
def test_kill_9_of_a_worker_leaves_exact_state(log: KafkaLog, tmp_path: Path) -> None:
    def start() -> subprocess.Popen[bytes]:
        settings = log.settings
        arguments = [settings.servers, settings.topic, str(tmp_path), "0", str(session_ms(2_000))]
        command = [sys.executable, "-c", WORK, *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def states() -> dict[int, dict[str, int]]:
        return {int(file.stem): json.loads(file.read_text()) for file in tmp_path.glob("*.json")}

    def done() -> int:
        assert all(worker.poll() is None for worker in workers), "a worker has ended by itself"
        return sum(state["offset"] for state in states().values())

    workers = [start(), start()]
    try:
        expected = filled(log, 3000)
        for turn in range(3):
            before = done()
            patiently(lambda before=before: done() > before)
            victim = workers.pop(0)
            victim.kill()
            victim.wait()
            workers.append(start())
            fill(log, expected, 2000, turn * 7)
        patiently(lambda: done() >= 9000)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert states() == {
        number: {"offset": len(run), "sum": sum(map(int, run))} for number, run in expected.items()
    }

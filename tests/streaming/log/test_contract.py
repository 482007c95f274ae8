"""Contract of event logs: embedded, and partitions of Kafka at two kinds of broker."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from tests.streaming.brokers import mock_cluster, mock_topic, new_log

from tactful_streaming.errors import LogError, OffsetError
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.kafka_partition import KafkaPartition
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.event_log import EventLog


@pytest.fixture(scope="module")
def pretended_servers() -> Iterator[str]:
    with mock_cluster() as servers:
        yield servers


@contextmanager
def kafka_partition(log: KafkaLog) -> Iterator[KafkaPartition]:
    partition = log.partition(1)
    try:
        yield partition
    finally:
        partition.close()
        log.close()


@pytest.fixture(params=["embedded", "kafka", "pretended kafka"])
def open_log(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[], AbstractContextManager[EventLog]]:
    if request.param == "embedded":
        return lambda: EmbeddedLog(tmp_path / "log", segment_bytes=5000)
    if request.param == "kafka":
        servers = request.getfixturevalue("kafka_servers")
        return lambda: kafka_partition(new_log(servers, linger_ms=1))
    settings = mock_topic(request.getfixturevalue("pretended_servers"))
    return lambda: kafka_partition(KafkaLog(settings))


@pytest.fixture
def log(open_log: Callable[[], AbstractContextManager[EventLog]]) -> Iterator[EventLog]:
    with open_log() as log:
        yield log


def test_an_empty_log(log: EventLog) -> None:
    assert (log.begin, log.end) == (0, 0)
    assert log.read(0, 10) == []
    assert log.append([]) == 0
    assert log.offset_at(0) == 0


def test_appended_records_are_read(log: EventLog) -> None:
    payloads = [b"a", b"", b"\x00" * 1000, "ü".encode()]
    assert log.append(payloads) == 4
    assert [*enumerate(payloads)] == log.read(0, 10)
    assert log.append([b"last"]) == 5
    assert (log.begin, log.end) == (0, 5)
    assert log.read(4, 10) == [(4, b"last")]
    assert log.read(1, 2) == [(1, b""), (2, b"\x00" * 1000)]
    assert log.read(2, 0) == []
    assert log.read(5, 10) == []
    assert log.append([b"more"]) == 6
    assert log.read(5, 10) == [(5, b"more")]


@pytest.mark.parametrize("offset", [-1, 4, 10**9])
def test_offsets_outside_the_log(log: EventLog, offset: int) -> None:
    log.append([b"a", b"b", b"c"])
    with pytest.raises(OffsetError, match=rf"offset {offset} is outside the log \[0, 3\]"):
        log.read(offset, 1)
    assert log.read(0, 1) == [(0, b"a")]


def test_random_reads_equal_a_list(log: EventLog) -> None:
    rng = random.Random(5)
    expected: list[bytes] = []
    for _ in range(40):
        payloads = [rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 60))]
        expected += payloads
        assert len(expected) == log.append(payloads)
        offset, limit = rng.randrange(len(expected)), rng.randrange(1, 100)
        records = log.read(offset, limit)
        # A log may give fewer than asked for, never none where there are some, never a gap.
        assert 1 <= len(records) <= limit
        assert [*enumerate(expected)][offset : offset + len(records)] == records
    offset = 0
    while records := log.read(offset, 177):
        assert [*enumerate(expected)][offset : offset + len(records)] == records
        offset += len(records)
    assert offset == len(expected) == log.end


def test_large_records(log: EventLog) -> None:
    payloads = [bytes([n]) * 900_000 for n in range(3)]
    log.append(payloads)
    offset = 0
    while offset < 3:
        for at, payload in log.read(offset, 5):
            assert (at, payload) == (offset, payloads[at])
            offset += 1
    with pytest.raises(LogError, match="at most"):
        log.append([bytes(16 * 1024 * 1024 + 1)])
    assert log.end == 3


def test_reading_by_time(log: EventLog, request: pytest.FixtureRequest) -> None:
    if "pretended" in request.node.name:
        pytest.skip("the pretended cluster gives every record the same time")
    between = [0]
    for number in range(5):
        log.append([b"%d" % number] * 10)
        time.sleep(0.003)
        between.append(time.time_ns() // 1_000_000)
        time.sleep(0.003)
    assert [log.offset_at(at) for at in between] == [0, 10, 20, 30, 40, 50]


def test_a_closed_log_takes_nothing(
    open_log: Callable[[], AbstractContextManager[EventLog]],
) -> None:
    with open_log() as log:
        log.append([b"x"])
    log.close()
    log.close()
    with pytest.raises(LogError, match=r"closed|not open"):
        log.append([b"y"])

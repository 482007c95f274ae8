"""What is fetched in batches comes whole and in order, whatever brokers do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from tests.streaming.batch_encoder import encode_batch
from tests.streaming.brokers import new_log, patiently
from tests.streaming.fetch_broker import FetchBroker, Lying

from tactful_streaming import KafkaLog, KafkaSettings, PartitionGroup, TransactionalProducer
from tactful_streaming import batch_fetcher as module
from tactful_streaming.batch_fetcher import BatchFetcher
from tactful_streaming.message_queue import Trouble

_END, _RESET, _BAD_MESSAGE = -191, -140, -199
SETTINGS = KafkaSettings(servers="127.0.0.1:1", topic="t")


def batches(payloads: list[bytes], each: int = 3) -> Lying:
    """A partition of these payloads, some to a batch."""
    return [
        (
            first,
            min(first + each, len(payloads)) - 1,
            encode_batch(first, payloads[first : first + each]),
        )
        for first in range(0, len(payloads), each)
    ]


def payloads(name: str, count: int) -> list[bytes]:
    return [f"{name} {number}".encode() for number in range(count)]


class Reader:
    """Takes, and checks that each partition comes in order, without a gap."""

    def __init__(self, fetcher: BatchFetcher) -> None:
        self.fetcher = fetcher
        self.found: dict[int, list[bytes]] = {}
        self.troubles: list[Trouble] = []

    def begin(self, number: int, offset: int = 0) -> None:
        self.found[number] = [b""] * offset
        self.fetcher.begin(number, offset)

    def take(self, limit: int = 100, wait_s: float = 0.05) -> int:
        runs, troubles = self.fetcher.take(limit, wait_s)
        self.troubles += troubles
        for number, run in runs.items():
            begin = len(self.found[number])
            assert [*run.records.offsets] == [*range(begin, begin + len(run.records))]
            self.found[number] += run.records.payloads
        taken = sum(len(run.records) for run in runs.values())
        assert taken <= limit
        return taken

    def until(self, expected: dict[int, list[bytes]], limit: int = 100) -> None:
        def done() -> bool:
            self.take(limit)
            return self.found == expected

        patiently(done, 20)

    def until_told(self, code: int) -> Trouble:
        def told() -> bool:
            self.take()
            return any(trouble.code == code for trouble in self.troubles)

        patiently(told, 20)
        return next(trouble for trouble in self.troubles if trouble.code == code)


@pytest.fixture
def brokers() -> Iterator[list[FetchBroker]]:
    made = [FetchBroker(), FetchBroker()]
    yield made
    for broker in made:
        broker.close()


@pytest.fixture
def leaders() -> dict[int, tuple[str, int]]:
    return {}


@pytest.fixture
def reader(leaders: dict[int, tuple[str, int]]) -> Iterator[Reader]:
    fetcher = BatchFetcher(SETTINGS, lambda: dict(leaders))
    yield Reader(fetcher)
    fetcher.close()
    fetcher.close()


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_partitions_of_several_brokers_come_whole(
    brokers: list[FetchBroker], leaders: dict[int, Any], reader: Reader, limit: int
) -> None:
    expected = {number: payloads(f"p{number}", 40 + number) for number in range(4)}
    for number, lying in expected.items():
        brokers[number % 2].batches[number] = batches(lying)
        leaders[number] = brokers[number % 2].address
        reader.begin(number, 5 * number)  # in the midst of a batch
        expected[number][: 5 * number] = [b""] * 5 * number
    reader.until(expected, limit)
    patiently(lambda: reader.take() == 0 and len(reader.troubles) == 4)
    time.sleep(0.1)
    reader.take()
    ends = {(trouble.partition, trouble.offset, trouble.code) for trouble in reader.troubles}
    assert ends == {(number, 40 + number, _END) for number in range(4)}
    assert len(reader.troubles) == 4, "an end that was told is not told again"
    assert [reader.fetcher.high(number) for number in range(4)] == [40, 41, 42, 43]
    brokers[0].batches[0] += [(40, 41, encode_batch(40, [b"more", b"yet"]))]
    expected[0] += [b"more", b"yet"]
    reader.until(expected, limit)
    assert reader.until_told(_END) and not any(one.failed for one in partitions(reader))


def partitions(reader: Reader) -> list[Any]:
    return [*reader.fetcher._partitions.values()]


def test_another_broker_takes_over(
    brokers: list[FetchBroker], leaders: dict[int, Any], reader: Reader
) -> None:
    lying = payloads("x", 60)
    brokers[0].batches[0] = batches(lying[:30])
    brokers[1].batches[0] = batches(lying)
    leaders[0] = brokers[0].address
    reader.begin(0)
    reader.until({0: lying[:30]})
    leaders[0] = brokers[1].address
    brokers[0].errors[0] = 6  # no longer its leader
    reader.until({0: lying})
    assert brokers[1].asked[0] == {0: 30}


def cut(answer: bytes) -> bytes:
    return answer[: len(answer) // 2]


def other_number(answer: bytes) -> bytes:
    return answer[:4] + b"\0\0\0\0" + answer[8:]


def too_long(answer: bytes) -> bytes:
    return b"\x7f\xff\xff\xff" + answer[4:]


def shortened(answer: bytes) -> bytes:
    """Its length is right, and what it counts is not there."""
    return (20).to_bytes(4) + answer[4:24]


@pytest.mark.parametrize(
    "tamper", [lambda _: None, cut, other_number, too_long, shortened, lambda _: b"\0\0\0\2ab"]
)
def test_a_broken_answer_is_asked_for_again(
    brokers: list[FetchBroker],
    leaders: dict[int, Any],
    reader: Reader,
    tamper: Callable[[bytes], bytes | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.3)
    lying, count = payloads("x", 60), 0

    def third(answer: bytes) -> bytes | None:
        nonlocal count
        count += 1
        return tamper(answer) if count % 3 == 0 else answer

    brokers[0].batches[0], brokers[0].tamper = batches(lying), third
    leaders[0] = brokers[0].address
    reader.begin(0)
    reader.until({0: lying})
    assert count >= 6
    assert all(trouble.code == _END for trouble in reader.troubles)


@pytest.mark.parametrize(("code", "told"), [(1, _RESET), (29, 29), (-1, -1)])
def test_what_does_not_mend_is_told_once(
    brokers: list[FetchBroker], leaders: dict[int, Any], reader: Reader, code: int, told: int
) -> None:
    lying = payloads("x", 9)
    brokers[0].batches |= {0: batches(lying), 1: batches(lying)}
    leaders |= {0: brokers[0].address, 1: brokers[0].address}
    reader.begin(0)
    reader.begin(1)
    reader.until({0: lying, 1: lying})
    brokers[0].errors[0] = code
    assert reader.until_told(told).offset == 9
    brokers[0].batches[1] += [(9, 9, encode_batch(9, [b"more"]))]
    reader.until({0: lying, 1: [*lying, b"more"]})
    assert [trouble.code for trouble in reader.troubles if trouble.partition == 0].count(told) == 1


def test_damage_is_told_after_what_is_sound(
    brokers: list[FetchBroker], leaders: dict[int, Any], reader: Reader
) -> None:
    lying = batches(payloads("x", 6))
    first, last, damaged = lying[1]
    lying[1] = (first, last, damaged[:-1] + bytes([damaged[-1] ^ 1]))
    brokers[0].batches[0], brokers[0].most = lying, 1
    leaders[0] = brokers[0].address
    reader.begin(0)
    assert "checksum" in reader.until_told(_BAD_MESSAGE).reason
    assert reader.found == {0: payloads("x", 3)}


def test_a_partition_without_a_leader_is_waited_for_and_then_given_up(
    brokers: list[FetchBroker], leaders: dict[int, Any]
) -> None:
    now, answers = 0.0, True
    fetcher = BatchFetcher(SETTINGS, lambda: dict(leaders) if answers else None, clock=lambda: now)
    reader = Reader(fetcher)
    reader.begin(0)
    reader.begin(1)
    time.sleep(0.3)
    assert reader.take() == 0 and not reader.troubles
    brokers[0].batches[0] = batches([b"a"])
    leaders[0] = brokers[0].address
    reader.until({0: [b"a"], 1: []})
    answers, now = False, 6.0
    time.sleep(0.3)  # that nobody answers says nothing of a partition
    assert reader.take() == 0 and {trouble.code for trouble in reader.troubles} <= {_END}
    answers = True
    assert reader.until_told(3).partition == 1
    fetcher.close()


def test_a_topic_that_is_gone_is_noticed_where_the_broker_does_not_say_so(
    brokers: list[FetchBroker], leaders: dict[int, Any]
) -> None:
    now = 0.0
    fetcher = BatchFetcher(SETTINGS, lambda: dict(leaders), clock=lambda: now)
    reader = Reader(fetcher)
    brokers[0].batches[0] = batches([b"a", b"b"])
    leaders[0] = brokers[0].address
    reader.begin(0)
    reader.until({0: [b"a", b"b"]})
    brokers[0].batches.clear()
    leaders.clear()
    time.sleep(0.2)
    assert reader.take() == 0 and {trouble.code for trouble in reader.troubles} <= {_END}
    now = 6.0
    patiently(lambda: partitions(reader)[0].leader is None)
    now = 12.0
    assert reader.until_told(3).partition == 0
    fetcher.close()


def test_paused_partitions_wait_and_the_others_do_not(
    brokers: list[FetchBroker], leaders: dict[int, Any], reader: Reader
) -> None:
    lying = payloads("x", 30)
    for number in range(2):
        brokers[0].batches[number] = batches(lying)
        leaders[number] = brokers[0].address
        reader.begin(number)
    reader.fetcher.pause([0, 7])
    reader.until({0: [], 1: lying})
    time.sleep(0.1)
    assert reader.take() == 0
    reader.fetcher.pause([0], False)
    reader.until({0: lying, 1: lying})


def test_what_was_read_ahead_goes_with_its_partition(
    brokers: list[FetchBroker], leaders: dict[int, Any], reader: Reader
) -> None:
    brokers[0].batches[0] = batches(payloads("x", 30))
    leaders[0] = brokers[0].address
    reader.begin(0)
    patiently(lambda: reader.fetcher.high(0) == 30)
    assert reader.take(4) == 4
    reader.fetcher.end(0)
    reader.fetcher.end(0)
    assert reader.take() == 0
    reader.begin(0, 17)
    reader.until({0: [b""] * 17 + payloads("x", 30)[17:]})


def test_no_more_is_read_ahead_than_there_is_room_for(
    brokers: list[FetchBroker],
    leaders: dict[int, Any],
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_AHEAD", 20_000)
    lying = [bytes(1000)] * 200
    brokers[0].batches[0], brokers[0].most = batches(lying, each=1), 1
    leaders[0] = brokers[0].address
    reader.begin(0)
    patiently(lambda: len(brokers[0].asked) >= 20)
    time.sleep(0.1)
    assert len(brokers[0].asked) == 20
    assert reader.take(7) == 7
    patiently(lambda: len(brokers[0].asked) >= 27)
    time.sleep(0.1)
    assert len(brokers[0].asked) == 27
    reader.until({0: lying})


def test_each_partition_gets_an_equal_part(
    brokers: list[FetchBroker], leaders: dict[int, Any], reader: Reader
) -> None:
    for number, count in enumerate((60, 60, 5)):
        brokers[0].batches[number] = batches(payloads("x", count), each=count)
        leaders[number] = brokers[0].address
        reader.begin(number)
    patiently(lambda: all(one.batches for one in partitions(reader)))
    assert reader.take(30) == 25
    assert [len(reader.found[number]) for number in range(3)] == [10, 10, 5]


def test_a_broker_that_cannot_be_read_from_is_told_of_once(
    leaders: dict[int, Any], caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5
        return now

    caplog.set_level(logging.WARNING)
    leaders[0] = ("127.0.0.1", 1)
    fetcher = BatchFetcher(SETTINGS, lambda: dict(leaders), clock=clock)
    fetcher.begin(0, 0)
    patiently(lambda: caplog.records)
    time.sleep(0.5)
    fetcher.close()
    (record,) = caplog.records
    assert "broker 127.0.0.1:1 cannot be read from" in record.getMessage()


def test_closing_waits_for_no_broker(
    brokers: list[FetchBroker], leaders: dict[int, Any], reader: Reader
) -> None:
    brokers[0].tamper = lambda _: b""
    leaders[0] = brokers[0].address
    reader.begin(0)
    patiently(lambda: brokers[0].asked)
    begun = time.monotonic()
    reader.fetcher.close()
    assert time.monotonic() - begun < module._TIMEOUT_S / 2


def test_what_ends_a_thread_comes_out() -> None:
    def leaders() -> dict[int, tuple[str, int]]:
        raise ZeroDivisionError

    fetcher = BatchFetcher(SETTINGS, leaders)
    fetcher.begin(0, 0)
    with pytest.raises(ZeroDivisionError):
        fetcher.take(1, 10)
    fetcher.close()


def test_it_serves_where_it_knows_all_settings(tmp_path: Path) -> None:
    assert BatchFetcher.serves(SETTINGS)
    assert BatchFetcher.serves(replace(SETTINGS, extra={"check.crcs": True}))
    assert BatchFetcher.serves(replace(SETTINGS, security="ssl"))
    assert not BatchFetcher.serves(replace(SETTINGS, extra={"client.rack": "a"}))
    secret: Any = {"sasl_mechanism": "PLAIN", "username": "u", "password": "p"}
    for security in ("sasl_ssl", "sasl_plaintext"):
        assert not BatchFetcher.serves(replace(SETTINGS, security=security, **secret))


@pytest.fixture
def log(kafka_servers: str) -> Iterator[KafkaLog]:
    with new_log(kafka_servers, linger_ms=1) as log:
        yield log


def read_by_group(log: KafkaLog, number: int, last: bytes, in_lines: bool) -> list[bytes]:
    """What a member of a group reads of a partition until `last` comes."""
    group = PartitionGroup(
        log.settings,
        f"lines {in_lines}",
        assigned=lambda _: 0,
        revoked=lambda _: None,
        lost=lambda _: None,
        in_lines=in_lines,
    )
    found: list[bytes] = []

    def done() -> bool:
        records = group.poll(100, 0.05)
        found.extend(payload for _, payload in records.get(number, ()))
        return last in found

    patiently(done)
    group.close()
    return found


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_what_producers_pack_is_unpacked(log: KafkaLog, compression: str) -> None:
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": log.settings.servers,
            "compression.type": compression,
            "linger.ms": 50,
        }
    )
    sent = [b"%d " % number * (number % 50) for number in range(500)] + [b"", b"last"]
    for number, payload in enumerate(sent):
        more: Any = {"key": b"key", "headers": {"h": b"1"}} if number % 3 else {}
        producer.produce(log.settings.topic, payload, partition=1, **more)
    producer.flush(30)
    assert read_by_group(log, 1, b"last", in_lines=True) == sent


def test_transactions_are_read_as_the_client_reads_them(log: KafkaLog) -> None:
    topic = log.settings.topic
    kept = TransactionalProducer(log.settings, "kept")
    kept.write(topic, [(b"", b"a"), (b"", b"b")], 0)
    kept.commit()
    kept.close()
    aborting = confluent_kafka.Producer(
        {"bootstrap.servers": log.settings.servers, "transactional.id": topic}
    )
    aborting.init_transactions(30)
    aborting.begin_transaction()
    aborting.produce(topic, b"given up", partition=0)
    aborting.flush(30)
    aborting.abort_transaction(30)
    log.append_to(0, [b"c", b"last"])
    found = read_by_group(log, 0, b"last", in_lines=True)
    assert found == read_by_group(log, 0, b"last", in_lines=False)
    assert [it for it in found if it != b"given up"] == [b"a", b"b", b"c", b"last"]

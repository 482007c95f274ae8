"""Messages taken from the client's C library are those that its Python objects stand for."""

import ctypes
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import confluent_kafka
import numpy as np
import pytest
from msgspec.structs import astuple
from tests.streaming.brokers import new_log

from tactful_streaming import KafkaLog
from tactful_streaming.json_reader import JsonEvents
from tactful_streaming.message_kernel import describe, release, write_lines
from tactful_streaming.message_queue import MessageQueue
from tactful_streaming.projection import Projection
from tactful_streaming.records import Lines


class Message(ctypes.Structure):
    """``rd_kafka_message_t``, as librdkafka's public header has it."""

    _fields_ = (
        ("err", ctypes.c_int),
        ("rkt", ctypes.c_void_p),
        ("partition", ctypes.c_int32),
        ("payload", ctypes.c_void_p),
        ("len", ctypes.c_size_t),
        ("key", ctypes.c_void_p),
        ("key_len", ctypes.c_size_t),
        ("offset", ctypes.c_int64),
        ("private", ctypes.c_void_p),
    )


def test_messages_are_read_as_the_header_lays_them_out() -> None:
    payloads = [b"one", b"", b"a line\nand another", b"x" * 5000, None]
    errors = [0, 0, 0, -191, -2]
    buffers = [ctypes.create_string_buffer(it or b"", len(it or b"")) for it in payloads]
    messages = []
    for number, (error, buffer, payload) in enumerate(zip(errors, buffers, payloads, strict=True)):
        place = None if payload is None else ctypes.addressof(buffer)
        messages.append(Message(error, None, 7 - number, place, len(payload or b"")))
    for number, message in enumerate(messages):
        message.offset = 2**40 + number
    places = np.array([ctypes.addressof(message) for message in messages], np.int64)
    found = np.empty((4, len(places)), np.int64)
    describe(places, *found)
    assert found[0].tolist() == errors
    assert found[1].tolist() == [7, 6, 5, 4, 3]
    assert found[2].tolist() == [2**40 + number for number in range(5)]
    lines = Lines.of_lengths(found[3])
    write_lines(places, lines.letters)
    assert [*lines] == [payload or b"" for payload in payloads]

    released: list[int] = []
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(released.append)
    release(places, ctypes.cast(function, ctypes.c_void_p).value)
    assert released == places.tolist()


@pytest.fixture
def log(kafka_servers: str) -> Iterator[KafkaLog]:
    with new_log(kafka_servers, linger_ms=1) as log:
        yield log


def consumer_of(log: KafkaLog) -> Any:
    return confluent_kafka.Consumer(log.settings.consumer_config("g"))


def test_the_installed_client_shows_where_its_handle_is(log: KafkaLog) -> None:
    """Without it workers take messages as objects, which costs them a third of their rate."""
    consumer = consumer_of(log)
    queue = MessageQueue.of(consumer, confluent_kafka)
    assert queue is not None
    queue.close()
    queue.close()
    consumer.close()


def test_what_is_led_here_comes_here_whole_and_in_order(log: KafkaLog) -> None:
    rng = random.Random(5)
    expected: list[list[bytes]] = [[], []]
    for _ in range(40):
        number = rng.randrange(2)
        payloads = [
            rng.randbytes(rng.choice((0, 1, 30, 3000))) for _ in range(rng.randrange(1, 90))
        ]
        log.append_to(number, payloads)
        expected[number] += payloads
    consumer = consumer_of(log)
    queue = MessageQueue.of(consumer, confluent_kafka)
    assert queue is not None
    starts = [len(expected[0]) // 3, 0]
    for number in range(2):
        queue.lead(log.settings.topic, number)
    consumer.assign(
        [
            confluent_kafka.TopicPartition(log.settings.topic, number, at)
            for number, at in enumerate(starts)
        ]
    )
    positions, ends = [*starts], set[tuple[int, int]]()
    until = time.monotonic() + 60
    while len(ends) < 2 or positions != [*map(len, expected)]:
        assert time.monotonic() < until
        assert consumer.poll(0) is None
        runs, troubles = queue.take(rng.choice((1, 7, 500)), 0.05)
        for number, run in runs.items():
            begin, positions[number] = positions[number], positions[number] + len(run.records)
            assert [*run.records] == [
                (at, expected[number][at]) for at in range(begin, positions[number])
            ]
            assert abs(run.newest / 1000 - time.time()) < 3600
        for trouble in troubles:
            assert trouble.code == confluent_kafka.KafkaError._PARTITION_EOF
            ends.add((trouble.partition, trouble.offset))
    queue.close()
    consumer.close()


def test_nobody_has_to_close(log: KafkaLog) -> None:
    """What is left in the queue would keep the client from going."""
    log.append_to(0, [b"a", b"b"])
    script = (
        "import sys, time, confluent_kafka as kafka\n"
        "from tactful_streaming.message_queue import MessageQueue\n"
        "servers, topic = sys.argv[1:]\n"
        "consumer = kafka.Consumer({'bootstrap.servers': servers, 'group.id': 'g'})\n"
        "queue = MessageQueue.of(consumer, kafka)\n"
        "queue.lead(topic, 0)\n"
        "consumer.assign([kafka.TopicPartition(topic, 0, 0)])\n"
        "until = time.monotonic() + 60\n"
        "while not queue.take(1, 0.1)[0]:\n"
        "    assert time.monotonic() < until\n"
        "del consumer, queue\n"
    )
    arguments = [sys.executable, "-c", script, log.settings.servers, log.settings.topic]
    assert subprocess.run(arguments, timeout=120, check=False).returncode == 0


def test_lines_are_read_as_the_same_payloads_are() -> None:
    text = '{{"kind":"event","type":"view","timestamp":{},"user_id":"u{}","item_id":"i{}"}}'
    payloads = [text.format(number, number % 7, number).encode() for number in range(300)]
    payloads[9] = payloads[9].replace(b"u2", b"\\u00fc")  # for the general decoder

    def read(given: Any) -> JsonEvents | None:
        return Projection(("item_id",), compiled=True).read(given)

    def lines(of: list[bytes]) -> Lines:
        made = Lines.of_lengths(np.array([*map(len, of)], np.int64))
        made.letters[: sum(map(len, of)) + len(of)] = np.frombuffer(
            b"".join(it + b"\n" for it in of), np.uint8
        )
        return made

    found, expected = read(lines(payloads)), read(payloads)
    assert found is not None and expected is not None
    assert [*map(astuple, found)] == [*map(astuple, expected)]
    assert [*found.users] == [*expected.users]
    assert found.column("item_id") == expected.column("item_id")
    broken = [*payloads[:50], payloads[50] + b"\n" + payloads[51], *payloads[52:]]
    assert read(lines(broken)) is None is read(broken)

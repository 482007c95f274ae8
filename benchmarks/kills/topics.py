"""Topics as those who look for what was lost read them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from typing import Any

from tactful_streaming.contract.log_entries import Tick, encode_entry
from tactful_streaming.errors import LogUnreachableError
from tactful_streaming.kafka.client import ask, explain
from tactful_streaming.kafka.config import KafkaSettings


class Stalled(RuntimeError):
    """What was waited for does not come, though it comes closer no more."""


class BrokerFault(RuntimeError):
    """The broker does not do what Kafka does: the run says nothing about our processes."""


Records = dict[int, list[tuple[int, bytes]]]
"""Offsets and values, by partition."""

_ANSWER_S = 60.0
_OPEN_S = 60.0
_LOOK_S = 0.2
_ENDED = 4
_MARK = b"to-end-transactions"


def read_topic(servers: str, topic: str, *, uncommitted: bool = False) -> Records:
    """All committed records of a topic as it is now.

    A broker hides what comes after an open transaction: this waits until nothing is hidden, and
    helps with :func:`end_transactions`.

    Args:
        servers: address of the broker.
        topic: which topic.
        uncommitted: also what is in transactions that were given up, or are open.

    Raises:
        Stalled: if a transaction stays open.
        BrokerFault: if the broker does not answer.
    """
    ends, everything = _read(servers, topic, "read_uncommitted")
    if uncommitted:
        return everything
    before: dict[int, int] = {}
    until = 0.0
    while True:
        reached, records = _read(servers, topic, "read_committed")
        kept = [number for number, end in ends.items() if reached[number] < end]
        if not kept:
            return records
        if reached != before:
            before, until = reached, time.monotonic() + _OPEN_S
        elif time.monotonic() > until:
            raise Stalled(f"a transaction stays open in partitions {kept} of {topic!r}")
        time.sleep(_LOOK_S)
        end_transactions(servers, topic, kept)


def hidden(servers: str, topic: str) -> list[int]:
    """Partitions with records that readers of what is committed do not come to, as it is now.

    Raises:
        BrokerFault: if the broker does not answer.
    """
    ends, _ = _read(servers, topic, "read_uncommitted")
    reached, _ = _read(servers, topic, "read_committed")
    return [number for number, end in ends.items() if reached[number] < end]


def values_of(servers: str, topic: str, *, uncommitted: bool = False) -> list[bytes]:
    """What :func:`read_topic` finds, partition by partition, without offsets."""
    found = read_topic(servers, topic, uncommitted=uncommitted)
    return [value for records in found.values() for _, value in records]


def end_transactions(servers: str, topic: str, partitions: Collection[int]) -> None:
    """Let the broker of the tests show what lies behind transactions that have ended.

    Where transactions of several producers overlap in a partition, it shows none of them before all
    have ended. It looks for them only when one ends, and of each transactional id only at the
    oldest one. After a producer was replaced in the midst of a transaction, more than one may wait;
    what comes after them is hidden, until enough others have ended there. This makes some that end.
    On Kafka it changes nothing: there a transaction waits for nobody.

    Its records are ticks that move no clock: they do no harm in a log, and :func:`read_topic`
    leaves them out.
    """
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers, "transactional.id": f"end-{uuid.uuid4()}"})
    producer.init_transactions(_ANSWER_S)
    for _ in range(_ENDED):
        producer.begin_transaction()
        for number in partitions:
            tick = encode_entry(Tick(timestamp=0), "json")
            producer.produce(topic, tick, _MARK, partition=number)
        producer.commit_transaction(_ANSWER_S)


def show(servers: str, topic: str) -> None:
    """Let the broker of the tests show what it can, for those who wait; see `end_transactions`."""
    if kept := hidden(servers, topic):
        end_transactions(servers, topic, kept)


def take_names(servers: str, names: Collection[str]) -> None:
    """Become the producer of each transactional id: what is open under it ends."""
    from confluent_kafka import Producer

    for name in names:
        producer = Producer({"bootstrap.servers": servers, "transactional.id": name})
        producer.init_transactions(_ANSWER_S)


class Committed:
    """How far a consumer group has come."""

    def __init__(
        self, servers: str, group: str, topic: str, partitions: int, *, answer_s: float = _ANSWER_S
    ) -> None:
        """Watch `group`, and do not join it; wait so long for an answer."""
        from confluent_kafka import TopicPartition

        self._answer_s = answer_s
        self._consumer = _consumer(servers, group, "read_committed")
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]

    def __call__(self) -> tuple[int, ...]:
        """Next offset to read of each partition; negative where none was committed."""
        found = ask(lambda: self._consumer.committed(self._partitions, self._answer_s))
        return tuple(it.offset for it in found)

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


class Arrivals:
    """New records of a topic, as soon as a broker has them: their transaction is still open."""

    def __init__(self, servers: str, topic: str, partitions: int) -> None:
        """Watch a topic."""
        from confluent_kafka import OFFSET_END, TopicPartition

        self._consumer = _consumer(servers, f"watcher-of-{topic}", "read_uncommitted")
        self._ends = [TopicPartition(topic, number, OFFSET_END) for number in range(partitions)]

    def wait(self, seconds: float) -> bool:
        """Wait for a record, so many seconds at most, and return whether one came."""
        self._consumer.assign(self._ends)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            message = self._consumer.poll(_LOOK_S)
            if message is not None and message.error() is None:
                self._consumer.unassign()
                return True
        self._consumer.unassign()
        return False

    def close(self) -> None:
        """Leave the brokers."""
        self._consumer.close()


def partitions_of(count: int) -> list[str]:
    """People of whom one lies in each of `count` partitions."""
    from confluent_kafka import murmur2

    found: dict[int, str] = {}
    number = 0
    while len(found) < count:
        name = f"close-{number}"
        found.setdefault(murmur2(name.encode(), count), name)
        number += 1
    return sorted(found.values())


def _read(servers: str, topic: str, isolation: str) -> tuple[dict[int, int], Records]:
    """Where each partition ends for those who read like this, and what they find before."""
    from confluent_kafka import KafkaError, TopicPartition

    consumer = _consumer(servers, f"reader-of-{topic}", isolation)
    numbers = ask(lambda: consumer.list_topics(topic, _ANSWER_S)).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
    records: Records = {number: [] for number in numbers}
    ends: dict[int, int] = {}
    while len(ends) < len(numbers):
        message = consumer.poll(_ANSWER_S)
        if message is None:
            raise BrokerFault(f"the broker at {servers} does not answer")
        number, offset = message.partition(), message.offset()
        if message.error() is None:
            if message.key() != _MARK:
                records[number].append((offset, message.value() or b""))
        elif message.error().code() == KafkaError._PARTITION_EOF:
            ends[number] = offset
        else:
            problem = explain(message.error(), KafkaSettings(servers, topic))
            if not isinstance(problem, LogUnreachableError):  # the client connects again by itself
                raise RuntimeError(f"topic {topic!r} cannot be read: {problem}")
    consumer.close()
    return ends, records


def _consumer(servers: str, group: str, isolation: str) -> Any:
    from confluent_kafka import Consumer

    return Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": isolation,
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 5,
            "log_level": 2,  # brokers come and go
        }
    )

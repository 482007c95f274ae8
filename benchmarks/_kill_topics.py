"""Topics as those who look for what was lost read them."""

from __future__ import annotations

from typing import Any


def read_topic(servers: str, topic: str) -> list[bytes]:
    """All committed records of a topic as it is now, partition by partition.

    Raises:
        RuntimeError: if the broker does not answer.
    """
    consumer = _consumer(servers, f"reader-of-{topic}")
    from confluent_kafka import KafkaError, TopicPartition

    numbers = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
    found: list[bytes] = []
    ended: set[int] = set()
    while len(ended) < len(numbers):
        messages = consumer.consume(10_000, 10.0)
        if not messages:
            raise RuntimeError(f"the broker at {servers} does not answer")
        for message in messages:
            if message.error() is None:
                found.append(message.value() or b"")
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
    consumer.close()
    return found


class Committed:
    """How far a consumer group has come."""

    def __init__(self, servers: str, group: str, topic: str, partitions: int) -> None:
        """Watch `group`, and do not join it."""
        from confluent_kafka import TopicPartition

        self._consumer = _consumer(servers, group)
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]

    def __call__(self) -> tuple[int, ...]:
        """Next offset to read of each partition; negative where none was committed."""
        return tuple(it.offset for it in self._consumer.committed(self._partitions, 10.0))

    def close(self) -> None:
        """Leave the broker."""
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


def _consumer(servers: str, group: str) -> Any:
    from confluent_kafka import Consumer

    return Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 5,
        }
    )

"""Rows of an entities' topic, written as a Flink job writes them."""

import time
from collections.abc import Sequence

import msgspec
from tests.streaming.brokers import topic_name

from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.flink.entities import entities_tag
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.state.store import MemoryState

START = 1_700_000_000_000


class EntityTopic:
    """The topics of entities and erased, and values of a user that has so many views."""

    def __init__(self, servers: str, definitions: Definitions, partitions: int = 2) -> None:
        from confluent_kafka import Producer

        self.definitions = definitions
        self.kafka = KafkaSettings(servers, topic_name())
        self.erased = KafkaSettings(servers, f"{self.kafka.topic}-erased")
        ensure_topic(self.kafka, partitions=partitions, compacted=True)
        ensure_topic(self.erased, partitions=1, compacted=True)
        self._producer = Producer({"bootstrap.servers": servers, "linger.ms": 1})

    def packed(self, views: int, key: str = "ada") -> bytes:
        """The packed value of a user with so many views."""
        engine = Engine(self.definitions, MemoryState())
        events = [
            Event(event_id=f"{key}{n}", type="view", timestamp=START + n, user_id=key)
            for n in range(views)
        ]
        engine.apply([(n, encode_entry(event)) for n, event in enumerate(events)])
        (blob,) = engine._state.tables["user"].pack_changes(0).values()
        assert blob is not None
        return blob

    def value(
        self, partition: int, offset: int, key: str, packed: bytes | None, *, kind: str = "user"
    ) -> None:
        """A row of an entity, by default of one that exists."""
        row = [0, entities_tag(self.definitions), offset, kind, key, packed]
        self._send(partition, f"{kind}:{key}".encode(), msgspec.msgpack.encode(row))
        if packed is None:
            self._send(partition, f"{kind}:{key}".encode(), None)

    def mark(
        self,
        partition: int,
        offset: int,
        *,
        subtask: int = 0,
        of: int = 1,
        kind: str = "user",
        forgotten: int = 0,
    ) -> None:
        """A mark of a subtask."""
        row = [1, entities_tag(self.definitions), offset, kind, subtask, of, START, forgotten]
        self._send(partition, f"@{kind}:{subtask}".encode(), msgspec.msgpack.encode(row))

    def raw(self, partition: int, value: bytes) -> None:
        self._send(partition, b"raw", value)

    def _send(self, partition: int, key: bytes, value: bytes | None) -> None:
        self._producer.produce(self.kafka.topic, key=key, value=value, partition=partition)
        assert self._producer.flush(60) == 0

    def rows(
        self, settings: KafkaSettings, partitions: Sequence[int]
    ) -> list[tuple[bytes, bytes | None]]:
        """All rows of a topic, key and value."""
        from confluent_kafka import Consumer, TopicPartition

        found: list[tuple[bytes, bytes | None]] = []
        consumer = Consumer({"bootstrap.servers": settings.servers, "group.id": "test"})
        for partition in partitions:
            asked = TopicPartition(settings.topic, partition, 0)
            consumer.assign([asked])
            _, end = consumer.get_watermark_offsets(asked, timeout=30)
            at, until = 0, time.monotonic() + 60
            while at < end:
                assert time.monotonic() < until
                for record in consumer.consume(1000, 0.2):
                    offset, key = record.offset(), record.key()
                    assert offset is not None and key is not None
                    at = offset + 1
                    found.append((key, record.value()))
        consumer.close()
        return found

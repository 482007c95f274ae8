"""What the broker of our measurements spends on a fetch, as a partition gets longer.

It keeps each batch as an object of its own and lists all of a partition's to answer a fetch. Kafka
looks into an index of the segment that holds the offset.
"""

from __future__ import annotations

from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.figures import Figure
from benchmarks.streaming.events import memory_broker
from benchmarks.streaming.freshness import processor_seconds

_TOPIC = "growing"
_LENGTHS = (500, 4_000)
_READ = 200
_PAYLOAD = b"x" * 300
_PATIENCE_S = 30.0


def fetch_growth(scratch: Path) -> Figure:
    """How much dearer a fetch is to the broker in a partition of 4,000 batches than of 500.

    Raises:
        RuntimeError: if a batch does not come back.
    """
    with memory_broker(scratch) as servers:
        admin = AdminClient({"bootstrap.servers": servers})
        admin.create_topics([NewTopic(_TOPIC, num_partitions=1)])[_TOPIC].result()
        partition = _Partition(servers)
        costs = {length: partition.cost_ms(length) for length in _LENGTHS}
        partition.close()
    short, long = costs.values()
    note = (
        "CPU time of the broker for a record appended and fetched as soon as it is there: "
        + ", ".join(f"{cost:.2f} ms behind {length:,} batches" for length, cost in costs.items())
        + "; Kafka looks into an index instead"
    )
    return Figure("broker_fetch_growth", round(long / short, 2), "1", runs=_READ, note=note)


class _Partition:
    """A partition in which each record is a batch."""

    def __init__(self, servers: str) -> None:
        self._producer = Producer({"bootstrap.servers": servers, "linger.ms": 0})
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "growing",
                "fetch.wait.max.ms": 5,
                "enable.auto.commit": False,
            }
        )
        self._length = 0

    def cost_ms(self, length: int) -> float:
        """What a record costs behind so many others, milliseconds of CPU time."""
        while self._length < length:
            self._append()
        self._consumer.assign([TopicPartition(_TOPIC, 0, self._length)])
        self._append_and_fetch()
        before = processor_seconds()["broker"]
        for _ in range(_READ):
            self._append_and_fetch()
        cost = (processor_seconds()["broker"] - before) / _READ
        self._consumer.unassign()
        return cost * 1e3

    def close(self) -> None:
        self._consumer.close()

    def _append(self) -> None:
        self._producer.produce(_TOPIC, _PAYLOAD, partition=0)
        self._producer.flush()
        self._length += 1

    def _append_and_fetch(self) -> None:
        self._append()
        message = self._consumer.poll(_PATIENCE_S)
        if message is None or message.error() is not None:
            raise RuntimeError("the broker did not deliver what it had taken")

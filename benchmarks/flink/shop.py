"""Events of very many people in a shop, made fast: most people have few, and some have hundreds.

Numbers of events follow a zeta distribution, at least one for each person; the items of a catalogue
are viewed by a Zipf law. Everything follows from the seed and the number of people.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.flink.place import PARTITIONS
from benchmarks.streaming.events import START

_SKEW, _MOST = 2.7, 500
_DAYS, _DAY_MS = 30, 86_400_000
_DISORDER_MS = 2_000
_ITEMS, _CATEGORIES = 100_000, 300
_TYPES = [b"view"] * 70 + [b"click"] * 20 + [b"add_to_cart"] * 6 + [b"purchase"] * 4
_CHUNK = 100_000
_EVENT = (
    b'{"kind":"event","event_id":"e%d","type":"%s","timestamp":%d,"user_id":"u%d",'
    b'"session_id":"v%d-%d","item_id":"i%d",'
    b'"properties":{"category":"c%d","price":%d.5,"quantity":1}}'
)


@dataclass(frozen=True)
class Shop:
    """The people of a seed."""

    people: int
    seed: int = 11

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of events of each person."""
        drawn = np.random.default_rng(self.seed).zipf(_SKEW, self.people)
        return np.minimum(drawn, _MOST)

    def events(self) -> Iterator[tuple[int, bytes]]:
        """Yield each event with the number of its person, in the order of arrival."""
        order = np.repeat(np.arange(self.people, dtype=np.int32), self.counts)
        rng = np.random.default_rng(self.seed + 1)
        rng.shuffle(order)
        step = _DAYS * _DAY_MS / len(order)
        for first in range(0, len(order), _CHUNK):
            people = order[first : first + _CHUNK]
            size = len(people)
            numbers = np.arange(first, first + size)
            due = (numbers * step).astype(np.int64)
            times = START + due - rng.integers(0, _DISORDER_MS, size)
            items = np.minimum(rng.zipf(1.3, size), _ITEMS)
            types = rng.integers(0, len(_TYPES), size)
            columns = (numbers, types, times, people, due // _DAY_MS, items)
            for number, kind, at, person, day, item in zip(
                *(column.tolist() for column in columns), strict=True
            ):
                yield (
                    person,
                    _EVENT
                    % (
                        *(number, _TYPES[kind], at, person, person, day, item),
                        *(item % _CATEGORIES, item % 97),
                    ),
                )

    def sample(self, count: int) -> frozenset[int]:
        """Choose people at random, and the ten with most events."""
        busiest = np.argsort(self.counts)[-10:].tolist()
        chosen = random.Random(self.seed).sample(range(self.people), min(count, self.people))
        return frozenset([*busiest, *chosen])


def fill(
    servers: str,
    topic: str,
    shop: Shop,
    chosen: Collection[int],
    note: Callable[[int], None],
) -> tuple[int, dict[int, list[bytes]]]:
    """Write the events of all people to a topic that exists.

    Args:
        servers: of Kafka.
        topic: with `PARTITIONS` partitions.
        shop: the people.
        chosen: people whose events are returned.
        note: is called with the number of events that were written.

    Returns:
        The number of events, and those of the chosen people by partition, in order.
    """
    from confluent_kafka import Producer

    producer = Producer(
        {
            "bootstrap.servers": servers,
            "acks": "all",
            "linger.ms": 50,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    kept: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}
    number = 0
    for number, (person, event) in enumerate(shop.events(), 1):
        while True:
            try:
                producer.produce(topic, event, b"u%d" % person, person % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
        if person in chosen:
            kept[person % PARTITIONS].append(event)
        if number % _CHUNK == 0:
            producer.poll(0)
            note(number)
    if producer.flush(300):
        raise RuntimeError(f"the broker at {servers} did not take all events of {topic}")
    note(number)
    return number, kept

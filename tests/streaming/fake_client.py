"""A Kafka client in memory that assigns partitions by the rules of librdkafka, and its outages."""

from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from tactful_streaming.errors import LogError
from tactful_streaming.kafka import client, topics
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.consumer_group import PartitionGroup

TOPIC = "t"


class FakeClient:
    """The consumer of a group member.

    As in the real one, a removal of partitions that were not assigned is refused as a whole, and
    then the rebalance never ends, and `close` neither.
    """

    def __init__(self, partitions: int = 4) -> None:
        self.assigned: set[int] = set()
        self.given: set[int] = set()
        self.paused: set[int] = set()
        self.starts: list[tuple[int, int]] = []
        self.messages: deque[Message] = deque()
        self.code: int | None = None  # of the error of every request; None: the broker answers
        self.missing = False  # whether the brokers report the topic missing
        self.identity: str | None = "one"
        self.asked = 0
        self.stuck = False
        self.on_error: Callable[[Any], None] = lambda _: None
        self._partitions = partitions
        self._events: deque[tuple[str, list[int]]] = deque()
        self._answered = False

    def subscribe(self, topics: Sequence[str], **callbacks: Callable[..., None]) -> None:
        self._callbacks = callbacks

    def rebalance(self, kind: str, numbers: Sequence[int]) -> None:
        """Let the next poll call back `on_assign`, `on_revoke` or `on_lost`."""
        change = self.given.update if kind == "assign" else self.given.difference_update
        change(numbers)
        self._events.append((kind, [*numbers]))

    def poll(self, wait_s: float) -> Message | None:
        if self._events:
            self._call_back(*self._events.popleft())
            return None
        return self.messages.popleft() if self.messages else None

    def _call_back(self, kind: str, numbers: list[int]) -> None:
        partitions = [TopicPartition(TOPIC, number) for number in numbers]
        self._answered = False
        self._callbacks[f"on_{kind}"](self, partitions)
        if not self._answered:  # the binding does it
            change = self.incremental_assign if kind == "assign" else self.incremental_unassign
            try:
                change(partitions)
            except KafkaException:
                self.stuck = True

    def consume(self, limit: int, wait_s: float) -> list[Message]:
        return [self.messages.popleft() for _ in range(min(limit, len(self.messages)))]

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        numbers = {tp.partition for tp in partitions}
        if numbers & self.assigned:
            raise KafkaException(KafkaError(KafkaError._CONFLICT))
        self._answered = True
        self.assigned |= numbers
        self.starts += [(tp.partition, tp.offset) for tp in partitions]

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        numbers = {tp.partition for tp in partitions}
        if numbers - self.assigned:
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG))
        self._answered = True
        self.assigned -= numbers

    def _check(self) -> None:
        self.asked += 1
        if self.code is not None:
            raise KafkaException(KafkaError(self.code))

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = 0.0, cached: bool = False
    ) -> tuple[int, int]:
        if not cached:
            self._check()
        return 0, 100

    def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> list[TopicPartition]:
        self._check()
        return [*partitions]

    def list_topics(self, timeout: float) -> Any:
        self._check()
        topic = SimpleNamespace(partitions=dict.fromkeys(range(self._partitions)))
        return SimpleNamespace(topics={} if self.missing else {TOPIC: topic})

    def topic_exists(self, settings: KafkaSettings, timeout_s: float) -> bool:
        """Answer as the function of that name."""
        return self.code is not None or (settings.topic == TOPIC and not self.missing)

    def ask_topic_id(self, settings: KafkaSettings, *, timeout_s: float) -> str | None:
        """Answer as the function of that name."""
        try:
            self._check()
        except KafkaException as error:
            raise client.explain(error.args[0], settings) from error
        if self.missing:
            raise client.missing_topic(settings)
        return self.identity

    def commit(self, **_: Any) -> None:
        pass

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Pause partitions until they are resumed, also across assignments."""
        self.paused |= {tp.partition for tp in partitions}

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Read partitions again."""
        self.paused -= {tp.partition for tp in partitions}

    def close(self) -> None:
        assert not self.stuck, "it waits for ever"
        if self.given:
            self.rebalance("revoke", [*self.given])
        while self._events:
            self._call_back(*self._events.popleft())
        assert not self.stuck, "it waits for ever"


def patched_client(monkeypatch: pytest.MonkeyPatch, partitions: int = 4) -> FakeClient:
    """Let groups use a client in memory."""
    fake = FakeClient(partitions)

    def connect(kind: str, config: object, on_error: Callable[[Any], None]) -> FakeClient:
        fake.on_error = on_error
        return fake

    monkeypatch.setattr(client, "connect", connect)
    monkeypatch.setattr(client, "topic_exists", fake.topic_exists)
    monkeypatch.setattr(topics, "ask_topic_id", fake.ask_topic_id)
    return fake


class Member:
    """A group member on a client in memory, its states, and the clock of both."""

    def __init__(self, fake: FakeClient, topic_id: str | None = None) -> None:
        self.fake = fake
        self.now = 0.0
        self.open: dict[int, int] = {}
        self.opened = 0
        self.failure: LogError | None = None
        self.group = PartitionGroup(
            KafkaSettings("127.0.0.1:1", TOPIC),
            "g",
            assigned=self.assigned,
            revoked=self.closed,
            lost=self.closed,
            topic_id=topic_id,
            clock=lambda: self.now,
        )

    def assigned(self, number: int) -> int:
        assert number not in self.open
        if self.failure is not None:
            raise self.failure
        self.opened += 1
        self.open[number] = 0
        return 10 * number

    def closed(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self.open[number]

    def work(self, seconds: float) -> None:
        """Poll five times a second."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.2
            self.group.poll(10, 0.0)
            assert self.fake.assigned == self.group.partitions == self.open.keys()

    def suspend(self, problem: LogError) -> None:
        """Close all states as their owner does."""
        self.open.clear()
        self.group.suspend(problem)

"""Writing to Kafka as the one owner of a partition.

Whoever owns a partition of the log writes what follows from it under a name of that partition, in
transactions. Kafka lets only the process that took the name last write under it: a former owner
that was asleep when its partition was given on, and wakes up with records in hand, is refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tactful_streaming.contract.record_batch import Row
from tactful_streaming.errors import FencedError, LogWriteError, TopicError
from tactful_streaming.kafka.config import (
    KafkaSettings,
    count_partitions,
    explain,
    import_kafka,
)

_logger = logging.getLogger(__name__)

_MOST_WAITING = 500_000
_TOGETHER = 2_000  # rows handed to the client at once
_TRANSACTION_TIMEOUT_MS = 300_000
_LINGER_MS = 500
"""Nobody sees rows before the commit, and it waits for no batch to fill.

While a batch is on its way and the next has waited long enough, the client asks its socket again
and again without a pause. With a linger shorter than the way to the broker and back, that took up
to a quarter of a worker's CPU.
"""


class TransactionalProducer:
    """Appends to topics of one cluster, all or nothing between two commits.

    Readers that read only what is committed, as all of ours do, see records once :meth:`commit` has
    returned: brokers tell their partitions of it a moment later. One thread uses it.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take `name`; whoever had it before can write no more, and what it left open is dropped.

        Args:
            settings: where the cluster is; the topic in it does not matter.
            name: transactional id.
            clock: monotonic seconds.

        Raises:
            LogUnreachableError: if no broker answers.
            LogError: if the cluster refuses, or the client is not installed.
        """
        self._settings = settings
        self._kafka = import_kafka()
        self._name = name
        self._timeout_s = settings.delivery_timeout_ms / 1000
        self._clock = clock
        self._open = False
        config = {
            **settings.producer_config(),
            "linger.ms": _LINGER_MS,
            "transactional.id": name,
            # Longer than any time between commits; a next owner does not wait for it.
            "transaction.timeout.ms": max(settings.delivery_timeout_ms, _TRANSACTION_TIMEOUT_MS),
        }
        self._producer = self._kafka.Producer(config, logger=_logger)
        with self._explained():
            self._producer.init_transactions(self._timeout_s)

    def partition_of(self, topic: str) -> Callable[[str], int]:
        """How records of a topic find their partition: a function of their key.

        Raises:
            LogError: if no broker answers, or there is no such topic.
        """
        with self._explained():
            count = count_partitions(
                self._producer, replace(self._settings, topic=topic), self._timeout_s
            )
        if count is None:
            raise TopicError(f"{self._where()}: there is no topic {topic!r}")
        return lambda key: int(self._kafka.murmur2(key.encode(), count))

    def write(self, topic: str, rows: Sequence[Row], partition: int | None = None) -> None:
        """Append rows with the next commit.

        Args:
            topic: where.
            rows: key and value of each; an empty key is none.
            partition: which one; None: by the key.

        Raises:
            FencedError: if somebody else has taken the name.
            LogError: if the client does not take the rows; the transaction is lost then.
        """
        if not rows:
            return
        self._begin()
        until = self._clock() + self._timeout_s
        placed = {} if partition is None else {"partition": partition}
        for begin in range(0, len(rows), _TOGETHER):
            self._produce(topic, rows[begin : begin + _TOGETHER], placed, until)

    def commit(self) -> None:
        """Make what was written visible, durably; nothing was written: do nothing.

        Raises:
            FencedError: if somebody else has taken the name: nothing was made visible.
            LogError: if the cluster does not answer or refuses: nothing was made visible, or, where
                it does not answer, perhaps everything.
        """
        if not self._open:
            return
        with self._explained():
            self._producer.commit_transaction(self._timeout_s)
        self._open = False

    def append(self, topic: str, values: Sequence[bytes], partition: int) -> int:
        """Append to one partition and commit, with whatever else was written.

        Returns:
            Offset of the last value.

        Raises:
            FencedError: as :meth:`commit`.
            LogError: likewise.
        """
        places: list[int] = []
        self._begin()
        with self._explained():
            for value in values:
                self._producer.produce(
                    topic,
                    value,
                    partition=partition,
                    on_delivery=lambda error, message: (
                        None if error else places.append(message.offset())
                    ),
                )
        self.commit()
        self._producer.poll(0)
        return max(places)

    def close(self) -> None:
        """Drop what was not committed, and leave the cluster."""
        if self._open:
            self._open = False
            self._producer.purge()
            try:
                self._producer.abort_transaction(1.0)
            except self._kafka.KafkaException as error:
                _logger.info("%s: the open transaction is left to time out: %s", self._name, error)
        self._producer.flush(0)

    def _produce(
        self, topic: str, rows: Sequence[Row], placed: dict[str, int], until: float
    ) -> None:
        # Where one of them is not delivered, the commit fails.
        messages: list[dict[str, Any]] = [
            {"key": key, "value": value} if key else {"value": value} for key, value in rows
        ]
        while messages:
            with self._explained():
                taken = self._producer.produce_batch(topic, messages, **placed)
            messages = list(self._not_taken(messages)) if taken < len(messages) else []
            self._make_room(len(messages), until)

    def _make_room(self, refused: int, until: float) -> None:
        """Take reports of deliveries; wait for some where messages were refused, or many wait."""
        self._producer.poll(0 if not refused and len(self._producer) < _MOST_WAITING else 0.05)
        if refused and self._clock() > until:
            raise LogWriteError(f"{self._where()}: the client has no room for more rows")

    def _begin(self) -> None:
        if not self._open:
            with self._explained():
                self._producer.begin_transaction()
            self._open = True

    def _not_taken(self, messages: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for message in messages:
            error = message.pop("_error", None)
            if error is not None:
                if error.code() != self._kafka.KafkaError._QUEUE_FULL:
                    raise self._error(error)
                yield message

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._kafka.KafkaException as error:
            raise self._error(error.args[0]) from error

    def _error(self, error: Any) -> Exception:
        kafka = self._kafka.KafkaError
        if error.code() in (
            kafka._FENCED,
            kafka.PRODUCER_FENCED,
            kafka.INVALID_PRODUCER_EPOCH,
        ):
            return FencedError(f"{self._where()}: another process has taken over")
        return explain(error, self._settings)

    def _where(self) -> str:
        return f"producer {self._name!r} at {self._settings.servers}"

"""Transactional writes to Kafka by the one owner of a partition.

The owner of a partition of the log writes its output in transactions under a transactional id of
that partition. Kafka accepts only the process that took the id last: a former owner that was
suspended while its partition moved, and continues with records to write, is fenced.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from tactful_streaming.contract.log_entries import Row
from tactful_streaming.errors import FencedError, LogWriteError
from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import KafkaSettings

_logger = logging.getLogger(__name__)

_MOST_WAITING = 500_000
_BY_KEY = -1  # the client's PARTITION_UA
_TOGETHER = 2_000  # rows passed to the client in one call
_TRANSACTION_TIMEOUT_MS = 300_000
_LINGER_MS = 500
"""Readers see no rows before the commit, which sends batches without this delay.

While one batch is in flight and the next is due, the client polls its socket without a pause. With
a linger shorter than a round trip to the broker, this used up to a quarter of a worker's CPU.
"""


class TransactionalProducer:
    """Appends to topics of one cluster, all or nothing between two commits.

    Readers of committed records, such as all readers of this package, see records soon after
    :meth:`commit` has returned. One thread uses it. Each method raises FencedError if another
    process has taken the name, and LogError if the cluster refuses or does not answer.
    """

    def __init__(
        self, settings: KafkaSettings, name: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take `name`, which fences its former owner and aborts the open transaction."""
        self._settings = settings
        self._kafka = client.import_kafka()
        self._name = name
        self._timeout_s = settings.delivery_timeout_ms / 1000
        self._clock = clock
        self._open = False
        self._fenced = False
        self._failed = _FailedDelivery()
        config = {
            **settings.producer_config(),
            "linger.ms": _LINGER_MS,
            "transactional.id": name,
            # Longer than any time between commits; the next owner does not wait for it.
            "transaction.timeout.ms": max(settings.delivery_timeout_ms, _TRANSACTION_TIMEOUT_MS),
        }
        self._causes = client.Causes()
        self._producer = client.connect("Producer", config, self._causes.note)
        with self._explained():
            # A call after a timeout waits for the same answer.
            take_name = self._producer.init_transactions
            client.ask_longer(self._producer, take_name, self._timeout_s, self._causes)

    def partition_of(self, topic: str) -> Callable[[str], int]:
        """Return the function from a record's key to its partition in a topic."""
        with self._explained():
            settings = replace(self._settings, topic=topic)
            count = client.count_partitions(self._producer, settings, self._timeout_s)
        if count is None:
            raise client.missing_topic(settings)
        return lambda key: int(self._kafka.murmur2(key.encode(), count))

    def write(self, topic: str, rows: Sequence[Row], partition: int = _BY_KEY) -> None:
        """Append rows, each a key (empty: none) and a value, with the next commit."""
        if not rows:
            return
        self._begin()
        until = self._clock() + self._timeout_s
        for begin in range(0, len(rows), _TOGETHER):
            self._produce(topic, rows[begin : begin + _TOGETHER], partition, until)

    def commit(self) -> None:
        """Commit the rows that were written; without rows, do nothing.

        Raises:
            FencedError: if another process has taken the name: nothing was committed.
            LogError: if the cluster refuses: nothing was committed; if it does not answer, nothing
                or everything was.
        """
        if not self._open:
            return
        with self._explained():
            self._producer.commit_transaction(self._timeout_s)
        self._open = False

    def append(self, topic: str, values: Sequence[bytes], partition: int) -> int:
        """Append to one partition, commit, and return the offset of the last value."""
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
        with self._explained():
            self._producer.poll(0)
        return max(places)

    def close(self) -> None:
        """Abort the open transaction and disconnect."""
        if self._open:
            self._open = False
            self._producer.purge()
            try:
                self._producer.abort_transaction(1.0)
            except self._kafka.KafkaException as error:
                _logger.info("%s: the open transaction was not aborted: %s", self._name, error)
        with suppress(self._kafka.KafkaException):  # of a producer that was fenced
            self._producer.flush(0)

    def _produce(self, topic: str, rows: Sequence[Row], partition: int, until: float) -> None:
        # If a message is not delivered, the commit fails, and does not say why.
        messages: list[dict[str, Any]] = [
            {"key": key, "value": value} if key else {"value": value} for key, value in rows
        ]
        while messages:
            with self._explained():
                taken = self._producer.produce_batch(
                    topic, messages, partition, on_delivery=self._failed.note
                )
            messages = list(self._not_taken(messages)) if taken < len(messages) else []
            # Process delivery reports; wait for some if messages were refused or many wait.
            full = bool(messages) or len(self._producer) >= _MOST_WAITING
            with self._explained():
                self._producer.poll(0.05 if full else 0)
            if messages and self._clock() > until:
                raise LogWriteError(f"{self._where()}: the client has no room for more rows")

    def _begin(self) -> None:
        if not self._open:
            with self._explained():
                self._producer.begin_transaction()
            self._open = True
            self._failed.clear()

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
        # After a failure the client reports only that it has failed or, if that was in the commit,
        # that the commit is still in progress.
        if not self._fenced and error.code() in (kafka._FATAL, kafka._STATE):
            error = self._failure() or error
        codes = (kafka._FENCED, kafka.PRODUCER_FENCED, kafka.INVALID_PRODUCER_EPOCH)
        self._fenced |= error.code() in codes
        if self._fenced:
            return FencedError(f"{self._where()}: another process has taken over")
        settings = self._settings
        if error.code() == kafka._INCONSISTENT and self._failed.error is not None:
            error, settings = self._failed.error, replace(settings, topic=self._failed.topic)
        return client.explain(error, settings, self._causes)

    def _failure(self) -> Any:
        """Return the error that ended the open transaction; None if it is not known."""
        try:
            self._producer.begin_transaction()
        except self._kafka.KafkaException as error:
            return error.args[0]
        self._open = True
        return None

    def _where(self) -> str:
        return f"producer {self._name!r} at {self._settings.servers}"


class _FailedDelivery:
    """The first message of a transaction that was not delivered.

    It does not refer to the producer, whose queue refers to it: nobody would end the threads of
    producers in such a cycle.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.error: Any = None
        self.topic = ""

    def note(self, error: Any, message: Any) -> None:
        if error is not None and self.error is None:
            self.error, self.topic = error, message.topic()

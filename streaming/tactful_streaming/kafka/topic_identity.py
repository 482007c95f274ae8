"""The id of a topic, which changes when a topic is deleted and made anew."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import KafkaSettings

_ASK_EVERY_S = 10.0
_AGAIN_S = 0.5
_TIMEOUT_S = 5.0

_NO_ID: Final = "A" * 22  # all zeros in base64: a broker without topic ids


def identity_of(described: Any) -> str | None:
    """Return the id in the description of a topic; None from brokers without ids."""
    identity = str(described.topic_id)
    return None if identity == _NO_ID else identity


def lacks_ids(error: Any) -> bool:
    """Whether an error of the client means that the broker has no ids (before Kafka 2.8)."""
    kafka = client.import_kafka().KafkaError
    return error.code() in (kafka._UNSUPPORTED_FEATURE, kafka.UNSUPPORTED_VERSION)


class TopicIdentity:
    """Asks for the id of a topic every ten seconds, by a client of its own, for one thread.

    A producer does not report the id, and after a topic was made anew the broker accepts its
    records as before.
    """

    def __init__(
        self, settings: KafkaSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Connect with the first question."""
        self._settings = settings
        self._clock = clock
        self._admin: Any = None
        self._asked: Any = None  # future of the answer
        self._ask_at = 0.0
        self._first: str | None = None
        self._partitions: int | None = None  # by the first answer
        self._resized = False  # whether the last answer has another number

    @property
    def known(self) -> str | None:
        """The first answer."""
        return self._first

    def ask(self, timeout_s: float) -> str | None:
        """Ask again; None before the first answer, or if this one does not come in time."""
        if self._first is None:
            return None
        self._send(timeout_s)
        return self._answer(timeout_s)

    def has_changed(self) -> bool:
        """Ask if it is due, without waiting.

        Returns:
            Whether an answer differs from the first, by the id or the number of partitions.
        """
        if self._asked is None:
            if self._clock() >= self._ask_at:
                self._send(_TIMEOUT_S)
            return False
        if not self._asked.done():
            return False
        return self._answer(0.0) not in (None, self._first) or self._resized

    def hurry(self) -> None:
        """Make the next question due; any thread may call this."""
        if self._ask_at != math.inf:
            self._ask_at = 0.0

    def close(self) -> None:
        """Disconnect."""
        self._asked = self._admin = None

    def _send(self, timeout_s: float) -> None:
        kafka = client.import_kafka()
        if self._admin is None:
            from confluent_kafka.admin import AdminClient

            self._admin = AdminClient(self._settings.client_config())
        topics = kafka.TopicCollection([self._settings.topic])
        answers = self._admin.describe_topics(topics, request_timeout=timeout_s)
        self._asked = answers[self._settings.topic]
        self._ask_at = self._clock() + _ASK_EVERY_S

    def _compare(self, partitions: int) -> None:
        self._partitions = self._partitions or partitions
        self._resized = partitions != self._partitions

    def _answer(self, timeout_s: float) -> str | None:
        kafka = client.import_kafka()
        asked, self._asked = self._asked, None
        try:
            described = asked.result(timeout_s)
            self._compare(len(described.partitions))
            identity = identity_of(described)
        except TimeoutError:
            identity = None
        except kafka.KafkaException as error:
            identity = None
            if lacks_ids(error.args[0]):
                self._ask_at = math.inf
                return None
        if identity is None and self._first is not None:
            self._ask_at = self._clock() + _AGAIN_S
        self._first = self._first or identity
        return identity

"""Shared calls to the Kafka client, and its errors as errors of the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, Literal, TypeVar

from tactful_streaming.errors import (
    LogError,
    LogSettingsError,
    LogUnreachableError,
    OffsetError,
    TopicMissingError,
)
from tactful_streaming.kafka.config import KafkaSettings

_Answer = TypeVar("_Answer")

_logger = logging.getLogger(__name__)

NO_OFFSET: Final = -1001
"""Offset of a partition that is named without one: the client's `OFFSET_INVALID`."""

# Codes of the client's errors.
_REFUSED = (
    *("TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"),
    *("SASL_AUTHENTICATION_FAILED", "_AUTHENTICATION"),
)
_ABSENT = (
    *("_ALL_BROKERS_DOWN", "_TRANSPORT", "_DESTROY_BROKER", "_TIMED_OUT", "_TIMED_OUT_QUEUE"),
    *("_MSG_TIMED_OUT", "_RESOLVE", "_PURGE_QUEUE", "_PURGE_INFLIGHT", "REQUEST_TIMED_OUT"),
    *("NETWORK_EXCEPTION", "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND"),
    *("BROKER_NOT_AVAILABLE", "LEADER_NOT_AVAILABLE", "NOT_LEADER_FOR_PARTITION"),
)
# A broker answers, and has lost its disk, moves partitions or groups, or has just started.
_TEMPORARY = (
    *("KAFKA_STORAGE_ERROR", "REPLICA_NOT_AVAILABLE", "PREFERRED_LEADER_NOT_AVAILABLE"),
    *("FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "OFFSET_NOT_AVAILABLE", "UNKNOWN_TOPIC_ID"),
    *("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS"),
    *("_WAIT_COORD", "_WAIT_CACHE", "CONCURRENT_TRANSACTIONS", "UNSTABLE_OFFSET_COMMIT"),
    *("REBALANCE_IN_PROGRESS", "THROTTLING_QUOTA_EXCEEDED", "NOT_CONTROLLER", "UNKNOWN"),
    "_INCONSISTENT",  # records of a transaction were not delivered
)
_LOST = (
    *("_FATAL", "_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH"),
    *("OUT_OF_ORDER_SEQUENCE_NUMBER", "UNKNOWN_PRODUCER_ID"),
)


def import_kafka() -> ModuleType:
    """Import the Kafka client; raise LogError if it is not installed."""
    try:
        import confluent_kafka
    except ImportError as error:
        raise LogError("the Kafka client is not installed: pip install 'tactful[kafka]'") from error
    module: ModuleType = confluent_kafka
    return module


def connect(
    kind: Literal["Producer", "Consumer"],
    config: Mapping[str, Any],
    on_error: Callable[[Any], None],
) -> Any:
    """Connect a client; raise LogSettingsError if it refuses its settings."""
    kafka = import_kafka()
    try:
        return getattr(kafka, kind)(config, error_cb=on_error, logger=_logger)
    except (kafka.KafkaException, ValueError) as error:
        raise LogSettingsError(f"the Kafka client refuses its settings: {error}") from error


def ask(question: Callable[[], _Answer]) -> _Answer:
    """Call `question`, once more if the client dropped the first request.

    A client that learns of other brokers closes its connections and drops the requests that wait
    on them.
    """
    kafka = import_kafka()
    try:
        return question()
    except kafka.KafkaException as error:
        if error.args[0].code() != kafka.KafkaError._DESTROY_BROKER:
            raise
    return question()


def count_partitions(client: Any, settings: KafkaSettings, timeout_s: float) -> int | None:
    """Ask any client for the number of partitions of the topic; None if there is no topic."""
    # All topics are listed: a request for one creates it where brokers auto-create topics.
    topic = ask(lambda: client.list_topics(timeout=timeout_s)).topics.get(settings.topic)
    return len(topic.partitions) if topic is not None and topic.partitions else None


def partition_bounds(
    consumer: Any, settings: KafkaSettings, number: int, timeout_s: float
) -> tuple[int, int]:
    """Ask for the offset of the oldest record and the offset behind the newest.

    Raises:
        LogError: if no broker answers, or the topic or partition is not there.
    """
    kafka = import_kafka()
    partition = kafka.TopicPartition(settings.topic, number)
    try:
        low, high = ask(lambda: consumer.get_watermark_offsets(partition, timeout=timeout_s))
    except kafka.KafkaException as error:
        raise explain(error.args[0], settings) from error
    return low, high


class Causes:
    """The last reason why a client has no connection; its exceptions do not name it."""

    def __init__(self) -> None:
        """Begin without a reason."""
        self._last: Any = None

    def note(self, error: Any) -> None:
        """Keep an error that the client passes to its error callback."""
        if error.code() != import_kafka().KafkaError._ALL_BROKERS_DOWN:
            self._last = error

    def __str__(self) -> str:
        """The last reason; without one, the settings to check."""
        if self._last is None:
            return "if it is running, check the security settings and certificates"
        return str(self._last.str())


def explain(error: Any, settings: KafkaSettings, causes: Causes | None = None) -> LogError:
    """Convert an error of the client to a LogError that says what to do."""
    where = f"topic {settings.topic!r} at {settings.servers}"
    if _has_code(error, ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION")):
        return missing_topic(settings)
    if _has_code(error, _REFUSED):
        return LogError(f"{where}: refused us ({error.str()}): check username, password and rights")
    if _has_code(error, _ABSENT + _LOST):
        reason = error.str() if causes is None else f"{error.str()}; {causes}"
        return LogUnreachableError(f"{where}: no broker answers ({reason})", retry_after=2.0)
    if _has_code(error, _TEMPORARY) or error.retriable():
        reason = f"{error.name()}: {error.str()}"
        return LogUnreachableError(f"{where}: not served at present ({reason})", retry_after=2.0)
    return LogError(f"{where}: {error.name()}: {error.str()}")


def lasting_problem(
    error: Any, settings: KafkaSettings, causes: Causes | None = None
) -> LogError | None:
    """Convert an error as `explain`; None for one that the client recovers from by itself."""
    problem = explain(error, settings, causes)
    return None if isinstance(problem, LogUnreachableError) else problem


def lost_identity(error: Any) -> bool:
    """Whether brokers refuse this producer permanently, so that a new one is needed."""
    return _has_code(error, _LOST)


def _has_code(error: Any, names: Sequence[str]) -> bool:
    kafka = import_kafka().KafkaError
    return error.code() in [getattr(kafka, name) for name in names]


def missing_topic(settings: KafkaSettings) -> TopicMissingError:
    """Make the error for the answer of one broker that a topic or partition is missing."""
    return TopicMissingError(
        f"topic {settings.topic!r} at {settings.servers}: the topic or one of its partitions is "
        "not there, by the answer of one broker, which may have just started",
        settings.topic,
    )


def dropped_records(settings: KafkaSettings, number: int, low: int, start: int) -> OffsetError:
    """Make the error for a state that continues before the oldest record of a partition."""
    return OffsetError(
        f"partition {number} of topic {settings.topic!r} begins at offset {low} and the state "
        f"needs {start}: retention dropped records that were not applied. Restore the log from a "
        "backup, or rebuild from the records that are left"
    )


def missing_offset(settings: KafkaSettings, number: int, offset: int | None) -> OffsetError:
    """Make the error for a read at an offset that a partition does not hold."""
    return OffsetError(
        f"partition {number} of topic {settings.topic!r} does not hold offset {offset}: retention "
        "dropped it, or the topic was made anew"
    )

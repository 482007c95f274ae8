"""Shared calls to the Kafka client, and its errors as errors of the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Final, Literal, TypeVar

from tactful_streaming.errors import (
    LogError,
    LogSettingsError,
    LogUnreachableError,
    OffsetError,
    TopicError,
    TopicMissingError,
)
from tactful_streaming.kafka.config import KafkaSettings

_Answer = TypeVar("_Answer")

_logger = logging.getLogger(__name__)

NO_OFFSET: Final = -1001
"""Offset of a partition that is named without one: the client's `OFFSET_INVALID`."""

_PAUSE_S = 0.1
_FIRST_ANSWER_S = 1.0
_ANSWER_S = 3.0
_LATE_ANSWER_S = 5.0  # grace for the client to report that there was no answer

# Codes of the client's errors.
_REFUSED = (
    *("TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"),
    *("SASL_AUTHENTICATION_FAILED", "_AUTHENTICATION"),
)
_ABSENT = (
    *("_ALL_BROKERS_DOWN", "_TRANSPORT", "_DESTROY_BROKER", "_TIMED_OUT", "_TIMED_OUT_QUEUE"),
    *("_MSG_TIMED_OUT", "_RESOLVE", "_PURGE_QUEUE", "_PURGE_INFLIGHT", "REQUEST_TIMED_OUT"),
    *("NETWORK_EXCEPTION", "BROKER_NOT_AVAILABLE"),
)
# A broker answers, and has lost its disk, moves partitions or groups, or has just started.
_TEMPORARY = (
    *("LEADER_NOT_AVAILABLE", "NOT_LEADER_FOR_PARTITION", "LISTENER_NOT_FOUND"),
    "_NOENT",  # the client's admin knows no leader
    *("NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND"),
    *("KAFKA_STORAGE_ERROR", "REPLICA_NOT_AVAILABLE", "PREFERRED_LEADER_NOT_AVAILABLE"),
    *("FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "OFFSET_NOT_AVAILABLE", "UNKNOWN_TOPIC_ID"),
    *("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS"),
    *("_WAIT_COORD", "_WAIT_CACHE", "CONCURRENT_TRANSACTIONS", "UNSTABLE_OFFSET_COMMIT"),
    *("REBALANCE_IN_PROGRESS", "THROTTLING_QUOTA_EXCEEDED", "NOT_CONTROLLER", "UNKNOWN"),
    "_INCONSISTENT",  # records of a transaction were not delivered
)
# Texts of the client with the code of a refusal, after which a login may succeed. An
# endpoint that gives no token may be down.
_NO_TOKEN = "Failed to acquire SASL OAUTHBEARER token"
_INTERRUPTED = (
    "handshake failed: Local:",  # the connection was lost, as when a broker restarts
    # Two logins of a connection in one second, as tokens that are about to expire make them.
    "handshake failed: Broker: Request not valid in current SASL state",
)
# With TLS 1.3 a broker refuses a certificate after the handshake, by an alert in a lost connection.
_TLS_ALERT = "SSL alert number"
_UNKNOWN = ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION")
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


def ask(question: Callable[[], _Answer], timeout_s: float = 0.0) -> _Answer:
    """Call `question` again, until `timeout_s`, while brokers start or leaders move.

    It is called once more in any case if the client dropped the first request: a client that learns
    of other brokers closes its connections and drops the requests that wait on them. An unknown
    topic is a reason to ask again, too: a broker does not know a topic that was just created, nor
    any topic just after its start.
    """
    kafka = import_kafka()
    until = time.monotonic() + timeout_s
    dropped = False
    while True:
        try:
            return question()
        except kafka.KafkaException as error:
            code = error.args[0]
            if not dropped and _has_code(code, ("_DESTROY_BROKER",)):
                dropped = True
                continue
            over = time.monotonic() + _PAUSE_S > until
            if over or not _has_code(code, _ABSENT + _TEMPORARY + _UNKNOWN):
                raise
            time.sleep(_PAUSE_S)


def ask_longer(
    client: Any, question: Callable[[float], _Answer], timeout_s: float, causes: Causes
) -> _Answer:
    """Call `question` with a timeout that doubles, until `timeout_s`, while no broker answers.

    An answer that is not there in time is lost, so that a slow broker gets longer each time.
    `causes`, which the error callback of `client` notes, end it for brokers that refuse the client.
    """
    kafka = import_kafka()
    until, wait_s = time.monotonic() + timeout_s, _FIRST_ANSWER_S
    while True:
        left_s = max(until - time.monotonic(), 0.001)
        try:
            return question(min(wait_s, left_s))
        except kafka.KafkaException as error:
            client.poll(0)
            silent = error.args[0].retriable() or _has_code(error.args[0], _ABSENT)
            if left_s <= wait_s or causes.refused or not silent:
                raise
            wait_s *= 2


def count_partitions(
    client: Any, settings: KafkaSettings, timeout_s: float, causes: Causes | None = None
) -> int | None:
    """Ask any client for the number of partitions of the topic; None if there is no topic.

    With `causes`, it asks as :func:`ask_longer`, else once.
    """

    def listed(wait_s: float) -> Any:
        # All topics are listed: a request for one creates it where brokers auto-create topics.
        return ask(partial(client.list_topics, timeout=wait_s)).topics

    asked = listed if causes is None else partial(ask_longer, client, listed, causes=causes)
    topic = asked(timeout_s).get(settings.topic)
    return len(topic.partitions) if topic is not None and topic.partitions else None


def explain_absence(settings: KafkaSettings, timeout_s: float) -> LogError:
    """Ask the controller about a topic that a broker does not know.

    Returns:
        A LogUnreachableError if the controller has the topic or does not answer, a
        TopicMissingError if it has no such topic or refuses the question.
    """
    if topic_exists(settings, timeout_s):
        return unknown_yet(settings)
    return missing_topic(settings)


def topic_exists(settings: KafkaSettings, timeout_s: float) -> bool | None:
    """Ask the controller whether the topic exists; None if it refuses to answer that.

    While no controller answers, the topic counts as existing.

    The controller knows all topics. A broker knows them some time after they were created or it was
    started. The question is a change that is never made: to one partition, which every topic has.
    The controller refuses to answer it without the right to alter the topic.
    """
    kafka = import_kafka()
    from confluent_kafka.admin import AdminClient

    # The client has to live until the answer: without it the future never ends.
    admin = AdminClient(settings.client_config())
    asked = admin.create_partitions(
        [kafka.cimpl.NewPartitions(settings.topic, 1)],
        validate_only=True,
        request_timeout=timeout_s,
    )
    try:
        asked[settings.topic].result(timeout_s + _LATE_ANSWER_S)
    except TimeoutError:
        return True
    except kafka.KafkaException as error:
        if _has_code(error.args[0], ("UNKNOWN_TOPIC_OR_PART",)):
            return False
        silent = _has_code(error.args[0], ("INVALID_PARTITIONS", *_ABSENT, *_TEMPORARY))
        return True if silent else None
    return True


def partition_bounds(
    consumer: Any, settings: KafkaSettings, number: int, timeout_s: float, *, repeat: bool = False
) -> tuple[int, int]:
    """Ask for the offset of the oldest record and the offset behind the newest.

    Until the timeout the question is repeated as by :func:`ask`, if it is to be. A request to a
    leader that died gets no answer, and the client keeps to that leader unless it lists the topics.

    Raises:
        TopicMissingError: if the last answer is that the topic or partition is not there.
        LogError: if no broker answers.
    """
    kafka = import_kafka()
    partition = kafka.TopicPartition(settings.topic, number)
    once_s = min(timeout_s, _ANSWER_S) if repeat else timeout_s
    asked = False

    def question() -> tuple[int, int]:
        nonlocal asked
        if asked:
            consumer.list_topics(timeout=once_s)
        asked = True
        bounds: tuple[int, int] = consumer.get_watermark_offsets(partition, timeout=once_s)
        return bounds

    try:
        low, high = ask(question, timeout_s if repeat else 0.0)
    except kafka.KafkaException as error:
        raise explain(error.args[0], settings) from error
    return low, high


class Causes:
    """The last reason why a client has no connection; its exceptions do not name it."""

    def __init__(self) -> None:
        """Begin without a reason."""
        self._last: Any = None

    @property
    def refused(self) -> bool:
        """Whether the last reason is one that no waiting repairs."""
        if self._last is None:
            return False
        if _TLS_ALERT in self._last.str():
            return True
        return _has_code(self._last, (*_REFUSED, "_SSL")) and not _interrupted(self._last)

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
    if _has_code(error, _UNKNOWN):
        return missing_topic(settings)
    if _NO_TOKEN in error.str() or _interrupted(error):
        return LogUnreachableError(
            f"{where}: no login ({error.str()}): check the token endpoint, username and password",
            retry_after=5.0,
        )
    if _has_code(error, _REFUSED):
        return LogError(f"{where}: refused us ({error.str()}): check username, password and rights")
    if causes is not None and causes.refused and _has_code(error, _ABSENT):
        return LogUnreachableError(
            f"{where}: refused us ({causes}): check username, password and certificates",
            retry_after=5.0,
        )
    if _has_code(error, _ABSENT + _LOST):
        # "0/5 brokers are down": the client counts other things than brokers that are down.
        counts = _has_code(error, ("_ALL_BROKERS_DOWN",))
        reasons = [] if counts else [error.str()]
        reasons += [] if causes is None else [str(causes)]
        reason = f" ({'; '.join(reasons)})" if reasons else ""
        return LogUnreachableError(f"{where}: no broker answers{reason}", retry_after=2.0)
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


def _interrupted(error: Any) -> bool:
    """Whether a login was interrupted rather than refused."""
    return any(text in error.str() for text in _INTERRUPTED)


def is_unknown(error: Any) -> bool:
    """Whether a broker does not know the topic or the partition."""
    return _has_code(error, _UNKNOWN)


def missing_topic(settings: KafkaSettings) -> TopicMissingError:
    """Make the error for a topic or partition that is not there, by one answer."""
    return TopicMissingError(
        f"topic {settings.topic!r} at {settings.servers}: the topic or one of its partitions is "
        "not there, by one answer: a broker that has just started may give it",
        settings.topic,
    )


def unknown_yet(settings: KafkaSettings) -> LogUnreachableError:
    """Make the error for a topic that exists although a broker does not know it."""
    return LogUnreachableError(
        f"topic {settings.topic!r} at {settings.servers}: it exists and the broker does not know "
        "it yet",
        retry_after=2.0,
    )


def dropped_records(settings: KafkaSettings, number: int, low: int, start: int) -> OffsetError:
    """Make the error for a state that continues before the oldest record of a partition."""
    return OffsetError(
        f"partition {number} of topic {settings.topic!r} begins at offset {low} and the state "
        f"needs {start}: retention dropped records that were not applied. Restore the log from a "
        "backup, or rebuild from the records that are left"
    )


def changed_partitions(settings: KafkaSettings, before: int, now: int | str) -> TopicError:
    """Make the error for a topic whose number of partitions changed."""
    return TopicError(
        f"topic {settings.topic!r} had {before} partitions and has {now} now, which changes the "
        "partitions of users. Restart a server that computes all features itself. With workers, "
        "stop them and all servers, and move the states to a new topic: tactful features rescale"
    )


def missing_offset(
    settings: KafkaSettings, number: int, offset: int | None, error: Any
) -> OffsetError:
    """Make the error for a read at an offset that a partition does not hold."""
    kafka = import_kafka().KafkaError
    if kafka(kafka._LOG_TRUNCATION).str() in error.str():
        return OffsetError(
            f"partition {number} of topic {settings.topic!r} was truncated before offset {offset}: "
            "a broker without the newest records became its leader (an unclean election), so "
            "acknowledged records are lost. Send their events again, and rebuild the state from "
            "the records that are left"
        )
    return OffsetError(
        f"partition {number} of topic {settings.topic!r} does not hold offset {offset}: retention "
        "dropped it, or the topic was made anew"
    )

"""How to reach Kafka: settings, checked before a connection is tried, and topics made to fit.

The defaults of the client are for throughput at rest. Those here are for an event that has to be
seen within tens of milliseconds: short long-polls, and batches that wait :attr:`linger_ms`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from tactful_streaming.errors import LogError, LogSettingsError, LogUnreachableError, TopicError

if TYPE_CHECKING:
    from types import ModuleType

Answer = TypeVar("Answer")

_logger = logging.getLogger(__name__)

MAX_KAFKA_PAYLOAD = 5 * 1024 * 1024
"""Largest record in Kafka, bytes; topics are made to take it."""
MAX_KAFKA_BATCH = MAX_KAFKA_PAYLOAD + 1024
"""Largest batch of records in such a topic, bytes."""

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

_SERVERS = re.compile(r"[^\s,:]+:\d{1,5}(,[^\s,:]+:\d{1,5})*|\[[0-9a-fA-F:]+\]:\d{1,5}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")

# What the promises rest on; `extra` may not touch it.
_FIXED = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "group.id",
        "isolation.level",
        "partition.assignment.strategy",
        "sasl.password",
        "ssl.key.password",
    }
)


@dataclass(frozen=True)
class KafkaSettings:
    """Where the log lies and how to get in.

    Passwords come from the environment or a file of the caller's; they are never shown.

    Attributes:
        servers: ``host:port``, several separated by commas.
        topic: the topic of the log.
        security: ``plaintext``, ``ssl``, ``sasl_plaintext`` or ``sasl_ssl``.
        ca_file: certificates to trust, PEM; None for those of the system.
        certificate_file: certificate of this client, PEM; with `key_file`.
        key_file: private key of this client, PEM.
        key_password: of the private key.
        sasl_mechanism: ``PLAIN``, ``SCRAM-SHA-256`` or ``SCRAM-SHA-512``.
        username: for SASL.
        password: for SASL.
        linger_ms: how long a producer waits to fill a batch, milliseconds. Less is fresher where
            requests bring many events each; where they bring few, busy logs become slower to read:
            a fetch then walks many tiny batches, and ten is better. What
            workers write in transactions waits for the commit instead.
        delivery_timeout_ms: how long an append is tried before it fails, milliseconds.
        session_timeout_ms: silence after which a group member is taken for dead, milliseconds.
        extra: more properties of librdkafka, by their names there.
    """

    servers: str
    topic: str = "tactful-log"
    security: Security = "plaintext"
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: str | None = field(default=None, repr=False)
    sasl_mechanism: SaslMechanism | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    linger_ms: int = 5
    delivery_timeout_ms: int = 30_000
    session_timeout_ms: int = 6_000
    extra: Mapping[str, str | int | float | bool] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            LogSettingsError: naming the field and what to do.
        """
        _check(_SERVERS.fullmatch(self.servers), "servers", "is host:port, several by commas")
        _check(
            _TOPIC.fullmatch(self.topic) and self.topic not in (".", ".."),
            "topic",
            "has 1 to 249 letters, digits, dots, underscores and hyphens",
        )
        _check(self.security in get_args(Security), "security", _one_of(Security))
        tls = self.security in ("ssl", "sasl_ssl")
        for name in ("ca_file", "certificate_file", "key_file"):
            file: Path | None = getattr(self, name)
            _check(file is None or tls, name, "needs security ssl or sasl_ssl")
            _check(file is None or file.is_file(), name, f"names {file}, which is no file")
        both = (self.certificate_file is None) == (self.key_file is None)
        _check(both, "certificate_file", "and key_file come together")
        _check(self.key_password is None or self.key_file, "key_password", "needs key_file")
        if self.security in ("sasl_plaintext", "sasl_ssl"):
            mechanism = self.sasl_mechanism in get_args(SaslMechanism)
            _check(mechanism, "sasl_mechanism", _one_of(SaslMechanism))
            _check(self.username, "username", "is needed by SASL")
            _check(self.password, "password", "is needed by SASL; it comes from a file or variable")
        else:
            for name in ("sasl_mechanism", "username", "password"):
                missing = getattr(self, name) is None
                _check(missing, name, "needs security sasl_ssl or sasl_plaintext")
        _check(0 <= self.linger_ms <= 1000, "linger_ms", "is 0 to 1000")
        least = max(1000, self.linger_ms + 1)
        timely = least <= self.delivery_timeout_ms <= 600_000
        _check(timely, "delivery_timeout_ms", f"is {least} to 600000")
        _check(
            1000 <= self.session_timeout_ms <= 300_000, "session_timeout_ms", "is 1000 to 300000"
        )
        forbidden = sorted(self.extra.keys() & _FIXED)
        _check(not forbidden, "extra", f"may not set {', '.join(forbidden)}")

    def client_config(self) -> dict[str, Any]:
        """Properties that every client shares."""
        config = {
            "bootstrap.servers": self.servers,
            "client.id": "tactful",
            "log_level": 2,  # what matters comes as errors, too, and not at each attempt
            "security.protocol": self.security,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1000,
            "socket.timeout.ms": 10_000,
            "topic.metadata.propagation.max.ms": 5_000,
            "ssl.ca.location": self.ca_file,
            "ssl.certificate.location": self.certificate_file,
            "ssl.key.location": self.key_file,
            "ssl.key.password": self.key_password,
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.username,
            "sasl.password": self.password,
            **self.extra,
        }
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in config.items()
            if value is not None
        }

    def producer_config(self) -> dict[str, Any]:
        """Properties of a producer that loses and reorders nothing."""
        return {
            "linger.ms": self.linger_ms,
            "compression.type": "lz4",
            "message.timeout.ms": self.delivery_timeout_ms,
            "message.max.bytes": MAX_KAFKA_BATCH,
            # The bound is ours, in bytes; the client's own must not be met first.
            "queue.buffering.max.messages": 10_000_000,
            "queue.buffering.max.kbytes": 2_097_151,
            "batch.size": 1_000_000,
            **self.client_config(),
            "acks": "all",
            "enable.idempotence": True,
        }

    def consumer_config(self, group: str) -> dict[str, Any]:
        """Properties of a consumer that keeps no offset but what it is told to."""
        return {
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 5,
            "fetch.error.backoff.ms": 50,
            "fetch.message.max.bytes": MAX_KAFKA_BATCH,
            "queued.min.messages": 100_000,
            "queued.max.messages.kbytes": 65_536,
            "enable.partition.eof": True,
            "check.crcs": True,
            **self.client_config(),
            "group.id": group,
            "session.timeout.ms": self.session_timeout_ms,
            "heartbeat.interval.ms": max(self.session_timeout_ms // 5, 200),
            "partition.assignment.strategy": "cooperative-sticky",
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
        }


def ensure_topic(
    settings: KafkaSettings,
    *,
    consumer_threads: int = 4,
    partitions: int | None = None,
    replication: int = 1,
    retention_ms: int | None = None,
    retention_bytes: int | None = None,
    timeout_s: float = 30.0,
) -> int:
    """Make the topic of the log, unless it is there already.

    The number of partitions is for good: people are routed by it. Twice as many as consumer threads
    leaves room to double them.

    Args:
        settings: where, and what it is called.
        consumer_threads: how many threads are going to read it.
        partitions: how many partitions it gets; None: twice as many as consumer threads.
        replication: on how many brokers each partition lies; an append is acknowledged by all but
            one of them.
        retention_ms: age at which records are dropped; None keeps them for ever.
        retention_bytes: size of a partition beyond which they are; None for any size.
        timeout_s: how long to try, seconds.

    Returns:
        How many partitions the topic has, whoever made it.

    Raises:
        LogUnreachableError: if no broker answers.
        LogError: if the topic cannot be made.
    """
    kafka = import_kafka()
    from confluent_kafka.admin import AdminClient

    wanted = 2 * consumer_threads if partitions is None else partitions
    topic = kafka.cimpl.NewTopic(
        settings.topic,
        num_partitions=wanted,
        replication_factor=replication,
        config={
            "cleanup.policy": "delete",
            "retention.ms": str(-1 if retention_ms is None else retention_ms),
            "retention.bytes": str(-1 if retention_bytes is None else retention_bytes),
            "min.insync.replicas": str(max(replication - 1, 1)),
            "max.message.bytes": str(MAX_KAFKA_BATCH),
        },
    )
    causes = Causes()
    try:
        # The client for administration does not tell why it has no connection; this one does.
        asking = kafka.Producer(settings.client_config(), error_cb=causes.note)
        admin = AdminClient(settings.client_config())
    except (kafka.KafkaException, ValueError) as error:
        raise LogSettingsError(f"the Kafka client refuses its settings: {error}") from error
    try:
        count = count_partitions(asking, settings, timeout_s)
        if count is not None:
            return count
        admin.create_topics([topic], request_timeout=timeout_s)[settings.topic].result()
        _logger.info("made topic %s", settings.topic)
    except kafka.KafkaException as error:
        # Somebody else may have made it just now.
        if error.args[0].code() != kafka.KafkaError.TOPIC_ALREADY_EXISTS:
            asking.poll(0)
            raise explain(error.args[0], settings, causes) from error
    return count_partitions(admin, settings, timeout_s) or wanted


def count_partitions(client: Any, settings: KafkaSettings, timeout_s: float) -> int | None:
    """How many partitions the topic has, asked of any client; None if there is no such topic.

    Raises:
        confluent_kafka.KafkaException: if no broker answers.
    """
    # All topics are listed: to ask for one makes it, where brokers do that by themselves.
    topic = ask(lambda: client.list_topics(timeout=timeout_s)).topics.get(settings.topic)
    return len(topic.partitions) if topic is not None and topic.partitions else None


def ask(question: Callable[[], Answer]) -> Answer:
    """What a client answers; it is asked once more where it dropped what it had been asked.

    A client that learns of other brokers lets go of those it knew, with all that waits there for an
    answer.

    Raises:
        confluent_kafka.KafkaException: as the question.
    """
    kafka = import_kafka()
    try:
        return question()
    except kafka.KafkaException as error:
        if error.args[0].code() != kafka.KafkaError._DESTROY_BROKER:
            raise
    return question()


def import_kafka() -> ModuleType:
    """The Kafka client.

    Raises:
        LogError: if it is not installed.
    """
    try:
        import confluent_kafka
    except ImportError as error:
        raise LogError("the Kafka client is not installed: pip install 'tactful[kafka]'") from error
    module: ModuleType = confluent_kafka
    return module


class Causes:
    """Remembers why a client has no connection: what it raises then says no more than that."""

    def __init__(self) -> None:
        """Know of nothing yet."""
        self._last: Any = None

    def note(self, error: Any) -> None:
        """Take an error that the client reports by the way."""
        if error.code() != import_kafka().KafkaError._ALL_BROKERS_DOWN:
            self._last = error

    def __str__(self) -> str:
        """What was wrong last; where the broker only hung up, what that may mean."""
        if self._last is None:
            return "if it is there, check how it wants to be spoken to: security, certificates"
        return str(self._last.str())


def explain(error: Any, settings: KafkaSettings, causes: Causes | None = None) -> LogError:
    """An error of the client as one of ours, which says what to do."""
    kafka = import_kafka().KafkaError
    where = f"topic {settings.topic!r} at {settings.servers}"
    code = error.code()
    if code in (kafka.UNKNOWN_TOPIC_OR_PART, kafka._UNKNOWN_TOPIC, kafka._UNKNOWN_PARTITION):
        return TopicError(
            f"{where}: the topic or one of its partitions is not there. If it was deleted, what "
            "was in it is lost: make it again and rebuild, or restore it from a backup"
        )
    if code in (
        kafka.TOPIC_AUTHORIZATION_FAILED,
        kafka.GROUP_AUTHORIZATION_FAILED,
        kafka.CLUSTER_AUTHORIZATION_FAILED,
        kafka.SASL_AUTHENTICATION_FAILED,
        kafka._AUTHENTICATION,
    ):
        return LogError(f"{where}: refused us ({error.str()}): check username, password and rights")
    absent = (
        kafka._ALL_BROKERS_DOWN,
        kafka._TRANSPORT,
        kafka._DESTROY_BROKER,
        kafka._TIMED_OUT,
        kafka._TIMED_OUT_QUEUE,
        kafka._MSG_TIMED_OUT,
        kafka._RESOLVE,
        kafka._PURGE_QUEUE,
        kafka._PURGE_INFLIGHT,
        kafka.REQUEST_TIMED_OUT,
        kafka.NETWORK_EXCEPTION,
        kafka.NOT_ENOUGH_REPLICAS,
        kafka.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        kafka.BROKER_NOT_AVAILABLE,
        kafka.LEADER_NOT_AVAILABLE,
        kafka.NOT_LEADER_FOR_PARTITION,
    )
    if code in absent or lost_identity(error):
        said = error.str() if causes is None else f"{error.str()}; {causes}"
        return LogUnreachableError(f"{where}: no broker answers ({said})", retry_after=2.0)
    return LogError(f"{where}: {error.name()}: {error.str()}")


def lost_identity(error: Any) -> bool:
    """Whether a broker no longer knows a producer; a new one can go on, this one cannot."""
    kafka = import_kafka().KafkaError
    return error.code() in (
        kafka._FATAL,
        kafka._FENCED,
        kafka.PRODUCER_FENCED,
        kafka.INVALID_PRODUCER_EPOCH,
        kafka.OUT_OF_ORDER_SEQUENCE_NUMBER,
        kafka.UNKNOWN_PRODUCER_ID,
    )


def _check(passed: object, name: str, rule: str) -> None:
    if not passed:
        raise LogSettingsError(f"kafka.{name} {rule}")


def _one_of(choices: object) -> str:
    return f"is one of {', '.join(get_args(choices))}"

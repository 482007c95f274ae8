"""Settings of a Kafka connection, checked before a connection is tried.

The client's defaults favour throughput. The defaults here make an event readable within tens of
milliseconds: short long-polls, and batches that wait :attr:`linger_ms`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from tactful_streaming.errors import LogSettingsError

MAX_KAFKA_PAYLOAD = 16 * 1024 * 1024
"""Largest record in Kafka, bytes; topics are made to take it."""
MAX_KAFKA_BATCH = MAX_KAFKA_PAYLOAD + 1024
"""Largest batch of records in such a topic, bytes."""

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
GroupProtocol = Literal["classic", "consumer"]

_SERVERS = re.compile(r"[^\s,:]+:\d{1,5}(,[^\s,:]+:\d{1,5})*|\[[0-9a-fA-F:]+\]:\d{1,5}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_URL = re.compile(r"https?://[^\s/]+(/\S*)?")
_EXTENSIONS = re.compile(r"[A-Za-z]+=[^\s,=]+(,[A-Za-z]+=[^\s,=]+)*")

# Durability and order depend on these; `extra` may not set them.
_FIXED = frozenset(
    (
        *("bootstrap.servers", "sasl.password", "ssl.key.password"),
        *("sasl.oauthbearer.client.secret", "acks", "enable.idempotence"),
        *("group.id", "group.protocol", "isolation.level", "partition.assignment.strategy"),
        *("auto.offset.reset", "enable.auto.commit", "enable.auto.offset.store"),
    )
)


@dataclass(frozen=True)
class KafkaSettings:
    """Address, credentials and timings of the log in Kafka.

    The caller reads passwords from the environment or a file; `repr` does not contain them.

    ``KafkaSettings("broker:9092", topic="tactful-log", security="ssl", ca_file=Path("ca.pem"))``
    """

    servers: str  # `host:port`, several separated by commas
    topic: str = "tactful-log"
    security: Security = "plaintext"
    ca_file: Path | None = None  # trusted certificates, PEM; None for those of the system
    certificate_file: Path | None = None  # certificate of this client, PEM; with `key_file`
    key_file: Path | None = None  # private key of this client, PEM
    key_password: str | None = field(default=None, repr=False)
    sasl_mechanism: SaslMechanism | None = None
    username: str | None = None  # for OAUTHBEARER the id of the client at the token endpoint …
    password: str | None = field(default=None, repr=False)  # … and its secret
    token_url: str | None = None  # token endpoint of OAUTHBEARER, which issues JSON web tokens
    token_scope: str | None = None  # scope to ask for there
    token_extensions: str | None = None  # `name=value`, several by commas, sent with each token
    token_ca_file: Path | None = None  # as `ca_file`, for the token endpoint
    # Longest wait of a producer to fill a batch, milliseconds. A short one makes events readable
    # sooner if requests contain many events; if they contain few, use ten: a fetch of many tiny
    # batches is slow. Rows that workers write in transactions wait for the commit instead.
    linger_ms: int = 5
    delivery_timeout_ms: int = 30_000  # time after which an append fails, milliseconds
    # Time without a heartbeat after which a group member is removed. With the protocol `consumer`
    # the brokers decide it.
    session_timeout_ms: int = 6_000
    # `consumer`: the brokers assign partitions, from Apache Kafka 4.0 on
    group_protocol: GroupProtocol = "classic"
    # More properties of librdkafka, by their names there
    extra: Mapping[str, str | int | float | bool] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def __post_init__(self) -> None:
        """Check all fields; a LogSettingsError names the field and what to do."""
        _check(_SERVERS.fullmatch(self.servers), "servers", "is host:port, several by commas")
        _check(
            _TOPIC.fullmatch(self.topic) and self.topic not in (".", ".."),
            "topic",
            "has 1 to 249 letters, digits, dots, underscores and hyphens",
        )
        _check(self.security in get_args(Security), "security", _one_of(Security))
        self._check_security()
        _check(0 <= self.linger_ms <= 1000, "linger_ms", "is 0 to 1000")
        least = max(1000, self.linger_ms + 1)
        timely = least <= self.delivery_timeout_ms <= 600_000
        _check(timely, "delivery_timeout_ms", f"is {least} to 600000")
        lasting = 1000 <= self.session_timeout_ms <= 300_000
        _check(lasting, "session_timeout_ms", "is 1000 to 300000")
        protocol = self.group_protocol in get_args(GroupProtocol)
        _check(protocol, "group_protocol", _one_of(GroupProtocol))
        forbidden = sorted(self.extra.keys() & _FIXED)
        _check(not forbidden, "extra", f"may not set {', '.join(forbidden)}")

    def _check_security(self) -> None:
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
        self._check_tokens()

    def _check_tokens(self) -> None:
        if self.sasl_mechanism == "OAUTHBEARER":
            url = self.token_url is not None and _URL.fullmatch(self.token_url)
            _check(url, "token_url", "is the https:// address of a token endpoint")
        else:
            for name in ("token_url", "token_scope", "token_extensions", "token_ca_file"):
                _check(getattr(self, name) is None, name, "needs sasl_mechanism OAUTHBEARER")
        given = self.token_extensions
        paired = given is None or _EXTENSIONS.fullmatch(given)
        _check(paired, "token_extensions", "is NAME=VALUE, several by commas")
        file = self.token_ca_file
        _check(file is None or file.is_file(), "token_ca_file", f"names {file}, which is no file")

    def client_config(self) -> dict[str, Any]:
        """Properties that every client shares."""
        config = {
            "bootstrap.servers": self.servers,
            "client.id": "tactful",
            "log_level": 2,  # errors also reach the callback, and only once
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
            **self._credentials(),
            **self.extra,
        }
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in config.items()
            if value is not None
        }

    def _credentials(self) -> dict[str, Any]:
        if self.sasl_mechanism != "OAUTHBEARER":
            return {"sasl.username": self.username, "sasl.password": self.password}
        return {
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.client.id": self.username,
            "sasl.oauthbearer.client.secret": self.password,
            "sasl.oauthbearer.token.endpoint.url": self.token_url,
            "sasl.oauthbearer.scope": self.token_scope,
            "sasl.oauthbearer.extensions": self.token_extensions,
            "https.ca.location": self.token_ca_file,
        }

    def producer_config(self) -> dict[str, Any]:
        """Properties of a producer that neither loses nor reorders records."""
        return {
            "linger.ms": self.linger_ms,
            "compression.type": "lz4",
            "message.timeout.ms": self.delivery_timeout_ms,
            "message.max.bytes": MAX_KAFKA_BATCH,
            # KafkaLog bounds the waiting bytes; the client's bounds must be larger.
            "queue.buffering.max.messages": 10_000_000,
            "queue.buffering.max.kbytes": 2_097_151,
            "batch.size": 1_000_000,
            **self.client_config(),
            "acks": "all",
            "enable.idempotence": True,
        }

    def consumer_config(self, group: str) -> dict[str, Any]:
        """Properties of a consumer that reads the partitions it names and stores no offset."""
        return {
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 5,
            "fetch.error.backoff.ms": 50,
            # A larger batch comes alone. The batch that a fetch cuts off is sent again, and counts
            # for a quota each time.
            "fetch.message.max.bytes": 1024 * 1024,
            "queued.min.messages": 100_000,
            "queued.max.messages.kbytes": 65_536,
            "enable.partition.eof": True,
            "check.crcs": True,
            **self.client_config(),
            "group.id": group,
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
        }

    def member_config(self, group: str) -> dict[str, Any]:
        """Properties of a consumer that joins its group."""
        config = {**self.consumer_config(group), "group.protocol": self.group_protocol}
        if self.group_protocol == "consumer":
            return config
        return {
            **config,
            "session.timeout.ms": self.session_timeout_ms,
            "heartbeat.interval.ms": max(self.session_timeout_ms // 5, 200),
            "partition.assignment.strategy": "cooperative-sticky",
        }


def _check(passed: object, name: str, rule: str) -> None:
    if not passed:
        raise LogSettingsError(f"kafka.{name} {rule}")


def _one_of(choices: object) -> str:
    return f"is one of {', '.join(get_args(choices))}"

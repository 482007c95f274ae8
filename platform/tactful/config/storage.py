"""Settings of storage: data directory, event log, online store, metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import NotNegative, Variable


@dataclass(frozen=True)
class StorageSettings:
    """Settings of the data directory."""

    data: Path = Path("tactful-data")  # directory of log, engine state and API keys
    # directory of models and recall indexes; empty means ``models`` in `data`
    models: Path = Path()
    reports: Path = Path("reports")  # directory of the JSON reports the server offers
    # failure that an acknowledged event survives: ``power`` loss, or a killed ``process``
    durability: Literal["power", "process"] = "power"


@dataclass(frozen=True)
class LogSettings:
    """Settings of the event log."""

    # ``embedded`` in the data directory, or ``kafka``
    kind: Literal["embedded", "kafka"] = "embedded"
    # age since receipt at which records may be deleted; 0 for never
    retention_days: Annotated[float, Meta(ge=0)] = 0.0
    # size beyond which the oldest may be deleted; 0 for no limit. In Kafka it is the size of a
    # partition.
    retention_bytes: NotNegative = 0
    brokers: str = ""  # ``host:port`` of Kafka, several separated by commas
    # topic of the log; it is made if there is none
    topic: Annotated[str, Meta(min_length=1)] = "tactful-log"
    # number of threads that will read the topic: it is made with twice as many partitions
    consumer_threads: Annotated[int, Meta(ge=1, le=512)] = 4
    # number of brokers with a copy of each partition of a topic made here
    replication: Annotated[int, Meta(ge=1, le=16)] = 1
    # protocol of connections to Kafka
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    ca_file: Path = Path()  # certificates to trust, PEM; empty for those of the system
    certificate_file: Path = Path()  # certificate of this client, PEM
    key_file: Path = Path()  # its private key, PEM
    key_password_env: Variable = ""  # variable with the password of the private key
    # login mechanism, where `security` is a kind of SASL
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = ""
    username: str = ""  # for SASL; the id of the client for OAUTHBEARER
    password_env: Variable = ""  # variable with the password for SASL, or secret of the client …
    password_file: Path = Path()  # … or the file that holds it
    token_url: str = ""  # token endpoint of OAUTHBEARER
    token_scope: str = ""  # scope to ask for there
    token_extensions: str = ""  # ``name=value``, several by commas, sent with each token
    token_ca_file: Path = Path()  # certificates to trust there, PEM; empty for those of the system
    # protocol of the groups of workers: ``consumer`` is assigned by brokers, from Kafka 4.0 on
    group_protocol: Literal["classic", "consumer"] = "classic"
    # time an append waits for others to share a batch with
    linger_ms: Annotated[int, Meta(ge=0, le=1000)] = 5
    # while no broker responds, ``refuse`` events with 503, or ``spool`` them on disk
    on_outage: Literal["refuse", "spool"] = "refuse"
    spool_bytes: Annotated[int, Meta(ge=4 * 1024 * 1024)] = 1024**3  # most bytes of the spool

    @property
    def in_files(self) -> bool:
        """Whether the log is one partition in files of the data directory, not Kafka."""
        return self.kind == "embedded"


@dataclass(frozen=True)
class OnlineSettings:
    """Settings of the store from which other processes read features."""

    # ``engine``: none beside the server's own engine; ``redis``: a copy in Redis or Valkey
    kind: Literal["engine", "redis"] = "engine"
    # variable with its address: ``redis://``, ``rediss://``, ``valkey://``, ``valkeys://`` or
    # ``unix://``
    url_env: Annotated[Variable, Meta(min_length=1)] = "TACTFUL_REDIS_URL"
    prefix: Annotated[str, Meta(min_length=1)] = "tactful"  # prefix of every key in Redis
    # days after the last write until a key is deleted; 0 for never
    ttl_days: Annotated[float, Meta(ge=0)] = 0.0
    cluster: bool = False  # whether the address is a node of a Redis Cluster
    # bytes that may wait for Redis before the engine waits
    waiting_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024 * 1024

    @property
    def shared(self) -> bool:
        """Whether a copy of the features is in Redis, for other processes."""
        return self.kind == "redis"


@dataclass(frozen=True)
class MetadataSettings:
    """Settings of the database of API keys, applied definitions and backfills."""

    # variable with the address of a PostgreSQL, MySQL or MariaDB database; empty: an SQLite file in
    # the data directory
    url_env: Variable = ""

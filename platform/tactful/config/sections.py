"""Sections of the settings, except those of privacy: their values, defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

PositiveInt = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[int, Meta(ge=0)]
Variable = Annotated[str, Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")]
"""Name of an environment variable, or empty."""


@dataclass(frozen=True)
class ServerSettings:
    """Settings of the HTTP server."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"  # address to listen on
    port: Annotated[int, Meta(ge=0, le=65535)] = 8420  # TCP port; 0 takes a free one
    dev: bool = False  # no API keys and replay of past times; only on a loopback address
    # number of worker processes; 0: the process that owns the state answers requests
    workers: Annotated[int, Meta(ge=0, le=256)] = 0
    header_timeout_s: PositiveFloat = 10.0  # longest time for the head of a request to arrive
    body_timeout_s: PositiveFloat = 30.0  # longest time for the body of a request to arrive
    # time after which an idle connection is closed; a proxy in front should close it earlier
    keep_alive_s: PositiveInt = 75
    shutdown_s: PositiveInt = 20  # longest time for requests in progress to finish at a stop
    # recommendation requests that may wait before others get 503
    recommend_queue: PositiveInt = 128
    recommend_wait_s: PositiveFloat = 1.0  # longest wait of one during a burst
    recommend_standing_s: PositiveFloat = 0.05  # longest predicted wait of one during overload
    after_wait_s: PositiveFloat = 2.0  # longest wait of ``after`` for the engine
    # origins whose web pages may send events and request recommendations, such as
    # ``https://shop.example``, separated by commas; empty for none
    cors_origins: str = ""


@dataclass(frozen=True)
class ActionSettings:
    """Settings of the webhook for actions that sequences and joins emit."""

    webhook_url: str = ""  # address that every action is posted to; empty for none
    secret_env: Variable = ""  # variable with the secret that signs the requests …
    secret_file: Path = Path()  # … or the file that holds it
    attempts: PositiveInt = 12  # most attempts to send one action
    timeout_s: PositiveFloat = 10.0  # longest time of one attempt


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of ``tactful worker``, which computes a share of the partitions."""

    group: Annotated[str, Meta(min_length=1)] = "tactful-worker"  # consumer group
    instance: str = ""  # name of this member that survives a restart; empty for a new one each time
    threads: Annotated[int, Meta(ge=1, le=256)] = 1  # number of members in this process
    lead_ms: PositiveInt = 60_000  # longest lead of the event time of a partition over the others
    # silence after which a partition no longer delays the others, and uses the wall clock
    idle_s: PositiveFloat = 5.0
    fired_topic: str = ""  # topic for the results of triggered windows; empty for none
    late_topic: str = ""  # topic for events that came too late; empty for none
    # directory, shared by all hosts, of copies of the state; empty for none
    checkpoints: Path = Path()
    checkpoint_s: PositiveInt = 300  # seconds between two copies
    # port on which Prometheus reads metrics; 0 for none
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    metrics_host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"  # address to listen on for that


@dataclass(frozen=True)
class LimitSettings:
    """Limits of requests."""

    body_bytes: Annotated[int, Meta(ge=1024)] = 4 * 1024 * 1024  # largest body
    batch: PositiveInt = 1_000  # most events, items or users in one request
    # longest lead of an event's time over the server's clock
    future_ms: Annotated[int, Meta(ge=0)] = 300_000
    # bytes that may wait for the disk before new events get 429
    pending_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024 * 1024
    # log records the engine may lag behind before new events get 429
    engine_lag: PositiveInt = 200_000


@dataclass(frozen=True)
class LoggingSettings:
    """Settings of log lines."""

    # least severe level that is logged
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"  # ``text`` or ``json``, one object a line


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
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    username: str = ""  # for SASL
    password_env: Variable = ""  # variable with the password for SASL …
    password_file: Path = Path()  # … or the file that holds it
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

    # ``engine``: none beside the server's own engine; ``redis``: a copy in Redis
    kind: Literal["engine", "redis"] = "engine"
    # variable with the address of Redis, ``redis://``, ``rediss://`` or ``unix://``
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

    # variable with the address of a MySQL or MariaDB database; empty: an SQLite file in the data
    # directory
    url_env: Variable = ""


@dataclass(frozen=True)
class EngineSettings:
    """Settings of the feature engine."""

    features: Path = Path()  # file of feature definitions; empty: the packaged ones
    rules: Path = Path()  # file of rules that clean events; empty for none
    dedupe_days: Annotated[int, Meta(ge=1, le=365)] = 7  # time for which event ids are remembered
    # largest delay of an event behind newer ones, after which windows trigger and sequences
    # continue without it
    watermark_delay_ms: NotNegative = 5_000
    # time after the end of a window in which its events still count
    allowed_lateness_ms: NotNegative = 300_000
    memory_mb: NotNegative = 0  # memory of entities before the rest stays on disk; 0 for no limit
    # time for which events set aside by rules are kept; 0 for ever
    dead_letter_days: Annotated[float, Meta(ge=0)] = 30.0
    # whether events that are too late for every window of a feature are kept, too
    keep_late: bool = False
    # clock while no event comes: the ``wall`` clock, so that overdue sequences trigger, or
    # ``events`` alone, for replays of the past
    clock: Literal["wall", "events"] = "wall"
    idle_s: PositiveFloat = 5.0  # silence after which that clock is used
    batch_ms: PositiveFloat = 2.0  # longest time for which one micro-batch blocks readers
    commit_records: PositiveInt = 32_000  # commit after this number of records …
    commit_ms: PositiveInt = 1_000  # … or after this time, whichever is first …
    # … or earlier, so that a commit takes about this time: new events wait for it. Records that are
    # in the log at the start are applied without this limit.
    commit_pause_ms: PositiveFloat = 8.0


@dataclass(frozen=True)
class IdentitySettings:
    """Settings of links between devices and users."""

    # whether devices are linked; otherwise an event belongs to the id that it names
    enabled: bool = True
    # types of events, separated by commas, that link the device and the user they name
    logins: str = "x.login, x.link, purchase"
    logouts: str = "x.logout, x.unlink"  # types that end the link of the device they name
    link_days: PositiveFloat = 180.0  # time from the last login to the end of a link
    devices_per_user: PositiveInt = 50  # most devices of a user, in each partition of the log
    # ``assumed`` links every user who did not refuse, ``required`` only users who agreed
    # (``consent.identity`` among the properties of the user)
    consent: Literal["assumed", "required"] = "assumed"


@dataclass(frozen=True)
class RecommendSettings:
    """Settings of recommendations."""

    experiments: Path = Path()  # ``experiments.yaml``; empty: the packaged one
    placement: Path = Path()  # ``placement.yaml``, the placement rules; empty: the packaged one
    # ``rollouts.yaml``, changes that are rolled out in stages; empty for none
    rollouts: Path = Path()
    # shortest time between two looks at the outcomes of a rollout
    look_minutes: PositiveFloat = 5.0
    # whether the end of a rollout is recorded as a run in MLflow, and a shipped model becomes the
    # champion
    record_rollouts: bool = True


@dataclass(frozen=True)
class CouponSettings:
    """Settings of coupons."""

    # ``coupons.yaml``; empty: every action is sent to the shop unchanged
    definitions: Path = Path()


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of periodic training of the ranking model; off by default."""

    # train this long after the last training; 0 for never
    every_hours: Annotated[float, Meta(ge=0)] = 0.0
    # train when the score or a feature of the champion has drifted by more than this population
    # stability index; 0.25 is a large change, 0 for never
    drift_psi: Annotated[float, Meta(ge=0)] = 0.0
    check_minutes: PositiveFloat = 15.0  # time between two checks whether training is due
    promote: bool = False  # whether a version that is no worse than the champion serves at once
    name: Annotated[str, Meta(min_length=1)] = "ranker"  # registered model name
    # days before the end that give the recommendations to learn from
    label_days: Annotated[float, Meta(ge=0.1)] = 35.0
    lists: Annotated[int, Meta(ge=20)] = 8_000  # most replayed recommendations to learn from
    # training of item vectors, here and by `tactful train`: from ``co_occurrence`` alone, or
    # continued by ``two_tower``, which needs PyTorch
    vectors: Literal["co_occurrence", "two_tower"] = "co_occurrence"

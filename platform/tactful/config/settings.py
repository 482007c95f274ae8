"""Settings: one ``tactful.toml`` and ``TACTFUL_*`` environment variables, checked at start.

Every setting lives in a section, in the file as ``[server] port = 8420`` and in the environment as
``TACTFUL_SERVER__PORT=8420``; the environment wins. Names without a double underscore, such as
``TACTFUL_API_KEY``, are not settings. Relative paths in a file are relative to that file. There
are no secrets here, only where they are: the name of an environment variable or of a file.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import tomllib
import typing
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tactful.errors import ConfigError
from tactful.schemas.browser_access import parse_origins

PACKAGED_FEATURES = Path(__file__).parents[1] / "features.yaml"
"""The feature definitions that ship, which lists are made from."""

_PREFIX = "TACTFUL_"

PositiveInt = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[int, Meta(ge=0)]
Variable = Annotated[str, Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")]
"""Name of an environment variable, or nothing."""


@dataclass(frozen=True)
class ServerSettings:
    """How the HTTP server listens.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        dev: no API keys and replay of past times; only on a loopback address.
        workers: how many further processes answer requests; 0: the one that keeps the state does.
        header_timeout_s: how long the head of a request may take to arrive.
        body_timeout_s: how long the body of a request may take to arrive.
        keep_alive_s: how long an idle connection is kept; a proxy in front should let go of it
            first.
        shutdown_s: how long requests in progress may take to finish at a stop.
        recommend_queue: recommendations that may wait for their turn before others get 503.
        recommend_wait_s: how long one may wait for its turn, in a burst.
        recommend_standing_s: how long it may wait once more is asked than can be answered.
        after_wait_s: how long ``after`` may wait for the engine.
        cors_origins: origins whose web pages may send events and ask for recommendations, such as
            ``https://shop.example``, several separated by commas; empty for none.
    """

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8420
    dev: bool = False
    workers: Annotated[int, Meta(ge=0, le=256)] = 0
    header_timeout_s: PositiveFloat = 10.0
    body_timeout_s: PositiveFloat = 30.0
    keep_alive_s: PositiveInt = 75
    shutdown_s: PositiveInt = 20
    recommend_queue: PositiveInt = 128
    recommend_wait_s: PositiveFloat = 1.0
    recommend_standing_s: PositiveFloat = 0.05
    after_wait_s: PositiveFloat = 2.0
    cors_origins: str = ""


@dataclass(frozen=True)
class StorageSettings:
    """Where things are kept.

    Attributes:
        data: directory of log, engine state and API keys.
        models: directory of models and recall indexes; empty means ``models`` in `data`.
        reports: directory of the JSON reports the server offers.
        durability: what an acknowledged event survives: ``power`` loss, or a killed ``process``.
    """

    data: Path = Path("tactful-data")
    models: Path = Path()
    reports: Path = Path("reports")
    durability: Literal["power", "process"] = "power"


@dataclass(frozen=True)
class LogSettings:
    """Where events are kept.

    Attributes:
        kind: ``embedded`` in the data directory, or ``kafka``.
        retention_days: age since receipt at which records may be dropped; 0 keeps them.
        retention_bytes: size beyond which the oldest may be dropped; 0 for any size. In Kafka it
            is that of a partition.
        brokers: ``host:port`` of Kafka, several separated by commas.
        topic: topic of the log; it is made if there is none.
        consumer_threads: how many threads are going to read the topic: it is made with twice as
            many partitions.
        replication: on how many brokers each partition of a topic made here lies.
        security: how to speak to Kafka.
        ca_file: certificates to trust, PEM; empty for those of the system.
        certificate_file: certificate of this client, PEM.
        key_file: its private key, PEM.
        key_password_env: variable with the password of the private key.
        sasl_mechanism: how to log in, where `security` is a kind of SASL.
        username: for SASL.
        password_env: variable with the password for SASL …
        password_file: … or the file that holds it.
        linger_ms: how long an append waits for others to share a batch with.
        on_outage: while no broker answers, ``refuse`` events with 503, or ``spool`` them on disk.
        spool_bytes: most bytes of the spool.
    """

    kind: Literal["embedded", "kafka"] = "embedded"
    retention_days: Annotated[float, Meta(ge=0)] = 0.0
    retention_bytes: NotNegative = 0
    brokers: str = ""
    topic: Annotated[str, Meta(min_length=1)] = "tactful-log"
    consumer_threads: Annotated[int, Meta(ge=1, le=512)] = 4
    replication: Annotated[int, Meta(ge=1, le=16)] = 1
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    ca_file: Path = Path()
    certificate_file: Path = Path()
    key_file: Path = Path()
    key_password_env: Variable = ""
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    username: str = ""
    password_env: Variable = ""
    password_file: Path = Path()
    linger_ms: Annotated[int, Meta(ge=0, le=1000)] = 5
    on_outage: Literal["refuse", "spool"] = "refuse"
    spool_bytes: Annotated[int, Meta(ge=4 * 1024 * 1024)] = 1024**3


@dataclass(frozen=True)
class OnlineSettings:
    """Where other processes read features.

    Attributes:
        kind: ``engine``: nowhere, the server has its own; ``redis``: a copy in Redis.
        url_env: variable with the address of Redis, ``redis://``, ``rediss://`` or ``unix://``.
        prefix: what every key begins with in Redis.
        ttl_days: days after which what was not written again vanishes; 0 keeps it.
        cluster: whether the address is that of a node of a Redis Cluster.
        waiting_bytes: bytes that may wait for Redis before the engine waits.
    """

    kind: Literal["engine", "redis"] = "engine"
    url_env: Annotated[Variable, Meta(min_length=1)] = "TACTFUL_REDIS_URL"
    prefix: Annotated[str, Meta(min_length=1)] = "tactful"
    ttl_days: Annotated[float, Meta(ge=0)] = 0.0
    cluster: bool = False
    waiting_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024 * 1024


@dataclass(frozen=True)
class MetadataSettings:
    """Where API keys, applied definitions and backfills are kept.

    Attributes:
        url_env: variable with the address of a MySQL or MariaDB database; empty: an SQLite file in
            the data directory.
    """

    url_env: Variable = ""


@dataclass(frozen=True)
class ActionSettings:
    """Who is told of the actions that sequences and joins emit.

    Attributes:
        webhook_url: address that every action is posted to; empty for none.
        secret_env: variable with the secret that signs what is posted …
        secret_file: … or the file that holds it.
        attempts: how often one is sent at most.
        timeout_s: how long one attempt may take.
    """

    webhook_url: str = ""
    secret_env: Variable = ""
    secret_file: Path = Path()
    attempts: PositiveInt = 12
    timeout_s: PositiveFloat = 10.0


@dataclass(frozen=True)
class WorkerSettings:
    """How ``tactful worker`` shares the partitions of the log with its like.

    Attributes:
        group: the consumer group.
        instance: name of this member that outlives a restart; empty for a new one each time.
        threads: how many members this process is.
        lead_ms: how far the event time of a partition may be ahead of the others.
        idle_s: silence after which a partition no longer holds the others up, and time passes in
            it by the clock.
        fired_topic: topic that windows which fire are written to; empty for none.
        late_topic: topic that events which came too late are written to; empty for none.
        checkpoints: directory, shared by all hosts, of copies of the state; empty for none.
        checkpoint_s: how often a copy is made.
        metrics_port: port on which Prometheus reads metrics; 0 for none.
        metrics_host: address to listen on for that.
    """

    group: Annotated[str, Meta(min_length=1)] = "tactful-worker"
    instance: str = ""
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    lead_ms: PositiveInt = 60_000
    idle_s: PositiveFloat = 5.0
    fired_topic: str = ""
    late_topic: str = ""
    checkpoints: Path = Path()
    checkpoint_s: PositiveInt = 300
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    metrics_host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"


@dataclass(frozen=True)
class LimitSettings:
    """What a request may weigh.

    Attributes:
        body_bytes: largest body.
        batch: most events, items or users in one request.
        future_ms: how far ahead of the server's clock an event may be.
        pending_bytes: bytes waiting for the disk before new ones get 429.
        engine_lag: log records the engine may be behind before new events get 429.
    """

    body_bytes: Annotated[int, Meta(ge=1024)] = 4 * 1024 * 1024
    batch: PositiveInt = 1_000
    future_ms: Annotated[int, Meta(ge=0)] = 300_000
    pending_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024 * 1024
    engine_lag: PositiveInt = 200_000


@dataclass(frozen=True)
class EngineSettings:
    """How the feature engine works.

    Attributes:
        features: feature definitions; empty means the ones that come with the package.
        rules: rules that clean events; empty means none.
        dedupe_days: how long event ids are remembered.
        watermark_delay_ms: how much later than newer ones an event may come before windows fire
            and sequences go on without it.
        allowed_lateness_ms: how long after a window ended what comes for it still counts.
        memory_mb: memory that entities may take before the rest stays on disk; 0 for any amount.
        dead_letter_days: how long events that rules set aside are kept; 0 keeps them.
        keep_late: whether events that came after the last window of a feature are kept, too.
        clock: whether time passes by the ``wall`` clock while no event comes, so that sequences
            whose time is over fire, or by ``events`` alone, for replays of the past.
        idle_s: silence after which it does.
        batch_ms: how long the engine may hold readers up while it applies one micro-batch.
        commit_records: commit after so many records …
        commit_ms: … or after so long, whichever is first …
        commit_pause_ms: … or after fewer, so that a commit takes about so long: events that come
            meanwhile wait for it. What is in the log at the start is applied without.
    """

    features: Path = Path()
    rules: Path = Path()
    dedupe_days: Annotated[int, Meta(ge=1, le=365)] = 7
    watermark_delay_ms: NotNegative = 5_000
    allowed_lateness_ms: NotNegative = 300_000
    memory_mb: NotNegative = 0
    dead_letter_days: Annotated[float, Meta(ge=0)] = 30.0
    keep_late: bool = False
    clock: Literal["wall", "events"] = "wall"
    idle_s: PositiveFloat = 5.0
    batch_ms: PositiveFloat = 2.0
    commit_records: PositiveInt = 32_000
    commit_ms: PositiveInt = 1_000
    commit_pause_ms: PositiveFloat = 8.0


@dataclass(frozen=True)
class IdentitySettings:
    """How devices are joined to people.

    Attributes:
        enabled: whether they are at all; otherwise an event is of whom it names.
        logins: types of events, separated by commas, that link the device and the user they name.
        logouts: types that end the link of the device they name.
        link_days: how long after the last login a device is somebody's.
        devices_per_user: most devices of a person, in each partition of the log.
        consent: whether silence is consent: ``assumed`` links all who did not refuse, ``required``
            only who agreed (``consent.identity`` among the properties of the user).
    """

    enabled: bool = True
    logins: str = "x.login, x.link, purchase"
    logouts: str = "x.logout, x.unlink"
    link_days: PositiveFloat = 180.0
    devices_per_user: PositiveInt = 50
    consent: Literal["assumed", "required"] = "assumed"


@dataclass(frozen=True)
class ConsentSettings:
    """What people may be used for who said nothing.

    Attributes:
        default: ``deny`` uses them for nothing, ``assume`` for every purpose; ``auto`` assumes with
            `server.dev`, where no real people are, and denies otherwise.
        keyring: file with the keys by which erased people are recognised; all servers of an
            installation need the same. Empty means ``keyring.json`` in the data directory.
        tombstones: file to which every erasure adds a line, to be kept apart from backups: after
            one was restored, who is in it is erased again. Empty for none.
        erase_days: within how many days an erasure is to be complete.
    """

    default: Literal["auto", "deny", "assume"] = "auto"
    keyring: Path = Path()
    tombstones: Path = Path()
    erase_days: Annotated[float, Meta(gt=0, le=365)] = 30.0


@dataclass(frozen=True)
class PrivacySettings:
    """How what is kept of people is sealed.

    Attributes:
        sealed_log: whether records of the log are sealed from now on, each under a key of its
            person, which an erasure deletes. What was sealed before is read in any case.
        vault: file with the keys of people, for all processes of one host that read or write the
            log. Empty means ``vault.db`` in the data directory.
        master_key_env: environment variable with the key that wraps those of people: 32 bytes in
            hexadecimal or Base64.
        master_key_file: file with it, instead.
    """

    sealed_log: bool = False
    vault: Path = Path()
    master_key_env: str = ""
    master_key_file: Path = Path()


@dataclass(frozen=True)
class RetentionSettings:
    """For how many days what people left is kept, counted from receipt; 0 is for ever.

    Attributes:
        personalisation_days: what lists are made from: events and descriptions of people in the
            log, and, counted from their last event, what is computed of them.
        measurement_days: events that may be counted and not be used for lists.
        impressions_days: lists that were shown, which models learn from.
        model_log_days: who changed which model, but the last change.
    """

    personalisation_days: Annotated[float, Meta(ge=0)] = 0.0
    measurement_days: Annotated[float, Meta(ge=0)] = 0.0
    impressions_days: Annotated[float, Meta(ge=0)] = 0.0
    model_log_days: Annotated[float, Meta(ge=0)] = 0.0


@dataclass(frozen=True)
class RecommendSettings:
    """What lists are made by.

    Attributes:
        experiments: ``experiments.yaml``; empty means the one that comes with the package.
        placement: ``placement.yaml``: what has to stand where in a list, and what must not; empty
            means the one that comes with the package.
        rollouts: ``rollouts.yaml``: changes that are tried out in stages; empty means none.
        look_minutes: least time between two looks at what people do in a rollout.
        record_rollouts: whether the end of a rollout becomes a run in MLflow, and a model that was
            shipped the champion.
    """

    experiments: Path = Path()
    placement: Path = Path()
    rollouts: Path = Path()
    look_minutes: PositiveFloat = 5.0
    record_rollouts: bool = True


@dataclass(frozen=True)
class CouponSettings:
    """Who gets a coupon when a sequence has fired.

    Attributes:
        definitions: ``coupons.yaml``; empty means that every action goes to the shop as it is.
    """

    definitions: Path = Path()


@dataclass(frozen=True)
class StatisticsSettings:
    """Which private statistics are published.

    Attributes:
        definitions: ``statistics.yaml``; empty means none.
        clock: what closes panes: the ``wall`` clock, or a ``replay`` that sends its own time.
        ledger_url_env: variable with the address of a MySQL or MariaDB database for the ledger;
            empty: an SQLite file in the data directory.
    """

    definitions: Path = Path()
    clock: Literal["wall", "replay"] = "wall"
    ledger_url_env: Variable = ""


@dataclass(frozen=True)
class TrainingSettings:
    """When the server has its ranking model trained again; by default never.

    Attributes:
        every_hours: so long after the last training; 0 for never.
        drift_psi: when the score or a feature of the champion's lists has moved by more than this
            population stability index; 0.25 is a large change, 0 looks at nothing.
        check_minutes: how often it is looked whether it is time.
        promote: whether a version that is no worse than the champion serves at once.
        name: registered model name.
        label_days: the last so many days before the end give the lists to learn from.
        lists: how many replayed lists to learn from at most.
        vectors: how item vectors are learned, here and by `tactful train`: from ``co_occurrence``
            alone, or from there on by ``two_tower``, which needs PyTorch.
    """

    every_hours: Annotated[float, Meta(ge=0)] = 0.0
    drift_psi: Annotated[float, Meta(ge=0)] = 0.0
    check_minutes: PositiveFloat = 15.0
    promote: bool = False
    name: Annotated[str, Meta(min_length=1)] = "ranker"
    label_days: Annotated[float, Meta(ge=0.1)] = 35.0
    lists: Annotated[int, Meta(ge=20)] = 8_000
    vectors: Literal["co_occurrence", "two_tower"] = "co_occurrence"


@dataclass(frozen=True)
class LoggingSettings:
    """What is logged.

    Attributes:
        level: least severe level that is logged.
        format: ``text`` for people or ``json``, one object a line.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


@dataclass(frozen=True)
class Settings:
    """All settings. Made by `load_settings`, or directly in tests."""

    server: ServerSettings = field(default_factory=ServerSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    log: LogSettings = field(default_factory=LogSettings)
    online: OnlineSettings = field(default_factory=OnlineSettings)
    metadata: MetadataSettings = field(default_factory=MetadataSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    consent: ConsentSettings = field(default_factory=ConsentSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    actions: ActionSettings = field(default_factory=ActionSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    recommend: RecommendSettings = field(default_factory=RecommendSettings)
    coupons: CouponSettings = field(default_factory=CouponSettings)
    statistics: StatisticsSettings = field(default_factory=StatisticsSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)

    @property
    def models(self) -> Path:
        """Directory of models and recall indexes."""
        chosen = self.storage.models
        return self.storage.data / "models" if chosen == Path() else chosen

    @property
    def features(self) -> Path:
        """File of the feature definitions."""
        chosen = self.engine.features
        return PACKAGED_FEATURES if chosen == Path() else chosen

    @property
    def keyring(self) -> Path:
        """File of the keys of pseudonyms."""
        chosen = self.consent.keyring
        return self.storage.data / "keyring.json" if chosen == Path() else chosen

    @property
    def vault(self) -> Path:
        """File of the keys that seal what is kept of people."""
        chosen = self.privacy.vault
        return self.storage.data / "vault.db" if chosen == Path() else chosen

    @property
    def experiments(self) -> Path:
        """File of the experiments."""
        chosen = self.recommend.experiments
        return Path(__file__).parents[1] / "experiments.yaml" if chosen == Path() else chosen

    @property
    def placement(self) -> Path:
        """File of the placement rules."""
        chosen = self.recommend.placement
        return Path(__file__).parents[1] / "placement.yaml" if chosen == Path() else chosen

    def __post_init__(self) -> None:
        """Refuse what only shows when several settings are seen together."""
        if self.server.dev and not is_loopback(self.server.host):
            raise ConfigError(
                f"server.dev switches API keys off and is refused on {self.server.host!r}: "
                "listen on 127.0.0.1, or leave --dev away and make keys with `tactful keys create`"
            )
        try:
            parse_origins(self.server.cors_origins)
        except ValueError as error:
            raise ConfigError(f"server.cors_origins: {error}") from None
        if self.limits.pending_bytes < self.limits.body_bytes:
            raise ConfigError(
                f"limits.pending_bytes ({self.limits.pending_bytes}) must not be smaller than "
                f"limits.body_bytes ({self.limits.body_bytes}): the largest body would never fit"
            )
        if self.log.kind == "kafka" and not self.log.brokers:
            raise ConfigError("log.brokers is missing: log.kind is kafka, so say where it is")
        self._check_retention()
        for section, name in (
            ("log", "password"),
            ("actions", "secret"),
            ("privacy", "master_key"),
        ):
            settings = getattr(self, section)
            if getattr(settings, f"{name}_env") and getattr(settings, f"{name}_file") != Path():
                raise ConfigError(
                    f"{section}.{name}_env and {section}.{name}_file are both set: keep one"
                )
        address = urllib.parse.urlsplit(self.actions.webhook_url)
        if self.actions.webhook_url and (
            address.scheme not in ("http", "https") or not address.hostname
        ):
            raise ConfigError("actions.webhook_url must be an http or https address")

    def _check_retention(self) -> None:
        kept = self.retention
        if 0 < kept.impressions_days < self.training.label_days:
            raise ConfigError(
                f"retention.impressions_days ({kept.impressions_days:g}) is shorter than "
                f"training.label_days ({self.training.label_days:g}): nothing were left to learn "
                "from. Make one longer or the other shorter"
            )
        limits = (kept.personalisation_days, kept.measurement_days, kept.impressions_days)
        shortest = min((days for days in limits if days), default=0.0)
        if self.log.kind == "kafka" and shortest:
            whole = self.log.retention_days
            if not 0 < whole <= shortest:
                raise ConfigError(
                    "single records of a topic cannot be removed: with log.kind = kafka, "
                    f"log.retention_days must be set and at most {shortest:g}, the shortest time "
                    "in [retention]"
                )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than ``localhost`` counts as not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def secret(
    where: str, variable: str, file: Path = Path(), *, environ: Mapping[str, str] | None = None
) -> str | None:
    """Read a secret from where the settings say it is.

    Args:
        where: the setting, for messages.
        variable: name of an environment variable, or nothing.
        file: a file that holds it, or ``Path()``; blanks and line breaks at its ends do not count.
        environ: environment variables; None means those of the process.

    Returns:
        The secret; None if the settings name no place.

    Raises:
        ConfigError: if there is none at that place.
    """
    if variable:
        found = (os.environ if environ is None else environ).get(variable, "")
        if not found:
            raise ConfigError(f"{where} names the environment variable {variable}: it is not set")
        return found
    if file == Path():
        return None
    try:
        found = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} names {file}, which cannot be read: {error}") from error
    if not found:
        raise ConfigError(f"{where} names {file}, which is empty")
    return found


def load_settings(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        path: the file; None reads ``tactful.toml`` of the working directory if there is one.
        environ: environment variables; None means those of the process.
        overrides: ``section.key`` to value, e.g. from the command line; None values are skipped.

    Returns:
        The checked settings.

    Raises:
        ConfigError: naming the file or variable and the key, with a suggestion for a misspelt one.
    """
    environ = os.environ if environ is None else environ
    values: dict[tuple[str, str], Any] = {}
    if path is None and Path("tactful.toml").is_file():
        path = Path("tactful.toml")
    if path is not None:
        values.update(_from_file(path))
    values.update(_from_environment(environ))
    for name, value in (overrides or {}).items():
        if value is not None:
            section, _, key = name.partition(".")
            values[section, key] = _convert(section, key, value, f"option {name}", strict=True)

    chosen: dict[str, Any] = {}
    for section, kind in _sections().items():
        own = {key: value for (owner, key), value in values.items() if owner == section}
        chosen[section] = kind(**own)
    return Settings(**chosen)


def _from_file(path: Path) -> dict[tuple[str, str], Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    values: dict[tuple[str, str], Any] = {}
    for section, content in document.items():
        _known(section, _sections(), f"{path}: [{section}]")
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: {section} must be a section, written as [{section}]")
        for key, value in content.items():
            where = f"{path}: {section}.{key}"
            found = _convert(section, key, value, where, strict=True)
            if isinstance(found, Path) and found != Path():
                found = path.parent / found
            values[section, key] = found
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[tuple[str, str], Any]:
    values: dict[tuple[str, str], Any] = {}
    for name in sorted(environ):
        section, separator, key = name.removeprefix(_PREFIX).lower().partition("__")
        if name.startswith(_PREFIX) and separator:
            _known(section, _sections(), name)
            values[section, key] = _convert(section, key, environ[name], name, strict=False)
    return values


def _convert(section: str, key: str, value: Any, where: str, *, strict: bool) -> Any:
    """Check one value against the type of its setting; text is parsed when not `strict`."""
    _known(section, _sections(), where)
    kinds = typing.get_type_hints(_sections()[section], include_extras=True)
    _known(key, kinds, where)
    kind = kinds[key]
    if kind is Path:
        if not isinstance(value, (str, Path)):
            raise ConfigError(f"{where}: must be a path, got {value!r}")
        return Path(value).expanduser()
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        said = str(error).replace("`", "")
        raise ConfigError(f"{where} = {value!r}: {said[:1].lower()}{said[1:]}") from error


def _sections() -> dict[str, Any]:
    kinds = typing.get_type_hints(Settings)
    return {section.name: kinds[section.name] for section in dataclasses.fields(Settings)}


def _known(name: str, names: Mapping[str, Any], where: str) -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(names))}"
    raise ConfigError(f"{where}: there is no setting {name!r}; {hint}")

"""Settings: ``tactful.toml`` and ``TACTFUL_*`` variables, checked at start.

Every setting belongs to a section, in the file as ``[server] port = 8420`` and in the environment
as ``TACTFUL_SERVER__PORT=8420``; the environment wins. Names without a double underscore, such as
``TACTFUL_API_KEY``, are not settings. Relative paths in a file are relative to that file. Settings
hold no secrets, only the name of an environment variable or file that holds one.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tactful.config.alerts import AlertSettings
from tactful.config.domains import DomainSettings
from tactful.config.engine import EngineSettings, FlinkSettings, IdentitySettings
from tactful.config.privacy import (
    ConsentSettings,
    MinimiseSettings,
    PrivacySettings,
    RetentionSettings,
    StatisticsSettings,
)
from tactful.config.recommendation import (
    BanditSettings,
    CouponSettings,
    LifecycleSettings,
    RecommendSettings,
    TrainingSettings,
)
from tactful.config.server import (
    ActionSettings,
    LimitSettings,
    LoggingSettings,
    OidcSettings,
    ServerSettings,
    SourceSettings,
    WorkerSettings,
)
from tactful.config.speech import SpeechSettings
from tactful.config.storage import LogSettings, MetadataSettings, OnlineSettings, StorageSettings
from tactful.config.tenants import TenantSettings
from tactful.config.understanding import UnderstandingSettings
from tactful.errors import ConfigError
from tactful.schemas.browser_access import parse_origins
from tactful.schemas.interactions import STRENGTH, is_interaction
from tactful.util.addresses import is_loopback, is_secure

_PACKAGE = Path(__file__).parents[1]

PACKAGED_FEATURES = _PACKAGE / "features.yaml"
"""Packaged feature definitions, which recommendations use."""

DOMAIN_KEYS = "domain.keys"
"""File of the keys of a domain in a data directory, unless the settings name another."""

PACKAGED_MAPPING = _PACKAGE / "sources.yaml"
"""Packaged mappings of messages of other programs."""


@dataclass(frozen=True)
class Settings:
    """All settings, by section; `load_settings` reads them.

    >>> Settings(server=ServerSettings(port=80)).models
    PosixPath('tactful-data/models')
    """

    server: ServerSettings = field(default_factory=ServerSettings)
    oidc: OidcSettings = field(default_factory=OidcSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    log: LogSettings = field(default_factory=LogSettings)
    online: OnlineSettings = field(default_factory=OnlineSettings)
    metadata: MetadataSettings = field(default_factory=MetadataSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    flink: FlinkSettings = field(default_factory=FlinkSettings)
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    consent: ConsentSettings = field(default_factory=ConsentSettings)
    minimise: MinimiseSettings = field(default_factory=MinimiseSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    actions: ActionSettings = field(default_factory=ActionSettings)
    sources: SourceSettings = field(default_factory=SourceSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    recommend: RecommendSettings = field(default_factory=RecommendSettings)
    coupons: CouponSettings = field(default_factory=CouponSettings)
    bandits: BanditSettings = field(default_factory=BanditSettings)
    lifecycle: LifecycleSettings = field(default_factory=LifecycleSettings)
    statistics: StatisticsSettings = field(default_factory=StatisticsSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    understanding: UnderstandingSettings = field(default_factory=UnderstandingSettings)
    speech: SpeechSettings = field(default_factory=SpeechSettings)
    domains: DomainSettings = field(default_factory=DomainSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    tenants: TenantSettings = field(default_factory=TenantSettings)

    @property
    def shared(self) -> bool:
        """Whether several servers may work on this log, with metadata that they share."""
        return not self.log.in_files and bool(self.metadata.url_env)

    @property
    def models(self) -> Path:
        """Directory of models and recall indexes."""
        return _chosen(self.storage.models, self.storage.data / "models")

    @property
    def features(self) -> Path:
        """File of the feature definitions."""
        return _chosen(self.engine.features, PACKAGED_FEATURES)

    @property
    def keyring(self) -> Path:
        """File of the keys of pseudonyms."""
        return _chosen(self.consent.keyring, self.storage.data / "keyring.json")

    @property
    def vault(self) -> Path:
        """File of the keys that encrypt personal data."""
        return _chosen(self.privacy.vault, self.storage.data / "vault.db")

    @property
    def domain_keys(self) -> Path:
        """File of the keys of this domain."""
        return _chosen(self.domains.keys, self.storage.data / DOMAIN_KEYS)

    @property
    def experiments(self) -> Path:
        """File of the experiments."""
        return _chosen(self.recommend.experiments, _PACKAGE / "experiments.yaml")

    @property
    def experiment_metrics(self) -> Path:
        """File of the metrics of experiments."""
        return _chosen(self.recommend.metrics, _PACKAGE / "experiment_metrics" / "metrics.yaml")

    @property
    def placement(self) -> Path:
        """File of the placement rules."""
        return _chosen(self.recommend.placement, _PACKAGE / "placement.yaml")

    @property
    def source_mapping(self) -> Path:
        """File of the mappings of messages of other programs."""
        return _chosen(self.sources.mapping, PACKAGED_MAPPING)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.server.dev and not is_loopback(self.server.host):
            raise ConfigError(
                f"server.dev disables API keys and is refused on {self.server.host!r}: listen on "
                "127.0.0.1, or omit --dev and make keys with `tactful keys create`"
            )
        try:
            parse_origins(self.server.cors_origins)
        except ValueError as error:
            raise ConfigError(f"server.cors_origins: {error}") from None
        self._check_tls()
        self._check_oidc()
        self.domains.check()
        if self.limits.pending_bytes < self.limits.body_bytes:
            raise ConfigError(
                f"limits.pending_bytes ({self.limits.pending_bytes}) must not be smaller than "
                f"limits.body_bytes ({self.limits.body_bytes}): the largest body would never fit"
            )
        if self.lifecycle.lost_below >= self.lifecycle.lapsing_below:
            raise ConfigError(
                f"lifecycle.lost_below ({self.lifecycle.lost_below:g}) must be smaller than "
                f"lifecycle.lapsing_below ({self.lifecycle.lapsing_below:g})"
            )
        if self.log.kind == "kafka" and not self.log.brokers:
            raise ConfigError("log.brokers is missing: log.kind = kafka needs their addresses")
        self._check_flink()
        self._check_retention()
        if self.worker.checkpoints != Path() and self.worker.checkpoints_url:
            raise ConfigError(
                "worker.checkpoints and worker.checkpoints_url are both set: keep one"
            )
        label = self.training.label
        if label and not is_interaction(label):
            raise ConfigError(
                f"training.label: {label!r} deals with no item: name one of {', '.join(STRENGTH)}, "
                "or leave it empty"
            )
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

    def _check_tls(self) -> None:
        server = self.server
        if server.tls_certificate == Path():
            for name in ("tls_key", "tls_client_ca"):
                if getattr(server, name) != Path():
                    raise ConfigError(
                        f"server.{name} is set without server.tls_certificate: name the file of "
                        "the certificate, too, or neither"
                    )

    def _check_oidc(self) -> None:
        oidc = self.oidc
        if not oidc.issuer:
            return
        if not is_secure(oidc.issuer):
            raise ConfigError(
                f"oidc.issuer: {oidc.issuer!r} must be an https address; http only on this machine"
            )
        if not oidc.client_id:
            raise ConfigError("oidc.client_id is missing: the client that tokens are issued to")
        if not oidc.scopes_by_group:
            raise ConfigError(
                "oidc.admin_groups, oidc.analyst_groups and oidc.monitor_groups are empty: nobody "
                "could sign in. Name at least one group"
            )

    def _check_flink(self) -> None:
        if self.engine.kind != "flink":
            return
        why = "engine.kind = flink"
        if self.log.kind != "kafka":
            raise ConfigError(f"{why} needs log.kind = kafka: the job reads the log from its topic")
        if not self.online.shared:
            raise ConfigError(
                f"{why} needs online.kind = redis: recommendations read there what the job computed"
            )
        if self.identity.enabled:
            raise ConfigError(
                f"{why} needs identity.enabled = false: the job does not link devices to users, an "
                "event belongs to the user, or else the device, that it names"
            )
        if self.engine.rules != Path():
            raise ConfigError(
                f"{why} needs an empty engine.rules: the job does not clean events by rules"
            )
        if self.privacy.sealed_log:
            raise ConfigError(
                f"{why} needs privacy.sealed_log = false: the job has no keys to open the log"
            )
        topics = (self.log.topic, self.flink.entities_topic, self.flink.erased_topic)
        if len(set(topics)) < len(topics):
            raise ConfigError(
                "log.topic, flink.entities_topic and flink.erased_topic must be three topics"
            )
        if self.flink.cluster and not self.flink.cluster.startswith(("http://", "https://")):
            raise ConfigError(
                f"flink.cluster: {self.flink.cluster!r} must be an http or https address, such as "
                "http://jobmanager:8081"
            )

    def _check_retention(self) -> None:
        kept = self.retention
        if 0 < kept.impressions_days < self.training.label_days:
            raise ConfigError(
                f"retention.impressions_days ({kept.impressions_days:g}) is shorter than "
                f"training.label_days ({self.training.label_days:g}): no training data would "
                "remain. Make the first longer or the second shorter"
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


def _chosen(path: Path, default: Path) -> Path:
    return default if path == Path() else path


def secret(
    where: str, variable: str, file: Path = Path(), *, environ: Mapping[str, str] | None = None
) -> str | None:
    """Read a secret from the variable or file that the setting `where` names; None for neither.

    In place of a variable ``NAME``, ``NAME_FILE`` may hold the path of a file with the secret.
    Blanks and line breaks at the ends of a file are ignored.

    Raises:
        ConfigError: if the variable or file is missing or empty, or both variables are set.
    """
    if variable:
        variables = os.environ if environ is None else environ
        value, named = variables.get(variable, ""), variables.get(f"{variable}_FILE", "")
        if value and named:
            raise ConfigError(f"{where}: {variable} and {variable}_FILE are both set: keep one")
        if value:
            return value
        if not named:
            raise ConfigError(
                f"{where} names the environment variable {variable}: it is not set, nor is "
                f"{variable}_FILE"
            )
        where, file = f"{variable}_FILE", Path(named)
    if file == Path():
        return None
    try:
        value = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} names {file}, which cannot be read: {error}") from error
    if not value:
        raise ConfigError(f"{where} names {file}, which is empty")
    return value

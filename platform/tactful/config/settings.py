"""Settings: one ``tactful.toml`` and ``TACTFUL_*`` environment variables, checked at start.

Every setting lives in a section, in the file as ``[server] port = 8420`` and in the environment as
``TACTFUL_SERVER__PORT=8420``; the environment wins. Names without a double underscore, such as
``TACTFUL_API_KEY``, are not settings. Relative paths in a file are relative to that file. There
are no secrets here, only where they are: the name of an environment variable or of a file.
"""

from __future__ import annotations

import ipaddress
import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tactful.config.engine import EngineSettings, IdentitySettings
from tactful.config.privacy import (
    ConsentSettings,
    PrivacySettings,
    RetentionSettings,
    StatisticsSettings,
)
from tactful.config.recommendation import CouponSettings, RecommendSettings, TrainingSettings
from tactful.config.server import (
    ActionSettings,
    LimitSettings,
    LoggingSettings,
    ServerSettings,
    WorkerSettings,
)
from tactful.config.storage import LogSettings, MetadataSettings, OnlineSettings, StorageSettings
from tactful.errors import ConfigError
from tactful.schemas.browser_access import parse_origins

PACKAGED_FEATURES = Path(__file__).parents[1] / "features.yaml"
"""The feature definitions that ship, which lists are made from."""


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

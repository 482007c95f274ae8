"""Connections to the services that the settings name: Kafka, Redis, the metadata's database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tactful.config.settings import Settings, secret
from tactful.config.storage import LogSettings, OnlineSettings
from tactful.errors import ConfigError, StorageError
from tactful.metadata.api_keys import KeyStore
from tactful.metadata.restore_journal import refuse_unfinished
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.util.clock import now_ms

if TYPE_CHECKING:
    from tactful_streaming.definitions.model import Definitions
    from tactful_streaming.kafka.config import KafkaSettings
    from tactful_streaming.online.store import RedisOnlineStore

_DAY_S = 86_400
_TAG_LENGTH = 16


def kafka_settings(log: LogSettings, *, environ: Mapping[str, str] | None = None) -> KafkaSettings:
    """How to reach the log in Kafka.

    Args:
        log: settings whose `kind` is ``kafka``.
        environ: environment variables; None means those of the process.

    Raises:
        ConfigError: naming the setting that cannot work.
    """
    from tactful_streaming.errors import LogSettingsError
    from tactful_streaming.kafka.config import KafkaSettings

    password = secret("log.password_env", log.password_env, environ=environ)
    if password is None:
        password = secret("log.password_file", "", log.password_file, environ=environ)
    try:
        return KafkaSettings(
            log.brokers,
            log.topic,
            security=log.security,
            ca_file=_file(log.ca_file),
            certificate_file=_file(log.certificate_file),
            key_file=_file(log.key_file),
            key_password=secret("log.key_password_env", log.key_password_env, environ=environ),
            sasl_mechanism=log.sasl_mechanism or None,
            username=log.username or None,
            password=password,
            linger_ms=log.linger_ms,
        )
    except LogSettingsError as error:
        said = str(error).removeprefix("kafka.").replace("servers ", "brokers ", 1)
        raise ConfigError(f"log.{said}") from error


def make_topic(
    log: LogSettings,
    kafka: KafkaSettings,
    *,
    partitions: int | None = None,
    timeout_s: float = 30.0,
) -> int:
    """Make the topic of the log, unless it is there.

    Args:
        log: what it is made like.
        kafka: where, and what it is called.
        partitions: how many it gets; None: as the settings say.
        timeout_s: how long to try, seconds.

    Returns:
        How many partitions it has.

    Raises:
        LogError: if it cannot be made, or no broker answers.
    """
    from tactful_streaming.kafka.topics import ensure_topic

    return ensure_topic(
        kafka,
        consumer_threads=log.consumer_threads,
        partitions=partitions,
        replication=log.replication,
        retention_ms=retention_ms(log.retention_days),
        retention_bytes=log.retention_bytes or None,
        timeout_s=timeout_s,
    )


def online_tag(definitions: Definitions) -> str:
    """What blobs packed by `definitions` lie under in an online store."""
    return definitions.fingerprint[:_TAG_LENGTH]


def open_redis(
    online: OnlineSettings,
    definitions: Definitions,
    *,
    attempts: int = 4,
    timeout_s: float = 2.0,
    environ: Mapping[str, str] | None = None,
) -> RedisOnlineStore:
    """The online store in Redis; it connects at the first use.

    Args:
        online: settings whose `kind` is ``redis``.
        definitions: what packs the blobs.
        attempts: how often an operation is tried.
        timeout_s: for connecting and for each answer, seconds.
        environ: environment variables; None means those of the process.

    Raises:
        ConfigError: if the address is not there or is none.
    """
    from tactful_streaming.errors import OnlineStoreError
    from tactful_streaming.online.store import RedisOnlineStore

    url = secret("online.url_env", online.url_env, environ=environ)
    assert url is not None
    try:
        return RedisOnlineStore(
            url,
            prefix=online.prefix,
            tag=online_tag(definitions),
            ttl_s=online.ttl_days * _DAY_S or None,
            cluster=online.cluster,
            timeout_s=timeout_s,
            attempts=attempts,
        )
    except OnlineStoreError as error:
        raise ConfigError(f"online: {error}") from error


def open_installation(
    settings: Settings, *, environ: Mapping[str, str] | None = None
) -> MetadataStore:
    """The metadata of the installation: in the database that the settings name, else in a file.

    Raises:
        ConfigError: if the settings name a variable that is not set.
        StorageError: if the database cannot be used.
    """
    refuse_unfinished(settings.storage.data)
    url = secret("metadata.url_env", settings.metadata.url_env, environ=environ)
    return open_metadata(settings.storage.data / "metadata.db" if url is None else url)


@contextlib.contextmanager
def open_keys(
    settings: Settings, *, environ: Mapping[str, str] | None = None
) -> Iterator[tuple[MetadataStore, KeyStore]]:
    """The metadata of the installation and the API keys in it, as long as the context lasts.

    Keys that an earlier version kept in a file of their own move there.

    Raises:
        ConfigError: if the settings name a variable that is not set.
        StorageError: if the database cannot be used.
    """
    data = settings.storage.data
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{data}: cannot be used as data directory: {error}") from error
    with contextlib.closing(open_installation(settings, environ=environ)) as metadata:
        keys = KeyStore(metadata, clock=now_ms)
        if (old := data / "keys.db").exists():
            keys.adopt(old)
        yield metadata, keys


def retention_ms(days: float) -> int | None:
    """Days of the settings as the log wants to have them; 0 is for ever."""
    return round(days * _DAY_S * 1000) or None


def _file(path: Path) -> Path | None:
    return None if path == Path() else path

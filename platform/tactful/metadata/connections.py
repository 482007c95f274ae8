"""Connections to Kafka, Redis and the database of the metadata."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tactful.config.settings import Settings, secret
from tactful.config.storage import LogSettings, OnlineSettings
from tactful.errors import ConfigError, StorageError
from tactful.metadata.api_keys import KeyStore
from tactful.metadata.directory_lock import open_directory
from tactful.metadata.file_identity import check_identity, mark_identity
from tactful.metadata.restore_journal import refuse_unfinished
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.util.clock import now_ms

if TYPE_CHECKING:
    from tactful_streaming.definitions.model import Definitions
    from tactful_streaming.kafka.config import KafkaSettings
    from tactful_streaming.online.store import RedisOnlineStore

_logger = logging.getLogger(__name__)

METADATA = "metadata.db"
METADATA_LOSS = "API keys and decisions on consent are lost, and erased users could come back"
"""Consequence of the loss of the metadata."""

_DAY_S = 86_400


def kafka_settings(log: LogSettings) -> KafkaSettings:
    """Build the settings of the log in Kafka; ConfigError names an invalid one."""
    from tactful_streaming.errors import LogSettingsError
    from tactful_streaming.kafka.config import KafkaSettings

    password = secret("log.password_env", log.password_env)
    if password is None:
        password = secret("log.password_file", "", log.password_file)
    try:
        return KafkaSettings(
            log.brokers,
            log.topic,
            security=log.security,
            ca_file=_file(log.ca_file),
            certificate_file=_file(log.certificate_file),
            key_file=_file(log.key_file),
            key_password=secret("log.key_password_env", log.key_password_env),
            sasl_mechanism=log.sasl_mechanism or None,
            username=log.username or None,
            password=password,
            token_url=log.token_url or None,
            token_scope=log.token_scope or None,
            token_extensions=log.token_extensions or None,
            token_ca_file=_file(log.token_ca_file),
            linger_ms=log.linger_ms,
            group_protocol=log.group_protocol,
        )
    except LogSettingsError as error:
        setting = str(error).removeprefix("kafka.").replace("servers ", "brokers ", 1)
        raise ConfigError(f"log.{setting}") from error


def make_topic(
    log: LogSettings,
    kafka: KafkaSettings,
    *,
    partitions: int | None = None,  # None: as the settings say
) -> int:
    """Create the topic of the log if it is missing; return the number of its partitions.

    If it cannot be created, or no broker answers, LogError is raised.
    """
    from tactful_streaming.kafka.topics import ensure_topic

    return ensure_topic(
        kafka,
        consumer_threads=log.consumer_threads,
        partitions=partitions,
        replication=log.replication,
        retention_ms=retention_ms(log.retention_days),
        retention_bytes=log.retention_bytes or None,
    )


def make_log_topic(log: LogSettings, kafka: KafkaSettings) -> int:
    """Create the topic of the log as :func:`make_topic`, or check the present one.

    Properties of it that may lose records are logged; TopicError is raised if it is compacted.
    """
    count = make_topic(log, kafka)
    for problem in topic_problems(log, kafka):
        _logger.warning("%s", problem)
    return count


def topic_problems(log: LogSettings, kafka: KafkaSettings) -> list[str]:
    """Return properties of the topic that may lose records, as :func:`make_log_topic`."""
    from tactful_streaming.kafka.topic_policy import check_policy

    return check_policy(
        kafka,
        retention_ms=retention_ms(log.retention_days),
        retention_bytes=log.retention_bytes or None,
    )


def online_tag(definitions: Definitions) -> str:
    """Return the part of online keys that identifies the definitions."""
    return definitions.fingerprint[:16]


def open_redis(
    online: OnlineSettings,
    definitions: Definitions,  # definitions that pack the blobs
    *,
    partitions: int | None = None,  # of the log in Kafka, whose workers write; None: no workers do
    attempts: int = 4,
    timeout_s: float = 2.0,  # seconds, of connecting and of each response
    environ: Mapping[str, str] | None = None,
) -> RedisOnlineStore:
    """Create the online store in Redis; it connects at the first use.

    An address that is missing or invalid raises ConfigError.
    """
    from tactful_streaming.errors import OnlineStoreError
    from tactful_streaming.online.partitioned_store import PartitionedRedisStore
    from tactful_streaming.online.store import RedisOnlineStore

    url = secret("online.url_env", online.url_env, environ=environ)
    assert url is not None
    options: dict[str, Any] = {
        "prefix": online.prefix,
        "tag": online_tag(definitions),
        "ttl_s": online.ttl_days * _DAY_S or None,
        "timeout_s": timeout_s,
        "attempts": attempts,
    }
    try:
        if online.cluster and partitions is not None:
            return PartitionedRedisStore(url, partitions, **options)
        return RedisOnlineStore(url, cluster=online.cluster, **options)
    except OnlineStoreError as error:
        raise ConfigError(f"online: {error}") from error


def open_installation(settings: Settings, *, create: bool = False) -> MetadataStore:
    """Open the metadata in the configured database or a file of the data directory.

    A missing data directory is made with `create`.
    A variable of the settings that is not set raises ConfigError, a database that cannot be used,
    or is not that of the data directory, StorageError.
    """
    data = settings.storage.data
    if create or data.exists():
        open_directory(data)
    refuse_unfinished(data)
    url = secret("metadata.url_env", settings.metadata.url_env)
    if url is not None:
        return open_metadata(url)
    check_identity(data, data / METADATA, METADATA_LOSS, may_begin_anew=True)
    metadata = open_metadata(data / METADATA)
    try:
        mark_identity(data, data / METADATA)
    except StorageError:
        metadata.close()
        raise
    return metadata


@contextlib.contextmanager
def open_keys(settings: Settings) -> Iterator[tuple[MetadataStore, KeyStore]]:
    """Open the metadata and the API keys in it, as :func:`open_installation` does.

    The keys in ``keys.db`` of an earlier version are imported.
    """
    with contextlib.closing(open_installation(settings, create=True)) as metadata:
        keys = KeyStore(metadata, clock=now_ms)
        if (old := settings.storage.data / "keys.db").exists():
            keys.adopt(old)
        yield metadata, keys


def retention_ms(days: float) -> int | None:
    """Convert days to milliseconds; 0, which is unlimited, becomes None."""
    return round(days * _DAY_S * 1000) or None


def _file(path: Path) -> Path | None:
    return None if path == Path() else path

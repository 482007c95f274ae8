"""Copiers of what a Flink job computes, made from the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tactful.config.settings import Settings, secret
from tactful.errors import ConfigError, StorageError
from tactful.metadata.connections import kafka_settings, make_topic, online_tag
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.flink.entities import entity_kinds
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic, topic_id
from tactful_streaming.online.fenced_store import FencedRedisStore
from tactful_streaming.worker.entity_copier import CopierOptions, EntityCopier
from tactful_streaming.worker.erasure import Erasures


def prepare_copier(
    settings: Settings, definitions: Definitions, erasures: Erasures | None = None
) -> Callable[[int], EntityCopier]:
    """Make the topics, and return a function that makes member N of the group.

    Raises:
        ConfigError: if a setting is missing, or no feature is of users or sessions.
        StorageError: if the topic of the entities has not the partitions of the log.
        LogError: if a topic cannot be made.
    """
    if not entity_kinds(definitions):
        raise ConfigError(
            f"{settings.features}: no feature is of a user or session: with engine.kind = flink "
            "there is nothing to copy, and no worker is needed"
        )
    log = kafka_settings(settings.log)
    entities = make_entity_topics(settings, log)
    share, online = settings.worker, settings.online
    url = secret("online.url_env", online.url_env)
    assert url is not None
    options = CopierOptions(
        kafka=entities,
        log_topic=log.topic,
        erased_topic=settings.flink.erased_topic,
        group=f"{share.group}-entities",
        owner=share.group,
        open_store=partial(
            FencedRedisStore,
            url,
            prefix=online.prefix,
            tag=online_tag(definitions),
            ttl_s=online.ttl_days * 86_400 or None,
            cluster=online.cluster,
        ),
        topic_id=topic_id(entities),
        log_id=topic_id(log),
        erasures=erasures,
    )

    def make(number: int) -> EntityCopier:
        instance = f"{share.instance}-{number}" if share.instance else None
        return EntityCopier(definitions, replace(options, instance=instance))

    return make


def make_entity_topics(settings: Settings, log: KafkaSettings) -> KafkaSettings:
    """Make the topics of log, entities and erased; return the settings of the entities' one."""
    partitions = make_topic(settings.log, log)
    entities = replace(log, topic=settings.flink.entities_topic)
    replication = settings.log.replication
    found = ensure_topic(entities, partitions=partitions, replication=replication, compacted=True)
    if found != partitions:
        raise StorageError(
            f"topic {entities.topic!r} has {found} partitions and the log {partitions}: the job "
            "writes a partition of each; name another flink.entities_topic, which is then made"
        )
    erased = replace(log, topic=settings.flink.erased_topic)
    ensure_topic(erased, partitions=1, replication=replication, compacted=True)
    return entities

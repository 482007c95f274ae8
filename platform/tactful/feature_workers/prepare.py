"""Members of the worker group, made from the settings, and their erasures."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from tactful.config.settings import Settings, secret
from tactful.feature_workers.checkpoint_place import checkpoint_place
from tactful.metadata.connections import (
    kafka_settings,
    make_log_topic,
    make_topic,
    online_tag,
    open_installation,
    retention_ms,
)
from tactful.pipeline.backends import engine_options, memory_limit
from tactful.pipeline.online_features import shared_definitions
from tactful.subjects.partition_erasures import PartitionErasures
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms
from tactful.util.machine_memory import own_memory
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.kafka.topics import topic_id
from tactful_streaming.log.encrypted_log import Seal
from tactful_streaming.online.fenced_store import OpenOnline, redis_online
from tactful_streaming.rules.rules import load_rules
from tactful_streaming.worker.erasure import Erasures
from tactful_streaming.worker.partition_job import JobOptions
from tactful_streaming.worker.worker import Worker, WorkerOptions

logger = logging.getLogger(__name__)

_FRESH_S = 0.004
_KEPT_S = 0.05
_FOLLOW_S = 0.25


@contextlib.contextmanager
def followed_erasures(settings: Settings) -> Iterator[PartitionErasures]:
    """Poll the erasures of the installation in a thread while the context lasts."""
    if not settings.metadata.url_env:
        logger.warning(
            "the metadata is in %s: erasures reach this worker only if the server keeps its "
            "metadata there, too; name the server's database by metadata.url_env",
            settings.storage.data,
        )
    with contextlib.closing(open_installation(settings, create=True)) as metadata:
        suppression = open_suppression(settings, metadata, clock=now_ms)
        erasures = PartitionErasures(metadata, suppression, clock=now_ms)
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(_FOLLOW_S):
                try:
                    erasures.refresh()
                except Exception as error:
                    logger.warning("erasures are as they were: %s", error)

        thread = threading.Thread(target=follow, name="erasures", daemon=True)
        thread.start()
        try:
            yield erasures
        finally:
            ended.set()
            thread.join()


def prepare_worker(
    settings: Settings,
    definitions: Definitions,
    matches_topic: str | None,
    erasures: Erasures | None = None,
    seal: Seal | None = None,
    *,
    resized: bool = False,  # whether the topic may have another number of partitions than before
) -> Callable[[int], Worker]:
    """Make the topics, and return a function that makes member N of the group."""
    kafka = kafka_settings(settings.log)
    computed = definitions
    partitions = make_log_topic(settings.log, kafka)
    if partitions > 1:
        computed = shared_definitions(definitions)
        if left_out := len(definitions.all) - len(computed.all):
            logger.info("%d definitions of items and categories are the server's", left_out)
    online, rules, share = _online(settings, definitions), settings.engine.rules, settings.worker
    options = JobOptions(
        kafka=kafka,
        data=settings.storage.data,
        group=share.group,
        features_topic=share.fired_topic or None,
        matches_topic=matches_topic,
        late_topic=share.late_topic or None,
        topic_id=topic_id(kafka),
        checkpoints=checkpoint_place(settings),
        partitions=None if resized else partitions,
        dead_letter_ms=retention_ms(settings.engine.dead_letter_days),
        engine=replace(
            engine_options(settings),
            memory_bytes=memory_limit(settings.engine),
            resident=own_memory,
        ),
        online=online,
        make_cleaner=None if rules == Path() else partial(load_rules, rules),
        erasures=erasures,
        seal=seal,
    )
    for topic in filter(None, (options.features_topic, matches_topic, options.late_topic)):
        make_topic(settings.log, replace(kafka, topic=topic))
    commit_s = settings.engine.commit_ms / 1000
    sends_ticks = settings.engine.clock == settings.statistics.clock == "wall"

    def make(number: int) -> Worker:
        pace = WorkerOptions(
            publish_interval_s=None if online is None else _FRESH_S,
            # Many small commits hold the interpreter lock for less long than a large one.
            commit_interval_s=commit_s if online is None else min(commit_s, _KEPT_S),
            checkpoint_interval_s=share.checkpoint_s,
            idle_ms=round(share.idle_s * 1000),
            sends_ticks=sends_ticks,
            alignment_ms=share.lead_ms,
            instance=f"{share.instance}-{number}" if share.instance else None,
        )
        return Worker(computed, options, pace=pace)

    return make


def _online(settings: Settings, definitions: Definitions) -> OpenOnline | None:
    """Return the function that opens the online stores of partitions in Redis, if any."""
    if not settings.online.shared:
        return None
    url = secret("online.url_env", settings.online.url_env)
    assert url is not None
    return redis_online(
        url,
        prefix=settings.online.prefix,
        tag=online_tag(definitions),
        ttl_s=settings.online.ttl_days * 86_400 or None,
        cluster=settings.online.cluster,
    )

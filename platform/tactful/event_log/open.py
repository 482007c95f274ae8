"""Opens the log of an installation to be read from its beginning, in files or in Kafka."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tactful.config.settings import Settings
from tactful.event_log.encryption import log_in_files, open_seal
from tactful.event_log.merged_log import MergedLog
from tactful.metadata.connections import kafka_settings
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.log.event_log import EventLog

_WAIT_S = 30.0
"""Longer than a broker takes to fail over, or workers to end a transaction."""


@contextlib.contextmanager
def open_log(
    settings: Settings, *, clock: Callable[[], int], latest: int | None = None
) -> Iterator[EventLog]:
    """The log of an installation, to be read beside its server, with its records opened.

    A topic is read as one log, in the order of event time between partitions, up to where they end
    now.

    Args:
        settings: of the installation.
        clock: now, epoch milliseconds.
        latest: how many of the newest records are wanted; None: all. A log in files has more.

    Raises:
        ConfigError: if records are sealed and there is no master key, or a setting cannot work.
        LogError: if there is no log, or it cannot be read.
        StorageError: if the vault cannot be used.
    """
    with contextlib.ExitStack() as stack:
        if settings.log.kind != "kafka":
            yield stack.enter_context(log_in_files(settings, clock=clock))
            return
        seal = open_seal(settings, clock=clock)
        if seal is not None:
            stack.callback(seal.close)
        kafka = kafka_settings(settings.log)
        with KafkaLog(kafka) as topic:
            partitions = topic.partitions
        log = MergedLog(
            kafka,
            partitions,
            begin=None,
            latest=latest,
            bounded=True,
            opened=list if seal is None else seal.open,
            wait_s=_WAIT_S,
        )
        stack.callback(log.close)
        yield log

"""Readers of the log of an installation, in files or in Kafka.

They raise ConfigError if records are sealed and there is no master key, or a setting cannot work;
LogError if the log cannot be read; and StorageError if the vault cannot be used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from tactful.config.settings import Settings
from tactful.event_log.encryption import log_in_files, open_seal
from tactful.event_log.merged_log import MergedLog, Span
from tactful.metadata.connections import kafka_settings, make_topic
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.log.encrypted_log import SealedLog
from tactful_streaming.log.event_log import EventLog

_WAIT_S = 30.0  # longer than a broker takes to fail over, or workers to end a transaction


@contextlib.contextmanager
def open_log(
    settings: Settings, *, clock: Callable[[], int], latest: int | None = None
) -> Iterator[EventLog]:
    """Open the log beside its server, with unsealed records.

    A topic is read as one log, in the order of event time between partitions, up to its present
    end; with `latest`, its newest records alone. A log in files always has all.
    """
    with contextlib.ExitStack() as stack:
        if settings.log.in_files:
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
            Span(begin=None, latest=latest, bounded=True),
            opened=list if seal is None else seal.open,
            wait_s=_WAIT_S,
        )
        stack.callback(log.close)
        yield log


def open_partitions(
    settings: Settings, stack: contextlib.ExitStack, *, clock: Callable[[], int]
) -> Sequence[EventLog]:
    """Open each partition of the topic, with unsealed records; `stack` closes them."""
    kafka = kafka_settings(settings.log)
    log = stack.enter_context(KafkaLog(kafka))
    opened: list[EventLog] = [
        stack.enter_context(contextlib.closing(log.partition(number)))
        for number in range(make_topic(settings.log, kafka))
    ]
    seal = open_seal(settings, clock=clock)
    if seal is None:
        return opened
    stack.callback(seal.close)
    return [SealedLog(partition, seal) for partition in opened]

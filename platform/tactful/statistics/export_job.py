"""`tactful privacy release`: export from an installation's ledger to files and topics."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec

from tactful.config.ledger_location import existing_ledger, named
from tactful.config.settings import Settings
from tactful.errors import ConfigError, StorageError
from tactful.metadata.connections import kafka_settings
from tactful.statistics.definitions import load_statistics
from tactful.statistics.export import write_files, write_topic
from tactful.statistics.service import shown_before
from tactful.util.clock import now_ms
from tactful.util.signals import on_stop_signals
from tactful_privacy.errors import PrivacyError, UnknownStatisticError
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import Statistic
from tactful_streaming.errors import LogError
from tactful_streaming.kafka.transactional_producer import TransactionalProducer

_EVERY_S = 15.0
_NAME = "tactful-statistics"


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """Result of an export."""

    files: int
    records: int


def publish(
    settings: Settings,
    out: Path | None,  # directory of the files; None: no files
    topic: str | None,  # Kafka topic; None: no records
    *,
    follow: bool = False,  # continue until SIGTERM or SIGINT
    clock: Callable[[], int] = now_ms,
) -> Published:
    """Write the published panes that are shown by now.

    The clock decides which panes are shown, as for `GET /v1/statistics`.

    Raises:
        ConfigError: if nothing is published here, or the definitions do not agree with the ledger.
        StorageError: if it cannot be written.
    """
    definitions = settings.statistics.definitions
    if definitions == Path():
        raise ConfigError("statistics.definitions is empty: no statistics are published here")
    place = existing_ledger(settings)
    wall = settings.statistics.clock == "wall"

    def shown(statistic: Statistic) -> int | None:
        return shown_before(statistic, clock()) if wall else None

    files = records = 0
    try:
        with ExitStack() as stack:
            ledger = Ledger(place)
            stack.callback(ledger.close)
            statistics = _registered(ledger, definitions)
            write = None if topic is None else _writer(settings, topic, stack)
            stopped = threading.Event()
            if follow:  # a signal waits for the present file or pane
                stack.enter_context(on_stop_signals(stopped.set))
            while True:
                if out is not None:
                    files += write_files(ledger, statistics, out, shown_before=shown)
                if write is not None:
                    position = settings.storage.data / f"published.{topic}.json"
                    records += write_topic(
                        ledger, statistics, write, position=position, shown_before=shown
                    )
                if not follow or stopped.wait(_EVERY_S):
                    return Published(files=files, records=records)
    except PrivacyError as error:
        raise ConfigError(f"{named(place)}: {error}") from error
    except (LogError, OSError) as error:
        raise StorageError(str(error)) from error


def _registered(ledger: Ledger, definitions: Path) -> list[Statistic]:
    """Return the statistics of the file that are registered in the ledger."""
    registered = []
    for definition in load_statistics(definitions).statistics:
        for statistic in definition.statistics():
            with contextlib.suppress(UnknownStatisticError):
                registered.append(ledger.statistic(statistic.name))
    return registered


def _writer(
    settings: Settings, topic: str, stack: ExitStack
) -> Callable[[Sequence[tuple[bytes, bytes]]], None]:
    if settings.log.in_files:
        raise ConfigError("--topic needs log.kind = 'kafka': the topic is in the log's cluster")
    kafka = replace(kafka_settings(settings.log), topic=topic)
    producer = TransactionalProducer(kafka, f"{_NAME}.{topic}")
    stack.callback(producer.close)

    def write(rows: Sequence[tuple[bytes, bytes]]) -> None:
        producer.write(topic, rows)
        producer.commit()

    return write

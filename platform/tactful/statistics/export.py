"""Export published statistics from the ledger, as files and as records of a topic.

Every number carries its interval, epsilon, unit, pane and method. Each release is written as it is
stored, so a repeated export writes the same.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from tactful.config.ledger_location import existing_ledger, named
from tactful.config.settings import Settings
from tactful.errors import ConfigError, StorageError
from tactful.metadata.connections import kafka_settings
from tactful.statistics.definitions import load_statistics
from tactful.statistics.service import shown_before
from tactful.util.clock import now_ms
from tactful.util.signals import on_stop_signals
from tactful_privacy.counting.released import ReleasedPane, released_panes
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replacing
from tactful_privacy.errors import PrivacyError, UnknownStatisticError
from tactful_privacy.ledger.budget import date_of
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS, Statistic
from tactful_streaming.errors import LogError
from tactful_streaming.kafka.transactional_producer import TransactionalProducer

_EPOCH = dt.date(1970, 1, 1)
_PAGE, _CELLS = 100, 1_000_000
"""Most panes, and most of their cells, in memory at once; one pane at least."""

_encode = msgspec.json.Encoder().encode


def cells(pane: ReleasedPane) -> Iterator[dict[str, Any]]:
    """Yield the numbers of one released pane with their metadata, in the order of its keys."""
    for key, value in pane.values.items():
        yield {
            "statistic": pane.statistic,
            "key": key,
            "value": pane.scaled(value),  # noisy
            "low": pane.scaled(value - pane.half_width),  # its confidence interval
            "high": pane.scaled(value + pane.half_width),
            "confidence": pane.confidence,
            "pane_start": pane.start,  # epoch milliseconds
            "pane_end": pane.end,
            "counted_from": pane.counted_from,  # start of the pane, or midnight (UTC) for totals
            "kind": pane.kind,  # `panes`, `gaussian_panes`, `running_totals` …
            "epsilon": float(pane.epsilon),  # privacy loss of one unit
            "delta": pane.delta,  # its probability bound, computed
            "cap": pane.cap,  # most contributions of one unit
            "unit": pane.unit,  # the protected unit
            "method": pane.method,  # the mechanism
        }


def write_files(
    ledger: Ledger,
    statistics: Sequence[Statistic],
    directory: Path,
    *,
    # start before which panes may be shown, epoch milliseconds; None: all
    shown_before: Callable[[Statistic], int | None],
    written: Callable[[Path], None] = lambda path: None,
) -> int:
    """Write `<statistic>/<UTC day>.jsonl`, a line for each number; return the number of files.

    A file is complete: it is written beside its place, synchronised to disk and then renamed. An
    export continues with the newest present day, since more of it may have been released.
    """
    count = 0
    for statistic in statistics:
        folder = directory / statistic.name
        folder.mkdir(parents=True, exist_ok=True)
        newest = max((it.stem for it in folder.glob("????-??-??.jsonl")), default=None)
        until = shown_before(statistic)
        since = None if newest is None else (dt.date.fromisoformat(newest) - _EPOCH).days * DAY_MS
        panes = _panes(ledger, statistic.name, since, until)
        for day, of_day in itertools.groupby(panes, key=lambda pane: date_of(pane.start // DAY_MS)):
            file = folder / f"{day}.jsonl"
            _replace(file, (_encode(cell) for pane in of_day for cell in cells(pane)))
            written(file)
            count += 1
    return count


def write_topic(
    ledger: Ledger,
    statistics: Sequence[Statistic],
    # writes and commits records, all or none
    write: Callable[[Sequence[tuple[bytes, bytes]]], None],
    *,
    position: Path,  # file that holds the last pane of each statistic
    # start before which panes may be shown, epoch milliseconds; None: all
    shown_before: Callable[[Statistic], int | None],
) -> int:
    """Write each number as a record `<statistic>/<pane start>/<key>`; return their number.

    The position is stored after the records are committed: a crash in between writes some records
    again, with the same keys and values.
    """
    last = _read_position(position)
    count = 0
    for statistic in statistics:
        since = last[statistic.name] + 1 if statistic.name in last else None
        for pane in _panes(ledger, statistic.name, since, shown_before(statistic)):
            rows = [
                ("{statistic}/{pane_start}/{key}".format_map(cell).encode(), _encode(cell))
                for cell in cells(pane)
            ]
            write(rows)
            count += len(rows)
            last = {**last, statistic.name: pane.start}
            _replace(position, [_encode(last)])
    return count


def _panes(
    ledger: Ledger, name: str, since: int | None, until: int | None
) -> Iterator[ReleasedPane]:
    keys = len(ledger.statistic(name).keys) or 1
    limit = max(1, min(_PAGE, _CELLS // keys))
    return released_panes(ledger, name, start=since, end=until, limit=limit)


def _replace(path: Path, lines: Iterable[bytes]) -> None:
    with replacing(path) as file:
        for line in lines:
            file.write(line + b"\n")


def _read_position(path: Path) -> Mapping[str, int]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except FileNotFoundError:
        return {}
    except DECODE_ERRORS as error:
        raise OSError(f"{path} is damaged ({error}): delete it to write everything again") from None


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

    The clock decides which panes are shown, as for `GET /v1/statistics`. Definitions that are
    absent or do not agree with the ledger raise ConfigError; a failed write raises StorageError.
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
    for definition in load_statistics(definitions).released:
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

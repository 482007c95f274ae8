"""Releases of a million cells each minute in the server's engine, 50,000 events a second coming in.

Everything is real: the wall clock, minutes of 60 seconds, the log on disk, the thread of the engine
that applies what is in it, commits and releases, the state in RocksDB and the ledger. A process of
its own makes the events, as many as the clock asks for, and hands them over through a pipe: the
door, which reads and checks requests, is what is left out. It is a core's work by itself at this
rate and takes no part in a release.

``python -m benchmarks.privacy.release_load BEGIN START SECONDS`` is the process of the events.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from unittest import mock

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry

from tactful.event_log.merged_log import SinglePartitionLog
from tactful.metrics.registry import Metrics
from tactful.pipeline.applier import ApplierOptions, LogApplier
from tactful.statistics.counter import ALLOWANCE_MS, StatisticsCounter
from tactful.statistics.definitions import StatisticDefinition
from tactful.statistics.export import write_topic
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.ledger.ledger import DayClaim, Ledger
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import RocksState

CELLS, MINUTE_MS, EVENTS_PER_S = 1_000_000, 60_000, 50_000
PEOPLE, CAP = 1_000_000, 20

_START_MS = 1_767_268_798_000
"""2026-01-01 11:59:58 UTC: the first pane is over after two seconds."""

_KEPT_UP_S = 30
"""An engine that was never further behind has counted all events before their minutes closed."""

_TICK_S, _PATIENCE_S = 0.01, 300.0
_PRIMES = 2_654_435_761, 40_503  # each person and each cell comes equally often
_LENGTH = 4


@dataclass(frozen=True)
class Release:
    """One release of a million cells.

    Attributes:
        pane: start of its minute, epoch milliseconds of the run's clock.
        cpu_s: processor seconds that the thread spent to close, noise and store it.
        wall_s: how long the thread did nothing else.
        behind_s: from the end of its minute until it was in the ledger.
    """

    pane: int
    cpu_s: float
    wall_s: float
    behind_s: float


@dataclass(frozen=True)
class Run:
    """What a run came to.

    Attributes:
        releases: in the order of their minutes.
        seconds: how long events came.
        events: how many were in the log on disk by then.
        applied: how many of them the engine had counted by then.
        most_behind: most events that were on disk and not yet counted, seen four times a second.
        cpu_s: processor seconds of the whole process, appending and counting included.
        memory_mb: most memory of the process.
        publishing_s: processor seconds to make a million records for a topic of one release.
    """

    releases: list[Release]
    seconds: float
    events: int
    applied: int
    most_behind: int
    cpu_s: float
    memory_mb: float
    publishing_s: float


def run_minutes(minutes: int) -> Run:
    """Let events come for so many minutes and some seconds; as many releases are due meanwhile.

    Args:
        minutes: 1 or more; the minute in which a pane waits for late events is one of them.

    Raises:
        RuntimeError: if what was released does not fit the events of its minute.
    """
    seconds = ALLOWANCE_MS // 1_000 + 60 * (minutes - 1) + 6
    keys = tuple(f"item-{n}" for n in range(CELLS))
    definition = StatisticDefinition(
        name="items", event="view", by="event.item", keys=keys, pane="1m", cap=CAP, epsilon="1"
    )
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name, _timed() as releases:
        folder = Path(name)
        ledger = Ledger(folder / "ledger.db", daily_epsilon=1)
        begin = time.time_ns() // 1_000_000 + 3_000
        counter = StatisticsCounter(
            [definition],
            ledger,
            secret=b"a benchmark's secret",
            clock=lambda: time.time_ns() // 1_000_000 - begin + _START_MS,
        )
        log = EmbeddedLog(folder / "log", retention_bytes=0)
        engine = Engine(
            load_definitions("[]"),
            RocksState(folder / "state"),
            EngineOptions(consumers=counter.consumers()),
        )
        applier = LogApplier(
            SinglePartitionLog(log, 0),
            engine,
            threading.Lock(),
            Metrics(CollectorRegistry()),
            ApplierOptions(commit_idle=True),
            progressed=lambda: None,
            append=lambda entries: None,
        )
        command = [sys.executable, "-m", __name__, str(begin), str(_START_MS), str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
            assert sender.stdout is not None
            applier.start()
            lags: list[int] = []
            # What was there before events came is not theirs.
            time.sleep(max(0.0, begin / 1_000 - time.time()))
            cpu, began = time.process_time(), time.perf_counter()
            last: dict[int, int] = {}
            ingest = threading.Thread(
                target=_ingest, args=(sender.stdout, log, applier, last), name="ingest"
            )
            ingest.start()
            while ingest.is_alive():
                ingest.join(0.25)
                lags.append(applier.lag)
                log.trim(applier.committed)
            taken = time.perf_counter() - began
            events, applied = log.end, applier.applied[0]
            spent = time.process_time() - cpu
            patience = time.perf_counter() + _PATIENCE_S
            while len(releases) < minutes and time.perf_counter() < patience:
                time.sleep(0.25)  # only where the machine did not give the engine its time
            made = releases[:minutes]
        applier.stop()
        if applier.failure is not None:
            raise RuntimeError(applier.failure)
        if not made:
            raise RuntimeError("the machine is too busy: no release was made in time")
        kept_up = max(lags) < _KEPT_UP_S * EVENTS_PER_S
        _check(ledger, last, made, all_counted=kept_up)
        publishing = _make_records(ledger, made[-1].pane, folder / "published")
        engine.close()
        log.close()
        ledger.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return Run(made, taken, events, applied, max(lags), spent, memory, publishing)


@contextlib.contextmanager
def _timed() -> Iterator[list[Release]]:
    """Note what each release takes the thread that makes it."""
    releases: list[Release] = []

    class Timed(Publisher):
        def store(self, watermark: int, *, claim: DayClaim | None = None) -> dict[str, list[int]]:
            cpu, began = time.thread_time(), time.perf_counter()
            stored = super().store(watermark, claim=claim)
            taken, waited = time.thread_time() - cpu, time.perf_counter() - began
            for start in stored.get("items", []):
                # The watermark was the clock less the allowance when the work began.
                behind = (watermark + ALLOWANCE_MS - start - MINUTE_MS) / 1_000 + waited
                releases.append(Release(start, taken / len(stored["items"]), waited, behind))
            return stored

    with mock.patch("tactful.statistics.counter.Publisher", Timed):
        yield releases


def _ingest(source: BinaryIO, log: EmbeddedLog, applier: LogApplier, last: dict[int, int]) -> None:
    """Append what comes through the pipe, durably, and wake the engine; as the door does."""
    while head := source.read(_LENGTH):
        payloads: list[bytes] = msgspec.msgpack.decode(
            source.read(int.from_bytes(head, "little")), type=list[bytes]
        )
        if len(payloads) == 1:  # the last word: how many events each minute had
            last.update(msgspec.json.decode(payloads[0], type=dict[int, int]))
            return
        applier.notice({0: log.append(payloads)})


def _check(
    ledger: Ledger, events: dict[int, int], releases: list[Release], *, all_counted: bool
) -> None:
    """Compare releases with the events of their minutes; no event may be counted twice."""
    deviation = 2**0.5 * CAP * CELLS**0.5
    for release in releases:
        page = ledger.read("items", start=release.pane, end=release.pane + 1, limit=1)
        noisy = page.releases[0].noisy_counts
        if len(noisy) != CELLS or np.count_nonzero(noisy) < CELLS // 2:
            raise RuntimeError("a release does not hold a million noisy cells")
        more = int(noisy.sum()) - events[release.pane]
        if more > 8 * deviation or (all_counted and more < -8 * deviation):
            raise RuntimeError(
                f"{events[release.pane]:,} events came in a minute, and its release is {more:+,}"
                " from that"
            )


def _make_records(ledger: Ledger, pane: int, position: Path) -> float:
    """Processor seconds to make the records of one release as a topic gets them."""
    position.write_bytes(msgspec.json.encode({"items": pane - 1}))
    rows: list[int] = []
    began = time.process_time()
    write_topic(
        ledger,
        [ledger.statistic("items")],
        lambda records: rows.append(len(records)),
        position=position,
        shown_before=lambda _: pane + 1,
    )
    if rows != [CELLS]:
        raise RuntimeError(f"records of one release were to be made, and these were: {rows}")
    return time.process_time() - began


def send(begin: int, start: int, seconds: int, target: BinaryIO) -> None:
    """Make events at the pace of the clock and write them, in small batches.

    Args:
        begin: when, epoch milliseconds.
        start: the time that the run's clock shows then.
        seconds: for how long.
        target: where to; each batch is a length and a list.
    """
    encode = msgspec.json.Encoder().encode
    sent, of_minute = 0, Counter[int]()
    total = seconds * EVENTS_PER_S
    for tick in itertools.count(1):
        time.sleep(max(0.0, begin / 1_000 + tick * _TICK_S - time.time()))
        elapsed = time.time_ns() // 1_000_000 - begin
        due = min(total, elapsed * EVENTS_PER_S // 1_000)
        at = start + elapsed
        batch = [
            encode(
                Event(
                    event_id=f"{n:012x}",
                    type="view",
                    timestamp=at,
                    user_id=f"u{n * _PRIMES[0] % PEOPLE}",
                    properties={"item": f"item-{n * _PRIMES[1] % CELLS}"},
                )
            )
            for n in range(sent, due)
        ]
        of_minute[at - at % MINUTE_MS] += len(batch)
        if len(batch) > 1:
            _write(target, batch)
            sent = due
        if sent == total:
            break
    _write(target, [msgspec.json.encode(of_minute)])


def _write(target: BinaryIO, batch: list[bytes]) -> None:
    packed = msgspec.msgpack.encode(batch)
    target.write(len(packed).to_bytes(_LENGTH, "little") + packed)
    target.flush()


if __name__ == "__main__":
    _begin, _start, _seconds = map(int, sys.argv[1:])
    send(_begin, _start, _seconds, sys.stdout.buffer)

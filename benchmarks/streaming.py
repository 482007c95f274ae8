"""The streaming engine beside Flink and Quix Streams, and what it promises on its own.

Peers do the same work on the same topic in the same run, in turns. Figures of rate are events per
CPU-second: the CPU time of all threads of the process that computes (of Flink its TaskManager), not
of the broker. Quix Streams has an environment of its own, `.venv-peers`; Flink comes from
`scripts/flink fetch`. Before anything is timed, results are compared.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from math import isclose
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._services import redis
from benchmarks._streaming_engine import hll_error, six_windows, spill
from benchmarks._streaming_events import (
    DELAY_MS,
    Topic,
    broker,
    ended,
    fill,
    make_topic,
    read_all,
)
from benchmarks._streaming_flink import SETTINGS, Flink, Run, flink
from benchmarks._streaming_freshness import freshness
from benchmarks._streaming_kills import kills
from benchmarks._streaming_server import worker
from benchmarks.figures import Figure, main

_ROOT = Path(__file__).resolve().parents[1]
_QUIX = "quixstreams==3.28.1"

# What Flink does for its CPU that a ratio of rates does not show.
_FLINK_ALSO = (
    "Flink also spreads keys over machines, moves state while running, checkpoints to remote "
    "storage and isolates jobs; we run one process and scale by partitions"
)
_QUIX_ALSO = (
    "Quix also writes each state change to a changelog topic, from which another host recovers"
)


def run(quick: bool) -> list[Figure]:
    """Measure. Quick reads fewer events, once, and spills a smaller state."""
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        scratch = Path(name)
        figures: list[Figure] = []
        parts: list[tuple[Sequence[tuple[str, str]], Callable[[], list[Figure]]]] = [
            (_PEERS, lambda: _peers(quick, scratch)),
            ((("six_windows_decode_share", "1"),), lambda: [six_windows(quick)]),
            ((("freshness_p99_ms_embedded", "ms"),), lambda: [_embedded(quick, scratch)]),
            ((("freshness_p99_ms_kafka_redis", "ms"),), lambda: [_kafka_redis(quick, scratch)]),
            (
                (("spill_rate_ratio", "1"), ("spill_restore_s", "s")),
                lambda: spill(quick, scratch),
            ),
            (
                (("kills", "1"), ("kill_lost_events", "1"), ("kill_wrong_values", "1")),
                lambda: kills(quick, scratch),
            ),
            (
                (("flink_rows_compared", "1"), ("flink_rows_different", "1")),
                lambda: _flink_rows(quick, scratch),
            ),
            ((("hll_error_p95", "1"),), lambda: [hll_error(quick)]),
        ]
        for names, part in parts:
            try:
                figures += part()
            except Exception as error:  # one part that cannot be measured must not cost the others
                traceback.print_exc()
                reason = f"could not be measured: {type(error).__name__}: {error}"
                figures += [Figure(name, None, unit, note=reason[:400]) for name, unit in names]
        return figures


_PEERS = (
    ("hop_vs_flink", "1"),
    ("hop_vs_quix", "1"),
    ("decay_vs_flink", "1"),
    ("cep_vs_flink", "1"),
    ("hop_events_per_s_wall", "events/s"),
)


def _peers(quick: bool, scratch: Path) -> list[Figure]:
    """The three jobs, by us and the peers in turns."""
    count, rounds = (600_000, 1) if quick else (2_000_000, 3)
    with broker(scratch) as (servers, what), flink(scratch) as cluster:
        topic = fill(servers, "events", count)
        contest = _Contest(topic, cluster, scratch)
        # How much of the stream Flink gets of each job: the slow ones would take hours on all.
        shares = {"hop": count, "decay": max(count // 4, 300_000), "cep": max(count // 10, 120_000)}
        compared = contest.compare(shares)  # also warms the JVM
        runs: dict[str, list[Run]] = {}
        for _ in range(rounds):
            for kind, events in shares.items():
                runs.setdefault(f"ours {kind}", []).append(contest.ours(kind))
                runs.setdefault(f"flink {kind}", []).append(contest.flink(kind, events))
            runs.setdefault("quix hop", []).append(contest.quix(count // 5))
        version = contest.quix_version
    load = f"load {os.getloadavg()[0]:.1f}, broker {what}; {compared}"
    flink_note = f"{SETTINGS}; {_FLINK_ALSO}; {load}"
    quix_note = f"Quix Streams {version}, changelog on; {_QUIX_ALSO}; {load}"
    figures = [
        _ratio(f"{kind}_vs_flink", runs[f"ours {kind}"], runs[f"flink {kind}"], flink_note)
        for kind in ("hop", "decay", "cep")
    ]
    figures.insert(1, _ratio("hop_vs_quix", runs["ours hop"], runs["quix hop"], quix_note))
    walls = [one.events / one.wall_s for one in runs["ours hop"]]
    note = f"one worker process, state in RocksDB, committed every 10 s; {load}"
    figures.append(_spread("hop_events_per_s_wall", walls, "events/s", note))
    for name, taken in runs.items():
        contender, kind = name.split()
        rates = [one.rate for one in taken]
        named = f"{kind}_events_per_cpu_s_{contender}"
        figures.append(_spread(named, rates, "events/CPU-s", f"{taken[0].events:,} events"))
    return figures


class _Contest:
    """Runs one job by one contender, each time into a topic of its own."""

    def __init__(self, topic: Topic, cluster: Flink, scratch: Path) -> None:
        self._topic, self._cluster, self._scratch = topic, cluster, scratch
        self._number = 0
        self._python = _peers_environment()
        self.quix_version = ""

    def ours(self, kind: str) -> Run:
        return self._job(kind, self._output(f"ours-{kind}"))

    def flink(self, kind: str, events: int) -> Run:
        return self._cluster.run(kind, self._topic, self._output(f"flink-{kind}"), events)

    def quix(self, events: int) -> Run:
        output = self._output("quix-hop")
        folder = self._scratch / output
        script = str(_ROOT / "benchmarks" / "peers" / "quix_hop.py")
        arguments = [self._topic.servers, self._topic.name, output, str(events), str(DELAY_MS)]
        line = _last_line([str(self._python), script, *arguments, str(folder)])
        self.quix_version = json.loads(line)["version"]
        shutil.rmtree(folder, ignore_errors=True)
        return _run_of(line)

    def compare(self, events: Mapping[str, int]) -> str:
        """Check that we and Flink find the same; what was compared, in words.

        Args:
            events: how much of the stream Flink gets of each job. We get all of it; what is sure
                to have ended in both is compared.

        Raises:
            RuntimeError: if anything differs.
        """
        counts = []
        for kind, count in events.items():
            until = ended(count)
            ours, theirs = self._output(f"ours-{kind}"), self._output(f"flink-{kind}")
            self._job(kind, ours)
            self._cluster.run(kind, self._topic, theirs, count)
            read = _READ[kind]
            expected, found = (
                {key: value for key, end, value in map(read, rows) if end <= until}
                for rows in (
                    read_all(theirs, self._topic.servers),
                    read_all(ours, self._topic.servers),
                )
            )
            different = sum(
                key not in expected
                or key not in found
                or not isclose(expected[key], found[key], rel_tol=1e-9)
                for key in expected.keys() | found.keys()
            )
            if different or not expected:
                raise RuntimeError(
                    f"{different} of {len(expected):,} rows of {kind} differ from Flink's"
                )
            counts.append(f"{len(expected):,} of {kind}")
        return f"rows equal to Flink's before timing: {', '.join(counts)}"

    def _job(self, kind: str, output: str) -> Run:
        folder = self._scratch / output
        arguments = [kind, self._topic.servers, self._topic.name, output, str(self._topic.count)]
        module = [sys.executable, "-m", "benchmarks._streaming_job"]
        run = _run_of(_last_line([*module, *arguments, str(folder)]))
        shutil.rmtree(folder, ignore_errors=True)
        return run

    def _output(self, name: str) -> str:
        self._number += 1
        topic = f"{name}-{self._number}"
        make_topic(self._topic.servers, topic, 1)
        return topic


_Row = tuple[tuple[str, ...], int, float]
"""What a row is about, the end of its window, epoch milliseconds, and its number."""


def _window_row(row: Mapping[str, Any]) -> _Row:
    """A row of a window, of ours or Flink's."""
    end = row["window_end"]
    if isinstance(end, str):
        end = round(datetime.fromisoformat(end).timestamp() * 1000)
    key = row.get("entity_key") or row["user_id"], row.get("group_key") or row.get("category") or ""
    return (*key, str(end)), end, float(row["feature_value"])


def _match_row(row: Mapping[str, Any]) -> _Row:
    """A match, of ours or Flink's."""
    events = row.get("events") or (row["viewed"], row["added"], row["gone"])
    return tuple(events), row["end"], row["start"]


_READ: Mapping[str, Callable[[Mapping[str, Any]], _Row]] = {
    "hop": _window_row,
    "decay": _window_row,
    "cep": _match_row,
}


def _peers_environment() -> Path:
    """The Python that has Quix Streams, in an environment of its own."""
    folder = _ROOT / ".venv-peers"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", _QUIX], check=True)
    return python


def _last_line(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, timeout=1800, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}… failed: {done.stderr.strip()[-600:]}")
    return done.stdout.strip().splitlines()[-1]


def _run_of(line: str) -> Run:
    record = json.loads(line)
    return Run(record["events"], record["cpu_s"], record["wall_s"], record["rows"])


def _ratio(name: str, ours: Sequence[Run], theirs: Sequence[Run], note: str) -> Figure:
    """Our events per CPU-second over theirs, round by round."""
    return _spread(
        name, [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)], "1", note, digits=2
    )


def _spread(name: str, values: Sequence[float], unit: str, note: str, *, digits: int = 0) -> Figure:
    low, middle, high = (round(v, digits) for v in (min(values), median(values), max(values)))
    return Figure(name, middle, unit, low, high, len(values), note)


def _embedded(quick: bool, scratch: Path) -> Figure:
    seconds = 15 if quick else 60
    return freshness("freshness_p99_ms_embedded", scratch / "embedded", {}, seconds)


def _kafka_redis(quick: bool, scratch: Path) -> Figure:
    with broker(scratch) as (servers, _), redis(scratch) as url:
        settings = {
            "TACTFUL_LOG__KIND": "kafka",
            "TACTFUL_LOG__BROKERS": servers,
            "TACTFUL_ONLINE__KIND": "redis",
            "TACTFUL_REDIS_URL": url,
        }
        seconds = 15 if quick else 60
        with worker(scratch / "worker", settings):
            return freshness(
                "freshness_p99_ms_kafka_redis", scratch / "kafka-redis", settings, seconds
            )


def _flink_rows(quick: bool, scratch: Path) -> list[Figure]:
    """The differential gate of the tests, which records how many rows it compared."""
    report = scratch / "gate.xml"
    home = os.environ.get("TACTFUL_FLINK_HOME", str(_ROOT / ".flink"))
    with broker(scratch) as (servers, _):
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "tests/streaming/test_gate_flink.py"),
                *("-m", "not slow" if quick else "", f"--junitxml={report}"),
            ],
            cwd=_ROOT,
            env={**os.environ, "TACTFUL_TEST_KAFKA": servers, "TACTFUL_TEST_FLINK": home},
            stdout=subprocess.DEVNULL,
            check=False,
        )
    totals = {"rows_compared": 0, "rows_different": 0}
    cases = list(ElementTree.parse(report).iter("testcase"))
    for case in cases:
        for prop in case.iter("property"):
            if prop.get("name") in totals:
                totals[str(prop.get("name"))] += int(str(prop.get("value")))
    note = (
        f"random definitions over random disordered, late, repetitive logs, {len(cases)} logs: "
        "brute force = engine = Flink, floats to 1e-9"
    )
    return [
        Figure(f"flink_{name}", value, "1", runs=len(cases), note=note)
        for name, value in totals.items()
    ]


if __name__ == "__main__":
    main("streaming", run)

"""Three jobs by us, Flink and Quix Streams: Kafka in, Kafka out, in turns over the same topics.

Each job has a topic of its own length, for Flink's rates differ by a factor of ten. Whoever has
read all of it fires what is still open, so that everybody writes the same rows; they are compared
before anything is timed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from math import isclose
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import Figure
from benchmarks.streaming.events import DELAY_MS, Topic, broker, fill, make_topic, read_all
from benchmarks.streaming.flink import Flink, Run, flink, settings_of

_ROOT = Path(__file__).resolve().parents[2]
_QUIX = "quixstreams==3.28.1"
_COUNTS = {"hop": 1_200_000, "decay": 300_000, "cep": 300_000}
_COUNTS_QUICK = {"hop": 600_000, "decay": 300_000, "cep": 120_000}
_QUIX_COUNT = 300_000  # a minute of events, so that it closes some windows
_ROUNDS, _ROUNDS_QUICK = 3, 1
_WARMING = 5
"""Runs before it is timed after which a JVM has compiled what it runs: a million events took it
twice as much CPU in the first as in the third, and a quarter less again in the fifth."""

# What the peers do for their CPU that a ratio of rates does not show.
_FLINK_ALSO = (
    "Flink also spreads keys over machines, moves state while running, checkpoints to remote "
    "storage and isolates jobs; we run one process and scale by partitions"
)
_QUIX_ALSO = (
    "Quix also writes each state change to a changelog topic, from which another host recovers; "
    "it leaves open what is open at the end, and so writes fewer rows"
)


class Contest:
    """Runs one job by one contender, each time into a topic of its own.

    The broker, the topics and Flink are made when they are first needed, and go with the contest.
    """

    def __init__(self, quick: bool, scratch: Path) -> None:
        """Prepare; nothing is started yet."""
        self._counts = _COUNTS_QUICK if quick else _COUNTS
        self._rounds = _ROUNDS_QUICK if quick else _ROUNDS
        self._warming = 1 if quick else _WARMING
        self._scratch = scratch / "contest"
        self._scratch.mkdir()
        self._started = contextlib.ExitStack()
        self._topics: dict[str, Topic] = {}
        self._outputs = 0
        self._suffix = uuid.uuid4().hex[:12]  # a broker that was named keeps earlier topics

    def close(self) -> None:
        """Stop what was started."""
        self._started.close()

    def hop(self) -> list[Figure]:
        """Counts of each user in hopping windows, beside Flink; and how fast by the clock."""
        figures, ours = self._beside_flink("hop")
        walls = [one.events / one.wall_s for one in ours]
        note = f"one worker process, state in RocksDB, committed every 10 s; {self._load()}"
        return [*figures, _spread("hop_events_per_s_wall", walls, "events/s", note)]

    def decay(self) -> list[Figure]:
        """Decayed counts of each user and category, beside Flink."""
        return self._beside_flink("decay")[0]

    def cep(self) -> list[Figure]:
        """View, put into the cart, leave: beside Flink."""
        return self._beside_flink("cep")[0]

    def quix(self) -> list[Figure]:
        """Counts of each user in hopping windows, beside Quix Streams."""
        runs: list[tuple[Run, Run]] = []
        compared = 0
        for _ in range(self._rounds):
            ours, theirs = self._output("ours-hop"), self._output("quix-hop")
            runs.append((self._ours("hop", ours), self._quix(theirs)))
            expected, rows = self._rows("hop", ours), read_all(theirs, self._servers)
            found = {(key, "", str(row["end"])): row["value"] for key, row in rows}
            different = [key for key, value in found.items() if expected.get(key) != value]
            if different or not found:
                raise RuntimeError(
                    f"Quix Streams wrote {len(found):,} rows, {len(different):,} of which we did "
                    f"not: {different[:3]}"
                )
            compared += len(found)
        note = (
            f"{_QUIX.replace('==', ' ')}, changelog on; {_QUIX_ALSO}; {compared:,} rows that it "
            f"wrote are equal to ours; {self._load()}"
        )
        return [
            _ratio("hop_vs_quix", runs, note),
            _rates("hop_events_per_cpu_s_quix", [theirs for _, theirs in runs]),
        ]

    def _beside_flink(self, kind: str) -> tuple[list[Figure], list[Run]]:
        """Compare the rows, then take turns."""
        ours, theirs = self._output(f"ours-{kind}"), self._output(f"flink-{kind}")
        self._ours(kind, ours)
        self._cluster.run(kind, self._topic(kind), theirs)
        expected, found = self._rows(kind, theirs), self._rows(kind, ours)
        different = sum(
            key not in expected
            or key not in found
            or not isclose(expected[key], found[key], rel_tol=1e-9)
            for key in expected.keys() | found.keys()
        )
        if different or not expected:
            raise RuntimeError(
                f"{different:,} rows of {kind} differ: Flink wrote {len(expected):,}, "
                f"we {len(found):,}"
            )
        for _ in range(self._warming - 1):
            self._cluster.run(kind, self._topic(kind), self._output(f"warming-{kind}"))
        runs: list[tuple[Run, Run]] = []
        for _ in range(self._rounds):
            run = self._ours(kind, self._output(f"ours-{kind}"))
            topic, output = self._topic(kind), self._output(f"flink-{kind}")
            runs.append((run, self._cluster.run(kind, topic, output)))
        note = (
            f"{settings_of(kind)}; {_FLINK_ALSO}; all {len(expected):,} rows equal before timing; "
            f"{self._load()}"
        )
        figures = [
            _ratio(f"{kind}_vs_flink", runs, note),
            _rates(f"{kind}_events_per_cpu_s_ours", [ours for ours, _ in runs]),
            _rates(f"{kind}_events_per_cpu_s_flink", [theirs for _, theirs in runs]),
        ]
        return figures, [ours for ours, _ in runs]

    def _ours(self, kind: str, output: str) -> Run:
        folder, topic = self._scratch / output, self._topic(kind)
        arguments = [kind, topic.servers, topic.name, output, str(topic.count)]
        module = [sys.executable, "-m", "benchmarks.streaming.job"]
        run = _run_of(_last_line([*module, *arguments, str(folder)]))
        shutil.rmtree(folder, ignore_errors=True)
        return run

    def _quix(self, output: str) -> Run:
        folder, topic = self._scratch / output, self._topic("hop")
        script = str(_ROOT / "benchmarks" / "peers" / "quix_hop.py")
        arguments = [topic.servers, topic.name, output, str(_QUIX_COUNT), str(DELAY_MS)]
        run = _run_of(_last_line([str(self._python), script, *arguments, str(folder)]))
        shutil.rmtree(folder, ignore_errors=True)
        return run

    def _rows(self, kind: str, output: str) -> dict[tuple[str, ...], float]:
        """What a job wrote, by what each row is about."""
        return dict(_READ[kind](row) for _, row in read_all(output, self._servers))

    @cached_property
    def _broker(self) -> tuple[str, str]:
        return self._started.enter_context(broker(self._scratch))

    @property
    def _servers(self) -> str:
        return self._broker[0]

    @cached_property
    def _cluster(self) -> Flink:
        return self._started.enter_context(flink(self._scratch))

    @cached_property
    def _python(self) -> Path:
        return _peers_environment()

    def _topic(self, kind: str) -> Topic:
        if kind not in self._topics:
            self._topics[kind] = fill(
                self._servers, f"events-{kind}-{self._suffix}", self._counts[kind]
            )
        return self._topics[kind]

    def _output(self, name: str) -> str:
        self._outputs += 1
        topic = f"{name}-{self._outputs}-{self._suffix}"
        make_topic(self._servers, topic, 1)
        return topic

    def _load(self) -> str:
        return f"load {os.getloadavg()[0]:.1f}, broker {self._broker[1]}"


_Row = tuple[tuple[str, ...], float]
"""What a row is about, and its number."""


def _window_row(row: Mapping[str, Any]) -> _Row:
    """A row of a window, of ours or Flink's."""
    end = row["window_end"]
    if isinstance(end, str):
        end = round(datetime.fromisoformat(end).timestamp() * 1000)
    key = row.get("entity_key") or row["user_id"], row.get("group_key") or row.get("category") or ""
    return (*key, str(end)), float(row["feature_value"])


def _match_row(row: Mapping[str, Any]) -> _Row:
    """A match, of ours or Flink's."""
    events = row.get("events") or (row["viewed"], row["added"], row["gone"])
    return (*events, str(row["end"])), float(row["start"])


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
        command, cwd=_ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}… failed: {done.stderr.strip()[-600:]}")
    return done.stdout.strip().splitlines()[-1]


def _run_of(line: str) -> Run:
    record = json.loads(line)
    return Run(record["events"], record["cpu_s"], record["wall_s"], record["rows"])


def _ratio(name: str, runs: Sequence[tuple[Run, Run]], note: str) -> Figure:
    """Our events per CPU-second over theirs, round by round."""
    return _spread(name, [ours.rate / theirs.rate for ours, theirs in runs], "1", note, digits=2)


def _rates(name: str, runs: Sequence[Run]) -> Figure:
    note = f"{runs[0].events:,} events, {runs[0].rows or 'as many'} rows"
    return _spread(name, [run.rate for run in runs], "events/CPU-s", note)


def _spread(name: str, values: Sequence[float], unit: str, note: str, *, digits: int = 0) -> Figure:
    low, middle, high = (round(v, digits) for v in (min(values), median(values), max(values)))
    return Figure(name, middle, unit, low, high, len(values), note)

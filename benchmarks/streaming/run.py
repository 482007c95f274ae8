"""The streaming engine beside Flink and Quix Streams, and what it promises on its own.

Peers do the same work on the same topic in the same run, in turns. Figures of rate are events per
CPU-second: the CPU time of all threads of the process that computes (of Flink its TaskManager), not
of the broker. Quix Streams has an environment of its own, `.venv-peers`; Flink comes from
`scripts/flink fetch`. Before anything is timed, results are compared. On the Apache Kafka that
`TACTFUL_TEST_KAFKA` names, the names of the figures end in `_apache`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import uuid
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

from benchmarks.apache_kafka import named_servers
from benchmarks.figures import Figure, Part, main, measure
from benchmarks.services import redis
from benchmarks.streaming.broker import fetch_growth
from benchmarks.streaming.engine import hll_error, six_windows, spill
from benchmarks.streaming.events import broker
from benchmarks.streaming.freshness import Run, as_figure, freshness, observe, pooled
from benchmarks.streaming.kills import APACHE, PLANTED, kills, kills_apache, kills_planted
from benchmarks.streaming.partitions import cpu_by_partitions
from benchmarks.streaming.peers import Contest
from benchmarks.streaming.server import worker

_ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "hop",
    "quix",
    "decay",
    "cep",
    "six-windows",
    "partitions",
    "freshness-embedded",
    "freshness-kafka-redis",
    "spill",
    "kills",
    "kills-apache",
    "kills-planted",
    "flink-rows",
    "hll",
)
_ON_KAFKA = frozenset({"hop", "quix", "decay", "cep", "freshness-kafka-redis", "flink-rows"})
_QUICK_LOGS = "agrees and not at_length"
"""Tests whose logs a quick run compares."""
_SPELLS = 4
_SPELL_S = 15


def run(quick: bool, only: str | None = None) -> list[Figure]:
    """Measure. Quick reads fewer events, once, and spills a smaller state."""
    with (
        tempfile.TemporaryDirectory(prefix="tactful-bench-") as name,
        contextlib.closing(Contest(quick, Path(name))) as contest,
    ):
        return measure(_parts(quick, Path(name), contest), only)


def _parts(quick: bool, scratch: Path, contest: Contest) -> list[Part]:
    figures_and_measures = (
        (
            (("hop_vs_flink", "1"), ("hop_events_per_s_wall", "events/s")),
            contest.hop,
        ),
        ((("hop_vs_quix", "1"),), contest.quix),
        ((("decay_vs_flink", "1"),), contest.decay),
        ((("cep_vs_flink", "1"),), contest.cep),
        (
            (("six_windows_decode_share", "1"),),
            lambda: six_windows(quick),
        ),
        (
            (
                ("cpu_us_per_event_1_partition", "us"),
                ("cpu_us_per_event_50_partitions", "us"),
                ("cpu_50_partitions_vs_1", "1"),
            ),
            lambda: cpu_by_partitions(quick),
        ),
        ((("freshness_p99_ms_embedded", "ms"),), lambda: [_embedded(quick, scratch)]),
        ((("freshness_p99_ms_kafka_redis", "ms"),), lambda: _kafka_redis(quick, scratch)),
        (
            (("spill_rate_ratio", "1"), ("spill_restore_s", "s")),
            lambda: spill(quick, scratch),
        ),
        (
            (("kills", "1"), ("kill_lost_events", "1"), ("kill_wrong_values", "1")),
            lambda: kills(quick, scratch),
        ),
        (APACHE, lambda: kills_apache(quick, scratch)),
        (PLANTED, lambda: kills_planted(quick, scratch)),
        (
            (("flink_rows_compared", "1"), ("flink_rows_different", "1")),
            lambda: _flink_rows(quick, scratch),
        ),
        ((("hll_error_p95", "1"),), lambda: [hll_error(quick)]),
    )
    suffix = "_apache" if named_servers() else ""
    return [
        Part(name, figures, measure, suffix if name in _ON_KAFKA else "")
        for name, (figures, measure) in zip(PARTS, figures_and_measures, strict=True)
    ]


def _embedded(quick: bool, scratch: Path) -> Figure:
    seconds = 15 if quick else 60
    return freshness("freshness_p99_ms_embedded", scratch / "embedded", {}, seconds)


def _kafka_redis(quick: bool, scratch: Path) -> list[Figure]:
    """Spells of one length, each on a broker of its own, and a long one to compare.

    To answer a fetch the broker in memory goes through all batches of the partition, where Kafka
    looks into an index: a long run measures that.
    """
    name = "freshness_p99_ms_kafka_redis"
    if quick:
        spell = _spell(scratch / "spell", _SPELL_S)
        return [as_figure(name, spell.observed, spell.cores)]
    spells = pooled([_spell(scratch / f"spell-{n}", _SPELL_S) for n in range(_SPELLS)])
    figure = as_figure(name, spells.observed, spells.cores)
    said = f"{_SPELLS} runs of {_SPELL_S} s, each in a new topic; "
    if not named_servers():
        said = f"{_SPELLS} runs of {_SPELL_S} s, each on a new broker: see broker_fetch_growth; "
    long = _spell(scratch / "long", _SPELLS * _SPELL_S)
    figures = [
        replace(figure, note=said + figure.note),
        as_figure(f"{name}_long", long.observed, long.cores),
    ]
    return figures if named_servers() else [*figures, fetch_growth(scratch)]


def _spell(scratch: Path, seconds: float) -> Run:
    scratch.mkdir()
    topic = f"freshness-{uuid.uuid4().hex}"
    with broker(scratch) as (servers, _), redis(scratch) as url:
        settings = {
            "TACTFUL_LOG__KIND": "kafka",
            "TACTFUL_LOG__BROKERS": servers,
            "TACTFUL_LOG__TOPIC": topic,
            "TACTFUL_WORKER__GROUP": topic,
            "TACTFUL_LOG__CONSUMER_THREADS": "1",  # for which there is one worker
            "TACTFUL_ONLINE__KIND": "redis",
            "TACTFUL_REDIS_URL": url,
        }
        with worker(scratch / "worker", settings):
            return observe(scratch / "server", settings, seconds)


def _flink_rows(quick: bool, scratch: Path) -> list[Figure]:
    """The differential gate of the tests, which records how many rows it compared."""
    report = scratch / "gate.xml"
    home = os.environ.get("TACTFUL_FLINK_HOME", str(_ROOT / ".flink"))
    environment = {key: it for key, it in os.environ.items() if key != "TACTFUL_TEST_BROKER"}
    with broker(scratch) as (servers, _):
        subprocess.run(
            [
                *(
                    sys.executable,
                    "-m",
                    "pytest",
                    "-q",
                    "tests/streaming/differential/test_flink.py",
                ),
                *("-m", "", *(("-k", _QUICK_LOGS) if quick else ()), f"--junitxml={report}"),
            ],
            cwd=_ROOT,
            env={**environment, "TACTFUL_TEST_KAFKA": servers, "TACTFUL_TEST_FLINK": home},
            stdout=subprocess.DEVNULL,
            check=False,
        )
    totals = {"rows_compared": 0, "rows_different": 0}
    cases = list(ElementTree.parse(report).iter("testcase"))
    for case in cases:
        for prop in case.iter("property"):
            if prop.get("name") in totals:
                totals[str(prop.get("name"))] += int(str(prop.get("value")))
    if not cases:
        raise RuntimeError("no test was collected")
    note = (
        f"random definitions over random disordered, late, repetitive logs, {len(cases)} logs: "
        "brute force = engine = Flink, floats to 1e-9"
    )
    return [
        Figure(f"flink_{name}", value, "1", runs=len(cases), note=note)
        for name, value in totals.items()
    ]


if __name__ == "__main__":
    main("streaming", run, parts=PARTS)

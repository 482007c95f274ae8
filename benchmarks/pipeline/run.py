"""The whole path: how long the demo takes, how fresh features are, how fast lists come.

Every figure comes from the product as a user runs it: the demo's own commands, a server process
spoken to over HTTP, a ``kill -9`` in the middle of a replay.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Part, main, measure
from benchmarks.pipeline.dashboard import PAGE_FIGURES, dashboard_pages
from benchmarks.pipeline.first_day import LIST_STAGES, MODEL_STAGES, csv_to_model, first_list
from tactful.client import Client
from tactful.demo.datasets import Replay, completejourney
from tactful.errors import Busy, ConnectionFailed
from tactful.schemas.positions import Position

_ROOT = Path(__file__).resolve().parents[2]
_BATCH = 500
_RECOVERIES = 5


_DEMO_NAMES = ("demo_quick_s", "demo_full_s")
_PARTS = ("demo", "recovery", "setup", "first-list", "csv-to-model", "dashboard")


def run(quick: bool, only: str | None = None) -> list[Figure]:
    """Measure. Quick leaves out the full demo and the cold set-up, which take minutes."""
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        scratch = Path(name)
        for part in _PARTS:
            (scratch / part).mkdir()
        list_names = ("first_list_s", *(f"first_list_{stage}_s" for stage in LIST_STAGES))
        model_names = ("csv_to_model_s", *(f"csv_to_model_{stage}_s" for stage in MODEL_STAGES))
        measured: list[tuple[tuple[str, ...], Callable[[], list[Figure]]]] = [
            (_DEMO_NAMES, lambda: _demo_figures(scratch / "demo", quick)),
            (("restart_recovery_s",), lambda: [_recovery(scratch / "recovery" / "data")]),
            (("setup_cold_s",), lambda: [_setup(scratch / "setup" / "clone", quick)]),
            (list_names, lambda: first_list(scratch / "first-list")),
            (model_names, lambda: csv_to_model(scratch / "csv-to-model", quick=quick)),
            (PAGE_FIGURES, lambda: dashboard_pages(scratch / "dashboard", quick=quick)),
        ]
        parts = [
            Part(part, [(figure, "s") for figure in names], work)
            for part, (names, work) in zip(_PARTS, measured, strict=True)
        ]
        return measure(parts, only)


def _demo_figures(scratch: Path, quick: bool) -> list[Figure]:
    slice_s, report = _demo(scratch / "quick", "--quick")
    figures = [_seconds("demo_quick_s", slice_s, "220 households, process start to report")]
    if quick:
        figures.append(_absent("demo_full_s", "s", "left out by --quick"))
    else:
        full_s, report = _demo(scratch / "full")
        figures.append(_seconds("demo_full_s", full_s, "all households, process start to report"))
    return figures + _from_report(report)


def _setup(directory: Path, quick: bool) -> Figure:
    return _absent("setup_cold_s", "s", "left out by --quick") if quick else _cold_setup(directory)


def _demo(directory: Path, *options: str) -> tuple[float, dict[str, Any]]:
    """Run ``tactful demo`` and return its wall seconds and its report."""
    directory.mkdir(parents=True)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tactful", "demo", "--json", "--port", "0", *options],
        cwd=directory,
        stdout=subprocess.PIPE,
        check=True,
    )
    return time.perf_counter() - started, json.loads(done.stdout)


def _from_report(report: dict[str, Any]) -> list[Figure]:
    latency, freshness = report["latency_ms"], report["freshness_ms"]
    where = "over HTTP on loopback while the demo replays, one client"
    return [
        Figure(
            "freshness_p99_ms",
            freshness["p99"],
            "ms",
            runs=freshness["samples"],
            note=f"event sent to feature read, {where}",
        ),
        Figure("recommend_p50_ms", latency["p50"], "ms", runs=latency["requests"], note=where),
        Figure("recommend_p99_ms", latency["p99"], "ms", runs=latency["requests"], note=where),
        *(
            Figure(
                f"demo_{row['name']}_hr20",
                row["hr20"]["value"],
                "1",
                low=row["hr20"]["low"],
                high=row["hr20"]["high"],
                runs=report["questions"],
                note=report["data"],
            )
            for row in report["quality"]
        ),
        *(
            _seconds(f"demo_{stage.replace(' ', '_')}_s", seconds, "stage of the last demo")
            for stage, seconds in report["timings_s"].items()
        ),
    ]


def _recovery(directory: Path) -> Figure:
    """Seconds from starting a killed server to the first list that has seen everything accepted."""
    replay = completejourney(households=100)
    events = min(len(replay), 40_000)
    samples: list[float] = []
    process, client = _serve(directory)
    try:
        client.items(replay.items)
        for number in range(_RECOVERIES):
            start, end = (events * n // _RECOVERIES for n in (number, number + 1))
            position = _post(client, replay, start, end)
            process.send_signal(signal.SIGKILL)
            process.wait()
            client.close()
            began = time.perf_counter()
            process, client = _serve(directory)
            _await_ready(client)
            client.recommend(user_id=replay.person[0], after=position)
            samples.append(time.perf_counter() - began)
    finally:
        client.close()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    samples.sort()
    return Figure(
        "restart_recovery_s",
        samples[len(samples) // 2],
        "s",
        low=samples[0],
        high=samples[-1],
        runs=len(samples),
        note=f"kill -9 in a replay of {events:,} events, interpreter start included",
    )


def _serve(directory: Path) -> tuple[subprocess.Popen[bytes], Client]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tactful", "serve", "--dev", "--json", "--port", "0"),
            *("--data", str(directory)),
        ],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ConnectionFailed(f"the server in {directory} did not start")
    return process, Client(json.loads(line)["url"], timeout=60.0, retries=0)


def _await_ready(client: Client) -> None:
    """Ask often: the pauses a client makes between attempts would be most of the figure."""
    while True:
        try:
            client.health()
            return
        except Busy:
            time.sleep(0.005)


def _post(client: Client, replay: Replay, start: int, end: int) -> Position:
    position: Position = 0
    for first in range(start, end, _BATCH):
        last = min(first + _BATCH, end)
        position = client.events(replay.events(first, last)).position
    return position


def _cold_setup(directory: Path) -> Figure:
    """Seconds from a fresh clone to an installed environment, packages downloaded or cached."""
    subprocess.run(["git", "clone", "-q", str(_ROOT), str(directory)], check=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("TACTFUL_VENV", "VIRTUAL_ENV")}
    started = time.perf_counter()
    subprocess.run([str(directory / "scripts/environment")], check=True, env=environment)
    taken = time.perf_counter() - started
    shutil.rmtree(directory, ignore_errors=True)
    return _seconds("setup_cold_s", taken, "fresh clone, empty environment; pip's cache as it was")


def _seconds(name: str, value: float, note: str) -> Figure:
    return Figure(name, round(value, 2), "s", runs=1, note=note)


def _absent(name: str, unit: str, why: str) -> Figure:
    return Figure(name, None, unit, note=why)


if __name__ == "__main__":
    main("pipeline", run, parts=_PARTS)

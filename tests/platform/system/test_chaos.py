"""Strikes at processes find those that hang or end, and blame no other.

The same code measures the figures ``kills_apache`` and ``kill_…_apache`` on three brokers, and
``kill_planted_bugs_caught_apache`` with planted mistakes.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.platform import planted_bugs

from benchmarks.kills import chaos, processes
from benchmarks.kills.chaos import ACTIONS, KINDS, MOMENTS, Chaos, Report, deck
from benchmarks.kills.processes import Failures, Process, Victim
from benchmarks.streaming.kills import _BUGS, _MISTAKES, APACHE, apache_figures
from tactful.util.supervisor import RESTART

WORKS = """
import itertools, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for _ in itertools.count():
    print("partitions are assigned", file=sys.stderr, flush=True)
    print("x", flush=True)
    time.sleep(0.005)
"""
WORKS_ONCE = f"""
import pathlib, signal, time
if pathlib.Path("been").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3600)
{WORKS}
"""


def process(folder: Path, code: str, failures: Failures, name: str = "worker-0") -> Process:
    arguments = ["-S", "-c", code]
    launcher = [sys.executable]
    return Process(arguments, folder, name, environment={}, launcher=launcher, failures=failures)


def ended(running: Process, seconds: float = 30.0) -> None:
    """Wait until a process has ended by itself."""
    assert running._process is not None
    running._process.wait(seconds)


def test_an_end_by_itself_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no supervisor starts again counts as ended, what one does as a restart."""
    monkeypatch.setattr(processes, "_PAUSE_S", 0.0)
    failures = Failures()
    for code in (1, RESTART):
        worker = process(tmp_path, f"raise SystemExit({code})", failures)
        worker.start()
        ended(worker)
        worker.check()
        worker.kill()
    assert failures.restarts == {f"worker-0 with {RESTART}": 1}
    assert (len(failures.ended), failures.hung) == (1, [])
    assert "worker-0 ended with 1" in failures.ended[0]


def test_a_process_that_ignores_sigterm_hangs(tmp_path: Path) -> None:
    """What does not end on SIGTERM counts as hung, and is ended."""
    failures = Failures()
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\n"
    worker = process(tmp_path, code + "time.sleep(3600)", failures)
    worker.start()
    worker.await_word()
    assert worker.stop(timeout_s=0.05) == -signal.SIGABRT
    assert len(failures.hung) == 1


def test_every_kind_is_struck_by_everything_at_every_moment() -> None:
    """The strikes of a run come from all combinations."""
    every = len(KINDS) * len(ACTIONS) * len(MOMENTS)
    for seed in range(3):
        assert len(set(islice(deck(random.Random(seed), KINDS), every))) == every


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing last."""
    for name in ("_SHORT_S", "_HOLD_S", "_LONG_S", "_LOOK_S", "_MOMENT_S"):
        monkeypatch.setattr(chaos, name, 0.01)
    monkeypatch.setattr(chaos, "_WORKING_S", 5.0)


def strike(
    folder: Path, code: str, times: int, seed: int = 1, interrupt_s: float | None = None
) -> Report:
    """Strike at three processes without a broker."""
    report = Report(seed, times)
    names = ("server", "worker-0", "worker-1", "sink")
    processes = [process(folder, code, report.failures, name) for name in names]
    victims: list[Victim] = []
    for running in processes:
        running.start()
        out = folder / f"{running.name}.out"
        victims.append(Victim(running, lambda out=out: out.stat().st_size))  # type: ignore[misc]
    stub: Any = SimpleNamespace(brokers=[], await_whole=lambda: None, no_disks="none here")
    arrivals: Any = SimpleNamespace(wait=lambda seconds: True)
    load: Any = SimpleNamespace(check=lambda: None, faults=[], answer_s=1.0, acknowledged_s=2.0)
    striker = Chaos(report, stub, victims.pop(), arrivals, lambda line: None)
    striker.plan(KINDS[1:], outages=False)
    if interrupt_s is not None:
        threading.Timer(interrupt_s, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        assert striker(victims, load) == report.outcome.kills
    finally:
        for running in processes:
            running.kill()
    return report


@pytest.mark.usefixtures("fast")
def test_sound_processes_pass(tmp_path: Path) -> None:
    """Processes that come back after every strike are not blamed."""
    report = strike(tmp_path, WORKS, 8)
    assert report.failures == Failures()
    assert report.outcome.kills >= 8
    assert sum(report.strikes.values()) == 2 * report.outcome.kills
    assert report.notes == []


@pytest.mark.usefixtures("fast")
def test_an_interrupted_run_keeps_its_figures(tmp_path: Path) -> None:
    """An interrupt ends the strikes only."""
    report = strike(tmp_path, WORKS, 100_000, interrupt_s=0.5)
    assert 0 < report.outcome.kills < 100_000
    assert report.notes == ["ended before 100000 strikes"]


@pytest.mark.usefixtures("fast")
def test_a_process_that_neither_works_nor_ends_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that runs and does nothing counts as hung."""
    monkeypatch.setattr(chaos, "_WORKING_S", 0.2)
    (tmp_path / "been").touch()
    report = Report(1, 1)
    server = process(tmp_path, WORKS_ONCE, report.failures)
    server.start()
    stub: Any = SimpleNamespace(brokers=[], await_whole=lambda: None, no_disks="none here")
    striker = Chaos(report, stub, Victim(server, server.said), stub, lambda line: None)
    striker._victims = [striker._sink]
    striker._await_work()
    server.kill()
    assert len(report.failures.hung) == 1
    assert not report.sound


def test_what_was_not_compared_has_no_value() -> None:
    """A run that broke off reports what it counted, and no zero that nobody measured."""
    report = Report(7, 200, problem="Stalled: it stands still")
    report.outcome.kills = 3
    figures = {figure.name: figure for figure in apache_figures(report)}
    assert [*figures] == [name for name, _ in APACHE]
    assert figures["kills_apache"].value == 3
    assert figures["kill_lost_events_apache"].value is None
    assert "it stands still" in figures["kill_lost_events_apache"].note
    report.outcome.lost = 2
    assert {it.name: it for it in apache_figures(report)}["kill_lost_events_apache"].value == 2


def test_the_planted_mistakes_are_there() -> None:
    """The benchmark plants mistakes of the file that it starts."""
    assert Path(planted_bugs.__file__) == _BUGS
    assert planted_bugs.MISTAKES.keys() >= _MISTAKES.keys()

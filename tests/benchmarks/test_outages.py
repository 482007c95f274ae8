"""Faults are those that they are called, and a round finds losses."""

from __future__ import annotations

import itertools
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.platform import planted_bugs
from tests.platform.system.test_chaos import WORKS

from benchmarks.faults import outages, soak, strikes
from benchmarks.faults.network import TROUBLES, Link
from benchmarks.faults.outages import Round, as_figures, finished, run_round
from benchmarks.faults.releases import Releases, overspent_days
from benchmarks.faults.strikes import Fault, Strikes, process_faults
from benchmarks.figures import commit
from benchmarks.kills.processes import Failures, Process, Victim
from benchmarks.ports import free_port
from tactful.errors import ConnectionFailed
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import Statistic

WAIT_S = 10.0


@contextmanager
def echo() -> Iterator[int]:
    """A server that answers what it is sent; its port."""

    def answer(connection: socket.socket) -> None:
        with connection, suppress(ConnectionResetError):
            while data := connection.recv(1024):
                connection.sendall(data)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def link() -> Iterator[Link]:
    """A link to a server that answers what it is sent."""
    with echo() as port, Link(free_port(), port) as made:
        yield made


def connect(link: Link, timeout: float = WAIT_S) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout)


def asked(connection: socket.socket, text: bytes, timeout: float = WAIT_S) -> bytes:
    connection.settimeout(timeout)
    connection.sendall(text)
    return connection.recv(1024)


def test_a_link_passes_everything_on(link: Link) -> None:
    with connect(link) as first, connect(link) as second:
        assert asked(first, b"one") == b"one"
        assert asked(second, b"two") == b"two"
        first.shutdown(socket.SHUT_WR)
        assert first.recv(1024) == b"", "the end comes through"


def test_a_stalled_link_delivers_later(link: Link) -> None:
    with connect(link) as connection:
        assert asked(connection, b"one") == b"one"
        link.disturb("stall")
        with pytest.raises(TimeoutError):
            asked(connection, b"two", 0.3)
        link.restore()
        connection.settimeout(WAIT_S)
        assert connection.recv(1024) == b"two"


def test_a_cut_link_ends_connections(link: Link) -> None:
    with connect(link) as connection:
        assert asked(connection, b"one") == b"one"
        link.disturb("cut")
        assert connection.recv(1024) == b""
        with connect(link) as other:
            other.settimeout(WAIT_S)
            assert other.recv(1024) == b""
        link.restore()
        with connect(link) as other:
            assert asked(other, b"two") == b"two"


def test_a_reset_is_no_end(link: Link) -> None:
    with connect(link) as connection:
        assert asked(connection, b"one") == b"one"
        link.disturb("reset")
        with pytest.raises(ConnectionResetError):
            connection.recv(1024)


def test_a_half_open_connection_stays_silent(link: Link) -> None:
    """It stays so after the trouble; new connections work then."""
    with connect(link) as connection:
        assert asked(connection, b"one") == b"one"
        link.disturb("half-open")
        link.restore()
        for text in (b"two", b"three"):
            with pytest.raises(TimeoutError):
                asked(connection, text, 0.3)
        with connect(link) as other:
            assert asked(other, b"four") == b"four"


def test_a_delay_passes_everything(link: Link) -> None:
    link.disturb("delay")
    with connect(link) as connection:
        assert asked(connection, b"one") == b"one"


def test_a_server_that_is_down_and_an_unknown_trouble() -> None:
    with Link(free_port(), free_port()) as link:
        # The reset can come before connect() returns.
        with pytest.raises(ConnectionResetError), connect(link) as connection:
            connection.recv(1024)
        with pytest.raises(ValueError, match="no trouble 'rain'"):
            link.disturb("rain")


def test_numbers_that_change_or_vanish_are_found() -> None:
    seen = Releases(1)
    seen.compare("a", {(0, "tea"): 1.0, (0, "milk"): 2.0})
    seen.compare("a", {(0, "tea"): 1.0, (0, "milk"): 2.0, (60, "tea"): 3.0})
    seen.compare("b", {})
    assert seen.changed == []
    seen.compare("a", {(0, "tea"): 4.0, (60, "tea"): 3.0})
    assert seen.changed == ["a 0 tea: 4.0, not 1.0 as before", "a 0 milk: gone"]


def test_an_overspent_budget_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = str(tmp_path / "ledger.db")
    with closing(Ledger(location, daily_epsilon=1)) as ledger:
        for name in ("a", "b"):
            statistic = Statistic(name, ("tea",), 60_000, 3, Fraction(1, 2))
            ledger.register(statistic)
            ledger.release_once(statistic, 0, lambda: np.zeros(1, np.int64))
    assert overspent_days(location) == []
    monkeypatch.setattr(Ledger, "daily_epsilon", Fraction(3, 4))
    assert overspent_days(location) == ["day 0: 1 of 3/4"]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing last."""
    for name in ("_HOLD_S", "_LONG_S", "_QUIET_S", "_LOOK_S"):
        monkeypatch.setattr(strikes, name, 0.01)


@pytest.mark.usefixtures("fast")
def test_all_faults_come_before_one_comes_again(tmp_path: Path) -> None:
    """Each is followed by work of all processes; an end by itself is recorded."""
    failures, journal = Failures(), list[str]()
    process = Process(
        *(["-S", "-c", WORKS], tmp_path, "worker-0"),
        environment={},
        launcher=[sys.executable],
        failures=failures,
    )
    process.start()
    out = tmp_path / "worker-0.out"
    victim = Victim(process, lambda: out.stat().st_size)
    load: Any = SimpleNamespace(check=lambda: None)

    def dies() -> None:
        process.terminate()
        process.await_end()

    faults = [*process_faults(process, failures), Fault("dies", "", dies, lambda: None)]
    striker = Strikes(faults, 12, random.Random(1), failures, journal.append)
    try:
        assert striker([victim], load) >= 12
    finally:
        process.kill()
    assert {*striker.counts} == {"kill worker", "stop worker", "pause worker", "dies"}
    assert max(striker.counts.values()) - min(striker.counts.values()) <= 1
    assert len(striker.recovery_s) == striker.counts.total()
    assert failures.ended
    assert failures.hung == []
    assert sum("at work after" in line for line in journal) > 5


def a_round(seed: int, **changes: Any) -> Round:
    made = Round(
        commit=commit(),
        seed=seed,
        place="embedded",
        faults={"kill server": 2},
        recovery_s=[1.0, 2.0],
        acknowledged=100,
        lost=0,
        wrong=0,
        compared=50,
        released=7,
        overspent=0,
        failed=[],
        restarts=0,
        faulty_answers=0,
        notes=[],
    )
    return msgspec.structs.replace(made, **changes)


def test_a_run_goes_on_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of another commit, or with fewer faults, do not count."""
    file = tmp_path / "reports" / "outages.jsonl"
    asked = list[tuple[str, int]]()

    def run(place: str, seed: int, faults: int, folder: Path) -> Round:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append((place, seed))
        return a_round(seed, place=place, faults={"kill server": faults})

    monkeypatch.setattr(outages, "run_round", run)
    with pytest.raises(KeyboardInterrupt):
        outages.outages(True, file, 50)
    with file.open("ab") as kept:
        for odd in (a_round(9, commit="another"), a_round(9)):
            kept.write(msgspec.json.encode(odd) + b"\n")
    assert len(finished(file, 10)) == 3
    asked.clear()
    figures = {figure.name: figure for figure in outages.outages(True, file, 50)}
    assert asked == [("distributed", 74), ("embedded", 75)]
    assert figures["faults_injected"].value == 50


def test_figures_of_rounds() -> None:
    rounds = [a_round(1), a_round(2, lost=3, wrong=4, overspent=5, failed=["x"])]
    assert [one.sound for one in rounds] == [True, False]
    figures = {figure.name: figure.value for figure in as_figures(rounds)}
    assert {*figures} == {name for name, _ in outages.FIGURES}
    assert [figures[it] for it in ("acknowledged_events_lost", "wrong_values")] == [3, 4]
    assert (figures["faults_overspent_budgets"], figures["faults_failed_processes"]) == (5, 1)


@pytest.mark.slow
def test_a_planted_loss_is_found(tmp_path: Path) -> None:
    bugs = Path(planted_bugs.__file__)
    launcher = (sys.executable, str(bugs), "acknowledge_before_append")
    found = run_round("embedded", 2, 6, tmp_path, launcher)
    assert found.lost > 0
    assert not found.sound


def test_every_trouble_of_a_link_is_a_fault() -> None:
    link: Any = SimpleNamespace(disturb=str, restore=str)
    found = [fault.kind for fault in strikes.link_faults("Redis", link)]
    assert found == [f"{trouble} Redis" for trouble in TROUBLES]


def test_growth_is_that_of_the_last_quarter() -> None:
    warm = [*range(10), *[10.0] * 30]
    assert soak.growth(warm) == 0
    assert soak.growth([float(place) for place in range(40)]) == pytest.approx(20)
    with pytest.raises(ValueError, match="too few"):
        soak.growth([1.0] * 7)


def test_answers_are_timed_from_when_requests_were_due() -> None:
    """A slow answer delays those behind it, which counts; a failure is kept in words."""
    arrivals, calls = soak.Arrivals(), itertools.count()

    def request() -> None:
        if next(calls) == 0:
            time.sleep(0.1)
        else:
            raise ConnectionFailed("gone")

    arrivals.send(request, 100.0, time.monotonic() + 0.05)
    assert 1 <= len(arrivals.seconds) <= 5, "fewer on a machine that is busy"
    assert min(arrivals.seconds) >= 0.1 - 0.04
    assert arrivals.failures == ["ConnectionFailed: gone"] * (len(arrivals.seconds) - 1)


@pytest.mark.slow
def test_a_soak_watches_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "_FILLING", 2)
    found = {figure.name: figure for figure in soak.soak(True, tmp_path, minutes=0.25)}
    assert {*found} == {name for name, _ in soak.FIGURES}
    assert found["soak_failed_requests"].value == 0, found["soak_failed_requests"].note
    assert (found["soak_lists_p99_ms"].value or 0) > 0

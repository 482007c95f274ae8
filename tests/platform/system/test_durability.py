"""Durability of acknowledged events: stops, torn writes, damaged and full disks.

``test_kills.py`` kills servers, workers and sinks.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from click.testing import CliRunner
from tests.platform.support import Live, blocked, build, logged, logged_ids, view, wait_until

from benchmarks.ports import free_port
from tactful.cli.main import main
from tactful.config.settings import Settings
from tactful.maintenance.doctor import examine
from tactful.server.platform import Platform
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import RocksState

WRITERS = 4


class Process:
    """``tactful serve`` on one data directory and one port, over several starts."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self._port = 0
        self.url = ""
        self._log = (directory / "server.log").open("ab")

    def start(self) -> None:
        command = [sys.executable, "-m", "tactful", "serve", "--dev", "--json"]
        command += ["--port", str(self._port), "--data", str(self.data)]
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": self._log}
        self.process = subprocess.Popen(command, cwd=self.data.parent, **streams)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, Path(self._log.name).read_text()
        self.url = json.loads(line)["url"]
        self._port = httpx.URL(self.url).port or 0

    def end(self, sign: signal.Signals) -> int:
        self.process.send_signal(sign)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(60)


class Writer(threading.Thread):
    """Posts batches of new events and sends each again until it is acknowledged."""

    def __init__(self, server: Process, number: int, *, again: bool) -> None:
        super().__init__()
        self._server = server
        self._number = number
        self._again = again
        self.acknowledged: list[str] = []
        self.stopping = False

    def run(self) -> None:
        count = 0
        with httpx.Client(timeout=60) as http:
            while not self.stopping:
                batch = [
                    view(n, f"w{self._number}-{n % 3}", event_id=f"{self._number}:{n}")
                    for n in range(count, count + 1 + count % 17)
                ]
                count += len(batch)
                if self._post(http, batch):
                    self.acknowledged += [event["event_id"] for event in batch]
                elif not self._again:
                    return

    def _post(self, http: httpx.Client, batch: list[dict[str, Any]]) -> bool:
        while True:
            try:
                answer = http.post(f"{self._server.url}/v1/events", json=batch)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 202:
                told = answer.json()
                assert told["accepted"] + told["duplicates"] == len(batch), told
                return True
            if not self._again:
                return False
            time.sleep(0.02)


@pytest.fixture
def server(tmp_path: Path) -> Process:
    return Process(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sign", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_stop_commits_what_was_accepted(server: Process, sign: signal.Signals) -> None:
    server.start()
    writers = [Writer(server, number, again=False) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    wait_until(lambda: sum(len(writer.acknowledged) for writer in writers) > 100)
    code = server.end(sign)
    for writer in writers:
        writer.join()
    acknowledged = [event_id for writer in writers for event_id in writer.acknowledged]
    found = logged_ids(server.data)
    assert code == 0
    assert len(acknowledged) > 100
    assert len(set(found)) == len(found)
    assert set(acknowledged) <= set(found)
    engine = Engine(load_definitions(Settings().features), RocksState(server.data / "state"))
    assert engine.offset == len(logged(server.data)), "all of the log was applied and committed"
    engine.close()


@pytest.mark.parametrize("durability", ["power", "process"])
def test_power_durability(settings: Settings, durability: Literal["power", "process"]) -> None:
    storage = replace(settings.storage, durability=durability)
    live = Live(Platform.open(replace(settings, storage=storage), build))
    with live, blocked(os, "fdatasync") as disk, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(live.http.post, "/v1/events", json=[view(1)])
        if durability == "power":
            assert disk.reached.wait(120)
            assert not answer.done()
            disk.set()
        assert answer.result(120).status_code == 202


def test_the_torn_tail_of_a_crash_costs_nothing(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        position = live.http.post("/v1/events", json=[view(n) for n in range(9)]).json()["position"]
        assert live.views("u", position) == 9
    (segment,) = (settings.storage.data / "log").glob("*.log")
    whole = segment.read_bytes()
    with segment.open("ab") as file:
        file.write(whole[:60])  # the beginning of an unfinished record
    with Live(Platform.open(settings, build)) as live:
        again = live.http.post("/v1/events", json=[view(n) for n in range(10)]).json()
        assert (again["duplicates"], again["accepted"]) == (9, 1)
        assert live.views("u", again["position"]) == 10
    views = [it for it in logged_ids(settings.storage.data) if it.startswith("u-")]
    assert sorted(views) == [f"u-{number}" for number in range(10)]


def test_a_damaged_log_is_refused_with_what_to_do(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        for number in range(3):
            assert live.http.post("/v1/events", json=[view(number)]).status_code == 202
    data = settings.storage.data
    (segment,) = (data / "log").glob("*.log")
    damaged = bytearray(segment.read_bytes())
    damaged[40] ^= 1
    segment.write_bytes(damaged)
    shown = CliRunner().invoke(main, ["serve", "--dev", "--port", "0", "--data", str(data)])
    assert shown.exit_code == 1
    assert str(segment) in shown.output
    assert "restore the segment from a backup" in shown.output
    assert segment.read_bytes() == damaged, "nothing was changed"


def test_a_lost_segment_is_refused_until_its_loss_is_accepted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = settings.storage.data
    for number in range(3):
        with Live(Platform.open(settings, build)) as live:
            position = live.http.post("/v1/events", json=[view(number)]).json()["position"]
            assert live.views("u", position) == number + 1
        with EmbeddedLog(data / "log") as log:
            (*_, newest) = log.seal()
    newest.unlink()
    serve = ["serve", "--dev", "--port", "0", "--data", str(data)]
    shown = CliRunner().invoke(main, serve)
    assert shown.exit_code == 1
    assert f"{newest.name} is missing (offsets {int(newest.stem)} to" in shown.output, shown.output
    commands = ["train", "backup COPY", "user export u", "features backfill"]
    for command in commands:
        words = command.replace("COPY", str(data.with_name("copy"))).split()
        refused = CliRunner().invoke(main, [*words, "--data", str(data)])
        assert refused.exit_code != 0, command
        assert "once with --accept-loss (`tactful serve`" in refused.output, refused.output
    checked = {check.name: check for check in examine(settings)}
    assert (checked["log"].state, newest.name in checked["log"].said) == ("failed", True)
    monkeypatch.setattr("tactful.workers.pool.run_server", lambda *_, **__: None)
    assert CliRunner().invoke(main, [*serve, "--accept-loss"]).exit_code == 0
    assert json.loads((data / "log" / "losses").read_text())["begin"] == int(newest.stem)
    with Live(Platform.open(settings, build)) as live:
        position = live.http.post("/v1/events", json=[view(3)]).json()["position"]
        assert live.views("u", position) == 4, "the state had applied the lost record"
    assert [it for it in logged_ids(data) if it.startswith("u-")] == ["u-0", "u-1", "u-3"]


def test_damage_met_later_is_reported(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/events", json=[view(number) for number in range(3)])
    data = settings.storage.data
    with EmbeddedLog(data / "log", segment_bytes=1) as log:
        log.append(log.read(0, 1)[0][1:])  # the damaged segment is not the last, which is checked
    (first, _) = sorted((data / "log").glob("*.log"))
    damaged = bytearray(first.read_bytes())
    damaged[40] ^= 1
    first.write_bytes(damaged)
    platform = Platform.open(settings, build, rebuild=True)
    with Live(platform, ready=False) as live:
        wait_until(lambda: platform.health().status == "failed")
        refused = live.http.post("/v1/events", json=[view(9)])
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert str(first) in caplog.text
    assert "restore the segment from a backup" in caplog.text
    assert first.read_bytes() == damaged


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["CURRENT", "MANIFEST-*", "*.sst"])
def test_a_damaged_state_is_refused_and_rebuilt(settings: Settings, victim: str) -> None:
    with Live(Platform.open(settings, build)) as live:
        posted = live.http.post("/v1/events", json=[view(number) for number in range(3)]).json()
        live.views("u", posted["position"])
    data = settings.storage.data
    Platform.open(settings, build).close()  # what was in memory lies in a file of its own now
    files = list((data / "state").rglob(victim))
    assert files
    for file in files:
        file.write_bytes(b"rubbish" * (file.stat().st_size // 7 + 1))
    shown = CliRunner().invoke(main, ["serve", "--dev", "--port", "0", "--data", str(data)])
    assert shown.exit_code == 1
    assert f"{data / 'state'}: the state store cannot be opened" in shown.output
    assert "move it away and rebuild by replay from the log" in shown.output
    (data / "state").rename(data / "damaged")
    with Live(Platform.open(settings, build)) as live:
        assert live.views("u", posted["position"]) == 3


@pytest.mark.slow
def test_a_supervised_server_restarts_after_a_crash(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tactful", "serve", "--dev", "--json", "--supervise"]
    command += ["--port", str(free_port()), "--data", str(tmp_path / "data")]
    with (tmp_path / "err").open("wb") as err:
        watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err)
    assert watcher.stdout is not None
    try:
        url = json.loads(watcher.stdout.readline())["url"]
        assert httpx.post(f"{url}/v1/events", json=[view(1)]).status_code == 202
        (child,) = Path(f"/proc/{watcher.pid}/task/{watcher.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGSEGV)
        assert json.loads(watcher.stdout.readline())["url"] == url
        again = httpx.post(f"{url}/v1/events", json=[view(1)]).json()
        assert (again["accepted"], again["duplicates"]) == (0, 1)
    finally:
        watcher.terminate()
        ended = watcher.wait(60)
        watcher.stdout.close()
    assert ended == 0
    assert "it crashed (SIGSEGV)" in (tmp_path / "err").read_text()


class FullDisk:
    """Disk of a server that is full, or limits the size of files, until `free`."""

    def __init__(self, server: Process, how: str) -> None:
        self._pid, self._ballast = server.process.pid, server.data.parent / "ballast"
        if how == "limited":
            (segment,) = (server.data / "log").glob("*.log")
            self._limit(segment.stat().st_size + 30_000)
        else:
            room = shutil.disk_usage(server.data).free - 30_000
            self._ballast.write_bytes(bytes(room))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        # The kernel refuses larger files, as a full disk does.
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs to be root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_file_that_cannot_grow_refuses_events_and_loses_none(tmp_path: Path) -> None:
    _fill_and_free(tmp_path, "limited")


@pytest.mark.slow
def test_a_full_disk_refuses_events_and_loses_none(small_disk: Path) -> None:
    _fill_and_free(small_disk, "full")


def _fill_and_free(folder: Path, how: str) -> None:
    server = Process(folder)
    server.start()
    acknowledged: list[dict[str, Any]] = []
    refused: list[list[dict[str, Any]]] = []
    try:
        with httpx.Client(base_url=server.url, timeout=30) as http:

            def post(batch: list[dict[str, Any]]) -> httpx.Response:
                return http.post("/v1/events", json=batch)

            def numbered(first: int) -> list[dict[str, Any]]:
                return [view(first + n, f"w{n}") for n in range(50)]

            assert post(numbered(0)).status_code == 202
            acknowledged += numbered(0)
            disk = FullDisk(server, how)
            for first in range(50, 50_000, 50):
                answer = post(numbered(first))
                if answer.status_code == 202:
                    acknowledged += numbered(first)
                else:
                    refused.append(numbered(first))
                    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
                    assert int(answer.headers["retry-after"]) >= 1
                if len(refused) == 5:
                    break
            assert len(refused) == 5
            assert http.get("/healthz").status_code == 200
            ready = http.get("/readyz")
            assert ready.status_code == 503
            assert "log: events are refused, the disk cannot be written" in ready.json()["detail"]
            assert http.post("/v1/recommend", json={"user_id": "w1"}).status_code == 200
            disk.free()
            wait_until(lambda: http.get("/readyz").status_code == 200)
            for batch in refused:
                answer = post(batch)
                assert answer.status_code == 202, answer.text
                assert answer.json()["accepted"] == len(batch), "what was refused was not kept"
                acknowledged += batch
    finally:
        ended = server.end(signal.SIGTERM)
    said = (folder / "server.log").read_text()
    assert ended == 0, said
    assert said.count("append refused") == 1, "once, not for every request"
    assert "If the disk is full, free some space" in said
    assert "the log can be written again" in said
    expected = [event["event_id"] for event in acknowledged]
    kept = [found for found in logged_ids(server.data) if found.startswith("w")]
    assert sorted(kept) == sorted(expected)
    server.start()
    try:
        again = httpx.post(f"{server.url}/v1/events", json=acknowledged[:1000], timeout=30).json()
        assert (again["accepted"], again["duplicates"]) == (0, min(len(acknowledged), 1000))
    finally:
        server.end(signal.SIGTERM)


@pytest.mark.slow
def test_the_server_imports_no_torch_mlflow_or_streamlit(tmp_path: Path) -> None:
    code = (
        "import sys, tactful.cli.main, tactful.http.routes, tactful.http.uvicorn_server\n"
        "import tactful.recommend.recommender, tactful.statistics.service, tactful.client\n"
        "import tactful.config.logging, tactful.server.platform\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules}"
        " & {'torch', 'mlflow', 'streamlit', 'matplotlib', 'opacus', 'flwr'}"
        " | {'scipy.optimize'} & {*sys.modules}))"  # which takes its time
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"

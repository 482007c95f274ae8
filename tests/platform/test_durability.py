"""What an acknowledged event outlives: a stop, a crash in the midst of a write, a damaged disk.

How servers, workers and sinks stand being killed is in ``test_kills.py``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from click.testing import CliRunner
from tests.platform.support import Live, blocked, build, view, wait_until

from tactful.cli import main
from tactful.config import Settings
from tactful.service import Platform
from tactful_streaming import (
    EmbeddedLog,
    Engine,
    Event,
    RocksState,
    decode_entry,
    load_definitions,
)

WRITERS = 4


class Process:
    """``tactful serve`` on one data directory and one port, however often it is started."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self._port = 0
        self.url = ""
        self._log = (directory / "server.log").open("ab")

    def start(self) -> None:
        command = [sys.executable, "-m", "tactful", "serve", "--dev", "--json"]
        command += ["--port", str(self._port), "--data", str(self.data)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, cwd=self.data.parent
        )
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
        with httpx.Client(timeout=10) as http:
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


def logged(data: Path) -> list[tuple[int, bytes]]:
    log = EmbeddedLog(data / "log", read_only=True)
    records = log.read(0, 10**7)
    log.close()
    return records


def ids(records: list[tuple[int, bytes]]) -> list[str]:
    entries = [decode_entry(payload) for _, payload in records]
    return [entry.event_id for entry in entries if isinstance(entry, Event)]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_finishes_and_commits_what_it_accepted(
    server: Process, sign: signal.Signals
) -> None:
    server.start()
    writers = [Writer(server, number, again=False) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    time.sleep(0.7)

    code = server.end(sign)

    for writer in writers:
        writer.join()
    acknowledged = [event_id for writer in writers for event_id in writer.acknowledged]
    records = logged(server.data)
    found = ids(records)
    assert code == 0
    assert len(acknowledged) > 100
    assert len(set(found)) == len(found)
    assert set(acknowledged) <= set(found)
    engine = Engine(load_definitions(Settings().features), RocksState(server.data / "state"))
    assert engine.offset == len(records), "all of the log was applied and committed"
    engine.close()


@pytest.mark.parametrize("durability", ["power", "process"])
def test_only_in_power_durability_an_answer_waits_for_the_disk(
    settings: Settings, durability: Literal["power", "process"]
) -> None:
    storage = replace(settings.storage, durability=durability)
    live = Live(Platform.open(replace(settings, storage=storage), build))
    with live, blocked(os, "fdatasync") as disk, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(live.http.post, "/v1/events", json=[view(1)])
        if durability == "power":
            assert not wait([answer], timeout=0.5).done
            disk.set()
        assert answer.result(20).status_code == 202


def test_the_torn_tail_of_a_crash_costs_nothing(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        position = live.http.post("/v1/events", json=[view(n) for n in range(9)]).json()["position"]
        assert live.views("u", position) == 9
    (segment,) = (settings.storage.data / "log").glob("*.log")
    whole = segment.read_bytes()
    with segment.open("ab") as file:
        file.write(whole[:60])  # the begin of a record that was never finished

    with Live(Platform.open(settings, build)) as live:
        again = live.http.post("/v1/events", json=[view(n) for n in range(10)]).json()
        assert (again["duplicates"], again["accepted"]) == (9, 1)
        assert live.views("u", again["position"]) == 10
    views = [it for it in ids(logged(settings.storage.data)) if it.startswith("u-")]
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


def test_damage_that_is_met_later_is_told_with_what_to_do(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
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


def test_the_serving_process_imports_neither_torch_nor_mlflow_nor_streamlit(tmp_path: Path) -> None:
    code = (
        "import sys, tactful.cli, tactful.http, tactful.server, tactful.recommender\n"
        "import tactful.statistics, tactful.logs, tactful.client\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules}"
        " & {'torch', 'mlflow', 'streamlit', 'matplotlib', 'opacus', 'flwr'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"

"""The real server process, killed and stopped while clients post: nothing lost, nothing twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.support import now_ms, view

from tactful.config import Settings
from tactful_streaming import (
    EmbeddedLog,
    Engine,
    Event,
    MemoryState,
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


def test_kill_minus_nine_loses_nothing_and_counts_nothing_twice(server: Process) -> None:
    server.start()
    writers = [Writer(server, number, again=True) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for _ in range(3):
        time.sleep(0.7)
        server.end(signal.SIGKILL)
        server.start()
    time.sleep(0.3)
    for writer in writers:
        writer.stopping = True
    for writer in writers:
        writer.join()
    server.end(signal.SIGKILL)

    acknowledged = [event_id for writer in writers for event_id in writer.acknowledged]
    records = logged(server.data)
    assert len(acknowledged) > 100
    assert sorted(ids(records)) == sorted(acknowledged), "each acknowledged event is there once"

    # What the server says after one more start is what an uninterrupted run over the log computes.
    definitions = load_definitions(Settings().features)
    whole = Engine(definitions, MemoryState())
    whole.apply(records)
    server.start()
    at = now_ms()
    with httpx.Client(base_url=server.url) as http:
        while http.get("/readyz").status_code == 503:
            time.sleep(0.02)
        for user in sorted({f"w{writer}-{n}" for writer in range(WRITERS) for n in range(3)}):
            answer = http.get(f"/v1/users/{user}/features", params={"at": at}).json()
            assert answer["position"] == len(records)
            assert answer["features"] == json.loads(json.dumps(whole.read("user", user, at)))
    assert server.end(signal.SIGTERM) == 0


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

"""Worker processes around the process that owns the state, as real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.shop import entries, make_shop, train_version, write_log
from tests.platform.support import wait_until

from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.metadata.connections import open_keys
from tactful.ranking.model import Pointer, write_pointer

SHOP = make_shop(7, people=14, items=70, days=40)
ENTRIES = entries(SHOP)
NOW = int(SHOP.timestamp[-1]) + 1
CALLERS = 6


class Server:
    """``tactful serve`` on a data directory of its own."""

    def __init__(self, data: Path, *, workers: int, dev: bool = True) -> None:
        self.data = data
        self._errors = (data / "errors.log").open("ab")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tactful", "serve", "--json", "--port", "0"),
                *("--data", str(data), "--workers", str(workers)),
                *(["--dev"] if dev else []),
            ],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=data,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, Path(self._errors.name).read_text()
        self.url = json.loads(line)["url"]
        self.http = httpx.Client(base_url=self.url, timeout=30)
        wait_until(lambda: self.http.get("/readyz").status_code == 200)

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [pid for pid in map(int, children.read_text().split()) if is_worker(pid)]

    def recommend(self, **asked: Any) -> dict[str, Any]:
        answer = self.http.post("/v1/recommend", json=asked)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def metric(self, name: str) -> float:
        lines = read_anew(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        self.http.close()
        self.process.send_signal(sign)
        assert self.process.stdout is not None
        self.process.stdout.close()
        code = self.process.wait(60)
        self._errors.close()
        return code


def read_anew(url: str) -> httpx.Response:
    """Return an answer on a new connection, as a worker may end in any other."""
    while True:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(url, timeout=60)
            assert answer.status_code == 200, answer.text
            return answer


def is_worker(pid: int) -> bool:
    """Whether a child is a worker that runs: a server also starts trainings."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return b"tactful.workers.serving_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a log and a model that does not serve yet."""
    data = tmp_path_factory.mktemp("trained")
    log = write_log(data / "log", ENTRIES)
    train_version(log, data / "models")
    log.close()
    return data


@pytest.fixture
def data(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "data"))


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Server with two workers, for all tests that leave two that serve."""
    data = tmp_path_factory.mktemp("shared") / "data"
    started = Server(Path(shutil.copytree(trained, data)), workers=2)
    yield started
    assert started.stop() == 0


def answer_of(server: Server, person: str | None) -> list[Any]:
    """Return a recommendation without its id and time."""
    asked = {"session_id": "s", "count": 20, **({} if person is None else {"user_id": person})}
    answer = server.recommend(**asked)
    return [answer[key] for key in ("items", "model_version", "variant", "fallback")]


def test_a_worker_imports_no_training_or_database_libraries() -> None:
    code = "import sys, tactful.workers.serving_worker; "
    code += "print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    heavy = {"alembic", "mlflow", "scipy", "sklearn", "sqlalchemy", "torch", "xgboost", "pandas"}
    assert not heavy & {*loaded.decode().split()}


@pytest.mark.slow
def test_workers_say_until_when_the_events_reach(server: Server) -> None:
    person = str(SHOP.person[-1])
    for _ in range(8):  # either worker
        now = server.recommend(user_id=person)
        assert "events reach until 2023-12-2" in now["fallback"]
        last = server.recommend(user_id=person, as_of="last")
        assert "events reach" not in (last["fallback"] or "")
        assert last["items"] == server.recommend(user_id=person, timestamp=NOW)["items"]


@pytest.mark.slow
def test_workers_read_no_history_of_who_withdrew(server: Server) -> None:
    person = str(SHOP.person[-1])
    theirs = answer_of(server, person)
    assert theirs != answer_of(server, None)
    for key, device in ((person, None), ("device:tablet", "tablet")):
        said = {"purposes": {"personalisation": False}}
        assert server.http.put(f"/v1/users/{key}/consent", json=said).status_code == 200
        asked = {"user_id": person} if device is None else {"user_id": person, "device_id": device}
        given = server.recommend(session_id="s", count=20, **asked)
        assert "not agreed to personalisation" in given["fallback"]
        assert given["items"] == server.recommend(count=20)["items"]
        again = {"purposes": {"personalisation": True}}
        assert server.http.put(f"/v1/users/{key}/consent", json=again).status_code == 200
    assert answer_of(server, person) == theirs


@pytest.mark.slow
def test_a_worker_checks_keys_and_frees_memory(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "12345")
    with open_keys(Settings(storage=StorageSettings(data=data))) as (_, store):
        key, about = store.create(["recommend"])
        server = Server(data, workers=1, dev=False)
        try:
            (worker,) = server.workers()
            environment = Path(f"/proc/{worker}/environ").read_text().split("\0")
            assert "MALLOC_MMAP_THRESHOLD_=1048576" in environment
            assert "MALLOC_TRIM_THRESHOLD_=12345" in environment
            server.http.headers["authorization"] = f"Bearer {key}"
            assert server.recommend(count=1)["items"]
            refused = server.http.post("/v1/events", json={})
            assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
            assert server.http.get("/v1/recommend").status_code == 405
            store.revoke(about.id)
            wait_until(lambda: server.http.post("/v1/recommend", json={}).status_code == 401)
        finally:
            assert server.stop() == 0


@pytest.mark.slow
def test_workers_answer_as_one_process_does(data: Path, tmp_path: Path) -> None:
    write_pointer(data / "models", Pointer(version="1"))
    # Popularity is counted at the start and periodically, up to the newest event: so the state
    # must exist, with an impression of today, before anything is compared.
    first = Server(data, workers=0)
    first.recommend(user_id="somebody")
    assert first.stop() == 0
    alone = Server(Path(shutil.copytree(data, tmp_path / "other")), workers=0)
    several = Server(data, workers=2)
    try:
        versions = set()
        for person in (None, *sorted({*SHOP.person})):
            wanted = answer_of(alone, person)
            versions.add(wanted[1])
            for _ in range(4):
                # A new connection may meet the other worker.
                several.http.close()
                several.http = httpx.Client(base_url=several.url, timeout=30)
                assert answer_of(several, person) == wanted
        assert versions == {"1", "heuristic"}
    finally:
        assert several.stop() == 0
        assert alone.stop() == 0


@pytest.mark.slow
def test_workers_see_events_items_and_models_and_count_together(server: Server) -> None:
    event = {"event_id": "new", "type": "purchase", "timestamp": NOW, "item_id": "item-000"}
    sent = server.http.post("/v1/events", json={**event, "user_id": "newcomer"})
    assert sent.status_code == 202, sent.text
    answer = server.recommend(user_id="newcomer", after=sent.json()["position"])
    assert answer["position"] >= sent.json()["position"]
    server.http.put("/v1/items", json=[{"item_id": "fresh", "category": "fresh"}])
    fresh = {"category": "fresh"}
    wait_until(lambda: [i["item_id"] for i in server.recommend(**fresh)["items"]] == ["fresh"])
    write_pointer(server.data / "models", Pointer(version="1"))
    people = sorted({*SHOP.person})
    wait_until(lambda: "1" in {server.recommend(user_id=it)["model_version"] for it in people})
    refused = 'tactful_answers_total{route="/v1/recommend",status="422"}'
    before = server.metric(refused)
    assert server.http.post("/v1/recommend", content=b"[").status_code == 422
    wait_until(lambda: server.metric(refused) > before)
    assert server.metric("tactful_serving_workers ") == 2


@pytest.mark.slow
def test_a_killed_worker_fails_nobody_else_and_is_replaced(server: Server) -> None:
    restarts_metric = "tactful_serving_workers_restarted"
    restarted = server.metric(restarts_metric)
    outcomes: Counter[str] = Counter()
    stopping = threading.Event()

    def call() -> None:
        while not stopping.is_set():
            # A new connection each time: none is bound to the killed worker.
            try:
                answer = httpx.post(f"{server.url}/v1/recommend", json={"user_id": "u"}, timeout=30)
                ok = answer.status_code == 200
                outcomes["200" if ok else answer.json()["code"]] += 1
            except httpx.TransportError:
                outcomes["broken"] += 1

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        for kills in range(1, 4):
            asked, wanted = sum(outcomes.values()), restarted + kills
            os.kill(server.workers()[0], signal.SIGKILL)
            wait_until(lambda wanted=wanted: server.metric(restarts_metric) == wanted)  # type: ignore[misc]
            wait_until(lambda asked=asked: sum(outcomes.values()) > asked + 50)  # type: ignore[misc]
        wait_until(lambda: server.metric("tactful_serving_workers ") == 2)
    finally:
        stopping.set()
        for caller in callers:
            caller.join()
    # Only requests in progress at the killed worker may break.
    assert outcomes["broken"] <= kills * CALLERS
    # A busy machine may refuse a request, which is no failure.
    assert set(outcomes) <= {"200", "broken", "overloaded"}, outcomes
    assert server.metric(restarts_metric) == restarted + kills


def readiness(server: Server) -> dict[str, Any]:
    """Return the answer of ``/readyz`` on a new connection."""
    found: dict[str, Any] = read_anew(f"{server.url}/readyz").json()
    return found


def restarts(server: Server) -> list[int]:
    """Return the restarts of each worker, once all are ready and up to date."""
    workers: list[dict[str, Any]] = []

    def all_ready() -> bool:
        said = readiness(server)
        workers[:] = said["workers"]
        fresh = {"state": "ready", "model_version": "1", "items_behind": 0}
        counted = [{"number": n, "restarts": it["restarts"]} for n, it in enumerate(workers)]
        wanted = [{**each, **fresh} for each in counted]
        return bool(workers == wanted and said["checks"]["workers"] == "ok")

    wait_until(all_ready)
    return [worker["restarts"] for worker in workers]


@pytest.mark.slow
def test_a_dead_worker_shows_in_readiness_until_replaced(server: Server) -> None:
    write_pointer(server.data / "models", Pointer(version="1"))
    before = restarts(server)
    assert len(before) == 2
    os.kill(server.workers()[0], signal.SIGKILL)
    said: dict[str, Any] = {}

    def fewer() -> bool:
        said.update(readiness(server))
        return bool(said["checks"]["workers"] == "1 of 2 ready")

    wait_until(fewer)
    states = sorted(worker["state"] for worker in said["workers"])
    assert said["status"] == "ok"
    assert states in (["down", "ready"], ["ready", "starting"])
    after = restarts(server)
    assert sorted(now - then for then, now in zip(before, after, strict=True)) == [0, 1]
    assert server.metric("tactful_serving_workers_ready") == 2


@pytest.mark.slow
def test_a_worker_that_hangs_is_told_from_one_that_serves(server: Server) -> None:
    wait_until(lambda: readiness(server)["checks"]["workers"] == "ok")
    hanging = server.workers()[0]
    os.kill(hanging, signal.SIGSTOP)
    try:
        # The other worker forwards the request. A connection accepted by the hanging worker is
        # never answered, so the time-out is short.
        def silent() -> bool:
            with contextlib.suppress(httpx.TransportError):
                said = httpx.get(f"{server.url}/readyz", timeout=2).json()
                return sorted(it["state"] for it in said["workers"]) == ["ready", "silent"]
            return False

        wait_until(silent)
    finally:
        os.kill(hanging, signal.SIGCONT)
    wait_until(lambda: readiness(server)["checks"]["workers"] == "ok")


@pytest.mark.slow
def test_events_acknowledged_by_a_worker_survive_kills(data: Path) -> None:
    server = Server(data, workers=2)
    sent = [
        {"event_id": f"e-{n}", "type": "view", "timestamp": NOW + n, "user_id": "u", "item_id": "x"}
        for n in range(50)
    ]
    assert server.http.post("/v1/events", json=sent).json()["accepted"] == 50
    workers = server.workers()
    server.stop(signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, workers)))
    again = Server(data, workers=1)
    try:
        answer = again.http.post("/v1/events", json=sent).json()
        assert (answer["accepted"], answer["duplicates"]) == (0, 50)
    finally:
        assert again.stop(signal.SIGINT) == 0

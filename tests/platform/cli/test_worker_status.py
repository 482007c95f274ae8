"""Readiness of a worker process, and its end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tests.platform.support import wait_until

from benchmarks.ports import free_port
from tactful.config.server import WorkerSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.errors import StorageError
from tactful.feature_workers import run as worker_run
from tactful.feature_workers.run import WorkerThreads
from tactful.feature_workers.status import serve_status
from tactful_streaming.errors import (
    FencedError,
    LogError,
    LogUnreachableError,
    OnlineStoreError,
    StateError,
    StreamingError,
    TopicError,
    TopicMissingError,
)


class Member:
    """A worker whose batches and end a test controls."""

    def __init__(self) -> None:
        self.trouble: LogError | None = None
        self.failure: Exception | None = None
        self.hangs = threading.Event()
        self.hangs.set()
        self.ended: list[str] = []
        self.hold: threading.Event | None = None

    def run(self, stop: Callable[[], bool], progress: Callable[[Any], None]) -> None:
        while not stop():
            self.hangs.wait(60)
            if self.failure is not None:
                raise self.failure
            threading.Event().wait(0.005)

    def close(self) -> None:
        self.ended.append("close")

    def abandon(self) -> None:
        if self.hold is not None:
            self.hold.wait(30)
        self.ended.append("abandon")


@pytest.fixture
def threads() -> Iterator[tuple[WorkerThreads, list[Member]]]:
    members = [Member(), Member()]
    made = WorkerThreads(2, lambda number: members[number])
    made.start()
    yield made, members
    made.stop()
    for member in members:
        member.hangs.set()
    assert not made.wait(30)


def test_readiness_is_the_truth(
    threads: tuple[WorkerThreads, list[Member]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that hung or waited for brokers was reported ready."""
    workers, members = threads
    port = free_port()
    settings = Settings(worker=WorkerSettings(metrics_port=port))
    assert serve_status(settings, workers.problems) is not None

    def ready(path: str = "readyz") -> tuple[int, list[str]]:
        answer = httpx.get(f"http://127.0.0.1:{port}/{path}")
        return answer.status_code, answer.json()["problems"]

    wait_until(lambda: ready() == (200, []), 10)
    members[1].trouble = LogUnreachableError("no broker answers", retry_after=2.0)
    assert ready() == (503, ["member 1 waits: no broker answers"])
    assert ready("healthz") == (200, [])
    members[1].trouble = None
    members[0].hangs.clear()
    monkeypatch.setattr(worker_run, "_SILENT_S", 0.05)
    wait_until(lambda: ready()[0] == 503, 10)
    (problem,) = ready()[1]
    assert problem.startswith("member 0 has finished no batch for")
    members[0].hangs.set()
    wait_until(lambda: ready()[0] == 200, 10)
    workers.stop()
    assert ready() == (503, ["the process is ending"])
    assert "tactful_worker_lag_records" in httpx.get(f"http://127.0.0.1:{port}/metrics").text


def test_a_member_that_has_not_started_is_not_ready() -> None:
    started = threading.Event()

    def make(_: int) -> Any:
        started.wait(30)
        return Member()

    workers = WorkerThreads(1, make)
    workers.start()
    assert workers.problems() == ["member 0 is starting"]
    started.set()
    wait_until(lambda: workers.problems() == [], 10)
    workers.stop()
    assert not workers.wait(30)


def test_all_members_stop_when_one_fails(threads: tuple[WorkerThreads, list[Member]]) -> None:
    """The others went on while the one that failed hung in its end."""
    workers, members = threads
    abandoning = threading.Event()
    members[0].hold = abandoning
    members[0].failure = LogError("refused us")
    wait_until(lambda: workers.stopping, 10)
    wait_until(lambda: members[1].ended == ["close"], 10)
    assert workers.wait(0.01)
    abandoning.set()
    assert not workers.wait(30)
    assert workers.failure is members[0].failure


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (FencedError("taken over"), True),
        (LogUnreachableError("no broker answers", retry_after=1.0), True),
        (TopicMissingError("not there", "t"), True),
        (OnlineStoreError("Redis is away"), True),
        (RuntimeError("a fault of ours"), True),
        (TopicError("deleted"), False),
        (StateError("damaged"), False),
        (LogError("refused us"), False),
    ],
)
def test_what_may_pass_asks_for_another_start(
    failure: Exception, again: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--supervise` restarts every end that a new start may mend, and no other."""
    if not again:
        assert isinstance(failure, StreamingError)
        with pytest.raises(StorageError, match=str(failure)):
            worker_run._ended(failure)
        return
    assert worker_run._ended(failure) is False
    assert f"tactful: {failure}" in capsys.readouterr().err


def test_the_deadline_begins_with_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []
    waits = iter([True, True, True, False])
    workers = SimpleNamespace(
        wait=lambda _: next(waits), stopping=False, progress=lambda: [], stop=lambda: None
    )

    def stop() -> None:
        workers.stopping = True

    workers.stop = stop
    deadline = SimpleNamespace(begin=lambda: begun.append(1))
    worker_run._watch(workers, deadline, None, 0.0, as_json=True)  # type: ignore[arg-type]
    assert begun


def test_a_worker_started_in_an_outage_asks_for_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(*_: object) -> None:
        raise LogUnreachableError("no broker answers", retry_after=1.0)

    for name, value in (
        ("prepare_worker", prepare),
        ("followed_erasures", contextlib.nullcontext),
        ("open_seal", lambda *_, **__: None),
    ):
        monkeypatch.setattr(worker_run, name, value)
    settings = Settings(storage=StorageSettings(data=tmp_path))
    assert worker_run.run_workers(settings, None, idle_exit=None, as_json=True) is False
    assert "tactful: no broker answers" in capsys.readouterr().err

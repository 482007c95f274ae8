"""Periodic refresh of a serving worker; states, restarts and models of workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tactful.config.privacy import MinimiseSettings
from tactful.config.settings import Settings
from tactful.schemas.health import WorkerHealth
from tactful.schemas.recommendations import RecommendRequest
from tactful.util import process_tuning
from tactful.workers import serving_worker
from tactful.workers.serving_worker import ServingWorker
from tactful.workers.status import Served, WorkerStatus, served


class FakeState:
    """Recommender, source and clients in one; counts the calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.counted_at = 0.0

    def refresh(self, reading: object) -> None:
        """Fail the first time, and count what is popular every other time."""
        self.calls["refresh"] += 1
        if self.calls["refresh"] == 1:
            raise RuntimeError("the state server is being replaced")
        self.counted_at += self.calls["refresh"] % 2

    def describe(self) -> dict[str, Any]:
        return {"champion": None, "items": 0}

    def notify(self, message: object) -> None:
        self.calls[type(message).__name__] += 1

    def request(self, request: object, kind: object) -> list[Any]:
        self.calls[type(request).__name__] += 1
        return []


def test_refresh_reports_and_trims_despite_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, items, reports, metrics and freed memory follow, whatever fails."""
    state: Any = FakeState()
    monkeypatch.setattr(serving_worker, "_REFRESH_S", 0.001)
    monkeypatch.setattr(serving_worker, "_METRICS_S", 0.001)
    monkeypatch.setattr(
        process_tuning, "return_free_pages", lambda: state.calls.update(["trimmed"])
    )
    worker = ServingWorker(
        Settings(), recommender=state, source=state, client=state, refresh_client=state
    )

    async def refresh() -> None:
        refreshing = asyncio.create_task(worker.refresh())
        async with asyncio.timeout(30):
            while min(state.calls[name] for name in ("MetricsNotice", "trimmed")) < 3:
                await asyncio.sleep(0.001)
        refreshing.cancel()

    asyncio.run(refresh())
    expected = {"KeysRequest", "refresh", "ServedNotice", "MetricsNotice", "trimmed"}
    assert set(state.calls) == expected
    assert min(state.calls.values()) >= 3


def test_requests_lose_detail() -> None:
    """A worker minimises requests as the server does."""
    state: Any = FakeState()
    settings = Settings(minimise=MinimiseSettings(drop="context.ip"))
    worker = ServingWorker(
        settings, recommender=state, source=state, client=state, refresh_client=state
    )
    assert worker.minimise is not None
    assert worker.minimise(RecommendRequest(context={"ip": "203.0.113.77"})).context == {}
    # After the first that did not fail and each that counted, one of which may be under way.
    assert 0 <= 1 + state.counted_at - state.calls["trimmed"] <= 1


class Pool:
    """Status of two workers, with a clock and a present model that tests set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.current = Served("1", 50)
        self.status = WorkerStatus(2, lambda: self.current, clock=lambda: self.now)

    def states(self) -> list[str]:
        return [worker.state for worker in self.status.health()]

    def advance(self, seconds: float, *reporting: int, reported: Served | None = None) -> None:
        """Advance the clock, while some workers report every quarter of a second."""
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            for number in reporting:
                self.status.report(number, reported or self.current)


@pytest.fixture
def pool() -> Pool:
    made = Pool()
    for number in (0, 1):
        made.status.started(number)
        made.status.is_ready(number)
    return made


def test_states_from_start_to_end() -> None:
    pool = Pool()
    assert pool.states() == ["down", "down"]
    pool.status.started(0)
    assert pool.states() == ["starting", "down"]
    assert pool.status.health()[0] == WorkerHealth(number=0, state="starting", restarts=0)
    pool.status.is_ready(0)
    pool.status.report(0, Served("", 49))
    assert pool.status.health()[0] == WorkerHealth(
        number=0, state="ready", restarts=0, model_version=None, items_behind=1
    )
    assert (pool.status.serving, pool.status.restarted) == (1, 0)
    pool.status.ended(0)
    assert pool.states() == ["down", "down"]
    assert (pool.status.serving, pool.status.restarted) == (0, 0)
    pool.status.started(0)
    assert pool.states() == ["starting", "down"]
    assert (pool.status.serving, pool.status.restarted) == (0, 1)


def test_a_worker_without_reports_is_silent(pool: Pool) -> None:
    pool.advance(5.0, 1)
    assert pool.states() == ["ready", "ready"]
    pool.advance(0.25, 1)
    assert pool.states() == ["silent", "ready"]
    pool.advance(0.25, 0, 1)
    assert pool.states() == ["ready", "ready"]


@pytest.mark.parametrize("old", [Served("1", 50), Served("2", 49)])
def test_a_worker_with_an_old_model_is_behind(pool: Pool, old: Served) -> None:
    pool.current = Served("2", 50)
    pool.advance(5.0, 0)
    pool.advance(0.25, 0)
    for _ in range(20):
        pool.advance(0.25, 0)
        pool.advance(0.25, 1, reported=old)
    assert pool.states() == ["ready", "behind"]
    pool.status.report(1, Served("2", 51))
    assert pool.states() == ["ready", "ready"], "more items than the other knows are no lag"


def test_a_replacement_starts_afresh(pool: Pool) -> None:
    pool.advance(60.0, 1)
    assert pool.states() == ["silent", "ready"]
    pool.status.ended(0)
    pool.status.started(0)
    pool.status.is_ready(0)
    assert pool.states() == ["ready", "ready"]
    assert [worker.restarts for worker in pool.status.health()] == [1, 0]


def test_served_model_of_a_description() -> None:
    assert served({}) == Served("", 0)
    assert served({"champion": None, "items": 7}) == Served("", 7)
    assert served({"champion": {"version": "3"}, "items": 7}) == Served("3", 7)

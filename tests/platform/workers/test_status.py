"""Status of workers: states, restarts, and comparison with the present model."""

from __future__ import annotations

import pytest

from tactful.schemas.health import WorkerHealth
from tactful.workers.status import Served, WorkerStatus, served


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

"""The engine thread on its own: when it commits."""

import threading
from collections.abc import Iterator
from types import MappingProxyType

import pytest
from prometheus_client import CollectorRegistry

from tactful.config import EngineSettings
from tactful.follower import Follower
from tactful.metrics import Metrics
from tactful.positions import Offsets
from tactful_streaming import Event


class EmptyLog:
    """A log to which nobody writes."""

    reached: Offsets = MappingProxyType({0: 0})
    ends: Offsets = MappingProxyType({0: 0})

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        return []

    def close(self) -> None:
        """Nothing to close."""


class CountingEngine:
    """Counts commits and tells when there were enough."""

    offset = 0

    def __init__(self, enough: int) -> None:
        self.commits = 0
        self._enough = enough
        self.reached = threading.Event()

    def outbox(self) -> list[Event]:
        return []

    def next_timer(self) -> int | None:
        return None

    def commit(self) -> None:
        self.commits += 1
        if self.commits >= self._enough:
            self.reached.set()


def hurried() -> Iterator[float]:
    """A clock that gains eleven seconds at every look."""
    now = 0.0
    while True:
        yield now
        now += 11.0


@pytest.mark.parametrize(("commit_idle", "expected"), [(True, True), (False, False)])
def test_passengers_with_a_clock_get_commits_while_nothing_comes(
    commit_idle: bool, expected: bool
) -> None:
    clock = hurried()
    engine = CountingEngine(enough=2)
    follower = Follower(
        EmptyLog(),
        engine,  # type: ignore[arg-type]
        threading.Lock(),
        EngineSettings(),
        Metrics(CollectorRegistry()),
        progressed=lambda: None,
        append=lambda entries: None,
        commit_idle=commit_idle,
        clock=lambda: next(clock),
    )
    follower.start()
    for position in range(3):
        follower.notice({0: position})
        engine.reached.wait(0.2)
    reached = engine.reached.wait(5.0 if expected else 0.2)
    follower.stop()
    assert reached is expected
    assert follower.failure is None
    if not commit_idle:
        assert engine.commits == 0

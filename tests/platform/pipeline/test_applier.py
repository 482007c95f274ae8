"""The engine thread alone: times and sizes of its commits."""

import threading
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tactful.config.engine import EngineSettings
from tactful.metrics.registry import Metrics
from tactful.pipeline.applier import AdaptiveBatch, ApplierOptions, LogApplier
from tactful.schemas.positions import Offsets
from tactful.util.counted_lock import CountedLock
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.engine.batches import Applied
from tactful_streaming.errors import StateError


class EmptyLog:
    """An empty log that counts its reads."""

    reached: Offsets = MappingProxyType({0: 0})
    ends: Offsets = MappingProxyType({0: 0})

    def __init__(self) -> None:
        self.reads = threading.Semaphore(0)

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        self.reads.release()
        return []


class CountingEngine:
    """Counts commits and sets an event at a number."""

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
    """A clock that advances eleven seconds with each call."""
    now = 0.0
    while True:
        yield now
        now += 11.0


def applying(
    log: Any, engine: Any, progressed: Callable[[], None] = lambda: None, **options: Any
) -> LogApplier:
    return LogApplier(
        log,
        engine,
        threading.Lock(),
        Metrics(CollectorRegistry()),
        ApplierOptions(**options),
        progressed=progressed,
        append=lambda entries: None,
    )


@pytest.mark.parametrize("commit_idle", [True, False])
def test_consumers_with_a_clock_get_idle_commits(commit_idle: bool) -> None:
    clock, log = hurried(), EmptyLog()
    engine = CountingEngine(enough=2)
    applier = applying(log, engine, commit_idle=commit_idle, clock=lambda: next(clock))
    applier.start()
    for position in range(5):
        applier.notice({0: position})
        assert log.reads.acquire(timeout=60.0)
    assert not commit_idle or engine.reached.wait(60.0)
    applier.stop()
    assert applier.failure is None
    assert commit_idle or engine.commits == 0


def test_records_applied_before_their_notice_are_fresh() -> None:
    """A record can be read before its writer notifies the applier."""
    waited = threading.Event()
    # All that the log has, nothing, is applied.
    applier = applying(EmptyLog(), CountingEngine(enough=1), waited.set)
    applier.start()
    waited.wait(0.2)
    waited.clear()
    applier.notice({0: 0})
    assert waited.wait(60.0)
    applier.stop()
    assert ("tactful_freshness_seconds_count", {}, 1.0) in applier._metrics.samples()


def test_a_time_is_reached_once_its_records_are_applied() -> None:
    """Not while records that the log had then are unread, nor while others are not in the log."""
    log, written = EmptyLog(), [0]
    applier = applying(log, CountingEngine(enough=1), written_until=lambda: written[0])

    def read(time: int) -> int:
        written[0] = time
        for _ in range(3):  # the time of a read is known at the one after the next
            applier.notice({0: 0})
            assert log.reads.acquire(timeout=60.0)
        return applier.applied_until

    applier.start()
    assert read(100) == 100
    assert read(0) == 100
    log.ends = {0: 1}
    read(200)
    assert read(300) == 100
    log.reached = {0: 1}
    read(400)
    assert read(500) == 500
    applier.stop()


class Ticking:
    """A clock that only work advances, seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TimedLog:
    """A log that gets `rate` records a second up to `count`, after initial ones."""

    def __init__(self, clock: Ticking, count: int, *, rate: float = 5000.0, begin: int = 0) -> None:
        self._clock = clock
        self._rate = rate
        self._begin = begin
        self.count = count
        self.reached: Offsets = {0: 0}
        self.ends: Offsets = {0: begin}

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        while True:
            end = min(self._begin + int(self._clock.now * self._rate), self.count)
            self.ends = {0: end}
            if offset < end or end == self.count:
                break
            self._clock.now += 0.001
        numbers = range(offset, min(offset + limit, end))
        self.reached = {0: numbers.stop if numbers else offset}
        return [(number, b"") for number in numbers]


class CostlyEngine:
    """Takes time for commits, and records their sizes and ends."""

    offset = 0

    def __init__(self, clock: Ticking, *, fixed_s: float, each_s: float) -> None:
        self._clock = clock
        self._fixed_s, self._each_s = fixed_s, each_s
        self._applied = self._total = 0
        self.refuses_until, self.refused = 0.0, 0
        self.reached = threading.Event()
        self.commits: list[int] = []
        self.took_s: list[float] = []
        self.idle_s: list[float] = []
        self._ended = 0.0

    def apply(self, records: list[tuple[int, bytes]]) -> Applied:
        self._clock.now += 10e-6 * len(records)
        self._applied += len(records)
        self._total += len(records)
        return Applied(applied=len(records))

    def reach(self, count: int) -> Callable[[], None]:
        """Set an event when a number of records is applied."""
        return lambda: self.reached.set() if self._total >= count else None

    def commit(self) -> None:
        if self._clock.now < self.refuses_until:
            self.refused += 1
            raise StateError("the disk is full")
        self.idle_s.append(self._clock.now - self._ended)
        took = self._fixed_s + self._each_s * self._applied
        self._clock.now += took
        self._ended = self._clock.now
        self.commits.append(self._applied)
        self.took_s.append(took)
        self._applied = 0

    def outbox(self) -> list[Event]:
        return []

    def next_timer(self) -> int | None:
        return None


def follow(log: TimedLog, engine: CostlyEngine, clock: Ticking, settings: EngineSettings) -> None:
    """Follow a log to its end."""
    applier = applying(log, engine, engine.reach(log.count), settings=settings, clock=clock)
    applier.start()
    assert engine.reached.wait(60.0)
    applier.stop()
    assert applier.failure is None
    assert sum(engine.commits) == log.count


@pytest.mark.parametrize("rate", [2000.0, 5000.0, 20_000.0])
def test_a_commit_holds_up_what_comes_no_longer_than_allowed(rate: float) -> None:
    clock = Ticking()
    engine = CostlyEngine(clock, fixed_s=0.0005, each_s=20e-6)
    log = TimedLog(clock, 50_000, rate=rate)
    follow(log, engine, clock, EngineSettings(commit_pause_ms=8.0))
    assert max(engine.took_s[:-1]) <= 0.0125  # a batch may come on top
    assert len(engine.commits) > 100


def test_commits_leave_time_for_other_work() -> None:
    """Commits of any cost leave a share of time for other work."""
    clock = Ticking()
    engine = CostlyEngine(clock, fixed_s=0.03, each_s=0.0)
    follow(TimedLog(clock, 50_000), engine, clock, EngineSettings(commit_pause_ms=8.0))
    assert len(engine.commits) > 10
    assert min(engine.idle_s[1:-1]) >= 4 * (0.03 - 0.008)


@pytest.mark.parametrize(("rate", "begin"), [(1e9, 0), (5000.0, 50_000)])
def test_an_engine_that_is_behind_or_replays_commits_less_often(rate: float, begin: int) -> None:
    clock = Ticking()
    engine = CostlyEngine(clock, fixed_s=0.0005, each_s=20e-6)
    log = TimedLog(clock, 50_000, rate=rate, begin=begin)
    follow(log, engine, clock, EngineSettings(commit_records=10_000, commit_ms=60_000))
    assert min(engine.commits[:-1]) >= 10_000


def test_a_refused_commit_is_not_tried_again_at_once() -> None:
    clock = Ticking()
    engine = CostlyEngine(clock, fixed_s=0.0005, each_s=20e-6)
    engine.refuses_until = 0.5
    follow(TimedLog(clock, 50_000), engine, clock, EngineSettings())
    assert engine.refused == 1


def test_memory_of_a_burst_is_returned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 20,000 records, when nothing waits for a commit; it stayed with the process before."""
    returned: list[bool] = []
    monkeypatch.setattr("tactful.pipeline.applier.return_free_pages", lambda: returned.append(True))
    clock = Ticking()
    log, engine = TimedLog(clock, 30_000, rate=1e9), CostlyEngine(clock, fixed_s=0.0, each_s=0.0)
    applier = applying(log, engine, clock=clock)
    for begin in range(0, 30_000, 512):
        applier._apply(log.read(begin, 512))
        applier._tidy(behind=True)
    assert not returned
    for _ in range(3):
        applier._tidy(behind=False)
    assert returned == [True]


class SlowEngine(CostlyEngine):
    """Takes three milliseconds a batch, and notes the time and size of each."""

    def __init__(self, clock: Ticking, read: Callable[[float], object]) -> None:
        super().__init__(clock, fixed_s=0.0, each_s=0.0)
        self.batches: list[tuple[float, int]] = []
        self._read = read

    def apply(self, records: list[tuple[int, bytes]]) -> Applied:
        self._clock.now += 0.003
        self.batches.append((self._clock.now, len(records)))
        self._read(self._clock.now)
        return super().apply(records)


def test_batches_are_large_while_nobody_reads() -> None:
    """An import took 35 us of the engine an event in batches of 128, with or without a reader."""
    clock, lock = Ticking(), CountedLock()

    def read(at: float) -> None:
        if 2.0 < at < 4.0:
            with lock:
                pass

    engine = SlowEngine(clock, read)
    log = TimedLog(clock, 600_000, rate=1e9)
    options = {"clock": clock, "reads": lambda: lock.uses}
    applier = applying(log, engine, engine.reach(600_000), **options)
    applier.start()
    assert engine.reached.wait(60.0)
    applier.stop()
    assert {size for at, size in engine.batches if at < 0.95 or 2.1 < at < 4.95} <= {128, 256}
    unread = [size for at, size in engine.batches[:-1] if 1.1 < at < 2.0 or at > 5.1]
    assert {*unread} == {1_024}
    assert len(unread) > 100


@pytest.mark.parametrize(
    ("count", "seconds", "expected"),
    [(64, 0.001, 128), (63, 0.001, 64), (64, 0.006, 64), (64, 0.011, 32), (0, 0, 100), (0, 1, 16)],
)
def test_a_pace_follows_the_time_of_work(count: int, seconds: float, expected: int) -> None:
    """Without a count: ten times as much as the pace allows."""
    pace = AdaptiveBatch(16, 256 if count else 100, 0.01)
    pace.size = 64
    for _ in range(1 if count else 10):
        pace.note(count or pace.size, seconds)
    assert pace.size == expected

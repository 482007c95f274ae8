"""The assembled platform: log, engine, keys, door and recommender in one process.

Everything here lives on one event loop, except two threads: one writes the log
(its group commit), one applies it (`tactful.follower`). A recommendation is computed on
the event loop, under the lock that the engine thread holds while it applies a micro-batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import msgspec
from prometheus_client import CollectorRegistry

from tactful.config import Settings
from tactful.door import Door
from tactful.errors import StorageError
from tactful.follower import Follower
from tactful.keys import KeyStore
from tactful.messages import (
    Health,
    Recommendation,
    RecommendRequest,
    StatisticsIndex,
    StatisticsPage,
    UserFeatures,
    to_milliseconds,
)
from tactful.metrics import Metrics
from tactful.problems import ProblemError
from tactful.turnstile import Turnstile
from tactful_streaming import (
    Consumer,
    EmbeddedLog,
    Engine,
    EventLog,
    GroupCommit,
    Limits,
    RocksState,
    load_definitions,
)

logger = logging.getLogger(__name__)

_REFRESH_S = 1.0


class Recommender(Protocol):
    """What answers requests for recommendations."""

    def recommend(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, bytes | None]:
        """Answer `request` as of `now` (epoch ms), in a few milliseconds.

        Called with the read lock held. The second value is the impression, encoded for the log.
        """

    def refresh(self, reading: AbstractContextManager[object]) -> None:
        """Take over a new model if there is one; called about once a second in a thread.

        `reading` is to be held while the engine is read, and never for long.
        """

    def describe(self) -> Mapping[str, Any]:
        """Which models are in use."""


class Statistics(Protocol):
    """Published private statistics."""

    def index(self) -> StatisticsIndex:
        """What is published."""

    def page(
        self, name: str, cursor: str | None, limit: int, since: int | None, until: int | None
    ) -> StatisticsPage:
        """One page of the panes of `name` that start in [since, until), epoch ms.

        Raises:
            KeyError: if there is no such statistic.
            ValueError: if the cursor is not one of ours.
        """


class Platform:
    """One running installation.

    Attributes:
        settings: as given.
        metrics: what it counts.
        keys: its API keys.
        engine: its feature engine; read it with `lock` held.
        lock: what readers of the engine hold.
        door: where events come in.
        recommender: who recommends.
        statistics: what is published, if anything.
        version: of the software.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        log: EventLog,
        engine: Engine,
        keys: KeyStore,
        recommender: Recommender,
        statistics: Statistics | None = None,
        clock: Callable[[], int],
    ) -> None:
        """Assemble a platform from its parts, which it closes at its end.

        Args:
            settings: checked settings.
            log: the event log.
            engine: the feature engine, restored from its state.
            keys: API keys.
            recommender: who recommends.
            statistics: published statistics, if any.
            clock: now in epoch milliseconds.
        """
        limits, server = settings.limits, settings.server
        self.settings = settings
        self.metrics = Metrics(CollectorRegistry())
        self.keys = keys
        self.engine = engine
        self.lock = threading.Lock()
        self.recommender = recommender
        self.statistics = statistics
        self.version = metadata.version("tactful")
        self._clock = clock
        self._log = log
        self._commit = GroupCommit(log, max_waiting_bytes=limits.pending_bytes)
        self._follower = Follower(
            log,
            engine,
            self.lock,
            settings.engine,
            self.metrics,
            progressed=self._progressed,
            commit_idle=statistics is not None,
        )
        self.door = Door(
            log=log,
            engine=engine,
            commit=self._commit,
            follower=self._follower,
            metrics=self.metrics,
            limits=Limits(
                max_bytes=limits.body_bytes, max_batch=limits.batch, future_ms=limits.future_ms
            ),
            engine_lag=limits.engine_lag,
            clock=clock,
        )
        self._turnstile = Turnstile(queue=server.recommend_queue, wait_s=server.recommend_wait_s)
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._impressions: set[asyncio.Future[int]] = set()
        self._status = "starting"
        self._guard = contextlib.ExitStack()
        self._add_gauges()

    @classmethod
    def open(
        cls,
        settings: Settings,
        build: Callable[..., Recommender],
        *,
        consumers: Mapping[str, Consumer] | None = None,
        statistics: Statistics | None = None,
        rebuild: bool = False,
    ) -> Platform:
        """Open the data directory and assemble a platform on the embedded stores.

        Args:
            settings: checked settings.
            build: called as ``build(engine=…, settings=…)``; makes the recommender.
            consumers: passengers of the engine, by name.
            statistics: published statistics, if any.
            rebuild: throw the engine's state away and compute it again from the log.

        Raises:
            StorageError: if the directory cannot be used, another process uses it, or its parts do
                not belong together.
            StreamingError: if features, log or state cannot be used; see `tactful_streaming`.
        """
        definitions = load_definitions(settings.features)
        with contextlib.ExitStack() as stack:
            data = settings.storage.data
            stack.enter_context(exclusive(data))
            log = EmbeddedLog(data / "log", durability=settings.storage.durability)
            stack.callback(log.close)
            engine = Engine(
                definitions,
                RocksState(data / "state"),
                dedupe_days=settings.engine.dedupe_days,
                consumers=consumers or {},
                rebuild=rebuild,
            )
            stack.callback(engine.close)
            if engine.offset > log.end:
                raise StorageError(
                    f"{data}: the engine's state has seen more than the log holds, so a part of "
                    "the log is lost: restore it from a backup, or compute the features again "
                    "from what is left with `tactful serve --rebuild`"
                )
            keys = KeyStore(data / "keys.db", clock=_now)
            stack.callback(keys.close)
            recommender = build(engine=engine, settings=settings)
            platform = cls(
                settings,
                log=log,
                engine=engine,
                keys=keys,
                recommender=recommender,
                statistics=statistics,
                clock=_now,
            )
            platform._guard = stack.pop_all()
        return platform

    async def start(self) -> None:
        """Start to write, to apply and to refresh, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._follower.start()
        self._refreshing = asyncio.create_task(self._refresh())
        self._status = "ok"

    async def stop(self) -> None:
        """Write, apply and commit everything that was accepted, then close all stores."""
        self._status = "stopping"
        self._refreshing.cancel()
        await asyncio.gather(self._refreshing, *self._impressions, return_exceptions=True)
        await self._commit.close()
        await asyncio.to_thread(self._follower.stop)
        self.close()

    def close(self) -> None:
        """Close all stores, as they are."""
        self._guard.close()

    @property
    def position(self) -> int:
        """Log position up to which everything is visible."""
        return self._follower.position

    def health(self) -> Health:
        """Whether it is ready for traffic, and if not, why."""
        follower = self._follower
        engine = follower.failure or ("catching up" if follower.recovering else "ok")
        status = self._status
        if status == "ok" and engine != "ok":
            status = "failed" if follower.failure else "starting"
        return Health(status=status, version=self.version, checks={"engine": engine})

    async def recommend(self, request: RecommendRequest, *, trusted: bool) -> Recommendation:
        """Answer one request.

        Args:
            request: as decoded.
            trusted: whether the caller may choose time and arms.

        Raises:
            ProblemError: if the caller may not, or it cannot be answered in time.
        """
        started = time.perf_counter()
        self._follower.check()
        if not trusted and (request.force or request.timestamp is not None):
            raise ProblemError(
                "missing_scope", "`timestamp` and `force` need a key with the scope 'admin'"
            )
        try:
            asked = request.timestamp
            now = self._clock() if asked is None else to_milliseconds(asked)
        except ValueError as error:
            raise ProblemError("invalid", str(error), field="$.timestamp") from None
        if request.after is not None:
            await self._reach(request.after)
        async with self._turnstile:
            with self.lock:
                answer, impression = self.recommender.recommend(request, now=now)
                position = self._follower.position
            if impression is not None:
                self._note(impression)
        took = (time.perf_counter() - started) * 1000
        return msgspec.structs.replace(answer, position=position, took_ms=round(took, 3))

    def features(self, user: str, at: int | None) -> UserFeatures:
        """The features of one user as of `at` (epoch ms), or now."""
        self._follower.check()
        moment = self._clock() if at is None else at
        with self.lock:
            features = self.engine.read("user", user, moment)
            position = self._follower.position
        return UserFeatures(user_id=user, at=moment, position=position, features=features)

    async def applied(self, position: int, timeout: float) -> bool:
        """Wait until the log is applied up to `position`.

        Returns:
            Whether that happened within `timeout` seconds.
        """
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (position, next(self._order), reached))
        self._wake_waiters()
        try:
            async with asyncio.timeout(timeout):
                await reached
        except TimeoutError:
            return False
        return True

    async def _reach(self, position: int) -> None:
        if position <= self._follower.position:
            return
        if position > self._log.end:
            raise ProblemError("invalid", "no answer has given this position", field="$.after")
        if not await self.applied(position, self.settings.server.after_wait_s):
            self._follower.check()
            raise ProblemError("not_caught_up", retry_after=1)

    def _note(self, impression: bytes) -> None:
        written = self.door.note(impression)
        self._impressions.add(written)
        written.add_done_callback(self._impressions.discard)

    def _progressed(self) -> None:
        """Tell those who wait; called in the engine thread."""
        if self._waiters:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._wake_waiters)

    def _wake_waiters(self) -> None:
        position = self._follower.position
        while self._waiters and (self._waiters[0][0] <= position or self._waiters[0][2].done()):
            reached = heapq.heappop(self._waiters)[2]
            if not reached.done():
                reached.set_result(None)

    async def _refresh(self) -> None:
        """Follow what other processes change: models and keys."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                self.keys.refresh()
                await asyncio.to_thread(self.recommender.refresh, self.lock)
            except Exception as error:
                logger.exception("refresh failed with %s; the old state is kept", error)

    def _add_gauges(self) -> None:
        metrics = self.metrics
        metrics.gauge("engine_lag", "Log records not applied yet", lambda: self._follower.lag)
        metrics.gauge(
            "watermark_age_seconds",
            "Age of the event time up to which events are expected to be complete",
            lambda: max(0.0, (self._clock() - self.engine.watermark) / 1000),
        )
        metrics.gauge(
            "commit_pending_bytes",
            "Bytes accepted and not durable yet",
            lambda: self._commit.waiting_bytes,
        )
        metrics.gauge(
            "recommend_waiting",
            "Recommendations waiting for their turn",
            lambda: self._turnstile.waiting,
        )


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold a data directory for this process alone; it is made, private, if there is none.

    Raises:
        StorageError: if it cannot be used, or another process holds it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        holder = (directory / "lock").open("ab")
    except OSError as error:
        raise StorageError(f"{directory}: cannot be used as data directory: {error}") from error
    with holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(
                f"{directory}: another process uses this data directory; "
                "stop it, or choose another one with --data"
            ) from None
        yield


def _now() -> int:
    return time.time_ns() // 1_000_000

"""The thread that follows the event log into the feature engine.

It applies small batches under a lock that readers share, so that an answer never waits longer than
one batch; a commit changes nothing they see and needs no lock. Its progress is one number: the log
position up to which everything is visible.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager

from tactful.config import EngineSettings
from tactful.metrics import Metrics
from tactful.problems import ProblemError
from tactful_streaming import Engine, EventLog

logger = logging.getLogger(__name__)

_SMALLEST_BATCH = 32
_LARGEST_BATCH = 512
_IDLE_WAIT_S = 1.0
_IDLE_COMMIT_S = 10.0


class Follower:
    """Applies the log to the engine, in order, once.

    Attributes:
        position: log position up to which everything has been applied.
        failure: why the thread died, in words; None while it is well.
    """

    def __init__(
        self,
        log: EventLog,
        engine: Engine,
        lock: AbstractContextManager[object],
        settings: EngineSettings,
        metrics: Metrics,
        *,
        progressed: Callable[[], None],
        commit_idle: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to follow; `start` starts the thread.

        Args:
            log: what to follow.
            engine: what to apply it to; nobody else may write to it.
            lock: held while a batch is applied.
            settings: batch and commit sizes.
            metrics: where to count.
            progressed: called in the thread after every batch, and when the thread dies.
            commit_idle: commit every ten seconds also while nothing comes, for passengers that act
                by the clock: a private statistic appears on time whether or not somebody came.
            clock: monotonic seconds.
        """
        self._log = log
        self._engine = engine
        self._lock = lock
        self._settings = settings
        self._metrics = metrics
        self._progressed = progressed
        self._commit_idle = commit_idle
        self._clock = clock
        self._wake = threading.Event()
        self._stopping = False
        self._accepted: collections.deque[tuple[int, float]] = collections.deque()
        self._batch = _SMALLEST_BATCH
        self._thread = threading.Thread(target=self._run, name="tactful-engine", daemon=True)
        self._recovered_at = log.end
        self.position = engine.offset
        self.failure: str | None = None

    @property
    def lag(self) -> int:
        """How many log records have not been applied yet."""
        return max(0, self._log.end - self.position)

    @property
    def recovering(self) -> bool:
        """Whether it still applies what was in the log at the start."""
        return self.position < self._recovered_at

    def check(self) -> None:
        """Refuse work while the engine cannot do it.

        Raises:
            ProblemError: while it recovers, and after it died.
        """
        if self.failure is not None:
            raise ProblemError("not_ready", self.failure, retry_after=30)
        if self.recovering:
            raise ProblemError("not_ready", "the engine is catching up with the log", retry_after=1)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def notice(self, position: int) -> None:
        """Say that the log has durable records up to `position`; wakes the thread at once."""
        self._accepted.append((position, self._clock()))
        self._wake.set()

    def stop(self) -> None:
        """Apply what was accepted, commit, and end the thread. Blocks until it is done.

        A recovery is not finished: nothing was accepted yet, and the next start goes on with it.
        """
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:
            # The message may quote an event, so only the kind and the place are logged.
            self.failure = f"the engine stopped with {type(error).__name__}"
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.critical("%s at position %d\n%s", self.failure, self.position, where)
            self._progressed()

    def _follow(self) -> None:
        commit_s = self._settings.commit_ms / 1000
        uncommitted, oldest, committed = 0, 0.0, self._clock()
        while True:
            self._wake.clear()
            stopping = self._stopping
            records = self._log.read(self.position, self._batch)
            if records:
                if not uncommitted:
                    oldest = self._clock()
                self._apply(records)
                uncommitted += len(records)
            done = stopping and (not records or self.recovering)
            due = oldest + commit_s - self._clock()
            full = done or due <= 0 or uncommitted >= self._settings.commit_records
            idle = self._commit_idle and self._clock() - committed >= _IDLE_COMMIT_S
            if (uncommitted and full) or idle:
                self._engine.commit()
                uncommitted, committed = 0, self._clock()
            if done:
                return
            if not records:
                self._wake.wait(max(due, 0.0) if uncommitted else _IDLE_WAIT_S)

    def _apply(self, records: list[tuple[int, bytes]]) -> None:
        started = self._clock()
        with self._lock:
            applied = self._engine.apply(records)
            self.position = records[-1][0] + 1
        now = self._clock()
        # The batch grows and shrinks so that applying it takes about as long as allowed.
        allowed = self._settings.batch_ms / 1000
        if now - started > allowed:
            self._batch = max(_SMALLEST_BATCH, self._batch // 2)
        elif len(records) == self._batch and now - started < allowed / 2:
            self._batch = min(_LARGEST_BATCH, self._batch * 2)
        while self._accepted and self._accepted[0][0] <= self.position:
            self._metrics.freshness.observe(now - self._accepted.popleft()[1])
        for result in ("applied", "duplicates", "late", "invalid"):
            self._metrics.applied(result, getattr(applied, result))
        self._progressed()

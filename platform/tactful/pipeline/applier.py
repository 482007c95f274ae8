"""The thread that applies the event log to the feature engine.

It applies small batches under a lock that readers share, so a response waits for one batch at most.
A commit needs no lock, but new records wait for it, so commits are small, too. The progress is the
log position up to which everything is visible.

It also writes the engine's output: dead letters before the commit that passes them, actions into
the log after the commit that holds them, and the time, when no event comes and a timer is due.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import msgspec

from tactful.config.engine import EngineSettings
from tactful.event_log.merged_log import AppliedLog, behind
from tactful.metrics.registry import Metrics
from tactful.schemas.positions import Offsets, merged, reaches
from tactful.schemas.problems import ProblemError
from tactful.util.clock import now_ms
from tactful.util.process_tuning import return_free_pages
from tactful_privacy.errors import LedgerError
from tactful_streaming.contract.log_entries import Entry, Tick, subject_key
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import LateEvent
from tactful_streaming.errors import LogError, StateError
from tactful_streaming.log.dead_letters import DeadLetter, DeadLetters

logger = logging.getLogger(__name__)

_SMALLEST_BATCH = 128
_LARGEST_BATCH = 512
_UNREAD_BATCH = 1_024  # costs half as much an event as the smallest
_UNREAD_S = 1.0
_SMALLEST_COMMIT = 256
_IDLE_WAIT_S = 1.0
_IDLE_COMMIT_S = 10.0
_RETRY_S = 1.0
_REST = 4
_BURST = 20_000
_LONGEST_REST_S = 0.25


class AdaptiveBatch:
    """A batch size that grows and shrinks with the measured time of batches."""

    def __init__(self, smallest: int, largest: int, allowed_s: float) -> None:
        """Begin with the smallest size; a batch may exceed `allowed_s` a little."""
        self.size = smallest  # records of the next batch
        # Pause before the next batch, seconds; above 0 where even a small batch takes longer than
        # allowed, since its fixed cost is then not worth paying often.
        self.rest_s = 0.0
        self._smallest = smallest
        self._largest = max(largest, smallest)
        self._allowed_s = allowed_s

    def note(self, count: int, seconds: float) -> None:
        """Adapt to a batch of `count` records that took `seconds`."""
        if seconds > self._allowed_s:
            self.size = max(self._smallest, self.size // 2)
        elif count >= self.size and seconds < self._allowed_s / 2:
            self.size = min(self._largest, self.size * 2)
        # The time of a large batch says little about the fixed cost of a batch.
        if count <= 2 * self._smallest:
            self.rest_s = min(_REST * max(seconds - self._allowed_s, 0.0), _LONGEST_REST_S)


class DeadLetterBuffer:
    """Buffer of dead letters and late events, written to disk before each commit.

    A late event becomes one letter for each feature that it missed, named in place of the rule.
    """

    def __init__(self, kept: DeadLetters | None, late: DeadLetters | None = None) -> None:
        """Write letters to `kept` and late events to `late`; without these, drop them."""
        self._kept = kept
        self._late = late
        self._waiting: list[DeadLetter] = []
        self._waiting_late: list[LateEvent] = []

    @property
    def note_late(self) -> Callable[[list[LateEvent]], None] | None:
        """Function that buffers late events; None if they are not kept."""
        return None if self._late is None else self._waiting_late.extend

    def note(self, letters: list[DeadLetter]) -> None:
        """Buffer letters; readers of the engine wait meanwhile."""
        if self._kept is not None:
            self._waiting += letters

    def keep(self) -> None:
        """Write the buffered letters durably; after a LogError they stay buffered."""
        if self._waiting and self._kept is not None:
            self._kept.add(self._waiting)
            self._waiting = []
        if self._waiting_late and self._late is not None:
            self._late.add(
                [
                    DeadLetter(
                        payload=event.payload,
                        rule=feature,
                        reason="it came after the last window that it belongs to",
                        partition=event.partition,
                        offset=event.offset,
                    )
                    for event in self._waiting_late
                    for feature in event.features
                ]
            )
            self._waiting_late.clear()


@dataclass(frozen=True)
class ApplierOptions:
    """Options of a `LogApplier`."""

    settings: EngineSettings = field(default_factory=EngineSettings)  # batch and commit sizes
    # Whether actions may address a user, by the key of the history
    permits: Callable[[str], bool] = lambda key: True
    # Commit every ten seconds also without events, for consumers that act by the clock: a private
    # statistic appears on time with and without events
    commit_idle: bool = False
    sends_ticks: bool = True  # append a tick when no event comes and a timer is due
    clock: Callable[[], float] = time.monotonic  # seconds
    wall: Callable[[], int] = now_ms  # epoch milliseconds
    # Time before which all accepted records are in the log, epoch milliseconds; 0 while unknown
    written_until: Callable[[], int] = now_ms
    # Returns a number that grows with each read of the engine: after a second without any, batches
    # are large at once, since they delay nobody. None: it is always read
    reads: Callable[[], int] | None = None


class LogApplier:
    """Applies the log to the engine, in order, once."""

    def __init__(
        self,
        log: AppliedLog,
        engine: Engine,
        lock: AbstractContextManager[object],
        metrics: Metrics,
        options: ApplierOptions,
        *,
        progressed: Callable[[], None],
        append: Callable[[Sequence[Entry]], None],
        letters: DeadLetterBuffer | None = None,
    ) -> None:
        """Prepare the thread; only it may change `engine`, with `lock` held.

        `progressed` is called in the thread after every batch, and when the thread dies. `append`
        appends actions and ticks to the log, durably.
        """
        self._log = log
        self._engine = engine
        self._lock = lock
        self._settings = settings = options.settings
        self._metrics = metrics
        self._progressed = progressed
        self._append = append
        self._letters = letters or DeadLetterBuffer(None)
        self._permits = options.permits
        self._commit_idle = options.commit_idle
        self._sends_ticks = options.sends_ticks and settings.clock == "wall"
        self._clock = options.clock
        self._wall = options.wall
        self._written_until = options.written_until
        self._reads = options.reads
        self._read = -1, 0.0  # number of reads, and when it was first seen
        self._wake = threading.Event()
        self._stopping = False
        self._accepted: collections.deque[tuple[Offsets, float]] = collections.deque()
        self._batch = AdaptiveBatch(_SMALLEST_BATCH, _LARGEST_BATCH, settings.batch_ms / 1000)
        self._share = AdaptiveBatch(
            _SMALLEST_COMMIT, settings.commit_records, settings.commit_pause_ms / 1000
        )
        self._rest_until = 0.0
        self._untidy = 0  # records applied since free memory was returned
        self._thread = threading.Thread(target=self._run, name="tactful-engine", daemon=True)
        self._requests = collections.deque[tuple[Callable[[], int], Future[int]]]()
        self._asking = threading.Lock()
        self._ended = False
        self._goal = dict(log.ends)
        self.position = engine.offset  # number of the next record, as the engine counts them
        self.applied = dict(log.reached)  # offset up to which all is applied, by partition
        self.committed = engine.offset  # number of the first record that a restart reads again
        # All records that were accepted before this time, epoch milliseconds, are applied
        self.applied_until = 0
        self._mark: tuple[int, Offsets] = 0, {}  # a later such time, and the ends of the log then
        self.failure: str | None = None  # message if the thread died

    @property
    def lag(self) -> int:
        """Number of log records that are not applied yet."""
        return behind(self.applied, self._log.ends)

    @property
    def recovering(self) -> bool:
        """Whether records that were in the log at the start are not applied yet."""
        return not reaches(self.applied, self._goal)

    def check(self) -> None:
        """Raise `ProblemError` while the engine recovers, and after it died."""
        if self.failure is not None:
            raise ProblemError("not_ready", self.failure, retry_after=30)
        if self.recovering:
            raise ProblemError("not_ready", "the engine is catching up with the log", retry_after=1)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def notice(self, written: Offsets) -> None:
        """Wake the thread: the log has durable records up to `written`."""
        if written:
            self._accepted.append((written, self._clock()))
        self._wake.set()

    def between(self, work: Callable[[], int]) -> int:
        """Run `work` in the engine's thread after a commit, and wait for it.

        Nothing is applied meanwhile, so `work` should be short.

        Raises:
            StateError: if the thread ends first.
        """
        done: Future[int] = Future()
        with self._asking:
            if self._ended or self._thread.ident is None:
                raise StateError("the engine does not run any more")
            self._requests.append((work, done))
        self._wake.set()
        return done.result()

    def stop(self) -> None:
        """Apply accepted records, commit, and wait for the end of the thread.

        A recovery is interrupted: nothing was accepted yet, and the next start resumes it.
        """
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:
            # A message may quote an event, so only type and traceback are logged. Errors of log
            # and state quote none and name the cure.
            self.failure = f"the engine stopped with {type(error).__name__}"
            message = f": {error}" if isinstance(error, (LogError, StateError)) else ""
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.critical("%s at position %d%s\n%s", self.failure, self.position, message, where)
            self._progressed()
        finally:
            with self._asking:
                self._ended = True
            while self._requests:
                self._requests.popleft()[1].set_exception(StateError("the engine stops"))

    def _answer(self) -> None:
        """Run the requests of other threads, between two batches."""
        while self._requests:
            work, done = self._requests.popleft()
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)

    def _follow(self) -> None:
        commit_s = self._settings.commit_ms / 1000
        uncommitted, oldest = 0, 0.0
        committed = came = self._clock()
        while True:
            self._wake.clear()
            stopping = self._stopping
            is_read = self._is_read()
            limit = self._batch.size if is_read else _UNREAD_BATCH
            written = self._written_until()
            accepted = self._accepted[-1][0] if self._accepted else {}
            records = self._log.read(self.position, limit)
            if records:
                came = self._clock()
                if not uncommitted:
                    oldest = came
                self._apply(records, adapts=is_read)
                uncommitted += len(records)
            elif self.applied != self._log.reached:  # offsets that hold no record
                self.applied = dict(self._log.reached)
                self._note_progress()
            elif self._accepted:  # read before `notice` was called
                self._note_progress()
            if written and reaches(self.applied, self._mark[1]):
                self.applied_until = self._mark[0]
                self._mark = written, merged((self._log.ends, accepted))
            done = stopping and (not records or self.recovering)
            due = oldest + commit_s - self._clock()
            behind = len(records) == limit
            full = done or due <= 0 or self._is_enough(uncommitted, behind=behind)
            idle = self._commit_idle and self._clock() - committed >= _IDLE_COMMIT_S
            if (uncommitted and (full or self._requests)) or idle:
                if self._commit(uncommitted):
                    uncommitted, committed = 0, self._clock()
                    if not (done or self.recovering):
                        self._act()
                else:
                    oldest = self._clock() + _RETRY_S - commit_s
            if done:
                return
            if not uncommitted:
                self._answer()
            if not records:
                if not self.recovering and (self._act() or self._send_tick(came)):
                    continue
                self._tidy(behind=bool(uncommitted))
                self._wake.wait(max(due, 0.0) if uncommitted else _IDLE_WAIT_S)

    def _tidy(self, *, behind: bool) -> None:
        """Return the memory of a burst of records to the system once all are committed."""
        if self._untidy >= _BURST and not behind:
            self._untidy = 0
            return_free_pages()

    def _is_read(self) -> bool:
        """Return whether the engine was read within the last second."""
        if self._reads is None:
            return True
        reads, now = self._reads(), self._clock()
        if reads != self._read[0]:
            self._read = reads, now
        return now - self._read[1] < _UNREAD_S

    def _apply(self, records: list[tuple[int, bytes]], *, adapts: bool = True) -> None:
        started = self._clock()
        with self._lock:
            applied = self._engine.apply(records)
            self.position = records[-1][0] + 1
            self.applied = dict(self._log.reached)
        now = self._clock()
        self._metrics.stage("apply", now - started)
        self._untidy += len(records)
        if adapts:
            self._batch.note(len(records), now - started)
        self._note_progress()
        for result in ("applied", "duplicates", "late", "invalid", "dropped"):
            self._metrics.applied(result, getattr(applied, result))

    def _note_progress(self) -> None:
        now = self._clock()
        while self._accepted and reaches(self.applied, self._accepted[0][0]):
            self._metrics.freshness.observe(now - self._accepted.popleft()[1])
        self._progressed()

    def _is_enough(self, uncommitted: int, *, behind: bool) -> bool:
        """Return whether a number of records is enough for a commit."""
        if self._clock() < self._rest_until:
            return False
        if uncommitted >= self._settings.commit_records:
            return True
        # Waiting records come first, and large commits cost less in total.
        return uncommitted >= self._share.size and not behind and not self.recovering

    def _commit(self, count: int) -> bool:
        """Commit `count` records; False if disk or ledger refused, to be tried again."""
        started = self._clock()
        try:
            self._letters.keep()
            self._engine.commit()
        except (LogError, StateError, LedgerError) as error:
            logger.error("the engine's state cannot be written, trying again: %s", error)
            self._metrics.commits_refused.inc()
            self._rest_until = self._clock() + _RETRY_S
            return False
        self.committed = self.position
        now = self._clock()
        self._metrics.stage("commit", now - started)
        self._share.note(count, now - started)
        self._rest_until = now + self._share.rest_s
        return True

    def _act(self) -> bool:
        """Append committed actions; return whether there were any."""
        waiting = self._engine.outbox()
        # Actions for users without consent are dropped for good.
        actions = [action for action in waiting if self._permits(subject_key(action) or "")]
        if len(actions) < len(waiting):
            self._engine.drop(action for action in waiting if action not in actions)
        if not actions:
            return False
        now = self._wall()
        sent = self._to_log(
            [msgspec.structs.replace(action, received_at=now) for action in actions]
        )
        if sent:
            self._engine.sent(actions)
            self._metrics.actions.inc(len(actions))
        return sent

    def _send_tick(self, came: float) -> bool:
        """Append a tick if no event came for a while and a timer is due."""
        if not self._sends_ticks or self._clock() - came < self._settings.idle_s:
            return False
        timer = self._engine.next_timer()
        now = self._wall()
        if timer is None or now - self._settings.watermark_delay_ms < timer:
            return False
        return self._to_log([Tick(timestamp=now)])

    def _to_log(self, entries: Sequence[Entry]) -> bool:
        try:
            self._append(entries)
        except LogError as error:
            logger.warning("actions wait, because the log refuses them: %s", error)
            return False
        return True

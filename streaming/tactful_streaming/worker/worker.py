"""A worker: one of several processes that share the partitions of a log in Kafka.

Each partition has one owner at a time. The state of a partition outlives its owners.
"""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tactful_streaming.contract.log_entries import Records
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.batches import Applied
from tactful_streaming.errors import LogError
from tactful_streaming.kafka.consumer_group import TEMPORARY, PartitionGroup
from tactful_streaming.worker.partition_job import JobOptions, PartitionJob, purge_idle
from tactful_streaming.worker.progress import PartitionProgress, WorkerProgress

_logger = logging.getLogger(__name__)

_WAIT_S = 0.05
_LEAST_WAIT_S = 0.001  # the client waits whole milliseconds: a shorter wait would be a busy loop
_TELL_S = 0.5  # interval of commits to the group, which only monitoring reads


@dataclass(frozen=True)
class WorkerOptions:
    """Options of one worker: batches and intervals."""

    batch: int = 20_000  # most records applied at once
    publish_interval_s: float | None = None  # between batches copied at once; None: at the commit
    # Time between commits, seconds; 0 commits after every batch. Rows, actions, and a copy that
    # waits for it, are as old as that. With `publish_interval_s`, up to twice as long while there
    # is always something to read.
    commit_interval_s: float = 1.0
    checkpoint_interval_s: float = 60.0  # time between checkpoints, seconds
    # Silence after which a partition is idle: no other partition waits for it, and the clock
    # advances it. Timers wait so much longer than the clock, for events under way.
    idle_ms: int = 1_000
    sends_ticks: bool = True  # whether the clock advances idle partitions; False for the past
    alignment_ms: int | None = 300_000  # most lead over the slowest partition; None: any
    instance: str | None = None  # name that outlives a restart; None: a new one each time


DEFAULT_WORKER_OPTIONS = WorkerOptions()


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Disable the cycle collector during a batch.

    The thousands of objects of a batch are freed by reference counting; scanning them for cycles
    took a quarter of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Worker:
    """Owns the partitions that its group assigns; used by one thread.

    ::

        PartitionGroup.poll → {0: records, 3: records} → PartitionJob 0, PartitionJob 3

    A partition in which windows of very many rows end writes them in portions, one in each step,
    while the others go on.

    While the brokers do not take what it writes, it waits: it closes all states, as after a crash,
    and continues from their last commits.
    """

    def __init__(
        self,
        definitions: Definitions,
        options: JobOptions,
        *,
        pace: WorkerOptions = DEFAULT_WORKER_OPTIONS,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Join the group.

        Args:
            definitions: features, sequences and joins to compute.
            options: options of all partition jobs.
            pace: options of this worker.
            clock: monotonic seconds.
            now: epoch milliseconds.
            sleep: waits a number of seconds.

        Raises:
            LogError: if the Kafka client is not installed or refuses the settings.
        """
        self._definitions = definitions
        self._options = options
        self._pace = pace
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._jobs: dict[int, PartitionJob] = {}
        self._heard: dict[int, float] = {}
        self._committed: dict[int, int] = {}
        self._paused: set[int] = set()
        self._unapplied: dict[int, deque[Records]] = {}  # read while portions were written
        self._commit_at = self._checkpoint_at = self._tell_at = self._read_at = clock()
        self._counts: Counter[str] = Counter()
        self._purged = 0
        self._group = PartitionGroup(
            options.kafka,
            options.group,
            assigned=self._assigned,
            revoked=self._revoked,
            lost=self._drop,
            instance=pace.instance,
            topic_id=options.topic_id,
        )

    @property
    def jobs(self) -> Mapping[int, PartitionJob]:
        """The jobs of the owned partitions, by number."""
        return self._jobs

    @property
    def trouble(self) -> LogError | None:
        """Reason why it waits for the brokers at present; None if it does not."""
        return self._group.trouble

    def run(
        self, stop: Callable[[], bool], progress: Callable[[WorkerProgress], None] = lambda _: None
    ) -> None:
        """Work until `stop` returns true; then commit.

        Args:
            stop: called after each batch.
            progress: called after each commit.

        Raises:
            FencedError: if this process was silent for so long that another one owns a partition:
                start it again.
            StreamingError: if the log, the state or a target fails for good. Nothing is lost: the
                next owner continues from the last commit.
        """
        while not stop():
            if self.step():
                progress(self.progress())
        with self._patience():
            self.commit()
        progress(self.progress())

    def drain(self, partitions: int, *, patience_s: float, stop: Callable[[], bool]) -> bool:
        """Apply the whole log to its ends, and bring all partitions to one watermark.

        This prepares the states for :func:`~tactful_streaming.rescale`. No other process may append
        to the log meanwhile.

        Raises:
            LogError: if other workers keep some of the partitions.
            StreamingError: if the log, the state or a target fails.
        """
        until = self._clock() + patience_s
        while len(self._jobs) < partitions:
            if self._clock() >= until:
                missing = sorted(set(range(partitions)) - self._jobs.keys())
                raise self.trouble or LogError(
                    f"partitions {', '.join(map(str, missing))} of topic "
                    f"{self._options.kafka.topic!r} were not assigned within {patience_s:g} s: "
                    f"workers of group {self._options.group!r} are running: stop them all"
                )
            self.step()
            if stop():
                return False
        reached = 0
        while True:
            # A tick that moves no watermark finds the ends: all records before it are read. Entries
            # appended from here on, by the commit of any step, may lie behind them.
            appended = self._appended()
            ends = {number: job.append_tick(reached) for number, job in self._jobs.items()}
            while any(
                job.offset < ends[number] or job.is_emitting for number, job in self._jobs.items()
            ):
                self.step()
                if stop():
                    return False
                self._check_owned(ends)
            self.commit()
            newest = max(job.watermark for job in self._jobs.values())
            newest += self._options.engine.watermark_delay_ms
            quiet = appended == self._appended()
            at_end = all(job.offset == ends[number] for number, job in self._jobs.items())
            if quiet and at_end and newest == reached:
                return True
            reached = newest

    def step(self) -> bool:
        """Read and apply one batch, and commit if due; return whether it committed."""
        with self._patience():
            return self._step()
        return False

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Close all states, to be opened later, when the brokers do not take what is written."""
        try:
            yield
        except TEMPORARY as error:
            try:
                self._drop(list(self._jobs))
            finally:
                self._group.suspend(error)

    @_collector_paused()
    def _step(self) -> bool:
        self._rest()
        wait = self._commit_at - self._clock()
        if wait > 0:
            wait = min(max(wait, _LEAST_WAIT_S), _WAIT_S)
        if any(job.is_emitting for job in self._jobs.values()):
            wait = 0.0
        records = self._group.poll(self._pace.batch, max(wait, 0.0))
        for number, run in records.items():
            self._unapplied.setdefault(number, deque()).append(run)
        for number, job in self._jobs.items():
            self._proceed(number, job)
        self._align()
        due = self._is_due(busy=bool(records))
        if due:
            self.commit()
            self._purge()
        return due

    def _proceed(self, number: int, job: PartitionJob) -> None:
        """Write one portion of window results, or apply the records of a partition."""
        if job.is_emitting:
            self._count(number, job.emit_portion())
        runs = self._unapplied.get(number)
        while runs and not job.is_emitting:
            self._count(number, job.apply(runs.popleft()))

    def _count(self, number: int, applied: Applied | None) -> None:
        """Count a batch, and copy its changes; None is one with portions left."""
        self._heard[number] = self._clock()
        if applied is None:
            return
        if self._pace.publish_interval_s is not None:
            self._jobs[number].publish()
        self._counts["entries"] += applied.applied
        for name in ("late", "duplicates", "invalid", "dropped"):
            self._counts[name] += getattr(applied, name)

    def _is_due(self, *, busy: bool) -> bool:
        """Whether a commit is due; amid copied batches, up to a second interval later."""
        waits = busy and self._pace.publish_interval_s is not None
        return self._clock() >= self._commit_at + self._pace.commit_interval_s * waits

    def _rest(self) -> None:
        """Wait between batches that are copied at once: most of their cost is fixed."""
        if self._pace.publish_interval_s is not None:
            self._sleep(max(self._read_at - self._clock(), 0.0))
            self._read_at = self._clock() + self._pace.publish_interval_s

    def commit(self) -> None:
        """Commit all partitions, then append their actions, transfers and ticks."""
        for number, job in self._jobs.items():
            self._committed[number] = job.commit()
        if self._clock() >= self._tell_at:
            self._group.commit(self._committed)
            self._tell_at = self._clock() + _TELL_S
        for job in self._jobs.values():
            self._counts["actions"] += job.append_actions(self._now())
            self._counts["handovers"] += job.append_transfers()
        if self._pace.sends_ticks:
            now = self._now() - self._pace.idle_ms
            for number in self._idle():
                self._counts["ticks"] += self._jobs[number].tick(now)
        if self._clock() >= self._checkpoint_at + self._pace.checkpoint_interval_s:
            for job in self._jobs.values():
                job.checkpoint()
            self._checkpoint_at = self._clock()
        self._commit_at = self._clock() + self._pace.commit_interval_s

    def progress(self) -> WorkerProgress:
        """Return the counts of this worker and the progress of each partition."""
        lag, idle = self._group.lag(), self._idle()
        partitions = {
            number: PartitionProgress(
                offset=job.offset,
                committed=self._committed.get(number, job.offset),
                watermark=job.watermark,
                records=lag[number].records,
                behind_ms=lag[number].behind_ms,
                idle=number in idle,
                paused=number in self._paused,
            )
            for number, job in sorted(self._jobs.items())
            if number in lag
        }
        rows = self._counts["rows"] + sum(job.rows for job in self._jobs.values())
        return WorkerProgress(partitions=partitions, **{**self._counts, "rows": rows})

    def close(self) -> None:
        """Commit, and leave the group."""
        try:
            self._group.close()
        finally:
            self._drop(list(self._jobs))

    def abandon(self) -> None:
        """Close the states and leave the group without a commit, after an error."""
        try:
            self._drop(list(self._jobs))
        finally:
            self._group.close()

    def _appended(self) -> int:
        """Number of actions, transfers and ticks that this worker has appended."""
        return sum(self._counts[name] for name in ("actions", "handovers", "ticks"))

    def _check_owned(self, numbers: Collection[int]) -> None:
        if lost := sorted(set(numbers) - self._jobs.keys()):
            raise self.trouble or LogError(
                f"partitions {', '.join(map(str, lost))} of topic {self._options.kafka.topic!r} "
                f"went to another worker of group {self._options.group!r}: stop them all"
            )

    def _purge(self) -> None:
        """Reopen, and so purge, the partitions that still hold erased users."""
        erasures = self._options.erasures
        if erasures is None or erasures.newest <= self._purged:
            return
        newest = erasures.newest
        waiting = [number for number, job in self._jobs.items() if job.purged < newest]
        if any(self._jobs[number].is_emitting for number in waiting):
            return  # a state is behind what was read: it is purged after the last portion
        for number in waiting:
            job = self._jobs.pop(number)
            self._counts["rows"] += job.rows
            job.close()
            self._jobs[number] = PartitionJob(number, self._definitions, self._options)
        purge_idle(self._options, self._definitions, erasures)
        self._purged = newest

    def _assigned(self, number: int) -> int:
        job = PartitionJob(number, self._definitions, self._options)
        self._jobs[number] = job
        self._heard[number] = self._clock()
        return job.offset

    def _revoked(self, numbers: Sequence[int]) -> None:
        owned = [number for number in numbers if number in self._jobs]
        try:
            for number in owned:
                self._committed[number] = self._jobs[number].commit()
            self._group.commit({number: self._committed[number] for number in owned}, wait=True)
        except TEMPORARY as error:
            _logger.warning("partitions %s continue from an earlier commit: %s", owned, error)
        finally:
            self._drop(owned)

    def _drop(self, numbers: Sequence[int]) -> None:
        with ExitStack() as closing:  # closes all of them, also if some fail
            for number in numbers:
                job = self._jobs.pop(number, None)
                self._heard.pop(number, None)
                self._committed.pop(number, None)
                self._paused.discard(number)
                self._unapplied.pop(number, None)
                if job is not None:
                    self._counts["rows"] += job.rows
                    closing.callback(job.close)

    def _idle(self) -> set[int]:
        """Return the partitions that were silent for a while, though they were read."""
        until = self._clock() - self._pace.idle_ms / 1000
        return {number for number, heard in self._heard.items() if heard <= until} - self._paused

    def _align(self) -> None:
        # Records that arrive while portions are written would only take memory.
        paused = {number for number, job in self._jobs.items() if job.is_emitting}
        if self._pace.alignment_ms is not None and len(self._jobs) > 1:
            watermarks = {number: job.watermark for number, job in self._jobs.items()}
            paused |= leading(watermarks, self._idle(), self._pace.alignment_ms)
        if paused != self._paused:
            self._group.resume(self._paused - paused)
            self._group.pause(paused - self._paused)
            for number in self._paused - paused:
                self._heard[number] = self._clock()
            self._paused = paused


def leading(watermarks: Mapping[int, int], idle: Collection[int], bound_ms: int) -> set[int]:
    """Return the partitions whose watermark leads the slowest by over `bound_ms`.

    Idle partitions do not wait, and no other waits for them.
    """
    awake = {number: at for number, at in watermarks.items() if number not in idle}
    slowest = min(awake.values(), default=0)
    return {number for number, at in awake.items() if at > slowest + bound_ms}

"""Worker processes: members of the group in threads, and how they end."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import click

from tactful.config import logging as logs
from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.event_log.encryption import open_seal
from tactful.feature_workers.prepare import followed_erasures, prepare_worker
from tactful.feature_workers.prepare_copier import prepare_copier
from tactful.feature_workers.status import WorkerMetrics, serve_status, show_progress
from tactful.util.clock import now_ms
from tactful.util.deadline import Deadline
from tactful.util.process_tuning import end_start, short_delays
from tactful.util.signals import on_stop_signals
from tactful.util.supervisor import RESTART
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import FencedError, LogError, OnlineStoreError, StreamingError
from tactful_streaming.kafka.consumer_group import TEMPORARY
from tactful_streaming.worker.progress import WorkerProgress

logger = logging.getLogger(__name__)

_SHOW_S = 1.0
_SILENT_S = 15.0
"""Longest time of a batch of a member that works."""

_RESTARTED = (FencedError, OnlineStoreError, *TEMPORARY)


class _GroupMember(Protocol):
    """A member of the group: it computes features, or copies those of a Flink job."""

    @property
    def trouble(self) -> LogError | None: ...

    def run(self, stop: Callable[[], bool], progress: Callable[[WorkerProgress], None]) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


def run_workers(
    settings: Settings, matches_topic: str | None, *, idle_exit: float | None, as_json: bool
) -> bool:
    """Compute features until a stop signal, or `idle_exit` seconds without progress.

    Returns:
        False if it should be started again: another worker took over its partitions, or what it
        needs is away. Nothing is lost.

    Raises:
        StorageError: if the log, the state or Redis cannot be used.
    """
    logs.configure(settings.logging)
    definitions = load_definitions(settings.features)
    seconds = settings.worker.shutdown_s
    with contextlib.ExitStack() as stack:
        deadline = stack.enter_context(
            Deadline(
                seconds,
                RESTART,
                f"tactful: not all work ended within {seconds:g} s (worker.shutdown_s): the "
                "process ends without it. Nothing is lost: the next owner of its partitions "
                "continues from the last commit. Present calls:",
            )
        )
        erasures = stack.enter_context(followed_erasures(settings))
        try:
            make: Callable[[int], _GroupMember]
            if settings.engine.kind == "flink":
                make = prepare_copier(settings, definitions, erasures)
            else:
                seal = open_seal(settings, clock=now_ms)
                if seal is not None:
                    stack.callback(seal.close)
                make = prepare_worker(settings, definitions, matches_topic, erasures, seal)
        except StreamingError as error:
            return _ended(error)
        end_start()
        workers = WorkerThreads(settings.worker.threads, make)
        stack.enter_context(short_delays())

        def stop() -> None:
            workers.stop()
            deadline.begin()

        stack.enter_context(on_stop_signals(stop))
        metrics = serve_status(settings, workers.problems)
        workers.start()
        _watch(workers, deadline, metrics, idle_exit, as_json)
    show_progress(workers.progress(), as_json)
    return _ended(workers.failure)


def _ended(failure: BaseException | None) -> bool:
    """Report the end; raise an error that a new start does not mend."""
    if failure is None:
        return True
    if isinstance(failure, StreamingError) and not isinstance(failure, _RESTARTED):
        raise StorageError(str(failure)) from failure
    click.echo(f"tactful: {failure}", err=True)
    return False


def _watch(
    workers: WorkerThreads,
    deadline: Deadline,
    metrics: WorkerMetrics | None,
    idle_exit: float | None,
    as_json: bool,
) -> None:
    """Show the progress of the workers until they end, or are idle for too long."""
    last, since = None, time.monotonic()
    while workers.wait(_SHOW_S):
        if workers.stopping:
            deadline.begin()
        progress = workers.progress()
        if metrics is not None:
            metrics(progress)
        if progress != last:
            last, since = progress, time.monotonic()
            show_progress(progress, as_json)
        if idle_exit is not None and time.monotonic() - since >= idle_exit:
            workers.stop()


@dataclass
class _Member:
    """Status of a member, written by its thread."""

    worker: _GroupMember | None = None
    stepped_at: float = 0.0  # end of its last batch
    progress: WorkerProgress | None = None


class WorkerThreads:
    """Members of the worker group, a thread each; when one fails, all stop."""

    def __init__(self, count: int, make: Callable[[int], _GroupMember]) -> None:
        """Prepare the threads; `make` makes the member of a number."""
        self.failure: BaseException | None = None
        self._stopping = threading.Event()
        self._members = [_Member(stepped_at=time.monotonic()) for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._run, args=(number, make), name=f"worker-{number}")
            for number in range(count)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.daemon = True  # a member that hangs must not keep the process
            thread.start()

    @property
    def stopping(self) -> bool:
        """Whether all members are to end."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """End all members after their present batch."""
        self._stopping.set()

    def wait(self, seconds: float) -> bool:
        """Wait, and return whether any member still runs."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
        return any(thread.is_alive() for thread in self._threads)

    def progress(self) -> list[WorkerProgress]:
        """Return the progress of the members that have committed."""
        return [member.progress for member in self._members if member.progress is not None]

    def problems(self) -> list[str]:
        """Return the reasons why members compute nothing at present."""
        if self._stopping.is_set():
            return ["the process is ending"]
        return [
            f"member {number} {problem}"
            for number, member in enumerate(self._members)
            if (problem := _problem(member)) is not None
        ]

    def _run(self, number: int, make: Callable[[int], _GroupMember]) -> None:
        member = self._members[number]

        def stop() -> bool:
            member.stepped_at = time.monotonic()
            return self._stopping.is_set()

        def progress(done: WorkerProgress) -> None:
            member.progress = done

        try:
            member.worker = make(number)
            member.worker.run(stop, progress)
            member.worker.close()
        except BaseException as error:
            logger.exception("a worker stops")
            self.failure = self.failure or error
            self._stopping.set()  # before what may take long
            if member.worker is not None:
                with contextlib.suppress(StreamingError):
                    member.worker.abandon()
        finally:
            self._stopping.set()


def _problem(member: _Member) -> str | None:
    if member.worker is None:
        return "is starting"
    silent = time.monotonic() - member.stepped_at
    if silent > _SILENT_S:
        return f"has finished no batch for {silent:.0f} s"
    trouble = member.worker.trouble
    return None if trouble is None else f"waits: {trouble}"

"""Gauges of a server, which are read when its metrics are read."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Generic, TypeVar, get_args

from tactful.errors import TactfulError
from tactful.schemas.operations import JobInfo, JobState
from tactful.server.flink_job import add_flink_gauges
from tactful.util.jobs import jobs_of
from tactful.util.machine_memory import own_memory
from tactful_privacy.errors import PrivacyError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_MEGABYTE = 2**20
_KEPT_S = 30.0
_MINUTE_S = 60.0  # an exact age would tell when the latest event happened

T = TypeVar("T")


def rounded(size: float) -> float:
    """Round bytes to whole megabytes: exact ones would reveal each new user."""
    return _MEGABYTE * round(size / _MEGABYTE)


def add_gauges(platform: Platform) -> None:
    """Register the gauges of a server."""
    backend, engine, gauge = platform.backend, platform.engine, platform.metrics.gauge
    webhooks = platform.resources.webhooks

    def state_bytes() -> float:
        with platform.lock:
            size = engine.nbytes
        return rounded(size)

    def watermark_age() -> float:
        if engine.watermark <= 0:
            return 0.0  # before the first event
        age = (platform.resources.installation.clock() - engine.watermark) / 1000
        return max(0.0, _MINUTE_S * math.ceil(age / _MINUTE_S))

    gauge("engine_lag", "Log records not applied yet", lambda: platform.applier.lag)
    text = "About how much memory the state of entities takes, in whole megabytes"
    gauge("engine_state_bytes", text, state_bytes)
    text = "Age of the event time up to which events are complete, rounded up to minutes"
    gauge("watermark_age_seconds", text, watermark_age)
    gauge("commit_pending_bytes", "Bytes accepted and not durable yet", backend.waiting_bytes)
    text = "Recommendations waiting for their turn"
    gauge("recommend_waiting", text, lambda: platform.recommendations.admission.waiting)
    text = "Features that are to be computed from the log"
    gauge("features_missing", text, lambda: len(engine.missing))
    text = "Whether the event log takes no events at present"
    gauge("log_unreachable", text, lambda: backend.problem() is not None)
    gauge("log_spooled", "Records that wait on disk for an absent broker", backend.spooled)
    if (copied := backend.copied) is not None:
        text = "Bytes that wait for the online store"
        gauge("online_waiting_bytes", text, lambda: copied.waiting_bytes)
    text = "Receivers of erasures whose last attempt failed"
    gauge("erasure_receivers_failing", text, lambda: platform.notices.failing)
    if (encoding := platform.encoding) is not None:
        text = "Items whose words or picture are not encoded yet"
        gauge("items_unencoded", text, lambda: encoding.waiting)
        text = "Whether the last encoding of items failed"
        gauge("encoding_failed", text, lambda: bool(encoding.problem))
    if platform.flink is not None:
        add_flink_gauges(platform, platform.flink)
    text = "Whether this server publishes, sends and schedules; of several servers one does"
    gauge("lease_held", text, lambda: platform.lease.held)
    if webhooks is not None:
        text = "Attempts that failed and are repeated"
        gauge("webhooks_failed", text, lambda: webhooks.failed)
        gauge("webhooks_buried", "Actions that were given up", lambda: webhooks.buried)
    if backend.rules is not None:
        platform.metrics.rules(backend.rules.report)
    _add_machine(platform)
    _add_jobs(platform)


def _add_machine(platform: Platform) -> None:
    """Register the gauges of memory, disk and uptime."""
    gauge, data = platform.metrics.gauge, platform.settings.storage.data
    clock, started_at = platform.resources.installation.clock, platform.started_at
    text = "Memory of the server's processes, in whole megabytes"
    gauge("memory_bytes", text, lambda: rounded(own_memory()))
    text = "Free space of the disk with the data directory, in whole megabytes"
    gauge("disk_free_bytes", text, lambda: rounded(shutil.disk_usage(data).free))
    text = "Size of the disk with the data directory"
    gauge("disk_bytes", text, lambda: shutil.disk_usage(data).total)
    gauge("uptime_seconds", "Time since the start", lambda: (clock() - started_at) / 1000)


def _add_jobs(platform: Platform) -> None:
    """Register the gauges of jobs, backups and rollouts."""
    metrics, data = platform.metrics, platform.settings.storage.data
    clock = platform.resources.installation.clock

    def ages() -> dict[str, float]:
        ended = {job.kind: job.ended_at or 0 for job in reversed(jobs_of(data)) if _succeeded(job)}
        return {kind: (clock() - at) / 1000 for kind, at in ended.items()}

    def jobs() -> dict[str, float]:
        return _counted((job.state for job in jobs_of(data)), get_args(JobState))

    def rollouts() -> dict[str, float]:
        states = (str(each.rollout.state) for each in platform.rollouts.all() if not each.archived)
        return _counted(states, ())

    nothing: dict[str, float] = {}
    text = "Time since the last long job of a kind that succeeded"
    metrics.gauges("job_age_seconds", text, "kind", Kept(ages, nothing))
    metrics.gauges("jobs", "Latest long jobs by state", "state", Kept(jobs, nothing))
    metrics.gauges("rollouts", "Rollouts by state", "state", Kept(rollouts, nothing))


class Kept(Generic[T]):
    """Number that is read from a disk or a database, at most twice a minute.

    While it cannot be read it is unknown, or keeps its last value: other metrics are shown all the
    same.
    """

    def __init__(
        self,
        read: Callable[[], T],
        unknown: T,
        clock: Callable[[], float] = time.monotonic,
        *,
        keeps: bool = False,
    ) -> None:
        """Return what `read` returns, or `unknown`.

        `clock` returns seconds; with `keeps` a failure leaves the last value.
        """
        self._read = read
        self._unknown = unknown
        self._clock = clock
        self._keeps = keeps
        self._at = -math.inf
        self._value = unknown

    def __call__(self) -> T:
        """Return the number."""
        if self._clock() - self._at >= _KEPT_S:
            try:
                self._value = self._read()
            except (TactfulError, PrivacyError, OSError):
                if not self._keeps:
                    self._value = self._unknown
            self._at = self._clock()
        return self._value


def _succeeded(job: JobInfo) -> bool:
    return job.state == "done"


def _counted(values: Iterable[str], known: Iterable[str]) -> dict[str, float]:
    """Count values; `known` ones are there with 0, too."""
    return {**dict.fromkeys(known, 0.0), **Counter(values)}

"""Metrics of a day, long jobs and machine of an installation."""

from __future__ import annotations

from typing import Literal

import msgspec

from tactful.schemas.health import WorkerHealth

JobKind = Literal[
    "training",
    "backfill",
    "backup",
    "restore",
    "rescale",
    "key_rotation",
    "erasure",
    "import",
    "encoding",
]
JobState = Literal["running", "done", "failed", "killed"]


class MetricSeries(msgspec.Struct, kw_only=True, frozen=True):
    """Numbers of one metric, one by time of `MetricsPage.times`; null where none was measured.

    Attributes:
        name: of the series, e.g. ``tactful_engine_lag`` or
            ``tactful_request_seconds{quantile="0.99",route="/v1/events"}``.
        means: mean of each step.
        highest: highest number of each step.
    """

    name: str
    means: list[float | None]
    highest: list[float | None]


class MetricsPage(msgspec.Struct, kw_only=True, frozen=True):
    """Metrics that the server has kept of itself.

    Attributes:
        since: first time, epoch milliseconds.
        until: end, which is left out.
        step_s: length of a step in seconds.
        times: beginning of each step that has a point, epoch milliseconds.
        series: numbers by series.
    """

    since: int
    until: int
    step_s: int
    times: list[int]
    series: list[MetricSeries]


class JobInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A long job.

    Attributes:
        id: name of the job.
        kind: what it does.
        state: ``running``; ``done``; ``failed``, with an error; ``killed``, its process ended.
        started_at: time of its start, epoch milliseconds.
        updated_at: time of its latest progress, epoch milliseconds.
        ended_at: time of its end, epoch milliseconds; None while it runs, and if it was killed.
        stage: part that it is at, in a word; empty if it has no parts.
        progress: share of the stage that is done, 0 to 1; None if unknown.
    """

    id: str
    kind: JobKind
    state: JobState
    started_at: int
    updated_at: int
    ended_at: int | None = None
    stage: str = ""
    progress: float | None = None


class JobIndex(msgspec.Struct, kw_only=True, frozen=True):
    """A page of the long jobs, newest first.

    Attributes:
        jobs: the jobs.
        next_cursor: cursor of the next page; None at the end.
    """

    jobs: list[JobInfo]
    next_cursor: str | None = None


class SystemCheck(msgspec.Struct, kw_only=True, frozen=True):
    """Result of one check.

    Attributes:
        name: of what is checked.
        state: ``ok``; ``warning``, it works; ``failed``, it does not.
        finding: finding and cure in words.
    """

    name: str
    state: Literal["ok", "warning", "failed"]
    finding: str


class SystemInfo(msgspec.Struct, kw_only=True, frozen=True):
    """State of a server and of its machine.

    Attributes:
        status: as ``/readyz`` has it: ``ok``, ``starting``, ``stopping`` or ``failed``.
        version: version of the server.
        started_at: time of its start, epoch milliseconds.
        log: where events are kept, ``embedded`` or ``kafka``.
        lag: number of log records that are not applied yet.
        watermark_at: event time up to which events are expected to be complete, epoch
            milliseconds; None before the first event, and to readers without `admin`.
        memory_bytes: memory of its processes, in whole megabytes.
        disk_free_bytes: free space of the disk with the data directory, in whole megabytes.
        disk_bytes: size of that disk.
        cpus: number of processors that it may use.
        checks: results of the checks that ``tactful doctor`` makes beside a running server.
        workers: health of the worker processes; None without workers.
        last_backup: latest backup that succeeded; None if there is none.
        holds_lease: whether this server publishes, sends and schedules; of several one does.
        lease_holder: host and process of the server that does; None while nobody does.
    """

    status: str
    version: str
    started_at: int
    log: str
    lag: int
    watermark_at: int | None
    memory_bytes: int
    disk_free_bytes: int
    disk_bytes: int
    cpus: int
    checks: list[SystemCheck]
    workers: list[WorkerHealth] | None = None
    last_backup: JobInfo | None = None
    holds_lease: bool = True
    lease_holder: str | None = None

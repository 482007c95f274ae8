"""Health of a Flink job, from a cluster's REST API: state, restarts, checkpoints, lag.

All times are by the cluster's clock, so that a difference between two machines changes nothing. The
paths are those of Flink's "REST API" page, the metrics those of its "Metrics" page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tactful_streaming.errors import FlinkRefusedError
from tactful_streaming.flink.rest_client import ENDED, FlinkCluster, FoundJob, shortened

ABSENT: Final = "ABSENT"
"""State of a job that the cluster does not know."""

LOOP_FAILURES: Final = 3
"""Failures within `LOOP_S`, without a checkpoint since, after which a job counts as looping."""

LOOP_S: Final = 600.0
"""Time in which failures count, seconds."""

STALE_INTERVALS: Final = 10
"""Checkpoint intervals without a completed checkpoint after which a job counts as stuck …"""

STALE_S: Final = 60.0
"""… but not before this time, seconds."""

_SOURCE = "Source:"
_PENDING = ".pendingRecords"
_RESTARTS = "numRestarts"
_LONGEST_REASON = 300


@dataclass(frozen=True)
class JobHealth:
    """State of a job at one time.

    >>> JobHealth("tactful").problem
    'no job tactful on the cluster: start it with `tactful flink submit`'
    """

    name: str  # as it was asked for
    job: str = ""  # id; empty if the cluster knows no such job
    state: str = ABSENT  # Flink's name of it, or `ABSENT`
    running_s: float = 0.0  # time since the start
    others: int = 0  # further jobs of this name that have not ended
    restarts: int = 0  # since the start
    recent_failures: int = 0  # within `LOOP_S` and since the last completed checkpoint
    failure: str = ""  # reason of the last failure
    checkpointing: bool = True  # whether the job makes checkpoints
    checkpoint_age_s: float | None = None  # age of the last completed one; None before the first
    checkpoint: str = ""  # path of that one
    interval_s: float = 0.0  # time between checkpoints
    checkpoints_failed: int = 0  # attempts since the last completed one
    lag: int | None = None  # records that sources have not read; None without that metric

    @property
    def looping(self) -> bool:
        """Whether it fails again and again without getting further."""
        return self.recent_failures >= LOOP_FAILURES

    @property
    def stuck(self) -> bool:
        """Whether it has completed no checkpoint for too long."""
        age = self.running_s if self.checkpoint_age_s is None else self.checkpoint_age_s
        return age > max(STALE_S, STALE_INTERVALS * self.interval_s)

    @property
    def problem(self) -> str:
        """The problem and its remedy; empty for a job that is well."""
        if self.state == ABSENT:
            return f"no job {self.name} on the cluster: start it with `tactful flink submit`"
        if self.state in ENDED:
            return (
                f"job {self.name} is {self.state}{_because(self.failure)}; `tactful flink submit` "
                "resumes it"
            )
        if self.others:
            return (
                f"{1 + self.others} jobs {self.name} run at once and write the same topics: end "
                "all but one with `tactful flink stop --job`"
            )
        if self.looping:
            return (
                f"job {self.name} fails again and again, {self.recent_failures} times in "
                f"{LOOP_S / 60:g} minutes{_because(self.failure)}"
            )
        if self.state != "RUNNING":
            return f"job {self.name} is {self.state}{_because(self.failure)}"
        if not self.checkpointing:
            return f"job {self.name} makes no checkpoints: submit it with `--checkpoint 10s`"
        if self.stuck:
            failed = ", the last attempt failed" if self.checkpoints_failed else ""
            return (
                f"job {self.name} has completed no checkpoint for {_minutes(self)}{failed}: see "
                "the checkpoints in Flink's web interface"
            )
        return ""


def job_health(cluster: FlinkCluster, name: str) -> JobHealth:
    """Read the health of the job with this name or id; of several the one that runs.

    Raises:
        FlinkUnreachableError: if the cluster does not answer.
        FlinkError: if it answers otherwise than Flink.
    """
    found = [job for job in cluster.jobs() if name in (job.name, job.id)]
    if not found:
        return JobHealth(name)
    active = [job for job in found if not job.ended]
    job = (active or found)[0]
    try:
        return _health(cluster, name, job, others=max(0, len(active) - 1))
    except FlinkRefusedError:
        if any(job.id == known.id for known in cluster.jobs()):
            raise
        return JobHealth(name)  # it was removed from the cluster's memory meanwhile


def _health(cluster: FlinkCluster, name: str, job: FoundJob, *, others: int) -> JobHealth:
    detail = cluster.read(f"/jobs/{job.id}")
    now = int(detail["now"])
    failures = _failures(cluster, job.id)
    checkpoints, interval_ms = _checkpoints(cluster, job.id)
    latest: Mapping[str, Any] = (checkpoints.get("latest") or {}).get("completed") or {}
    completed_at = int(latest.get("latest_ack_timestamp", 0))
    looping_since = max(completed_at, now - int(LOOP_S * 1000))
    active = detail["state"] not in ENDED
    return JobHealth(
        name=name,
        job=job.id,
        state=str(detail["state"]),
        running_s=max(0, now - job.started_at) / 1000,
        others=others,
        restarts=_restarts(cluster, job.id) if active else 0,
        recent_failures=sum(at > looping_since for at, _ in failures),
        failure=failures[0][1] if failures else "",
        checkpointing=interval_ms is not None,
        checkpoint_age_s=max(0, now - completed_at) / 1000 if latest else None,
        checkpoint=str(latest.get("external_path", "")),
        interval_s=(interval_ms or 0) / 1000,
        checkpoints_failed=_failed_since(checkpoints, int(latest.get("id", 0))),
        lag=_lag(cluster, job.id, detail.get("vertices", [])) if active else None,
    )


def _failures(cluster: FlinkCluster, job: str) -> list[tuple[int, str]]:
    """Return time and reason of the last failures, newest first."""
    answer = cluster.read(f"/jobs/{job}/exceptions", maxExceptions=16)
    entries = (answer.get("exceptionHistory") or {}).get("entries", [])
    found = [(int(it["timestamp"]), shortened(it.get("stacktrace", ""))) for it in entries]
    return sorted(found, reverse=True)


def _checkpoints(cluster: FlinkCluster, job: str) -> tuple[Mapping[str, Any], int | None]:
    """Return the statistics of checkpoints and their interval, ms; None if there are none."""
    try:
        settings = cluster.read(f"/jobs/{job}/checkpoints/config")
        statistics = cluster.read(f"/jobs/{job}/checkpoints")
    except FlinkRefusedError:  # of a job without checkpoints
        return {}, None
    interval = int(settings.get("interval") or 0)
    periodic = 0 < interval < 2**53  # 2⁶³ - 1 stands for never
    return statistics, interval if periodic else None


def _failed_since(checkpoints: Mapping[str, Any], completed: int) -> int:
    history: Iterable[Mapping[str, Any]] = checkpoints.get("history", [])
    return sum(it.get("status") == "FAILED" and int(it.get("id", 0)) > completed for it in history)


def _restarts(cluster: FlinkCluster, job: str) -> int:
    metrics = cluster.read(f"/jobs/{job}/metrics", get=_RESTARTS)
    return int(_sum(metrics, "value") or 0)


def _lag(cluster: FlinkCluster, job: str, vertices: Iterable[Mapping[str, Any]]) -> int | None:
    """Add up the records that the sources have not read; None while no source reports them."""
    lag: float | None = None
    for vertex in vertices:
        if not str(vertex.get("name", "")).startswith(_SOURCE):
            continue
        path = f"/jobs/{job}/vertices/{vertex['id']}/subtasks/metrics"
        names = [it["id"] for it in cluster.read(path) if it["id"].endswith(_PENDING)]
        if names and (pending := _sum(cluster.read(path, get=",".join(names)), "sum")) is not None:
            lag = (lag or 0.0) + pending
    return None if lag is None else int(lag)


def _sum(metrics: Iterable[Mapping[str, Any]], key: str) -> float | None:
    """Add up a list of metrics; None if it has no number."""
    numbers = [float(it[key]) for it in metrics if key in it]
    numbers = [number for number in numbers if math.isfinite(number)]
    return sum(numbers) if numbers else None


def _because(reason: str) -> str:
    return f": {reason[:_LONGEST_REASON]}" if reason else ""


def _minutes(health: JobHealth) -> str:
    age = health.running_s if health.checkpoint_age_s is None else health.checkpoint_age_s
    return f"{age / 60:.0f} minutes"

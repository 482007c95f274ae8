"""State of a server and its machine: readiness, checks, jobs, last backup."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tactful.errors import StorageError
from tactful.maintenance.doctor import examine_running
from tactful.metadata.lease import process_of
from tactful.schemas.health import Health
from tactful.schemas.operations import JobInfo, SystemCheck, SystemInfo
from tactful.server.gauges import rounded
from tactful.util.jobs import jobs_of
from tactful.util.machine_memory import own_memory

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_MEMORY = "tactful_memory_bytes"


def check_health(platform: Platform, status: str) -> Health:
    """Return the readiness of a server whose life is at `status`; see `Platform.health`."""
    applier, backend = platform.applier, platform.backend
    behind = applier.recovering or not platform.recommendations.ready
    engine = applier.failure or ("catching up" if behind else "ok")
    if status == "ok" and engine != "ok":
        status = "failed" if applier.failure else "starting"
    checks = {"engine": engine}
    if problem := backend.problem():
        checks["log"] = problem
    if problem := backend.unwritable():
        checks["log"] = problem
        status = "failed" if status == "ok" else status
    if (shared := backend.shared) is not None and shared.problem:
        checks["online"] = shared.problem
    if missing := platform.engine.missing:
        checks["features"] = f"{len(missing)} are to be computed by a backfill"
    if (encoding := platform.encoding) is not None:
        failed = "the last encoding of items failed: see the log, and run `tactful doctor`"
        checks["encoder"] = failed if encoding.problem else "ok"
    if platform.flink is not None:
        checks["flink"] = platform.flink.finding
    workers = None if platform.workers is None else platform.workers()
    if workers is not None:
        ready = sum(worker.state == "ready" for worker in workers)
        total = len(workers)
        checks["workers"] = "ok" if ready == total else f"{ready} of {total} ready"
    return Health(
        status=status,
        version=platform.version,
        checks=checks,
        workers=workers,
        holds_lease=platform.lease.held,
    )


def describe_system(platform: Platform) -> SystemInfo:
    """Describe a running server; called in a thread."""
    settings, health, latest = platform.settings, platform.health(), platform.history.latest
    disk = shutil.disk_usage(settings.storage.data)
    memory = rounded(own_memory()) if latest is None else latest.public.get(_MEMORY, 0)
    succeeded = (job for job in jobs_of(settings.storage.data) if job.state == "done")
    return SystemInfo(
        status=health.status,
        version=health.version,
        started_at=platform.started_at,
        log=settings.log.kind,
        lag=platform.applier.lag,
        watermark_at=platform.engine.watermark if platform.engine.watermark > 0 else None,
        memory_bytes=round(memory),
        disk_free_bytes=round(rounded(disk.free)),
        disk_bytes=disk.total,
        cpus=len(os.sched_getaffinity(0)),
        checks=[*_checks(platform, health.checks)],
        workers=health.workers,
        holds_lease=health.holds_lease,
        lease_holder=_lease_holder(platform),
        last_backup=next((job for job in succeeded if job.kind == "backup"), None),
    )


def _lease_holder(platform: Platform) -> str | None:
    """Return the host and the process that hold the lease; None if nobody does."""
    try:
        state = platform.lease.state()
    except StorageError:
        return None
    return None if state is None or state.left_ms <= 0 else process_of(state.holder)


def _checks(platform: Platform, checks: dict[str, str]) -> Iterator[SystemCheck]:
    """Yield the checks of readiness, then those of the doctor."""
    for name, finding in checks.items():
        yield SystemCheck(name=name, state="ok" if finding == "ok" else "failed", finding=finding)
    for check in examine_running(platform.settings):
        yield SystemCheck(name=check.name, state=check.state, finding=check.said)


def list_jobs(platform: Platform) -> list[JobInfo]:
    """List the long jobs of the installation, newest first; called in a thread.

    Erasures that wait are one job without number or person.
    """
    jobs = jobs_of(platform.settings.storage.data)
    waiting = platform.erasures.oldest()
    if waiting is not None:
        overdue = bool(platform.erasures.overdue())
        now = platform.resources.installation.clock()
        erasure = JobInfo(
            id=f"{waiting}-erasure",
            kind="erasure",
            state="running",
            started_at=waiting,
            updated_at=now,
            stage="overdue" if overdue else "waiting",
        )
        jobs = sorted([*jobs, erasure], key=lambda job: job.id, reverse=True)
    return jobs

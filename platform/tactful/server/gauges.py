"""Gauges of a server, which are read when its metrics are read."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tactful.util.machine_memory import own_memory

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_MEGABYTE = 2**20


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
        return max(0.0, (platform.resources.installation.clock() - engine.watermark) / 1000)

    gauge("engine_lag", "Log records not applied yet", lambda: platform.applier.lag)
    text = "About how much memory the state of entities takes, in whole megabytes"
    gauge("engine_state_bytes", text, state_bytes)
    text = "Age of the event time up to which events are expected to be complete"
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
    if webhooks is not None:
        text = "Attempts that failed and are repeated"
        gauge("webhooks_failed", text, lambda: webhooks.failed)
        gauge("webhooks_buried", "Actions that were given up", lambda: webhooks.buried)
    if backend.rules is not None:
        platform.metrics.rules(backend.rules.report)
    _add_machine(platform)


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

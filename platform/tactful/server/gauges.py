"""Gauges of a server: lag, queue lengths and sizes, read when Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from tactful.metrics.registry import Metrics
from tactful.pipeline.applier import LogApplier
from tactful.pipeline.backends import Backend
from tactful.pipeline.webhooks import Webhooks
from tactful.server.overload import AdmissionControl

_MEGABYTE = 2**20


def add_gauges(
    metrics: Metrics,
    backend: Backend,
    applier: LogApplier,
    admission: AdmissionControl,
    webhooks: Webhooks | None,
    *,
    lock: AbstractContextManager[object],
    clock: Callable[[], int],
) -> None:
    """Register the gauges of a server; `lock` is held while the engine is read."""

    def state_bytes() -> float:
        with lock:
            size = backend.engine.nbytes
        # Exact bytes would reveal each new user.
        return _MEGABYTE * round(size / _MEGABYTE)

    gauge, engine = metrics.gauge, backend.engine
    gauge("engine_lag", "Log records not applied yet", lambda: applier.lag)
    text = "About how much memory the state of entities takes, in whole megabytes"
    gauge("engine_state_bytes", text, state_bytes)
    text = "Age of the event time up to which events are expected to be complete"
    gauge("watermark_age_seconds", text, lambda: max(0.0, (clock() - engine.watermark) / 1000))
    gauge("commit_pending_bytes", "Bytes accepted and not durable yet", backend.waiting_bytes)
    text = "Recommendations waiting for their turn"
    gauge("recommend_waiting", text, lambda: admission.waiting)
    text = "Features that are to be computed from the log"
    gauge("features_missing", text, lambda: len(engine.missing))
    text = "Whether the event log takes no events at present"
    gauge("log_unreachable", text, lambda: backend.problem() is not None)
    gauge("log_spooled", "Records that wait on disk for an absent broker", backend.spooled)
    if (copied := backend.copied) is not None:
        text = "Bytes that wait for the online store"
        gauge("online_waiting_bytes", text, lambda: copied.waiting_bytes)
    if webhooks is not None:
        text = "Attempts that failed and are repeated"
        gauge("webhooks_failed", text, lambda: webhooks.failed)
        gauge("webhooks_buried", "Actions that were given up", lambda: webhooks.buried)
    if backend.rules is not None:
        metrics.rules(backend.rules.report)

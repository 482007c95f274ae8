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

    gauges: list[tuple[str, str, Callable[[], float]]] = [
        ("engine_lag", "Log records not applied yet", lambda: applier.lag),
        (
            "engine_state_bytes",
            "About how much memory the state of entities takes, in whole megabytes",
            state_bytes,
        ),
        (
            "watermark_age_seconds",
            "Age of the event time up to which events are expected to be complete",
            lambda: max(0.0, (clock() - backend.engine.watermark) / 1000),
        ),
        ("commit_pending_bytes", "Bytes accepted and not durable yet", backend.waiting_bytes),
        (
            "recommend_waiting",
            "Recommendations waiting for their turn",
            lambda: admission.waiting,
        ),
        (
            "features_missing",
            "Features that are to be computed from the log",
            lambda: len(backend.engine.missing),
        ),
        (
            "log_unreachable",
            "Whether the event log takes no events at present",
            lambda: backend.problem() is not None,
        ),
        ("log_spooled", "Records that wait on disk for an absent broker", backend.spooled),
    ]
    if (copied := backend.copied) is not None:
        text = "Bytes that wait for the online store"
        gauges.append(("online_waiting_bytes", text, lambda: copied.waiting_bytes))
    if webhooks is not None:
        gauges += [
            (
                "webhooks_failed",
                "Attempts that failed and are repeated",
                lambda: webhooks.failed,
            ),
            ("webhooks_buried", "Actions that were given up", lambda: webhooks.buried),
        ]
    for name, text, read in gauges:
        metrics.gauge(name, text, read)
    if backend.rules is not None:
        metrics.rules(backend.rules.report)

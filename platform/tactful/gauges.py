"""What the metrics of a server show as it stands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tactful.backends import Backend
from tactful.follower import Follower
from tactful.metrics import Metrics
from tactful.turnstile import Turnstile
from tactful.webhooks import Webhooks


def add_gauges(
    metrics: Metrics,
    backend: Backend,
    follower: Follower,
    turnstile: Turnstile,
    webhooks: Webhooks | None,
    *,
    clock: Callable[[], int],
) -> None:
    """Let metrics show how far a server is and what waits in it.

    Args:
        metrics: where they are shown.
        backend: log and engine.
        follower: what applies the log.
        turnstile: where recommendations wait.
        webhooks: who tells others of actions, if anybody does.
        clock: now in epoch milliseconds.
    """
    metrics.gauge("engine_lag", "Log records not applied yet", lambda: follower.lag)
    metrics.gauge(
        "watermark_age_seconds",
        "Age of the event time up to which events are expected to be complete",
        lambda: max(0.0, (clock() - backend.engine.watermark) / 1000),
    )
    metrics.gauge(
        "commit_pending_bytes",
        "Bytes accepted and not durable yet",
        backend.waiting_bytes,
    )
    metrics.gauge(
        "recommend_waiting",
        "Recommendations waiting for their turn",
        lambda: turnstile.waiting,
    )
    metrics.gauge(
        "features_missing",
        "Features that are to be computed from the log",
        lambda: len(backend.engine.missing),
    )
    metrics.gauge(
        "log_unreachable",
        "Whether the event log takes no events at present",
        lambda: backend.problem() is not None,
    )
    metrics.gauge("log_spooled", "Records that wait on disk for an absent broker", backend.spooled)
    if backend.rules is not None:
        metrics.rules(backend.rules.report)
    if (copied := backend.copied) is not None:
        metrics.gauge(
            "online_waiting_bytes",
            "Bytes that wait for the online store",
            lambda: copied.waiting_bytes,
        )
    if webhooks is not None:
        for name, text in (
            ("failed", "Attempts that failed and are repeated"),
            ("buried", "Actions that were given up"),
        ):
            metrics.gauge(f"webhooks_{name}", text, partial(getattr, webhooks, name))

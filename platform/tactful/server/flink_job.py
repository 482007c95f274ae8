"""Watch over the Flink job that computes the features of a server with `engine.kind = "flink"`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tactful.config.settings import Settings
from tactful.maintenance.check_flink import read_health
from tactful_streaming.errors import FlinkError
from tactful_streaming.flink.job_health import JobHealth

if TYPE_CHECKING:
    from tactful.server.platform import Platform

LOOK_S: Final = 5.0
"""Time between two reads of the job's health, seconds."""

_UNKNOWN = "not read yet"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlinkLook:
    """Outcome of one read of the cluster."""

    health: JobHealth | None  # None if the cluster did not answer
    problem: str  # empty for a job that is well


class FlinkMonitor:
    """Latest known health of the job; `look` is called in a thread, everything else by any.

    A cluster that does not answer is a problem that is reported, and no error: recommendations
    continue with the features that were computed before.
    """

    def __init__(self, read: Callable[[], JobHealth]) -> None:
        """Watch what `read` returns; it raises FlinkError if the cluster does not answer."""
        self._read = read
        self._last: FlinkLook | None = None

    def look(self) -> None:
        """Read the health of the job, and log a change."""
        try:
            health = self._read()
            look = FlinkLook(health, health.problem)
        except FlinkError as error:
            look = FlinkLook(None, str(error))
        before = self._last.problem if self._last else ""
        if bool(look.problem) != bool(before):
            if look.problem:
                logger.warning("the Flink job computes no features: %s", look.problem)
            else:
                logger.info("the Flink job computes features again")
        self._last = look

    @property
    def finding(self) -> str:
        """``ok`` or the problem, for the readiness of a server."""
        if self._last is None:
            return _UNKNOWN
        return self._last.problem or "ok"

    @property
    def failing(self) -> bool:
        """Whether the last read found a problem."""
        return self._last is not None and bool(self._last.problem)

    @property
    def checkpoint_age_s(self) -> float:
        """Age of the last completed checkpoint; of a job without one, its age; 0 if unknown."""
        if (health := self._health) is None:
            return 0.0
        age = health.checkpoint_age_s
        return health.running_s if age is None else age

    @property
    def lag(self) -> float:
        """Records that the job has not read; 0 if unknown."""
        health = self._health
        return float(health.lag or 0) if health is not None else 0.0

    @property
    def restarts(self) -> float:
        """Restarts of the job since its start; 0 if unknown."""
        return float(self._health.restarts) if self._health is not None else 0.0

    @property
    def _health(self) -> JobHealth | None:
        return None if self._last is None else self._last.health


def open_monitor(settings: Settings) -> FlinkMonitor | None:
    """Return a monitor of the job of the settings; None without a cluster to ask."""
    if settings.engine.kind != "flink" or not settings.flink.cluster:
        return None
    return FlinkMonitor(lambda: read_health(settings))


def add_flink_gauges(platform: Platform, monitor: FlinkMonitor) -> None:
    """Register the gauges of the job."""
    gauge = platform.metrics.gauge
    text = "Whether the Flink job does not run, fails again and again, or makes no checkpoints"
    gauge("flink_job_failing", text, lambda: monitor.failing)
    text = "Time since the last completed checkpoint of the Flink job"
    gauge("flink_checkpoint_age_seconds", text, lambda: monitor.checkpoint_age_s)
    gauge("flink_lag", "Log records that the Flink job has not read", lambda: monitor.lag)
    text = "Restarts of the Flink job since it was submitted"
    gauge("flink_job_restarts", text, lambda: monitor.restarts)

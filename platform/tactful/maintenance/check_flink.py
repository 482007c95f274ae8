"""Check of the Flink job that computes features, for `tactful doctor` and a running server."""

from __future__ import annotations

from typing import Final, Literal

from tactful.config.settings import Settings
from tactful_streaming.errors import FlinkError
from tactful_streaming.flink.job_health import JobHealth, job_health
from tactful_streaming.flink.rest_client import FlinkCluster

_TIMEOUT_S: Final = 5.0


def read_health(settings: Settings) -> JobHealth:
    """Read the health of the job of the settings once.

    Raises:
        FlinkError: if the cluster does not answer.
    """
    with FlinkCluster(settings.flink.cluster, timeout=_TIMEOUT_S) as cluster:
        return job_health(cluster, settings.flink.job)


def check_flink(settings: Settings) -> tuple[Literal["ok", "warning", "failed"], str]:
    """Check that the job runs and makes checkpoints; a server starts without it."""
    if not settings.flink.cluster:
        return "warning", "nobody watches the job: set flink.cluster to the cluster's REST address"
    try:
        health = read_health(settings)
    except FlinkError as error:
        return "warning", f"{error}; features stay as they are meanwhile"
    if health.problem:
        return "warning", f"{health.problem}; features stay as they are meanwhile"
    said = f"job {health.name} runs on {settings.flink.cluster}"
    if health.checkpoint_age_s is not None:
        said += f", its last checkpoint is {health.checkpoint_age_s:.0f} s old"
    if health.lag is not None:
        said += f", {health.lag} records are not read yet"
    return "ok", said

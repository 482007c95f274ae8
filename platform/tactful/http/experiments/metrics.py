"""Endpoint of the metrics of experiments: ``/v1/experiments/metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from tactful.errors import ConfigError
from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import stored
from tactful.schemas.experiments.metrics import MetricIndex
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.server.platform import Platform


async def _list_metrics(platform: Platform, call: Call) -> Reply:
    try:
        found = await stored(platform.metric_read_outs.index, "metrics cannot be read now")
    except ConfigError as error:
        raise ProblemError("invalid", str(error)) from None
    if not call.trusted:  # the name of a person
        plans = [replace(plan, registered_by="") for plan in found.experiments]
        found = replace(found, experiments=plans)
    return json_reply(found)


METRIC_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/experiments/metrics",
        "List the metrics of experiments",
        _list_metrics,
        details=(
            "The metrics of `metrics.yaml` in the order of the file, each with the experiments "
            "that use it, and the analysis of each experiment with the time since when it has "
            "been fixed. Its author is shown to `admin` only."
        ),
        scope="analyst",
        answer=MetricIndex,
        problems=("invalid", "not_ready"),
    ),
)

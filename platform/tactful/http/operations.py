"""Endpoints for those who operate an installation: its metrics, jobs and machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import PageQuery, moment_of, stored
from tactful.metrics.history import KEPT_S, STEP_S
from tactful.schemas.fields import Moment
from tactful.schemas.operations import JobIndex, MetricSeries, MetricsPage, SystemCheck, SystemInfo
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_FEW = 360
_MOST = 1_000
_DIGITS = 6


class MetricsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Times and series of the metrics.

    Attributes:
        since: first time; an hour before `until`, if not given.
        until: end; now, if not given.
        names: metrics or single series, separated by spaces; all, if not given.
        step: seconds that one number stands for; chosen for 360 numbers, if not given.
    """

    since: Moment | None = None
    until: Moment | None = None
    names: Annotated[str, Meta(max_length=2048)] = ""
    step: Annotated[int, Meta(ge=STEP_S, le=KEPT_S)] | None = None


async def _get_metric_history(platform: Platform, call: Call) -> Reply:
    query = call.query(MetricsQuery)
    now = platform.resources.installation.clock()
    until = moment_of(query.until)
    until = now + 1 if until is None else until
    since = moment_of(query.since)
    since = until - 3_600_000 if since is None else since
    since, until = max(since, now - KEPT_S * 1000), min(until, now + 1)
    if since >= until:
        raise ProblemError("bad_query", "a day is kept, and `since` is before `until`")
    step = query.step or STEP_S * max(1, math.ceil((until - since) / 1000 / STEP_S / _FEW))
    if (until - since) / 1000 / step > _MOST:
        raise ProblemError("bad_query", f"at most {_MOST} steps at once", field="$.step")
    read = partial(
        platform.history.read,
        since,
        until,
        step,
        names=query.names.split(),
        exact=call.trusted,
    )
    times, series = await stored(read, "the metrics cannot be read now")
    page = MetricsPage(
        since=since,
        until=until,
        step_s=step,
        times=times,
        series=[
            MetricSeries(name=one.name, means=_plain(one.means), highest=_plain(one.highest))
            for one in series
        ],
    )
    return json_reply(page)


async def _get_jobs(platform: Platform, call: Call) -> Reply:
    query = call.query(PageQuery)
    jobs = await stored(platform.jobs, "the jobs cannot be read now")
    if not call.trusted:
        jobs = [job for job in jobs if job.kind != "erasure" or job.stage == "overdue"]
    rest = [job for job in jobs if not query.cursor or job.id < query.cursor]
    page = rest[: query.limit]
    cursor = page[-1].id if len(rest) > len(page) else None
    return json_reply(JobIndex(jobs=page, next_cursor=cursor))


async def _get_system(platform: Platform, call: Call) -> Reply:
    found = await stored(platform.system, "the machine cannot be examined now")
    if not call.trusted:
        checks = [_without_counts(it) for it in found.checks]
        # The watermark is the time of the newest event: when somebody was active last.
        found = msgspec.structs.replace(found, checks=checks, watermark_at=None)
    return json_reply(found)


def _without_counts(check: SystemCheck) -> SystemCheck:
    """Leave out how much a training had to learn from, which counts what people did."""
    if check.name != "model" or check.state == "ok":
        return check
    return msgspec.structs.replace(check, finding="`tactful doctor` says more")


def _plain(numbers: Sequence[float]) -> list[float | None]:
    """Round to the precision that is kept; JSON has no NaN and no infinity."""
    return [float(f"{x:.{_DIGITS}g}") if math.isfinite(x) else None for x in numbers]


OPERATIONS_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/metrics",
        "Read the metrics of the last day",
        _get_metric_history,
        details=(
            "A point each ten seconds, which the server keeps without Prometheus; `step` makes "
            "means and highest numbers of longer times. Series are named as Prometheus writes "
            "them; a counter is its increase by the second (`_per_second`). Exact rates of "
            "activity, such as `tactful_ingested_per_second`, need the scope `admin`: a total that "
            "is read twice reveals whether a certain user was active."
        ),
        scope="monitor",
        query=MetricsQuery,
        answer=MetricsPage,
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/v1/jobs",
        "List the long jobs",
        _get_jobs,
        details=(
            "Trainings, backfills, backups, restores, rescalings, key rotations and waiting "
            "erasures of the data directory, newest first, with their progress; also those of the "
            "command line. A job whose process ended without a word is `killed`. An "
            "erasure began when a user left: it is shown to `admin` only, unless it is overdue."
        ),
        scope="monitor",
        query=PageQuery,
        answer=JobIndex,
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/v1/system",
        "Describe the server and its machine",
        _get_system,
        details=(
            "Workers, lag, memory, disk, the last backup, and checks that name the cure of each "
            "problem. It answers while the server is not ready, too. The watermark, which is "
            "the time of the newest event less a delay, needs the scope `admin`."
        ),
        scope="monitor",
        answer=SystemInfo,
        problems=("not_ready",),
    ),
)

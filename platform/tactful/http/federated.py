"""Endpoints of federated training: ``/v1/federated/runs``."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import LogPageQuery, caller_of, cursor_number, stored
from tactful.schemas.federated import (
    FederatedReport,
    FederatedRound,
    FederatedRounds,
    FederatedRun,
    FederatedRuns,
    ReportTaken,
)
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_report = msgspec.json.Decoder(FederatedReport)
_RUN = re.compile(r"[0-9a-f]{32}")
_UNAVAILABLE = "federated runs cannot be kept or read now"
_MOST = 1_000_000  # a larger cursor reads nothing


async def _post_federated_run(platform: Platform, call: Call) -> Reply:
    report, by = await call.json(_report), caller_of(call)
    store = platform.federated_runs

    def take() -> int:
        before = store.find(report.id)
        known = before.last.number if before is not None and before.last is not None else 0
        rounds = store.take(report, by=by)
        for it in report.rounds:
            if it.number > known:
                result = "failed" if it.reason else "done"
                platform.metrics.federated_rounds.labels(result).inc()
        return rounds

    return json_reply(ReportTaken(rounds=await stored(take, _UNAVAILABLE)))


async def _get_federated_runs(platform: Platform, call: Call) -> Reply:
    query = call.query(LogPageQuery)
    offset = min(cursor_number(query.cursor) or 0, _MOST)
    read = partial(platform.federated_runs.runs, limit=query.limit + 1, offset=offset)
    found = await stored(read, _UNAVAILABLE)
    page = [_shown(run, exact=call.trusted) for run in found[: query.limit]]
    cursor = str(offset + query.limit) if len(found) > query.limit else None
    return json_reply(FederatedRuns(runs=page, next_cursor=cursor))


async def _get_federated_rounds(platform: Platform, call: Call) -> Reply:
    query, run = call.query(LogPageQuery), call.path["run"]
    after, store = cursor_number(query.cursor) or 0, platform.federated_runs

    def read() -> tuple[FederatedRun | None, list[FederatedRound]]:
        found = store.find(run) if _RUN.fullmatch(run) else None
        return found, store.rounds(run, after=after, limit=query.limit + 1) if found else []

    found, rounds = await stored(read, _UNAVAILABLE)
    if found is None:
        raise ProblemError("not_found", "GET /v1/federated/runs lists all runs")
    page = [_public(it, exact=call.trusted) for it in rounds[: query.limit]]
    cursor = str(page[-1].number) if len(rounds) > query.limit else None
    shown = _shown(found, exact=call.trusted)
    return json_reply(FederatedRounds(run=shown, rounds=page, next_cursor=cursor))


def _shown(run: FederatedRun, *, exact: bool) -> FederatedRun:
    """Return a run without exact numbers and the words of an error, which may name anything."""
    last = None if run.last is None else _public(run.last, exact=exact)
    reason = run.reason if exact or not run.reason else "`admin` reads why"
    return msgspec.structs.replace(run, last=last, reason=reason)


def _public(figures: FederatedRound, *, exact: bool) -> FederatedRound:
    """Return a round without exact numbers of devices: they show who took part."""
    return figures if exact else msgspec.structs.replace(figures, asked=None, reports=None)


FEDERATED_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/v1/federated/runs",
        "Report rounds of a federated training",
        _post_federated_run,
        details=(
            "`tactful federated serve --report` sends it after each round; repeating it changes "
            "nothing. It holds no update and no device, only figures of the run."
        ),
        scope="ingest",
        body=FederatedReport,
        answer=ReportTaken,
        problems=("invalid", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/federated/runs",
        "List the runs of federated training",
        _get_federated_runs,
        details=(
            "The latest report first. Numbers of devices that were asked and that reported are for "
            "`admin` alone: they are exact numbers about people."
        ),
        scope="analyst",
        query=LogPageQuery,
        answer=FederatedRuns,
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/v1/federated/runs/{run}",
        "Read the rounds of a run",
        _get_federated_rounds,
        details="In order. Numbers of devices are for `admin` alone.",
        scope="analyst",
        query=LogPageQuery,
        answer=FederatedRounds,
        problems=("not_found", "not_ready"),
    ),
)

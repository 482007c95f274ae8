"""Runs of federated training in the API: reports of their rounds, and what was reported."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

RunId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
RunState = Literal["running", "done", "failed"]
Share = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0, le=1e12)]
Count = Annotated[int, Meta(ge=0, le=10**15)]

MOST_ROUNDS = 500
"""Most rounds in one report."""


class FederatedPlan(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Public plan of a run.

    Attributes:
        epsilon: privacy loss of one device over the whole run.
        delta: delta of that loss.
        unit: what the loss is about, in words.
        rounds: number of releases.
        cohort: most devices that are asked in a round.
        report_goal: number of updates that a release is computed for.
        minimum_reports: fewest updates of a release.
    """

    epsilon: Amount
    delta: Share
    rounds: Count
    cohort: Count
    report_goal: Count
    minimum_reports: Count
    unit: Annotated[str, Meta(max_length=500)] = ""


class FederatedRound(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One round.

    Attributes:
        number: number of the round, from 1.
        at: time of its end, epoch milliseconds.
        releases: number of rounds so far that changed the model.
        epsilon: privacy loss of one device if the run ends here.
        seconds: duration.
        reason: why the round changed nothing; empty if it did.
        asked: devices that were asked; None if unknown, or to readers without `admin`.
        reports: devices whose update is in the sum; as `asked`.
        top1: share of right first answers, of a private evaluation or on generated shoppers.
        top5: share of right answers among the first five.
        top1_error: standard deviation of the noise in `top1`; 0 for none.
        loss: mean loss in nats, on generated shoppers.
    """

    number: Annotated[int, Meta(ge=1, le=10**9)]
    at: Count
    releases: Count
    epsilon: Amount
    seconds: Amount
    reason: Annotated[str, Meta(max_length=200)] = ""
    asked: Count | None = None
    reports: Count | None = None
    top1: Share | None = None
    top5: Share | None = None
    top1_error: Amount = 0.0
    loss: Amount | None = None


class FederatedReport(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Report of a training server; repeating it changes nothing.

    Attributes:
        id: id of the run, drawn by its server.
        name: name of the run.
        tier: what the server sees of updates: ``clear``, ``secret`` or ``noise-in-sum``.
        simulated: whether the devices are simulated.
        plan: public plan.
        state: ``running``, ``done`` or ``failed``.
        reason: why it failed; else empty.
        rounds: rounds that were not reported yet; a round that is known is replaced.
    """

    id: RunId
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    tier: Literal["clear", "secret", "noise-in-sum"]
    plan: FederatedPlan
    simulated: bool = False
    state: RunState = "running"
    reason: Annotated[str, Meta(max_length=500)] = ""
    rounds: Annotated[list[FederatedRound], Meta(max_length=MOST_ROUNDS)] = []


class ReportTaken(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to a report.

    Attributes:
        rounds: number of rounds that are kept of the run.
    """

    rounds: int


class FederatedRun(msgspec.Struct, kw_only=True, frozen=True):
    """A run, as it was reported last.

    Attributes:
        id: id of the run.
        name: name of the run.
        tier: what its server sees of updates.
        simulated: whether the devices are simulated.
        plan: public plan.
        state: ``running``, ``done`` or ``failed``.
        reason: why it failed; else empty.
        started_at: time of the first report, epoch milliseconds.
        updated_at: time of the last report, epoch milliseconds.
        rounds: number of rounds.
        last: latest round; None before the first.
    """

    id: str
    name: str
    tier: str
    simulated: bool
    plan: FederatedPlan
    state: RunState
    reason: str
    started_at: int
    updated_at: int
    rounds: int
    last: FederatedRound | None


class FederatedRuns(msgspec.Struct, kw_only=True, frozen=True):
    """One page of runs, latest report first.

    Attributes:
        runs: the runs.
        next_cursor: send it as ``cursor`` for the next page; None at the end.
    """

    runs: list[FederatedRun]
    next_cursor: str | None = None


class FederatedRounds(msgspec.Struct, kw_only=True, frozen=True):
    """One page of the rounds of a run, in order.

    Attributes:
        run: the run.
        rounds: its rounds.
        next_cursor: send it as ``cursor`` for the next page; None at the end.
    """

    run: FederatedRun
    rounds: list[FederatedRound]
    next_cursor: str | None = None

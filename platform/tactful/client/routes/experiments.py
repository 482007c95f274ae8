"""Requests about experiments, rollouts, tuners, bandits and coupon campaigns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.experiments.bandits import BanditDecision, BanditDetails, BanditIndex
from tactful.schemas.experiments.coupons import CampaignIndex, CampaignReport
from tactful.schemas.experiments.metrics import MetricIndex
from tactful.schemas.experiments.readouts import ReadOutMessage, Source
from tactful.schemas.experiments.releases import ReleaseCost
from tactful.schemas.experiments.rollouts import RolloutDetails, RolloutForecast, RolloutIndex, Step
from tactful.schemas.experiments.tuner import TunerIndex


def rollouts(*, cursor: str | None = None, limit: int | None = None) -> Request[RolloutIndex]:
    """Request one page of the rollouts, by key."""
    return Request(
        "GET", "/v1/experiments", RolloutIndex, params={"cursor": cursor, "limit": limit}
    )


def rollout(key: str) -> Request[RolloutDetails]:
    """Request the history and the latest looks of a rollout."""
    return Request("GET", f"/v1/experiments/{segment(key)}", RolloutDetails)


def read_out(
    key: str,
    *,
    source: Source | None = None,
    stage: int | None = None,
    days: float | None = None,
) -> Request[ReadOutMessage]:
    """Request the effects of a rollout's stage, or of an experiment's last days.

    Args:
        key: of the rollout or experiment.
        source: `exact` or `released`; None: what the key may read, exact if possible.
        stage: number of the stage, from 0; None: the last one with a control.
        days: of an experiment: days of recommendations.
    """
    params = {"source": source, "stage": stage, "days": days}
    return Request("GET", f"/v1/experiments/{segment(key)}/readout", ReadOutMessage, params=params)


def release_cost(key: str) -> Request[ReleaseCost]:
    """Request what the release of an experiment's metrics costs; draws and charges nothing."""
    return Request("GET", f"/v1/experiments/{segment(key)}/release", ReleaseCost)


def metrics() -> Request[MetricIndex]:
    """Request the metrics of `metrics.yaml`, and the analyses of experiments."""
    return Request("GET", "/v1/experiments/metrics", MetricIndex)


def plan(
    definition: Mapping[str, Any],
    *,
    people_per_day: float | None = None,
    rate: float | None = None,
) -> Request[RolloutForecast]:
    """Request the forecast of a rollout's plan; stores nothing."""
    params = {"people_per_day": people_per_day, "rate": rate}
    return Request(
        "POST",
        "/v1/experiments/plan",
        RolloutForecast,
        params=params,
        body=dict(definition),
        repeatable=True,
    )


def define(
    definition: Mapping[str, Any],
    *,
    people_per_day: float | None = None,
    rate: float | None = None,
) -> Request[RolloutDetails]:
    """Define a rollout; with `start` it starts at once."""
    params = {"people_per_day": people_per_day, "rate": rate}
    return Request("POST", "/v1/experiments", RolloutDetails, params=params, body=dict(definition))


def move(
    key: str, step: Step, *, reason: str, decision: str | None = None
) -> Request[RolloutDetails]:
    """Move a rollout by hand; the reason is for the audit log."""
    body = {"reason": reason} | ({} if decision is None else {"decision": decision})
    return Request("POST", f"/v1/experiments/{segment(key)}/{step}", RolloutDetails, body=body)


def worth(*, source: Source | None = None, days: float | None = None) -> Request[ReadOutMessage]:
    """Request the effect of personal recommendations against the permanent holdout."""
    return Request("GET", "/v1/worth", ReadOutMessage, params={"source": source, "days": days})


def tuners(*, days: float | None = None, cursor: str | None = None) -> Request[TunerIndex]:
    """Request the tuners of rollouts, with weights over so many days."""
    return Request("GET", "/v1/tuner", TunerIndex, params={"days": days, "cursor": cursor})


def bandits(*, cursor: str | None = None) -> Request[BanditIndex]:
    """Request one page of the bandits, by key."""
    return Request("GET", "/v1/bandits", BanditIndex, params={"cursor": cursor})


def bandit(key: str, *, days: float | None = None) -> Request[BanditDetails]:
    """Request a bandit, and for `admin` its outcomes in so many days."""
    return Request("GET", f"/v1/bandits/{segment(key)}", BanditDetails, params={"days": days})


def apply_bandit(definition: Mapping[str, Any]) -> Request[BanditDetails]:
    """Apply a bandit, as in `bandits.yaml`."""
    return Request("POST", "/v1/bandits", BanditDetails, body=dict(definition))


def stop_bandit(key: str, *, reason: str) -> Request[BanditDetails]:
    """Stop a bandit; the reason is for the audit log."""
    return Request(
        "POST", f"/v1/bandits/{segment(key)}/stop", BanditDetails, body={"reason": reason}
    )


def decide(
    key: str,
    *,
    user_id: str | None = None,
    device_id: str | None = None,
    session_id: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> Request[BanditDecision]:
    """Choose the arm of a user; send its `decision_id` with the event that rewards it."""
    body: dict[str, Any] = {"context": dict(context or {})}
    ids = {"user_id": user_id, "device_id": device_id, "session_id": session_id}
    body |= {name: value for name, value in ids.items() if value is not None}
    return Request("POST", f"/v1/bandits/{segment(key)}/decide", BanditDecision, body=body)


def campaigns(*, cursor: str | None = None) -> Request[CampaignIndex]:
    """Request one page of the coupon campaigns, by name."""
    return Request("GET", "/v1/coupons", CampaignIndex, params={"cursor": cursor})


def campaign(
    name: str, *, margin: float | None = None, hours: float | None = None
) -> Request[CampaignReport]:
    """Request the funnel and the effect of a campaign.

    `margin` is the profit of a unit of revenue; purchases of `hours` after a decision count.
    """
    params = {"margin": margin, "hours": hours}
    return Request("GET", f"/v1/coupons/{segment(name)}", CampaignReport, params=params)

"""Reports of a server about rollouts, experiments, coupons and the worth of recommendations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from tactful.coupons.campaign_report import CampaignReports
from tactful.coupons.decisions import CouponIssuer
from tactful.event_log.recipients import Recipients, RecommendationIds
from tactful.experiment_metrics.arms import known_arms
from tactful.experiment_metrics.definitions import MetricSet, load_metrics
from tactful.experiment_metrics.own_guardrails import check_own, own_outcomes
from tactful.experiment_metrics.readout import MetricReadOuts
from tactful.experiment_metrics.registrations import MetricRegistrations
from tactful.experiment_metrics.released_days import ReleasedDays, keeps_ms
from tactful.experiment_metrics.released_readout import ReleasedReadOuts
from tactful.experiments.baseline import ExactOutcomes
from tactful.experiments.controller import RolloutController
from tactful.experiments.planning import Planner
from tactful.experiments.stage_readout import ReadOuts
from tactful.experiments.tuner_report import TunerReports
from tactful.experiments.worth import Worth
from tactful.flags.store import FlagStore
from tactful.server.measurement import MeasuredEvents
from tactful.server.resources import Resources
from tactful.server.rollouts import control_rollouts
from tactful.subjects.permissions import Permissions
from tactful_privacy.ledger.query import Query


@dataclass(frozen=True)
class Reports:
    """Readers of outcomes; see the attributes of `tactful.server.platform.Platform`."""

    rollout_controller: RolloutController
    planner: Planner
    read_outs: ReadOuts
    metric_read_outs: MetricReadOuts
    released_read_outs: ReleasedReadOuts
    worth: Worth
    tuner_reports: TunerReports
    campaigns: CampaignReports | None  # None without campaigns


def make_reports(
    resources: Resources,
    permissions: Permissions,
    ids: RecommendationIds,
    coupons: CouponIssuer | None,
) -> Reports:
    """Make the reports, which read the events that `permissions` allow to measure."""
    installation, backend, store = resources.installation, resources.backend, resources.rollouts
    settings, clock = installation.settings, installation.clock
    measured = MeasuredEvents(backend, permissions)
    recipients = partial(Recipients, backend.engine.resolve, ids)
    outcomes = ExactOutcomes(backend.partitions, measured.allows, recipients)

    def charge(queries: Iterable[Query]) -> None:
        if resources.statistics is not None:  # without published statistics there is no ledger
            resources.statistics.charge(queries)

    def definitions() -> MetricSet:
        return load_metrics(settings.experiment_metrics)

    arms = known_arms(settings.experiments, FlagStore(installation.metadata, clock=clock))
    registrations = MetricRegistrations(installation.metadata, clock=clock)
    metrics = MetricReadOuts(definitions, registrations, outcomes, clock=clock, arms=arms)
    metrics.register(by="tactful serve")
    campaigns: CampaignReports | None = None
    if coupons is not None:
        campaigns = CampaignReports(
            resources.coupons, installation.metadata, measured.logs, coupons.left, clock=clock
        )
    return Reports(
        rollout_controller=control_rollouts(
            settings,
            store,
            outcomes,
            clock=clock,
            charge=charge,
            own=lambda stored: own_outcomes(stored, definitions(), outcomes.allows),
        ),
        planner=Planner(
            store,
            outcomes,
            clock=clock,
            check=lambda definition: check_own(definition, definitions()),
        ),
        read_outs=ReadOuts(store, outcomes, clock=clock),
        metric_read_outs=metrics,
        released_read_outs=ReleasedReadOuts(
            definitions,
            registrations,
            ReleasedDays(installation.metadata, charge=charge),
            outcomes,
            clock=clock,
            arms=arms,
            keeps_ms=keeps_ms(settings.retention),
        ),
        worth=Worth(
            installation.metadata,
            outcomes,
            holdout=settings.recommend.holdout,
            epsilon=settings.recommend.holdout_epsilon,
            clock=clock,
            charge=charge,
        ),
        tuner_reports=TunerReports(store, measured.logs, clock=clock),
        campaigns=campaigns,
    )

"""Report on a tier before a run: plan, sums of a round, costs, and refused options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from tactful_federated.core.groups import FEWEST_DEVICES, Groups
from tactful_federated.core.invitation import Tier
from tactful_federated.core.model_epsilon import epsilon_of_model
from tactful_federated.core.plan import (
    TrainingPlan,
    Wishes,
    plan_noise_in_sum,
    plan_training,
)
from tactful_federated.errors import SettingsError, require
from tactful_federated.secagg.costs import SumCosts, costs_of_sum

_SERVER_SEES: Final[Mapping[Tier, str]] = {
    "clear": "each update",
    "secret": "the exact sum of each group of devices",
    "noise-in-sum": "the sum of each group of devices, with their noise",
}

_SECRET = {
    "--encoding": "secret sums have words of 32 bits",
    "--trim": "the server reads no single update",
    "--buffered": "the server reads no single update",
    "--stock": "a stock node starts a process for each message, and keys stay in memory",
}
REFUSED: Final[Mapping[Tier, Mapping[str, str]]] = {
    "clear": {
        "--page-port": "a page sends no update in the clear",
        "--group-size": "without secure sums there are no groups",
        "--corrupt": "without secure sums there is no graph of masks",
    },
    "secret": _SECRET,
    "noise-in-sum": {
        **_SECRET,
        "--bands": "the server does not know the noise, so it is not correlated across rounds",
    },
}
"""Options that cannot be used in a tier, with the reason."""

_SPARSE = {"--page-port": "a page does not know sparse graphs, and refuses the invitation"}

_SIZES = (2000, 1000, 500, 300, 200, 100, 50)


@dataclass(frozen=True)
class TierReport:
    """Plan of a run in a tier, with the sums and costs of a round.

    Attributes:
        tier: Server's view of updates.
        server_sees: Data of devices that the server reads.
        plan: Plan of the run.
        sums: Number of secure sums of a whole cohort; 0 in the clear.
        sum_size: Most devices of a sum.
        sum_fewest: Fewest devices of a sum.
        noisy: Devices of a sum that `server_epsilon` assumes to add noise, and not to collude.
        server_epsilon: Privacy loss of one device against the server, at the plan's delta; None if
            the server reads updates or exact sums.
        model_epsilon: Privacy loss of one device by the model alone, at the same delta.
        neighbours: Members that each member of a sum masks with.
        threshold: Surviving neighbours that each needs; 0 in a complete graph.
        costs: Costs of the largest sum, None in the clear.
        server_seconds: CPU of the server for a round with a tenth of drop-outs; None in the clear.
        refused: Options that the tier refuses, with the reason.
    """

    tier: Tier
    server_sees: str
    plan: TrainingPlan
    sums: int
    sum_size: int
    sum_fewest: int
    noisy: int
    server_epsilon: float | None
    model_epsilon: float
    neighbours: int
    threshold: int
    costs: SumCosts | None
    server_seconds: float | None
    refused: Mapping[str, str]


def report_tier(wishes: Wishes, tier: Tier) -> TierReport:
    """Plan a run in a tier, and report on its rounds.

    Raises:
        SettingsError: There is no plan for the requirements; the message names a group size with
            which there is one.
    """
    require(
        tier != "clear" or not (wishes.group_size or wishes.corrupt),
        "--group-size and --corrupt go with secret sums: omit them",
    )
    try:
        plan = _plan(wishes, tier)
    except SettingsError as error:
        if size := _fitting_size(wishes, tier):
            raise SettingsError(
                f"{error}; or divide the cohort: --group-size {size} fits"
            ) from error
        raise
    groups = wishes.groups or Groups(plan.cohort, plan.minimum_reports)
    graph = groups.graph or None
    sums = math.ceil(plan.cohort / groups.size)
    costs = seconds = None
    if tier != "clear":
        silent = groups.size // 10
        costs = costs_of_sum(groups.size, plan.parameters, dropped=silent, graph=graph)
        seconds = sums * costs.server_seconds
    return TierReport(
        tier=tier,
        server_sees=_SERVER_SEES[tier],
        plan=plan,
        sums=0 if tier == "clear" else sums,
        sum_size=groups.size,
        sum_fewest=groups.fewest,
        noisy=wishes.noisy,
        server_epsilon=plan.epsilon if tier == "noise-in-sum" else None,
        model_epsilon=epsilon_of_model(plan),
        neighbours=graph.neighbours if graph else groups.size - 1,
        threshold=graph.threshold if graph else 0,
        costs=costs,
        server_seconds=seconds,
        refused={**REFUSED[tier], **(_SPARSE if graph else {})},
    )


def _plan(wishes: Wishes, tier: Tier) -> TrainingPlan:
    _ = wishes.groups  # raises if there is no safe graph
    plan = plan_noise_in_sum(wishes) if tier == "noise-in-sum" else plan_training(wishes)
    require(
        tier == "clear" or plan.minimum_reports >= FEWEST_DEVICES,
        f"a secret sum needs {FEWEST_DEVICES} devices: raise the report goal",
    )
    return plan


def _fitting_size(wishes: Wishes, tier: Tier) -> int:
    """Return the largest usual group size with a plan, 0 if there is none."""
    for size in _SIZES:
        if tier == "clear" or size >= (wishes.group_size or wishes.cohort):
            continue
        try:
            _plan(replace(wishes, group_size=size), tier)
        except SettingsError:
            continue
        return size
    return 0

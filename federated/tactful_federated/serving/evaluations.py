"""Evaluations of a deployment: invitation and single evaluations."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec

from tactful_federated.core import private_evaluation
from tactful_federated.core.groups import FEWEST_DEVICES
from tactful_federated.core.invitation import Invitation, Tier, read_invitation, save_invitation
from tactful_federated.core.plan import Wishes
from tactful_federated.core.polling import Polling
from tactful_federated.core.private_training import Collector, wait_for_devices
from tactful_federated.errors import BudgetError, HistoryError, require
from tactful_federated.model.vectors import Vector, check_vector, parameter_count
from tactful_federated.serving.rounds import least_difference

_POLLING = Polling()


def invite_to_evaluations(
    directory: Path, wishes: Wishes, *, tier: Tier | None = None
) -> Invitation:
    """Plan evaluations and write `evaluation.json`, or check the existing one.

    Args:
        directory: Directory of the training server, where the devices are enrolled.
        wishes: Requirements; `rounds` is the number of evaluations. Their epsilon adds to that of
            training.
        tier: Server's view of answers; None is the tier of training.

    Raises:
        SettingsError: The directory has no run or other evaluations, or there is no plan for the
            requirements.
    """
    trained = read_invitation(directory / "invitation.json")
    tier = tier or trained.tier
    plan = private_evaluation.plan_evaluations(wishes, noise_in_sum=tier == "noise-in-sum")
    require(
        tier == "clear" or plan.minimum_reports >= FEWEST_DEVICES,
        f"a secret sum needs {FEWEST_DEVICES} devices: raise the report goal",
    )
    require(
        tier != "clear" or not (wishes.group_size or wishes.corrupt),
        "a group size and a share of corrupt devices go with secret sums: omit them",
    )
    path = directory / "evaluation.json"
    invitation = msgspec.structs.replace(
        trained,
        run=f"{trained.run}-evaluation",
        tier=tier,
        plan=plan,
        purpose="evaluation",
        difference=least_difference(path, wishes, plan, tier),
        bundle=trained.bundle if tier == "clear" else msgspec.UNSET,
        groups=wishes.groups or msgspec.UNSET,
    )
    save_invitation(path, invitation)
    return invitation


def serve_evaluation(
    directory: Path,
    invitation: Invitation,
    weights: Vector,
    collector: Collector,
    *,
    attempts: int = 5,
    polling: Polling = _POLLING,
) -> tuple[private_evaluation.Evaluation, int]:
    """Evaluate a model on devices once; wait while too few are available.

    Args:
        directory: Directory of the server; ledgers and checkpoint are in `evaluations` there.
        invitation: Invitation from `invite_to_evaluations`.
        weights: Weights of the model.
        collector: Sums the answers of devices.
        attempts: Number of rounds with too few answers before an error, 1 or more.
        polling: Interval and clock.

    Returns:
        Result, and the number of evaluations that the plan still allows.

    Raises:
        BudgetError: All evaluations of the plan are spent.
        HistoryError: Too few devices answered in each attempt.
        WeightsError: The weights do not fit the catalogue and widths of the invitation; no
            evaluation is spent.
    """
    # Checked first: devices that cannot load the weights would answer zeros, at a cost.
    size = parameter_count(invitation.vocabulary.size, *invitation.widths)
    weights = check_vector(weights, size)
    run = private_evaluation.PrivateEvaluations(directory / "evaluations", invitation.plan)
    with closing(run) as evaluations:
        if not evaluations.left:
            raise BudgetError(
                f"all {invitation.plan.rounds} evaluations are spent: another one would not be"
                " covered by the budget; plan new ones in another run"
            )
        attempt = 1
        while True:
            wait_for_devices(
                lambda: evaluations.able(collector.ids()), invitation.plan.minimum_reports, polling
            )
            try:
                return evaluations.evaluate(weights, collector), evaluations.left
            except HistoryError:
                if attempt >= attempts:
                    raise
                attempt += 1

"""Evaluations of a deployment: invited like a run, asked for one at a time, kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tactful_federated.errors import BudgetError, HistoryError, require
from tactful_federated.evaluation import Evaluation, PrivateEvaluations, plan_evaluations
from tactful_federated.invitation import Invitation, Tier, read_invitation, save_invitation
from tactful_federated.plan import Wishes
from tactful_federated.private_rounds import Collector, wait_for_devices
from tactful_federated.secure_messages import FEWEST_DEVICES
from tactful_federated.vectors import Vector, check_vector, parameter_count


def invite_to_evaluations(
    directory: Path, wishes: Wishes, *, tier: Tier | None = None
) -> Invitation:
    """Plan evaluations of a run's models and write `evaluation.json`, or find what was planned.

    Args:
        directory: Of the server that trained; its devices are enrolled there already.
        wishes: `rounds` is how many evaluations; their epsilon adds to that of training.
        tier: What the server is to see of answers; None stands for what it sees of updates.

    Raises:
        SettingsError: No run was invited to there, the wishes make no plan, or others were planned.
    """
    trained = read_invitation(directory / "invitation.json")
    tier = tier or trained.tier
    plan = plan_evaluations(wishes, noise_in_sum=tier == "noise-in-sum")
    require(
        tier == "clear" or plan.minimum_reports >= FEWEST_DEVICES,
        f"a secret sum is of {FEWEST_DEVICES} devices at least: raise the goal",
    )
    invitation = msgspec.structs.replace(
        trained,
        run=f"{trained.run}-evaluation",
        tier=tier,
        plan=plan,
        purpose="evaluation",
    )
    save_invitation(directory / "evaluation.json", invitation)
    return invitation


def serve_evaluation(
    directory: Path,
    invitation: Invitation,
    weights: Vector,
    collector: Collector,
    *,
    attempts: int = 5,
    sleep: Callable[[float], None] = time.sleep,
    poll: float = 1.0,
) -> tuple[Evaluation, int]:
    """Ask devices once how good a model is; while too few can be asked it waits.

    Args:
        directory: Of the server; ledgers and checkpoint are in `evaluations` there.
        invitation: As `invite_to_evaluations` made it.
        weights: Of the model.
        collector: Sums what devices answer.
        attempts: Rounds with too few answers before it is given up, 1 or more.
        sleep: Waits for seconds.
        poll: Seconds between two looks for devices.

    Returns:
        What they said, and how many evaluations the plan still allows.

    Raises:
        BudgetError: All evaluations of the plan are spent.
        HistoryError: Too few answered, in each attempt.
        WeightsError: The model is not one of the invitation's catalogue and widths; nothing is
            spent.
    """
    # Devices that cannot load it answer zeros, and an evaluation is spent on those.
    size = parameter_count(
        invitation.vocabulary.size, embedding=invitation.embedding, hidden=invitation.hidden
    )
    weights = check_vector(weights, size)
    evaluations = PrivateEvaluations(directory / "evaluations", invitation.plan)
    try:
        if not evaluations.left:
            raise BudgetError(
                f"all {invitation.plan.rounds} evaluations are spent: what devices said beyond"
                " them would not be covered; plan others in another run"
            )
        attempt = 1
        while True:
            wait_for_devices(
                lambda: evaluations.able(collector.ids()),
                invitation.plan.minimum_reports,
                sleep=sleep,
                poll=poll,
            )
            try:
                return evaluations.evaluate(weights, collector), evaluations.left
            except HistoryError:
                if attempt >= attempts:
                    raise
                attempt += 1
    finally:
        evaluations.close()

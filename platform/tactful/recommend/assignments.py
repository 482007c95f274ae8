"""Assignments of a request: its arm, its rollouts and the permanent holdout."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from tactful.bandits.decisions import Decision
from tactful.bandits.serving import ServedBandits
from tactful.catalogue.request_context import RequestContext
from tactful.experiments.serving import Drawn
from tactful.recommend.request_state import HEURISTIC
from tactful.recommend.served_models import ServedModels, ServingState
from tactful.recommend.trials import NO_CHAMPION
from tactful.rerank.arm_policy import Policy
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import RecommendRequest
from tactful_bandits.assignment.assign import Assignment, Experiment, assign
from tactful_bandits.errors import AssignmentError


def assign_arm(
    experiment: Experiment, request: RecommendRequest, serving: ServingState
) -> Assignment:
    """Assign the user's arm; none without a user or a model, unless one is forced."""
    forced = request.force.get(experiment.key)
    if forced is not None and forced not in (arms := [arm.name for arm in experiment.arms]):
        raise ProblemError(
            "invalid",
            f"the arms of experiment {experiment.key!r} are {', '.join(arms)}",
            field="$.force",
        )
    unit = request.subject
    if forced is None and (serving.model is None or unit is None):
        return Assignment(experiment.key, None, 0.0, None, False)
    return assign(experiment, unit or "nobody", forced=forced)


def assign_holdout(holdout: Experiment | None, request: RecommendRequest) -> Assignment | None:
    """Assign the user to the permanent holdout or not; None without one."""
    unit = request.subject
    return None if holdout is None or unit is None or request.force else assign(holdout, unit)


def draw_rollouts(
    models: ServedModels, request: RecommendRequest, serving: ServingState, at: int
) -> Drawn:
    """Draw the rollouts' arms of the user; none while no model makes lists personal."""
    if serving.model is None or not models.rollouts.rollouts:
        return Drawn()
    try:
        has_model = models.on_trial.__contains__
        shaping = models.bandits.recommending
        bandit = "" if shaping is None else shaping.definition.key
        return models.rollouts.draw(request.subject, request.force, has_model, at=at, bandit=bandit)
    except AssignmentError as error:
        raise ProblemError("invalid", str(error), field="$.force") from None


def ask_bandit(
    bandits: ServedBandits,
    request: RecommendRequest,
    context: RequestContext,
    drawn: Drawn,
    policy: Policy,
    rng: np.random.Generator,
) -> tuple[Policy, Decision | None]:
    """Return a policy with the arm of the bandit that shapes recommendations, and its decision.

    A request without a user takes no part. A forced arm is no decision.
    """
    bandit = bandits.recommending
    if bandit is None:
        return policy, None
    names = bandit.definition.names
    if (forced := request.force.get(bandit.definition.key)) is not None:
        if forced not in names:
            raise ProblemError(
                "invalid",
                f"the arms of bandit {bandit.definition.key!r} are {', '.join(names)}",
                field="$.force",
            )
        return replace(policy, **bandit.parts[names.index(forced)]), None
    if request.subject is None or request.force:
        return replace(policy, **bandit.parts[bandit.default]), None
    in_change = drawn.bandits.get(bandit.definition.key)
    decision = bandit.decide(context.user, request.context, rng, in_change=in_change)
    return replace(policy, **bandit.parts[decision.index]), decision


def force_model_arm(
    experiment: Experiment, request: RecommendRequest, serving: ServingState
) -> RecommendRequest:
    """Force an arm that ranks by a model, unless the request forces one."""
    arm = request.force.get(experiment.key)
    if serving.model is None or arm == HEURISTIC:
        why = f"arm {HEURISTIC!r} ranks without a model" if arm == HEURISTIC else NO_CHAMPION
        raise ProblemError("invalid", why, field="$.variants")
    learned = [arm.name for arm in experiment.arms if arm.name != HEURISTIC]
    if arm is not None or not learned:
        return request
    force = {**request.force, experiment.key: learned[0]}
    return msgspec.structs.replace(request, force=force)

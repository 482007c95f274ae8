"""Privacy loss by the model alone, where a server reads more than the model."""

from __future__ import annotations

import math

from tactful_federated.core.plan import TrainingPlan
from tactful_federated.errors import extra
from tactful_privacy.mechanisms.gaussian import WideGaussian


def epsilon_of_model(plan: TrainingPlan) -> float:
    """Return the privacy loss of one device by the model alone, at the plan's delta.

    It is that of the plan unless devices add noise in several groups: a model has the noise of
    `minimum_reports` devices or more, which is more than that of a group. The unit and assumptions
    are those of the plan, against an observer of the releases who does not see sums of groups.
    """
    with extra():
        import dp_accounting

    if not plan.device_sigma_squared:
        return plan.epsilon
    whole = plan.minimum_reports * plan.device_sigma_squared
    multiplier = math.sqrt(whole / plan.participations) / plan.units
    cells = plan.minimum_reports * plan.participations * plan.parameters
    draw = WideGaussian(plan.device_sigma_squared)
    tables = float(draw.error) * cells * (1 + math.exp(plan.epsilon))
    if tables >= plan.delta:  # the bound by the noise of one group is the better one
        return plan.epsilon
    found = float(dp_accounting.get_epsilon_gaussian(multiplier, plan.delta - tables))
    return min(plan.epsilon, found)

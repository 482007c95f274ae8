"""What a plan promises, recomputed from the formulas and by another accountant."""

import math
from dataclasses import replace
from fractions import Fraction

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld

from tactful_federated.core.plan import TrainingPlan, Wishes, plan_training
from tactful_federated.errors import SettingsError
from tactful_privacy.mechanisms.gaussian import WideGaussian

WISHES = Wishes(
    epsilon=2.0, delta=1e-6, population=500_000, rounds=300, report_goal=2_000, parameters=10_000
)
WISHES = replace(WISHES, most_bands=16)


@pytest.fixture(scope="module")
def plan() -> TrainingPlan:
    return plan_training(WISHES)


def test_the_noise_pays_for_the_promise(plan: TrainingPlan) -> None:
    sensitivity = plan.root.sensitivity_squared(plan.participations, plan.units)
    noise = WideGaussian(plan.sigma_squared)
    z = math.sqrt(noise.covered / sensitivity)
    cells = plan.participations * plan.bands * plan.parameters
    tables = float(noise.error) * cells * (1 + math.exp(plan.epsilon))
    assert z >= plan.noise_multiplier
    assert dp_accounting.get_epsilon_gaussian(z, plan.delta - tables) <= plan.epsilon
    # Not wasteful either: one per cent less noise would break the promise.
    assert dp_accounting.get_epsilon_gaussian(0.99 * z, plan.delta) > plan.epsilon
    assert Fraction(plan.sigma_squared) > 0 and tables < plan.delta / 4


def test_another_accountant_agrees(plan: TrainingPlan) -> None:
    accountant = pld.PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3
    )
    accountant.compose(dp_accounting.GaussianDpEvent(plan.noise_multiplier))
    assert accountant.get_epsilon(plan.delta) == pytest.approx(plan.epsilon, rel=2e-3)


def test_bounds_on_participation_leave_enough_devices_to_ask(plan: TrainingPlan) -> None:
    resting = plan.cohort * (plan.separation - 1)
    assert (WISHES.population - resting) * WISHES.availability >= plan.cohort
    assert plan.participations * plan.separation >= plan.rounds
    assert plan.bands <= plan.separation
    assert plan.cohort * plan.units < 1 << 31


def test_noise_of_the_model_is_what_prefix_sums_carry(plan: TrainingPlan) -> None:
    z = plan.noise_multiplier
    width = z * math.sqrt(plan.root.sensitivity_squared(plan.participations, 1)) / 1024
    errors = plan.root.prefix_errors(plan.rounds)
    rms = width * float(np.sqrt(np.square(errors).mean())) * plan.update_norm / plan.report_goal
    assert plan.model_noise == pytest.approx(rms, rel=1e-6)
    alone = z * math.sqrt(plan.participations) * plan.update_norm / plan.report_goal
    growth = math.sqrt((plan.rounds + 1) / 2)
    assert plan.independent_model_noise == pytest.approx(alone * growth, rel=1e-6)
    assert plan.model_noise < plan.independent_model_noise / 2
    assert plan.expected_loss(0.5) == pytest.approx(10_000 * 0.25 * plan.model_noise**2)


def test_more_devices_less_noise(plan: TrainingPlan) -> None:
    more = plan_training(replace(WISHES, population=5_000_000, delta=1e-7, report_goal=8_000))
    assert more.model_noise < plan.model_noise / 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"population": 3_000}, "lower the report goal"),
        ({"delta": 1e-5}, "allows to reveal one"),
        ({"epsilon": 0.0}, "epsilon is 0"),
        ({"report_goal": 0}, "report_goal is 0"),
        ({"availability": 0.0}, "availability"),
        ({"minimum_reports": 2_001}, "0 to the report goal"),
        ({"delta": 1e-15}, "noise tables"),
    ],
)
def test_wishes_that_cannot_be_had_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        plan_training(replace(WISHES, **wrong))  # type: ignore[arg-type]

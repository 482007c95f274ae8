"""Everybody gets a change only with proof, and a stage that waits says for how many units."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_bandits.analysis.samples import Proportion
from tactful_bandits.errors import DefinitionError, StatisticsError
from tactful_bandits.rollouts.forecast import Forecast, forecast
from tactful_bandits.rollouts.guardrails import Guardrail
from tactful_bandits.rollouts.lifecycle import (
    Rollout,
    RolloutLook,
    StageObservations,
    judge_rollout,
    start_rollout,
)
from tactful_bandits.rollouts.plan import RolloutPlan
from tactful_bandits.rollouts.proof import prove

DAY = 86_400_000
_WHOLE = 400  # in a quarter of so many units every rate below has whole outcomes
PLAN = RolloutPlan("k", (Guardrail("takers"),))


def rolled_out(
    rng: np.random.Generator, *, rate: float, loss: float, people: int, days: int = 120
) -> Rollout:
    """Roll a change out with one look a day, for so many days."""
    rollout = start_rollout(Rollout(PLAN), at=0, by="ann")
    totals, stage = np.zeros((2, 2), int), 0
    for day in range(1, days + 1):
        if rollout.stage != stage:
            totals, stage = np.zeros((2, 2), int), rollout.stage
        share = rollout.share
        change = rng.binomial(people, share)
        users = np.array([people - change, change])
        totals += [users, rng.binomial(users, [rate, rate * (1 - loss)])]
        rollout = judge(rollout, totals, at=day * DAY).rollout
        if not rollout.active:
            break
    return rollout


def judge(rollout: Rollout, totals: np.ndarray, *, at: int) -> RolloutLook:
    (control, change), (took, changed) = totals.tolist()
    arms = Proportion(max(control, 2), took), Proportion(max(change, 2), changed)
    pair = arms if min(control, change) >= 2 else None
    samples = {} if rollout.share == 1 else {"takers": pair}
    return judge_rollout(rollout, StageObservations((control, change), samples), at=at)


@pytest.mark.slow
def test_the_default_plan_ships_no_large_harm() -> None:
    """A loss of 20 % at 3 % takers and 1,200 people a day was shipped in all of 100 runs."""
    rng = np.random.default_rng(7)
    ends = [rolled_out(rng, rate=0.03, loss=0.2, people=1_200) for _ in range(25)]
    assert [end.decision for end in ends].count("ship") <= 1


def test_a_harmless_change_is_shipped_with_proof() -> None:
    rng = np.random.default_rng(8)
    ends = [rolled_out(rng, rate=0.12, loss=0.0, people=20_000) for _ in range(10)]
    assert [end.decision for end in ends].count("ship") >= 8


def test_earlier_stages_need_no_proof() -> None:
    for stage, share in enumerate(PLAN.stages):
        assert PLAN.requires_proof(stage) == (share == 0.5)
    assert not any(replace(PLAN, proof=False).requires_proof(stage) for stage in range(6))
    partial = replace(PLAN, stages=(0.1, 0.5))
    assert not any(partial.requires_proof(stage) for stage in range(2))
    assert replace(PLAN, stages=(1.0,)).last_controlled is None


def last_stage(people: int, rate: float = 0.03, *, share: float = 0.5) -> RolloutLook:
    """Look at the stage before everybody, with outcomes exactly as expected without harm."""
    plan = replace(PLAN, stages=(share, 1.0))
    rollout = start_rollout(Rollout(plan), at=0, by="ann")
    change = round(people * share)
    users = np.array([people - change, change])
    totals = np.array([users, np.rint(users * rate).astype(int)])
    return judge(rollout, totals, at=10 * DAY)


@settings(max_examples=30)
@given(st.integers(5, 50), st.sampled_from([0.03, 0.12]), st.sampled_from([0.25, 0.5]))
def test_a_wait_names_the_units_that_end_it(steps: int, rate: float, share: float) -> None:
    people = _WHOLE * steps
    look = last_stage(people, rate, share=share)
    if not look.waits:
        assert look.rollout.share == 1
        return
    (wait,) = look.waits
    assert wait.units is not None and wait.ms is not None and wait.units > 0
    assert wait.ms == pytest.approx(wait.units * 10 * DAY / people, rel=0.1)
    more = _WHOLE * math.ceil(1.02 * wait.units / _WHOLE)
    assert last_stage(people + more, rate, share=share).rollout.share == 1
    fewer = max(0, _WHOLE * math.floor(0.8 * wait.units / _WHOLE) - _WHOLE)
    assert last_stage(people + fewer, rate, share=share).rollout.share == share


def test_too_few_units_are_counted_for_both_arms() -> None:
    (wait,) = last_stage(400).waits
    assert (wait.reason, wait.units) == ("too few data", 400)
    plan = replace(PLAN, stages=(0.01, 1.0))
    rollout = start_rollout(Rollout(plan), at=0, by="ann")
    (wait,) = judge(rollout, np.array([[100, 1], [3, 0]]), at=DAY).waits
    assert (wait.units, wait.ms) == (40_000, None)


def test_guardrails_without_a_loss_need_no_proof() -> None:
    """Errors that the control never has cannot be compared with a share of them."""
    plan = replace(PLAN, guardrails=(Guardrail("errors", "lower", smallest_loss=None),))
    nothing = Proportion(500, 0), Proportion(500, 0)
    assert prove(plan, {"errors": nothing}) == ()
    with pytest.raises(DefinitionError, match="smallest_loss must lie"):
        Guardrail("errors", smallest_loss=1.0)


def planned(people: float, *, rate: float = 0.03, plan: RolloutPlan = PLAN) -> Forecast:
    baseline = Proportion(100_000, round(100_000 * rate))
    return forecast(plan, lambda guardrail, units: baseline, units_per_day=people)


def test_the_forecast_of_the_default_plan() -> None:
    """Few people a day find nothing; the named days and stages are enough, and no more."""
    few, many = planned(1_200), planned(100_000)
    assert not few.enough and many.enough
    assert (few.power["takers"] or 0) < 0.5
    assert few.days > 40  # the minimum of 400 users in 1 % takes 33 days
    assert few.enough_days is not None and few.enough_stage_days is not None
    assert few.proof_days is not None and few.proof_days > few.days
    longer = replace(PLAN, stage_ms=round(few.enough_stage_days * DAY))
    assert planned(1_200, plan=longer).enough
    shorter = replace(PLAN, stage_ms=round(few.enough_stage_days * DAY * 0.9))
    assert not planned(1_200, plan=shorter).enough
    assert planned(100_000).days == pytest.approx(5)


def test_the_forecast_meets_a_simulation() -> None:
    """The forecast is a lower bound of the detected share, as it leaves earlier looks out."""
    rng = np.random.default_rng(9)
    power = planned(6_000, rate=0.12).power["takers"]
    ends = [rolled_out(rng, rate=0.12, loss=0.2, people=6_000, days=12) for _ in range(40)]
    back = [end.state for end in ends].count("rolled back") / 40
    assert power is not None and back >= power - 0.15


@settings(max_examples=20)
@given(st.floats(100, 100_000), st.floats(1.1, 5))
def test_more_people_never_lower_the_power(people: float, more: float) -> None:
    low, high = (planned(it).power["takers"] or 0.0 for it in (people, people * more))
    assert high >= low - 0.02
    assert 0 <= low <= 1


def test_a_forecast_without_outcomes_says_so() -> None:
    got = forecast(PLAN, lambda guardrail, units: None, units_per_day=10_000)
    assert got.power == {"takers": None}
    assert not got.enough
    with pytest.raises(StatisticsError, match="units_per_day"):
        planned(0)

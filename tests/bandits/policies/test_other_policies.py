"""Policies without features, with late rewards and with a budget."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.budget_pacing import BudgetPacing
from tactful_bandits.policies.choice import UpperConfidence
from tactful_bandits.policies.delayed_rewards import PendingRewards
from tactful_bandits.policies.linear import LinearBandit
from tactful_bandits.policies.memory import Memory, Observation
from tactful_bandits.policies.thompson import BetaBandit

NOTHING = np.zeros(0)


@settings(max_examples=60, deadline=None)
@given(
    rewards=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 4)), max_size=40
    ),
    memory=st.sampled_from([Memory(), Memory(2), Memory(5, 0.5)]),
)
def test_beta_parameters_are_counts_by_weight(
    rewards: list[tuple[int, int, int]], memory: Memory
) -> None:
    policy = BetaBandit(3, prior=(1.0, 2.0), memory=memory)
    policy.advance(4)
    alpha, beta = [1.0] * 3, [2.0] * 3
    for arm, reward, period in rewards:
        policy.update(arm, reward, period=period)
        if memory.periods is None:
            weight = 1.0
        else:
            weight = memory.discount ** (4 - period) if 4 - period < memory.periods else 0.0
        (alpha if reward else beta)[arm] += weight
    np.testing.assert_allclose(policy.parameters, (alpha, beta), atol=1e-9)
    half = [Observation(a, NOTHING, r, p) for a, r, p in rewards[::2]]
    policy.forget(half)
    without = BetaBandit(3, prior=(1.0, 2.0), memory=memory)
    without.advance(4)
    without.learn(Observation(a, NOTHING, r, p) for a, r, p in rewards[1::2])
    assert policy.to_bytes() == without.to_bytes()
    np.testing.assert_allclose(policy.parameters, without.parameters, atol=1e-12)
    assert BetaBandit.from_bytes(policy.to_bytes()).to_bytes() == policy.to_bytes()


@pytest.mark.slow
def test_beta_takes_an_arm_as_often_as_it_is_the_best() -> None:
    policy = BetaBandit(2, draws=4)
    for arm, reward in ((0, 1), (0, 1), (0, 0), (1, 1), (1, 0)):
        policy.update(arm, reward)
    # P(Beta(3, 2) > Beta(2, 2)) in closed form (Cook 2005): 1 - sum over the second's draws.
    rng = np.random.default_rng(1)
    reference = (rng.beta(3, 2, 10**6) > rng.beta(2, 2, 10**6)).mean()
    taken = np.mean([policy.choose(rng).arm == 0 for _ in range(20_000)])
    assert abs(taken - reference) < 4 * 0.5 / math.sqrt(20_000) + 0.002


def test_beta_refuses_what_it_cannot_take() -> None:
    policy = BetaBandit(2)
    before = policy.to_bytes()
    for arm, reward in ((2, 1.0), (-1, 1.0), (0, 0.5), (0, math.nan)):
        with pytest.raises(PolicyError):
            policy.update(arm, reward)
    with pytest.raises(PolicyError, match="never learnt"):
        policy.forget([Observation(0, NOTHING, 1.0)])
    assert policy.to_bytes() == before
    with pytest.raises(PolicyError):
        LinearBandit.from_bytes(before)
    with pytest.raises(PolicyError):
        BetaBandit.from_bytes(LinearBandit(2, 2).to_bytes())


def test_a_late_decision_comes_out_exactly_once() -> None:
    pending: PendingRewards[Observation] = PendingRewards(10.0)
    for at in range(5):
        pending.add(f"d{at}", Observation(at, np.array([float(at)]), 9.0, 3, 0.5), float(at))
    with pytest.raises(PolicyError, match="is pending"):
        pending.add("d0", Observation(0, NOTHING, 0.0), 0.0)
    with pytest.raises(PolicyError, match="must be finite"):
        pending.settle("d1", float("nan"), 1.0)  # and it still waits
    assert pending.settle("d1", 0.5, 10.9)
    assert not pending.settle("d1", 1.0, 10.9), "the first reward counts"
    assert not pending.settle("unknown", 1.0, 0.0)
    assert not pending.settle("d0", 1.0, 10.0), "its window is over: half-open"
    assert pending.rewards == {"d1": 0.5}
    assert [seen.arm for seen in pending.decisions] == [0, 1, 2, 3, 4]
    assert [(seen.arm, seen.reward) for seen in pending.expire(12.0)] == [(0, 0), (1, 0.5), (2, 0)]
    assert pending.settle("d3", 1.0, 12.0)
    assert pending.find("d3") is not None
    assert pending.discard(["d3", "unknown"]) == 1
    assert pending.find("d3") is None
    assert not pending.rewards
    (last,) = pending.expire(99.0)
    assert (last.arm, last.reward, last.features.tolist()) == (4, 0.0, [4.0])
    assert (last.period, last.propensity) == (3, 0.5)
    assert not len(pending)


@pytest.mark.parametrize("delay", [0, 25, 200])
def test_delayed_and_batched_rewards_are_learnt_from(delay: int) -> None:
    rng = np.random.default_rng(9)
    theta = rng.normal(size=(3, 4)) * 0.5
    policy = LinearBandit(3, 4, explore=0.1)
    pending: PendingRewards[Observation] = PendingRewards(float(delay + 20))
    due: list[tuple[int, str, float]] = []
    for at in range(1200):
        x = rng.normal(size=4).clip(-4, 4)
        choice = policy.choose(x, rng)
        pending.add(str(at), Observation(choice.arm, x, 0.0), float(at))
        due.append((at + delay, str(at), float(theta[choice.arm] @ x)))
        if at % 20 == 19:
            ready = [entry for entry in due if entry[0] <= at]
            due = due[len(ready) :]
            assert all(pending.settle(key, reward, float(at)) for _, key, reward in ready)
            policy.learn(pending.expire(float(at)))
    np.testing.assert_allclose(policy.coefficients, theta, atol=0.05)


def _spend(step: float) -> tuple[float, list[float], float]:
    """Coupons of 2 for people of whom some are worth 0.9 more with one and most 0.1."""
    rng = np.random.default_rng(12)
    pacing = BudgetPacing(400.0, 2000, step=step)
    policy = LinearBandit(2, 2, rule=UpperConfidence(0.2))
    spent, gained = [], 0.0
    for _ in range(2000):
        keen = rng.random() < 0.15
        x = [1.0, float(keen)]
        penalties, allowed = pacing.terms([0.0, 2.0])
        arm = policy.choose(x, rng, penalties=penalties, allowed=allowed).arm
        mean = 0.1 + (0.9 if keen else 0.1) * arm
        gained += mean
        policy.update(arm, x, mean + 0.1 * float(rng.normal()))
        pacing.spend(2.0 * arm)
        spent.append(pacing.spent)
    return pacing.spent, spent, gained


def test_a_budget_is_spent_evenly_and_where_it_does_most() -> None:
    total, course, gained = _spend(0.01)
    assert total <= 400
    assert 0.85 * 200 <= course[999] <= 1.3 * 200, "half of it by half time"
    _, early, greedy = _spend(1e-9)
    assert early[999] > 350, "without a price it is gone early"
    assert gained > 1.15 * greedy


def test_a_fully_spent_budget_can_be_restored() -> None:
    rng = np.random.default_rng(4)
    for budget, share in rng.uniform(0, 1, (1000, 2)):
        pacing = BudgetPacing(float(budget), 1, step=0.1)
        pacing.spend(float(budget * share))
        pacing.spend(pacing.left)
        assert BudgetPacing.from_bytes(pacing.to_bytes()).left < 1e-15


@settings(max_examples=50, deadline=None)
@given(costs=st.lists(st.floats(0, 5), max_size=60), step=st.floats(1e-3, 10))
def test_a_budget_is_never_overspent(costs: list[float], step: float) -> None:
    pacing = BudgetPacing(20.0, 10, step=step)
    for cost in costs:
        _, (allowed,) = pacing.terms([cost])
        if allowed:
            pacing.spend(cost)
        else:
            with pytest.raises(PolicyError, match="exceeds the"):
                pacing.spend(cost)
        assert 0 <= pacing.spent <= 20
        assert 0 <= pacing.price <= pacing.largest_price
    assert BudgetPacing.from_bytes(pacing.to_bytes()).to_bytes() == pacing.to_bytes()

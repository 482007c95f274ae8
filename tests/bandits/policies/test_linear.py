"""Linear policies against ridge regression by the book, and unlearning to the bit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.choice import Thompson, UpperConfidence, choose_best, choose_winner
from tactful_bandits.policies.linear import LinearBandit
from tactful_bandits.policies.memory import Memory, Observation

ARMS, FEATURES = 3, 4


def _stream(seed: int, length: int, periods: int = 1) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [
        Observation(
            int(rng.integers(ARMS)),
            rng.normal(size=FEATURES).clip(-8, 8),
            float(rng.normal()),
            int(rng.integers(periods)),
        )
        for _ in range(length)
    ]


def _by_the_book(
    stream: list[Observation], ridge: float, memory: Memory, now: int
) -> NDArray[np.float64]:
    found = np.zeros((ARMS, FEATURES))
    for arm in range(ARMS):
        gram, moment = ridge * np.eye(FEATURES), np.zeros(FEATURES)
        for seen in stream:
            period = seen.period or 0
            if seen.arm != arm:
                continue
            if memory.periods is not None and now - period >= memory.periods:
                continue
            x = np.round(seen.features * 65536) / 65536
            weight = memory.discount ** (now - period) if memory.periods else 1.0
            gram += weight * np.outer(x, x)
            moment += weight * round(seen.reward * 65536) / 65536 * x
        found[arm] = np.linalg.solve(gram, moment)
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    length=st.integers(0, 60),
    periods=st.sampled_from([None, 1, 2, 4]),
    discount=st.sampled_from([1.0, 0.8]),
    ridge=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_models_are_those_of_ridge_regression(
    seed: int, length: int, periods: int | None, discount: float, ridge: float
) -> None:
    memory = Memory(periods, discount if periods else 1.0)
    stream = _stream(seed, length, periods=5)
    one, many = (LinearBandit(ARMS, FEATURES, ridge=ridge, memory=memory) for _ in range(2))
    for policy in (one, many):
        policy.advance(4)
    for seen in stream:
        one.update(seen.arm, seen.features, seen.reward, period=seen.period)
    many.learn(stream)
    expected = _by_the_book(stream, ridge, memory, 4)
    np.testing.assert_allclose(one.coefficients, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(many.coefficients, expected, rtol=0, atol=1e-9)
    one.advance(6)
    expected = _by_the_book(stream, ridge, memory, 6)
    np.testing.assert_allclose(one.coefficients, expected, rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), periods=st.sampled_from([None, 3]), ahead=st.integers(0, 3))
def test_an_unlearnt_person_was_never_there(seed: int, periods: int | None, ahead: int) -> None:
    memory = Memory(periods, 0.7 if periods else 1.0)
    everybody = _stream(seed, 40, periods=3)
    person = everybody[::3]
    others = [seen for at, seen in enumerate(everybody) if at % 3]
    with_them, without = (LinearBandit(ARMS, FEATURES, memory=memory) for _ in range(2))
    for policy in (with_them, without):
        policy.advance(2)
    for seen in everybody:
        with_them.update(seen.arm, seen.features, seen.reward, period=seen.period)
    for seen in reversed(others):
        without.update(seen.arm, seen.features, seen.reward, period=seen.period)
    for policy in (with_them, without):
        policy.advance(2 + ahead)
    kept = [seen for seen in person if periods is None or (seen.period or 0) > 2 + ahead - periods]
    assert (with_them.to_bytes() != without.to_bytes()) == bool(kept)
    with_them.forget(person)
    without.refresh()
    assert with_them.to_bytes() == without.to_bytes()
    np.testing.assert_array_equal(with_them.coefficients, without.coefficients)
    x = np.ones(FEATURES)
    choices = [policy.choose(x, np.random.default_rng(7)) for policy in (with_them, without)]
    assert choices[0] == choices[1]


def test_what_was_never_learnt_is_not_unlearnt() -> None:
    policy = LinearBandit(ARMS, FEATURES)
    policy.learn(_stream(1, 5))
    before = policy.to_bytes()
    with pytest.raises(PolicyError, match="never learnt"):
        policy.forget([*_stream(1, 2), Observation(0, np.full(FEATURES, 7.0), 1.0)])
    assert policy.to_bytes() == before


def test_rounding_does_not_pile_up() -> None:
    rng = np.random.default_rng(3)
    policy = LinearBandit(1, 6, ridge=1e-3)
    base = rng.normal(size=6)
    for _ in range(9000):  # nearly collinear: the worst case for Sherman and Morrison
        policy.update(0, base + 1e-3 * rng.normal(size=6), float(rng.normal()))
    running = policy.coefficients
    policy.refresh()
    np.testing.assert_allclose(running, policy.coefficients, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [UpperConfidence(1.0), Thompson(0.5, draws=32)])
def test_propensities_are_the_chances_of_the_arms(rule: UpperConfidence | Thompson) -> None:
    # E[1{arm = a} / propensity] = 1 for every arm, whatever the draws were.
    policy = LinearBandit(ARMS, FEATURES, rule=rule, explore=0.3)
    policy.learn(_stream(5, 30))
    rng = np.random.default_rng(11)
    x, n = np.ones(FEATURES), 20_000
    weights = np.zeros((n, ARMS))
    for row in weights:
        choice = policy.choose(x, rng)
        assert choice.propensity_kind == "exact"
        row[choice.arm] = 1 / choice.propensity
    error = 4 * weights.std(axis=0) / math.sqrt(n)
    assert (np.abs(weights.mean(axis=0) - 1) < error).all()


def test_thompson_takes_an_arm_as_often_as_it_is_the_best() -> None:
    policy = LinearBandit(2, 1, rule=Thompson(1.0, draws=8))
    for reward in (0.5, 0.2, 0.9):
        policy.update(0, [1.0], reward)
    policy.update(1, [1.0], 0.6)
    means, deviations = policy.predict([1.0])
    z = (means[0] - means[1]) / math.hypot(*deviations)
    expected = 0.5 * (1 + math.erf(z / math.sqrt(2)))
    rng = np.random.default_rng(2)
    taken = np.array([policy.choose([1.0], rng).arm == 0 for _ in range(20_000)])
    assert abs(taken.mean() - expected) < 4 * 0.5 / math.sqrt(len(taken))


def test_kinds_of_propensity_say_what_they_are() -> None:
    rng = np.random.default_rng(0)
    assert choose_best(np.array([1.0, 2.0]), 0.0, rng) == (1, 1.0, "deterministic")
    assert choose_winner(np.array([[1.0, 2.0]]), 0.0, rng) == (1, 1.0, "estimated")
    only = choose_best(np.array([9.0, 2.0]), 0.5, rng, np.array([False, True]))
    assert only == (1, 1.0, "exact")
    with pytest.raises(PolicyError, match="no arm is allowed"):
        choose_best(np.array([1.0]), 0.0, rng, np.array([False]))


def _regret(policy: LinearBandit, seed: int, swap_at: int = 10**9) -> float:
    """Mean regret per decision over the last 500 of 1,500, relative to choosing by chance."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(4, 5)) * 0.4
    ours, chance = [], []
    for at in range(1500):
        if at == swap_at:
            theta = -theta
        if at % 50 == 0 and policy.memory.periods is not None:
            policy.advance(at // 50)
        x = rng.normal(size=5).clip(-4, 4)
        means = theta @ x
        arm = policy.choose(x, rng).arm
        policy.update(arm, x, float(np.clip(means[arm] + 0.3 * rng.normal(), -8, 8)))
        ours.append(means.max() - means[arm])
        chance.append(means.max() - means.mean())
    return float(np.mean(ours[-500:]) / np.mean(chance[-500:]))


@pytest.mark.parametrize("rule", [UpperConfidence(0.5), Thompson(0.3, draws=16)])
def test_policies_find_what_is_best(rule: UpperConfidence | Thompson) -> None:
    assert _regret(LinearBandit(4, 5, rule=rule), 1) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("memory", [Memory(6), Memory(20, 0.7)])
def test_a_policy_that_forgets_follows_a_change(memory: Memory) -> None:
    rule = Thompson(0.3, draws=16)
    stays = _regret(LinearBandit(4, 5, rule=rule), 1, swap_at=800)
    follows = _regret(LinearBandit(4, 5, rule=rule, memory=memory), 1, swap_at=800)
    assert follows < 0.15 < stays


def test_state_is_read_back_or_refused() -> None:
    policy = LinearBandit(2, 3, rule=UpperConfidence(0.7), explore=0.2, memory=Memory(4, 0.9))
    policy.advance(5)
    policy.update(1, [1, -2, 0.25], 0.5, period=3)
    data = policy.to_bytes()
    again = LinearBandit.from_bytes(data)
    assert again.to_bytes() == data
    assert (again.rule, again.explore, again.memory) == (policy.rule, 0.2, Memory(4, 0.9))
    np.testing.assert_allclose(again.coefficients, policy.coefficients, atol=1e-12)
    for at in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(PolicyError):
            LinearBandit.from_bytes(bytes(damaged))
        with pytest.raises(PolicyError):
            LinearBandit.from_bytes(data[:at])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -8.1, 1e300])
def test_values_that_cannot_be_taken_change_nothing(bad: float) -> None:
    policy = LinearBandit(2, 2)
    before = policy.to_bytes()
    rng = np.random.default_rng(0)
    for call in (
        lambda: policy.update(0, [bad, 0], 1.0),
        lambda: policy.update(0, [1, 0], bad),
        lambda: policy.update(2, [1, 0], 1.0),
        lambda: policy.update(-1, [1, 0], 1.0),
        lambda: policy.update(0, [1, 0, 0], 1.0),
        lambda: policy.choose([bad, 0], rng),
        lambda: policy.choose([1, 0], rng, allowed=[True]),
        lambda: policy.choose([1, 0], rng, penalties=[math.nan, 0]),
        lambda: policy.choose([1, 0], rng, penalties=[0.5]),
        lambda: LinearBandit(1, 5000),
    ):
        with pytest.raises(PolicyError):
            call()
    assert policy.to_bytes() == before


def test_settings_out_of_range_are_refused() -> None:
    for make in (
        lambda: LinearBandit(0, 3),
        lambda: LinearBandit(2, 3, ridge=0.0),
        lambda: LinearBandit(2, 3, explore=1.5),
        lambda: LinearBandit(10_000, 1_000),
        lambda: Memory(0),
        lambda: Memory(None, 0.5),
        lambda: Memory(3, 0.0),
        lambda: Thompson(draws=0),
        lambda: UpperConfidence(-1.0),
    ):
        with pytest.raises(PolicyError):
            make()
    policy = LinearBandit(2, 2, memory=Memory(2))
    policy.advance(3)
    with pytest.raises(PolicyError, match="has not begun"):
        policy.update(0, [1, 1], 1.0, period=4)
    with pytest.raises(PolicyError, match="before"):
        policy.advance(2)
    assert not policy.update(0, [1, 1], 1.0, period=1)
    assert policy.counts.sum() == 0

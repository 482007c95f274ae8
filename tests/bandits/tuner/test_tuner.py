"""The tuner and its rivals in the simulated shop."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tactful_bandits.errors import PolicyError
from tactful_bandits.evaluation.off_policy import LoggedDecisions, snips
from tactful_bandits.tuner import tuner
from tactful_bandits.tuner.baselines import best_static, cross_entropy, linear_policy, play
from tactful_bandits.tuner.ddpg import DdpgAgent
from tactful_bandits.tuner.network import gaussian_log_density
from tactful_bandits.tuner.simulator import MarketSettings, MarketSimulator
from tactful_bandits.tuner.static_comparison import (
    MARKETS,
    compare_in_market,
    constant_policy,
    paired,
)
from tactful_bandits.tuner.weight_bounds import CHAMPION, WeightBounds

BOUNDS = WeightBounds(CHAMPION)


def _champion(states: np.ndarray) -> np.ndarray:
    return np.zeros((len(states), len(CHAMPION)))


def test_the_cross_entropy_method_climbs() -> None:
    goal = np.array([0.5, -0.2, 0.1])
    rng = np.random.default_rng(0)

    def score(candidates: np.ndarray, number: int) -> np.ndarray:
        return np.asarray(-((candidates - goal) ** 2).sum(axis=1) + 0.01 * rng.normal())

    found = cross_entropy(score, 3, rng, rounds=15, candidates=24)
    np.testing.assert_allclose(found, goal, atol=0.05)
    with pytest.raises(PolicyError):
        cross_entropy(score, 3, rng, rounds=0)


def test_best_static_weights_beat_the_champion() -> None:
    settings = MarketSettings(sessions=16)
    action = best_static(BOUNDS, 500, settings=settings, hours=60, rounds=5)

    def fixed(states: np.ndarray) -> np.ndarray:
        return np.tile(action, (len(states), 1))

    ours, theirs = (
        play(policy, 9000, 150, BOUNDS, settings=settings)[0] for policy in (fixed, _champion)
    )
    assert ours.mean() > 1.03 * theirs.mean()


def test_a_linear_policy_reads_the_state() -> None:
    matrix = np.zeros((5, 11))
    matrix[1, 0], matrix[0, 10] = 9.0, -9.0  # prices in promotions, relevance less always
    states = np.zeros((2, 10))
    states[1, 0] = 1
    actions = linear_policy(matrix)(states)
    np.testing.assert_allclose(actions[:, 1], [0, 1], atol=1e-6)
    np.testing.assert_allclose(actions[:, 0], [-1, -1], atol=1e-6)


def test_losses_are_the_worst_over_a_window() -> None:
    ours = np.array([1, 1, 0.5, 0.5, 1, 1, 2, 2, 1, 1.0])
    for window, loss in ((2, 0.5), (4, 0.25), (100, -0.1)):
        assert tuner.worst_loss(ours, np.ones(10), window=window) == pytest.approx(loss)


@pytest.mark.usefixtures("one_thread")
def test_a_course_is_logged_so_that_another_actor_can_be_judged() -> None:
    settings = MarketSettings(sessions=8)
    noise, hours = 0.2, 250
    rng = np.random.default_rng(3)
    # The champion with noise, as in shadow; judged: a shift of every action by a tenth.
    market = MarketSimulator(5, settings=settings)
    rewards, logged, target = [], [], []
    for _ in range(hours):
        drawn = noise * rng.standard_normal(5)
        step = market.step(BOUNDS.weights(drawn))
        rewards.append(step.click_rate[0])
        logged.append(math.exp(gaussian_log_density(drawn, np.zeros(5), noise)))
        target.append(math.exp(gaussian_log_density(drawn, np.array([0, 0.1, 0, 0, 0]), noise)))
    log = LoggedDecisions(np.array(rewards), np.array(logged), np.array(target), densities=True)
    assert log.weights.mean() == pytest.approx(1, abs=0.15)

    def shift(states: np.ndarray) -> np.ndarray:
        return np.tile([0, 0.1, 0, 0, 0], (len(states), 1))

    shifted = play(shift, 5, hours, BOUNDS, settings=settings)[0]
    assert snips(log).value == pytest.approx(shifted.mean(), abs=0.03)
    agent = DdpgAgent(10, 5, settings=tuner.TUNER_SETTINGS)
    course = tuner.tune_in_market(agent, 1, 3, BOUNDS, reward_scale=20.0)
    density = -5 * math.log(2 * tuner.TUNER_SETTINGS.warm_up_reach)
    assert course.log_densities == pytest.approx([density] * 3)
    assert (np.abs(course.rewards / 20) < 0.5).all(), "the gain over the champion beside it"
    with pytest.raises(PolicyError):
        tuner.tune_in_market(agent, 1, 3, BOUNDS, share=1.0)
    np.testing.assert_allclose(course.weights.sum(axis=1), 1)


@pytest.mark.parametrize("bounds", [BOUNDS, WeightBounds((1.0, 0, 0, 0, 0), reach=1.0)])
def test_what_actions_come_to_is_the_weights_they_lead_to(bounds: WeightBounds) -> None:
    actions = np.random.default_rng(4).uniform(-1, 1, (200, 5))
    actions[0] = -1  # where the reach is 1, nothing is left of any weight
    effect = tuner.effect_of_weights(bounds)
    given = torch.tensor(actions, dtype=torch.float32, requires_grad=True)
    found = effect(given)
    weights = np.array(bounds.champion) + bounds.reach * found.detach().numpy()
    np.testing.assert_allclose(weights, bounds.weights(actions), atol=1e-5)
    np.testing.assert_allclose(effect(found).detach(), found.detach(), atol=1e-5)
    assert not effect(torch.zeros(1, 5)).any(), "0 is the champion"
    (found**2).sum().backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    assert given.grad.isfinite().all()
    assert given.grad[1:].any()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_tuner_beats_the_champion() -> None:
    """The tuner beats the champion, raises the price weight, and costs little to train."""
    agent = tuner.make_tuner(BOUNDS, 1)
    course = tuner.tune_in_market(agent, 101, 2500, BOUNDS)
    network = agent.export()

    def tuned(states: Any) -> np.ndarray:
        return np.array([network.act(state) for state in states])

    ours, promotion, weights = play(tuned, 9000, 600, BOUNDS)
    theirs, _, _ = play(_champion, 9000, 600, BOUNDS)
    assert ours.mean() > 1.1 * theirs.mean()
    assert weights[promotion][:, 1].mean() > 1.3 * weights[~promotion][:, 1].mean()
    assert 0.1 * tuner.worst_loss(course.expected_click_rate, course.champion) < 0.015


def test_fixed_weights_are_compared_on_the_same_courses() -> None:
    seeds, weights = range(70, 74), WeightBounds(CHAMPION)
    relevance = np.array([1.0, -1.0, -1.0, -1.0, -1.0])
    found = compare_in_market(
        lambda states: np.tile(relevance, (len(states), 1)), relevance, seeds, weights, hours=10
    )
    assert found.mean == found.interval.low == 1.0 and not found.policy_is_better
    worse = compare_in_market(_champion, -relevance, seeds, weights, hours=40)
    assert worse.policy_is_better and worse.interval.low > 1
    with pytest.raises(PolicyError, match="at least 3"):
        compare_in_market(_champion, relevance, seeds[:2], weights, hours=5)


def test_paired_intervals_are_those_of_students_t() -> None:
    values = np.random.default_rng(2).normal(0.3, 1, 12)
    found = paired(values, neutral=0.0)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose([found.interval.low, found.interval.high], expected, rtol=1e-9)


def test_a_constant_policy_is_one_action_everywhere() -> None:
    action = np.array([0.5, -0.25])
    network = constant_policy(action, 3)
    for state in ([0.0, 0.0, 0.0], [1e6, -1e6, 3.0]):
        np.testing.assert_allclose(network.act(state), action, atol=1e-6)


def test_markets_differ_in_what_prices_are_worth() -> None:
    """The price weight pays everywhere in the elastic market, and in sales alone in the other."""
    price = np.array([-1.0, 1.0, -1.0, -1.0, -1.0])
    gains = {}
    for name in ("elastic", "sales"):
        rates, promotion, _ = play(
            lambda states: np.tile(price, (len(states), 1)),
            8,
            60,
            WeightBounds(CHAMPION),
            environments=4,
            settings=MARKETS[name],
        )
        gains[name] = rates[promotion].mean() / rates[~promotion].mean()
    assert gains["elastic"] < 1.3 and gains["sales"] > 2


@pytest.mark.slow  # a short training, 20 s
def test_the_tuner_beats_fixed_weights_where_sales_last() -> None:
    from benchmarks.experiments.foreign import market_result

    assert market_result("sales", 0, 1_200).policy_is_better

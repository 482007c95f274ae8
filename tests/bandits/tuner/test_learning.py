"""Agents in environments of gymnasium: spaces, exploration, resuming, comparisons."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tactful_bandits.errors import PolicyError
from tactful_bandits.tuner.box_spaces import BoxSpaces
from tactful_bandits.tuner.ddpg import DdpgAgent
from tactful_bandits.tuner.ddpg_settings import GENERAL_SETTINGS, DdpgSettings
from tactful_bandits.tuner.environment_comparison import (
    best_constant,
    compare_in_environment,
    episode_return,
)
from tactful_bandits.tuner.running_statistics import RunningStatistics

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = replace(GENERAL_SETTINGS, hidden=(16,), batch=32, warm_up=60)


class Target(gymnasium.Env[Any, Any]):
    """Best is an action of 20 plus 10 times the observation, in a matrix; episodes of 20 steps."""

    def __init__(self, *, terminates: bool = False, scale: float = 1.0) -> None:
        self.observation_space = spaces.Box(-1, 1, (1, 1), np.float64)
        self.action_space = spaces.Box(10.0, 30.0, (1, 1), np.float32)
        self.terminates, self.scale, self.seen = terminates, scale, []  # type: ignore[var-annotated]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        self.state = self.np_random.uniform(-1, 1, (1, 1))
        return self.state, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.shape == (1, 1) and 10 <= action[0, 0] <= 30
        self.seen.append((float(self.state[0, 0]), float(action[0, 0])))
        reward = -self.scale * ((action[0, 0] - 20) / 10 - self.state[0, 0]) ** 2
        self.at += 1
        self.state = self.np_random.uniform(-1, 1, (1, 1))
        over = self.at >= 20
        return self.state, float(reward), over and self.terminates, over, {}


def test_an_agent_learns_with_bounds_of_its_environment() -> None:
    env = Target(scale=500.0)
    settings = replace(SMALL, discount=0.0, learning_rate=3e-3)
    agent = DdpgAgent.for_environment(env, settings=settings, seed=1)
    steps: list[int] = []
    agent.learn(env, 400, seed=3, progress=lambda done, of: steps.append(done))
    assert steps == list(range(1, 401))
    found = [float(agent.act([state])[0]) for state in (-0.7, 0.0, 0.7)]
    np.testing.assert_allclose(found, [-0.7, 0.0, 0.7], atol=0.3)
    network = agent.export(everywhere=True)
    assert network.covers([1e9]) and not agent.export().covers([1e9])
    constant = best_constant(env, 5, rounds=3, candidates=8)
    compared = compare_in_environment(env, network.act, constant, range(100, 104))
    assert compared.policy_is_better and compared.neutral == 0.0
    same = compare_in_environment(env, lambda state: constant, constant, range(100, 104))
    assert same.mean == 0.0 and not same.policy_is_better
    assert episode_return(env, network.act, 7) == episode_return(env, network.act, 7)


class Endless(Target):
    """A shop that never closes."""

    def step(self, action: Any) -> Any:
        state, _, _, _, more = super().step(action)
        return state, 1.0, False, False, more


def test_an_environment_without_an_end_is_compared() -> None:
    assert episode_return(Endless(), lambda state: np.zeros(1), 1) == 10_000


@pytest.mark.parametrize("terminates", [False, True])
def test_only_termination_is_stored(terminates: bool) -> None:
    env = Target(terminates=terminates)
    agent = DdpgAgent.for_environment(env, settings=SMALL)
    agent.learn(env, 50, seed=0)
    assert agent.replay.all().terminated.sum() == (2 if terminates else 0)


def test_a_stopped_run_continues_identically(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, of: int) -> None:
        if done == 95:
            raise Stop

    def make(name: str) -> DdpgAgent:
        return DdpgAgent.for_environment(
            Target(), settings=SMALL, seed=2, replay_path=tmp_path / name
        )

    whole = make("whole")
    whole.learn(Target(), 130, seed=4)
    stopped = make("stopped")
    with pytest.raises(Stop):
        stopped.learn(Target(), 130, seed=4, save_to=tmp_path / "agent", progress=stop)
    again = make("stopped")
    again.load(tmp_path / "agent")
    assert again.replay.added == 80, "saved at the end of the last whole episode"
    again.learn(Target(), 130, seed=4)
    np.testing.assert_array_equal(again.act([0.3]), whole.act([0.3]))
    np.testing.assert_array_equal(again.replay.all().states, whole.replay.all().states)


@pytest.mark.parametrize(
    ("observations", "actions", "told"),
    [
        (spaces.Discrete(3), spaces.Box(-1, 1, (1,)), "observation_space is Discrete"),
        (spaces.Box(-1, 1, (2,)), spaces.Discrete(2), "action_space is Discrete"),
        (spaces.Dict({"a": spaces.Box(-1, 1, (2,))}), spaces.Box(-1, 1, (1,)), "is Dict"),
        (spaces.Box(-1, 1, (2,)), spaces.Box(-np.inf, np.inf, (1,)), "two finite bounds"),
        (spaces.Box(-1, 1, (0,)), spaces.Box(-1, 1, (1,)), "has no numbers"),
    ],
)
def test_other_spaces_are_refused(observations: Any, actions: Any, told: str) -> None:
    env = Target()
    env.observation_space, env.action_space = observations, actions
    with pytest.raises(PolicyError, match=told):
        DdpgAgent.for_environment(env)


def test_an_agent_of_another_size_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"1 observations and 1 actions, the agent 2 and 1"):
        DdpgAgent(2, 1).learn(Target(), 10, seed=0)
    with pytest.raises(PolicyError, match="has 2 numbers"):
        BoxSpaces.of(Target()).state([0.0, 1.0])


def test_running_statistics_are_those_of_all_steps(tmp_path: Path) -> None:
    rng, running = np.random.default_rng(0), RunningStatistics(2)
    states, rewards = rng.normal(3, 2, (50, 2)).astype(np.float32), rng.normal(size=50)
    returns, total = [], 0.0
    for at, (state, reward) in enumerate(zip(states, rewards, strict=True)):
        if at == 25:
            running.end_episode()
            total = 0.0
        running.update(state, float(reward), 0.9)
        total = 0.9 * total + reward
        returns.append(total)
    np.testing.assert_allclose(running.mean, states.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(running.deviation, states.std(axis=0), rtol=1e-5)
    assert running.scale == pytest.approx(np.std(returns))
    other = RunningStatistics(2)
    other.restore(running.to_array())
    np.testing.assert_array_equal(other.to_array(), running.to_array())
    constant = RunningStatistics(1)
    constant.update(np.ones(1, np.float32), 1.0, 0.9)
    assert constant.deviation.tolist() == [1.0] and constant.scale == 1.0


def test_noise_is_correlated_and_random_actions_are_held() -> None:
    settings = DdpgSettings(warm_up=1, noise=0.2, noise_correlation=0.9)
    agent = DdpgAgent(1, 1, settings=settings)
    agent.observe([0.0], [0.0], 0.0, [0.0], terminated=False)
    drawn = np.array([agent.explore([0.0]).drawn[0] for _ in range(4_000)])
    assert np.std(drawn) == pytest.approx(0.2, abs=0.04)
    assert np.corrcoef(drawn[:-1], drawn[1:])[0, 1] == pytest.approx(0.9, abs=0.03)
    held = DdpgAgent(1, 1, settings=DdpgSettings(hold=0.8))
    proposals = [held.explore([0.0]) for _ in range(900)]
    same = [a.drawn[0] == b.drawn[0] for a, b in itertools.pairwise(proposals)]
    assert np.mean(same) == pytest.approx(0.8, abs=0.06)
    assert math.isnan(proposals[0].log_density), "its density depends on the step before"


@pytest.mark.parametrize("name", ["noise_correlation", "hold", "random_phases"])
def test_shares_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(PolicyError, match=name):
        DdpgSettings(**{name: 1.0})  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="centre"):
        DdpgSettings(running_statistics=True, centre_rewards=True)


@pytest.mark.slow  # 4,000 steps of training, 15 s; the other environments are in scripts/bench
def test_pendulum_is_learnt_with_the_general_settings() -> None:
    env = gymnasium.make("Pendulum-v1")
    agent = DdpgAgent.for_environment(env, seed=0)
    agent.learn(env, 4_000, seed=0)
    network = agent.export(everywhere=True)
    returns = [episode_return(env, network.act, 10_000 + it) for it in range(10)]
    assert np.mean(returns) > -400, "a random policy has -1,200"

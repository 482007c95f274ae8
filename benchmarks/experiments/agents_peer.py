"""Train one agent in one environment; runs in an environment of its own.

Usage: ``python agents_peer.py tactful|peer NAME STEPS SEED EPISODES``. The peer is the TD3 of
stable-baselines3 with the hyperparameters that its authors' collection of tuned agents
(rl-baselines3-zoo) has for the environment, or the defaults with noise of 0.1; on Pendulum-v1 it
learns after 1,000 steps instead of 10,000, as the whole training is shorter. Prints the mean return
as JSON.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch


def main(agent: str, name: str, steps: int, seed: int, episodes: int) -> None:
    """Train, and print the mean return of episodes that begin with other seeds."""
    torch.set_num_threads(1)
    env = make(name)
    act = _tactful(env, steps, seed) if agent == "tactful" else _peer(env, name, steps, seed)
    returns = []
    for episode in range(episodes):
        state, _ = env.reset(seed=10_000_000 + episode)
        total, over = 0.0, False
        while not over:
            state, reward, terminated, truncated, _ = env.step(act(state))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    print(json.dumps({"mean": float(np.mean(returns))}))


def make(name: str) -> gymnasium.Env[Any, Any]:
    """Make an environment with vectors as observations."""
    if name.startswith("parking"):
        import highway_env

        gymnasium.register_envs(highway_env)
        return gymnasium.wrappers.FlattenObservation(gymnasium.make(name))
    return gymnasium.make(name)


def _tactful(env: gymnasium.Env[Any, Any], steps: int, seed: int) -> Callable[[Any], Any]:
    from tactful_bandits.tuner.box_spaces import BoxSpaces
    from tactful_bandits.tuner.ddpg import DdpgAgent

    agent, spaces = DdpgAgent.for_environment(env, seed=seed), BoxSpaces.of(env)
    agent.learn(env, steps, seed=seed)
    network = agent.export(everywhere=True)
    return lambda state: spaces.action(network.act(spaces.state(state)))


def _peer(env: gymnasium.Env[Any, Any], name: str, steps: int, seed: int) -> Callable[[Any], Any]:
    from stable_baselines3 import TD3
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    assert env.action_space.shape is not None
    size = env.action_space.shape[0]
    zeros, ones = np.zeros(size), np.ones(size)
    chosen: dict[str, Any] = {"action_noise": NormalActionNoise(zeros, 0.1 * ones)}
    if name == "Pendulum-v1":
        chosen |= {"gamma": 0.98, "learning_starts": 1_000, "learning_rate": 1e-3}
    elif name.startswith("MountainCar"):
        chosen["action_noise"] = OrnsteinUhlenbeckActionNoise(zeros, 0.5 * ones)
    agent = TD3("MlpPolicy", env, seed=seed, **chosen).learn(steps)
    return lambda state: agent.predict(state, deterministic=True)[0]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))

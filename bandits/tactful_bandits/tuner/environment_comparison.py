"""Judge a policy in a gymnasium environment against the best constant action there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tactful_bandits.tuner.baselines import cross_entropy
from tactful_bandits.tuner.box_spaces import BoxSpaces
from tactful_bandits.tuner.static_comparison import StaticComparison, paired

_MOST_STEPS = 10_000

Floats = NDArray[np.float64]
Action = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Map from a flat observation to an action between -1 and 1."""


def episode_return(env: gymnasium.Env[Any, Any], action: Action, seed: int) -> float:
    """Return the sum of the rewards of one episode that begins with a seed.

    An episode is over after 10,000 steps at the latest: an environment need not end any.
    """
    spaces, total = BoxSpaces.of(env), 0.0
    state = spaces.state(env.reset(seed=seed)[0])
    for _ in range(_MOST_STEPS):
        observed, reward, terminated, truncated, _ = env.step(spaces.action(action(state)))
        state = spaces.state(observed)
        total += float(reward)
        if terminated or truncated:
            break
    return total


def best_constant(
    env: gymnasium.Env[Any, Any], seed: int, *, rounds: int = 6, candidates: int = 12
) -> Floats:
    """Search the constant action, between -1 and 1, with the largest return.

    All candidates of a round play the same episode.
    """

    def score(actions: Floats, number: int) -> Floats:
        return np.array(
            [episode_return(env, _always(np.clip(it, -1, 1)), seed + number) for it in actions]
        )

    size = BoxSpaces.of(env).actions
    rng = np.random.default_rng(seed)
    best = cross_entropy(score, size, rng, rounds=rounds, candidates=candidates)
    return np.clip(best, -1, 1)


def compare_in_environment(
    env: gymnasium.Env[Any, Any], policy: Action, constant: Floats, seeds: Sequence[int]
) -> StaticComparison:
    """Compare returns of a policy and a constant action, as differences, by seeds of episodes."""
    differences = [
        episode_return(env, policy, seed) - episode_return(env, _always(constant), seed)
        for seed in seeds
    ]
    return paired(np.array(differences), neutral=0.0)


def _always(action: Floats) -> Action:
    return lambda state: action

"""Baselines of the tuner: best fixed weights, and weights linear in the state.

Both are found by the cross-entropy method (Rubinstein 1999; de Boer et al., Annals of Operations
Research 2005): draw candidates from a normal distribution, keep the best quarter, fit the
distribution to them, repeat. Candidates of a round share the same course, so that they differ only
by their actions. A tuner that does not beat these baselines is not worth its risk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.tuner.simulator import STATE, MarketSettings, MarketSimulator
from tactful_bandits.tuner.weight_bounds import WeightBounds

Floats = NDArray[np.float64]
StatePolicy = Callable[[Floats], Floats]
"""Map from states ``[environments, 10]`` to actions ``[environments, 5]``."""


def cross_entropy(
    score: Callable[[Floats, int], Floats],
    size: int,
    rng: np.random.Generator,
    *,
    rounds: int = 10,
    candidates: int = 16,
    deviation: float = 0.5,
) -> Floats:
    """Maximise a noisy function of a vector, and return the mean of the last best.

    `score` maps candidates ``[candidates, size]`` and the number of the round to scores
    ``[candidates]``; the first candidates have the standard deviation `deviation` around 0. There
    are at least 1 round and 4 candidates.
    """
    if rounds < 1 or candidates < 4:
        raise PolicyError("the cross-entropy method needs at least 1 round and 4 candidates")
    mean, spread = np.zeros(size), np.full(size, deviation)
    for number in range(rounds):
        drawn = mean + spread * rng.standard_normal((candidates, size))
        best = drawn[np.argsort(score(drawn, number))[-(candidates // 4) :]]
        # The constant keeps the search going if the best candidates happen to be alike.
        mean, spread = best.mean(axis=0), best.std(axis=0) + 0.05 * deviation
    return mean


def play(
    policy: StatePolicy,
    seed: int,
    hours: int,
    bounds: WeightBounds,
    *,
    environments: int = 1,
    settings: MarketSettings | None = None,
    common: bool = False,
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Run a policy in simulated shops.

    Return expected click rates ``[hours, environments]``, whether there was a promotion, of the
    same shape, and the weights ``[hours, environments, 5]``.
    """
    market = MarketSimulator(seed, environments=environments, settings=settings, common=common)
    weights = np.tile(bounds.champion, (environments, 1))
    rates, promotions, used = [], [], []
    for _ in range(hours):
        weights = bounds.weights(policy(market.state), weights)
        step = market.step(weights)
        rates.append(step.expected_click_rate)
        promotions.append(step.promotion)
        used.append(weights)
    return np.array(rates), np.array(promotions), np.array(used)


def best_static(
    bounds: WeightBounds,
    seed: int,
    *,
    settings: MarketSettings | None = None,
    hours: int = 150,
    rounds: int = 10,
) -> Floats:
    """Find the best constant action, ``[5]``."""

    def score(actions: Floats, number: int) -> Floats:
        return _mean_rates(lambda _: actions, seed + number, hours, bounds, len(actions), settings)

    best = cross_entropy(score, len(bounds.champion), np.random.default_rng(seed), rounds=rounds)
    return np.clip(best, -1, 1)


def linear_contextual(
    bounds: WeightBounds,
    seed: int,
    *,
    settings: MarketSettings | None = None,
    hours: int = 150,
    rounds: int = 20,
) -> Floats:
    """Find the best policy ``tanh(L [state, 1])`` and return L, ``[5, 11]``."""
    shape = (len(bounds.champion), len(STATE) + 1)

    def score(vectors: Floats, number: int) -> Floats:
        matrices = vectors.reshape(-1, *shape)
        policy = partial(_linear, matrices)
        return _mean_rates(policy, seed + number, hours, bounds, len(vectors), settings)

    size = shape[0] * shape[1]
    rng = np.random.default_rng(seed)
    best = cross_entropy(score, size, rng, rounds=rounds, candidates=32, deviation=0.4)
    return best.reshape(shape)


def linear_policy(matrix: Floats) -> StatePolicy:
    """Return the policy of a matrix from `linear_contextual`."""
    return lambda states: _linear(np.broadcast_to(matrix, (len(states), *matrix.shape)), states)


def _mean_rates(
    policy: StatePolicy,
    seed: int,
    hours: int,
    bounds: WeightBounds,
    environments: int,
    settings: MarketSettings | None,
) -> Floats:
    """Play in shops of one course, and return their mean click rates, ``[environments]``."""
    rates, _, _ = play(
        policy, seed, hours, bounds, environments=environments, settings=settings, common=True
    )
    means: Floats = rates.mean(axis=0)
    return means


def _linear(matrices: Floats, states: Floats) -> Floats:
    extended = np.column_stack([states, np.ones(len(states))])
    actions: Floats = np.tanh(np.einsum("eas,es->ea", matrices, extended))
    return actions

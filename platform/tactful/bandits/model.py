"""What a bandit has learnt, as numbers to decide by, and the vector of a decision's features.

The process that owns the log learns (`tactful.bandits.learner`), and every process that decides
reads these numbers from a file. They hold sums over all users and nothing about one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.bandits.definitions import BanditDefinition
from tactful.errors import ConfigError
from tactful_bandits.policies.choice import Thompson, UpperConfidence, best_shares, winner_shares
from tactful_bandits.policies.linear import LinearBandit, LinearModels
from tactful_bandits.policies.memory import Memory
from tactful_bandits.policies.thompson import BetaBandit

Policy = BetaBandit | LinearBandit
"""A policy of `tactful_bandits` that learns."""

_NOTHING = np.zeros(0)


class ModelArrays(msgspec.Struct, frozen=True):
    """Arrays of a policy as float64: ``α`` and ``β``, or ``A⁻¹`` and ``θ``."""

    first: bytes
    second: bytes


def new_policy(definition: BanditDefinition) -> Policy:
    """Make the policy of a bandit without observations."""
    memory = Memory(definition.memory.periods, definition.memory.discount)
    arms = len(definition.arms)
    if definition.policy == "beta-thompson":
        return BetaBandit(arms, memory=memory)
    rule = UpperConfidence() if definition.policy == "linucb" else Thompson()
    return LinearBandit(arms, definition.columns, rule=rule, memory=memory)


def arrays_of(policy: Policy) -> ModelArrays:
    """Return what a policy has learnt."""
    if isinstance(policy, BetaBandit):
        alpha, beta = policy.parameters
        return ModelArrays(alpha.tobytes(), beta.tobytes())
    inverses = np.stack([policy.inverse(arm) for arm in range(policy.arms)])
    return ModelArrays(inverses.tobytes(), policy.coefficients.tobytes())


class BanditModel:
    """Probabilities of the arms, by what was learnt until now."""

    def __init__(self, definition: BanditDefinition, arrays: ModelArrays) -> None:
        """Read the arrays; raise ConfigError if they are of another shape."""
        self._definition = definition
        self._explore = definition.explore
        arms, columns = len(definition.arms), definition.columns
        first, second = np.frombuffer(arrays.first), np.frombuffer(arrays.second)
        expected = (arms, arms) if not columns else (arms * columns**2, arms * columns)
        if (len(first), len(second)) != expected:
            raise ConfigError(f"bandit {definition.key!r}: its model has another shape")
        if columns:
            inverse = first.reshape(arms, columns, columns).copy()
            self._linear = LinearModels(inverse, second.reshape(arms, columns).copy())
        else:
            self._alpha, self._beta = first, second

    def probabilities(
        self, features: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return the probability of each arm, at least the definition's `min_share`."""
        definition = self._definition
        if not definition.columns:
            size = (definition.draws, len(self._alpha))
            return winner_shares(rng.beta(self._alpha, self._beta, size=size), self._explore)
        means, deviations = self._linear.predict(features)
        if definition.policy == "linucb":
            return best_shares(means + definition.width * deviations, self._explore)
        draws = rng.standard_normal((definition.draws, len(means)))
        draws *= definition.width * deviations
        draws += means
        return winner_shares(draws, self._explore)


def vector_of(
    definition: BanditDefinition, user: Mapping[str, Any], context: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Return the features of a decision, each between -1 and 1, and the constant 1 first.

    A feature that is missing or no number is 0. Policies without features get an empty vector.
    """
    if not definition.columns:
        return _NOTHING
    values = [1.0]
    for feature in definition.features:
        given = user.get(feature.user) if feature.user else context.get(feature.context or "")
        if feature.values:
            values += [float(given == text) for text in feature.values]
        else:
            values.append(_bounded(given, feature.scale))
    return np.array(values)


def _bounded(value: object, scale: float) -> float:
    if not isinstance(value, int | float) or math.isnan(value):
        return 0.0
    return min(max(value / scale, -1.0), 1.0)

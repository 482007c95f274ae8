"""Learnt numbers of a bandit, by which it decides, and the vector of a decision's features.

The process that owns the log learns (`tactful.bandits.learner`), and every process that decides
reads these numbers from a file. They hold sums over all users and nothing about one.
"""

from __future__ import annotations

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
_DRAWS = 2_048


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
        alpha, beta = _centred(policy)
        return ModelArrays(alpha.tobytes(), beta.tobytes())
    inverses = np.stack([policy.inverse(arm) for arm in range(policy.arms)])
    return ModelArrays(inverses.tobytes(), policy.coefficients.tobytes())


def _centred(policy: BetaBandit) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``(α, β)`` with the prior at the mean reward of all arms, of the same strength.

    Most rewards are rare. A prior around one half would take hundreds of decisions for each arm to
    overcome (empirical Bayes; Robbins 1956).
    """
    alpha, beta = policy.parameters
    strength = sum(policy.prior)
    successes, failures = alpha - policy.prior[0], beta - policy.prior[1]
    rate = (successes.sum() + policy.prior[0]) / (successes.sum() + failures.sum() + strength)
    return successes + strength * rate, failures + strength * (1 - rate)


class BanditModel:
    """Probabilities of the arms, by what was learnt until now."""

    def __init__(
        self, definition: BanditDefinition, arrays: ModelArrays, rng: np.random.Generator
    ) -> None:
        """Read the arrays; raise ConfigError if they are of another shape.

        Without features the probabilities are the same for every decision, and drawn here.
        """
        self._explore = explore = definition.explore
        self._width, self._draws = definition.width, definition.draws
        self._greedy = definition.policy == "linucb"
        arms, columns = len(definition.arms), definition.columns
        first, second = np.frombuffer(arrays.first), np.frombuffer(arrays.second)
        expected = (arms, arms) if not columns else (arms * columns**2, arms * columns)
        if (len(first), len(second)) != expected:
            raise ConfigError(f"bandit {definition.key!r}: its model has another shape")
        self._shares: NDArray[np.float64] | None = None
        if columns:
            inverse = first.reshape(arms, columns, columns).copy()
            self._linear = LinearModels(inverse, second.reshape(arms, columns).copy())
        else:
            draws = rng.beta(first, second, size=(_DRAWS, arms))
            self._shares = winner_shares(draws, explore)

    def probabilities(
        self, features: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return the probability of each arm, at least the definition's `min_share`."""
        if self._shares is not None:
            return self._shares
        means, deviations = self._linear.predict(features)
        if self._greedy:
            return best_shares(means + self._width * deviations, self._explore)
        draws = rng.standard_normal((self._draws, len(means)))
        draws *= self._width * deviations
        draws += means
        return winner_shares(draws, self._explore)


class FeatureVector:
    """Makes the vector of a decision: the constant 1, and features between -1 and 1.

    A feature that is missing or no number is 0. Policies without features have an empty vector.
    """

    def __init__(self, definition: BanditDefinition) -> None:
        """Read the features of a definition."""
        self._empty = not definition.columns
        self._features = [
            (
                feature.user is not None,
                feature.user or feature.context or "",
                feature.scale,
                feature.values,
            )
            for feature in definition.features
        ]

    def of(self, user: Mapping[str, Any], context: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return the vector for the features of a user and the context of a request."""
        if self._empty:
            return _NOTHING
        vector = [1.0]
        for of_user, name, scale, texts in self._features:
            value = (user if of_user else context).get(name)
            if texts:
                vector += [float(value == text) for text in texts]
            elif isinstance(value, (int, float)) and value == value:
                # Bounded before it is divided: no float holds the largest integers of JSON.
                vector.append(min(max(value, -scale), scale) / scale)
            else:
                vector.append(0.0)
        return np.array(vector)

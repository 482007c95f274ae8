"""One linear model shared by many arms that have features of their own.

If arms change often, as items and coupons do, a model per arm never gets enough data. Here the
features describe the person *and* the arm (their products, say), one ``θ`` serves all arms, and a
new arm is scored by its features. The rules are those of `LinearBandit`; Thompson
sampling draws ``θ`` itself, because the arms' scores are correlated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies import choice
from tactful_bandits.policies.linear import LinearBandit, checked_penalties
from tactful_bandits.policies.memory import Memory, Observation, require_small


class SharedLinearBandit:
    """Contextual bandit over any number of arms, described by features."""

    def __init__(
        self,
        features: int,
        *,
        rule: choice.Rule | None = None,
        ridge: float = 1.0,
        explore: float = 0.0,
        memory: Memory | None = None,
    ) -> None:
        """Create a policy without observations; the arguments are those of `LinearBandit`."""
        self._model = LinearBandit(1, features, rule=rule, ridge=ridge, memory=memory)
        self._model.explore = choice.require_share(explore)

    @property
    def features(self) -> int:
        """Length of an arm's feature vector."""
        return self._model.features

    @property
    def explore(self) -> float:
        """Share of decisions that take any arm."""
        return self._model.explore

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """Coefficients ``θ``, ``[features]``."""
        coefficients: NDArray[np.float64] = self._model.coefficients[0]
        return coefficients

    def choose(
        self,
        arms: ArrayLike,
        rng: np.random.Generator,
        *,
        penalties: ArrayLike | None = None,
        allowed: ArrayLike | None = None,
    ) -> choice.Choice:
        """Choose one of the arms ``[arms, features]``, see `LinearBandit.choose`."""
        x = np.asarray(arms, dtype=np.float64)
        if x.ndim != 2 or not len(x) or x.shape[1] != self.features:
            raise PolicyError(f"arms have shape {x.shape}, not [arms, {self.features}]")
        require_small(x, "features")
        means = x @ self._model.coefficients[0]
        if penalties is not None:
            means = means - checked_penalties(penalties, len(x))
        mask = None if allowed is None else np.asarray(allowed, dtype=np.bool_)
        rule, inverse = self._model.rule, self._model.inverse(0)
        if isinstance(rule, choice.UpperConfidence):
            spread = np.einsum("ai,ij,aj->a", x, inverse, x, optimize=True)
            bounds = means + rule.width * np.sqrt(np.maximum(spread, 0.0))
            return choice.choose_best(bounds, self.explore, rng, mask)
        root = np.linalg.cholesky(inverse)
        deviations = rng.standard_normal((rule.draws, self.features)) @ (x @ root).T
        return choice.choose_winner(means + rule.scale * deviations, self.explore, rng, mask)

    def update(self, features: ArrayLike, reward: float, *, period: int | None = None) -> bool:
        """Learn from the features of a chosen arm, see `LinearBandit.update`."""
        return self._model.update(0, features, reward, period=period)

    def learn(self, observations: Iterable[Observation]) -> int:
        """Learn from many decisions like `LinearBandit.learn`; `arm` is 0 in all of them."""
        return self._model.learn(observations)

    def forget(self, observations: Iterable[Observation]) -> int:
        """Unlearn decisions exactly like `LinearBandit.forget`; `arm` is 0 in all of them."""
        return self._model.forget(observations)

    def advance(self, period: int) -> None:
        """Begin a period, see `LinearBandit.advance`."""
        self._model.advance(period)

    def to_bytes(self) -> bytes:
        """Serialise the policy."""
        return self._model.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Restore the policy of `to_bytes`; raise PolicyError if it is damaged."""
        model = LinearBandit.from_bytes(data)
        if model.arms != 1:
            raise PolicyError(f"this policy has {model.arms} models, one per arm: not a shared one")
        policy = cls.__new__(cls)
        policy._model = model
        return policy

"""Softmax policy trained by policy gradient, with a baseline.

Arm a is chosen with probability proportional to ``exp(θ_a · x)``; after a reward r, ``θ`` moves
along ``w (r - b) ∇ log π(a | x)`` (Sutton and Barto, "Reinforcement Learning", 2nd edition, section
2.8; Williams 1992). The baseline b does not change the expected gradient, only its variance.
``w = π(a | x) / propensity`` corrects for updates between the choice
and the reward, and for exploration; it is clipped.

Propensities are exact without any draws. The result depends on the order of the decisions, so
nothing can be subtracted: to unlearn a person, use `replayed` on the log without that person.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.choice import Choice, require_share
from tactful_bandits.policies.codec import pack_policy, settings_of, unpack
from tactful_bandits.policies.linear import checked_features
from tactful_bandits.policies.memory import LARGEST, Observation
from tactful_privacy.lazy_imports import LazyModule

special = LazyModule("scipy.special")

Baseline = Literal["none", "mean", "linear"]

_LARGEST_WEIGHT = 10.0
_SETTINGS = ("arms", "features", "learning_rate", "baseline", "explore")


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="softmax"):
    arms: int
    features: int
    learning_rate: float
    baseline: Baseline
    explore: float
    updates: int
    preferences: bytes
    expected: bytes


class SoftmaxBandit:
    """Contextual bandit with a softmax of linear preferences.

    Attributes:
        learning_rate: Step along the gradient, above 0.
        baseline: ``none``; ``mean``, the mean reward so far; ``linear``, a linear prediction from
            the features.
        explore: Share of decisions that take any arm, from 0 to 1.
    """

    def __init__(
        self,
        arms: int,
        features: int,
        *,
        learning_rate: float = 0.1,
        baseline: Baseline = "linear",
        explore: float = 0.0,
    ) -> None:
        """Create a policy that chooses uniformly."""
        if not 1 <= arms <= 10_000 or not 1 <= features <= 1_000:
            raise PolicyError(
                f"{arms} arms of {features} features: give 1 to 10,000 and 1 to 1,000"
            )
        if not 0 < learning_rate <= 10:
            raise PolicyError(f"learning_rate is {learning_rate}: it must lie in (0, 10]")
        if baseline not in ("none", "mean", "linear"):
            raise PolicyError(f"there is no baseline {baseline!r}: none, mean or linear")
        self.arms, self.features = arms, features
        self.learning_rate, self.baseline = float(learning_rate), baseline
        self.explore = require_share(explore)
        self._preferences = np.zeros((arms, features))
        self._expected = np.zeros(features if baseline == "linear" else 1)
        self._updates = 0

    def propensities(self, features: ArrayLike) -> NDArray[np.float64]:
        """Compute the probability of each arm, ``[arms]``, including exploration."""
        preferred = self._preferred(checked_features(features, self.features))
        return (1 - self.explore) * preferred + self.explore / self.arms

    def choose(self, features: ArrayLike, rng: np.random.Generator) -> Choice:
        """Choose an arm at features ``[features]``."""
        chances = self.propensities(features)
        sums = chances.cumsum()
        # Scaled by the last partial sum: the total of another summation order may lie beyond it.
        arm = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
        return Choice(arm, float(chances[arm]), "exact")

    def update(self, arm: int, features: ArrayLike, reward: float, *, propensity: float) -> None:
        """Learn from one decision, with the propensity of its arm and a reward in [-8, 8]."""
        x = checked_features(features, self.features)
        if not 0 <= arm < self.arms:
            raise PolicyError(f"arm {arm}: there are {self.arms}, counted from 0")
        if not -LARGEST <= reward <= LARGEST:
            raise PolicyError(f"rewards must lie between -{LARGEST:g} and {LARGEST:g}: scale them")
        if not 0 < propensity <= 1:
            raise PolicyError(f"propensity is {propensity}: it must lie above 0 and at most at 1")
        preferred = self._preferred(x)
        weight = min(float(preferred[arm]) / propensity, _LARGEST_WEIGHT)
        advantage = reward - self._baseline_at(x)
        step = -preferred
        step[arm] += 1
        self._preferences += (self.learning_rate * weight * advantage) * step[:, None] * x
        self._updates += 1
        if self.baseline == "mean":
            self._expected += (reward - self._expected) / self._updates
        elif self.baseline == "linear":
            # Normalised least mean squares: the step cannot overshoot for any features.
            self._expected += (0.1 * advantage / (1.0 + x @ x)) * x

    def replayed(self, observations: Iterable[Observation]) -> Self:
        """Train a new policy of the same settings on decisions, in their order.

        To unlearn a person, leave that person's decisions out.
        """
        policy = type(self)(**settings_of(self, _SETTINGS))
        for decision in observations:
            policy.update(
                decision.arm, decision.features, decision.reward, propensity=decision.propensity
            )
        return policy

    def to_bytes(self) -> bytes:
        """Serialise the policy."""
        preferences, expected = (
            array.astype("<f8").tobytes() for array in (self._preferences, self._expected)
        )
        parts = {"updates": self._updates, "preferences": preferences, "expected": expected}
        return pack_policy(_State, self, **parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Restore the policy of `to_bytes`; raise PolicyError if it is damaged."""
        state = unpack(data, _State)
        policy = cls(**settings_of(state, _SETTINGS))
        arrays = (policy._preferences, state.preferences), (policy._expected, state.expected)
        for array, raw in arrays:
            if len(raw) != array.nbytes or not np.isfinite(np.frombuffer(raw, "<f8")).all():
                raise PolicyError("the state of this policy does not fit its shape")
            array[...] = np.frombuffer(raw, "<f8").reshape(array.shape)
        policy._updates = state.updates
        return policy

    def _preferred(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        preferred: NDArray[np.float64] = special.softmax(self._preferences @ x)
        return preferred

    def _baseline_at(self, x: NDArray[np.float64]) -> float:
        if self.baseline == "linear":
            return float(self._expected @ x)
        return float(self._expected[0]) if self.baseline == "mean" else 0.0

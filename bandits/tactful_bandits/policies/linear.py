"""Bandits with a linear model per arm: LinUCB and linear Thompson sampling.

The reward of arm a at features x is modelled as ``θ_a · x`` plus noise, each ``θ_a`` by ridge
regression on the decisions that took arm a. LinUCB takes the largest ``θ_a · x + width * s_a`` with
``s_a² = x' A_a⁻¹ x`` (Li, Chu, Langford, Schapire, WWW 2010, arXiv 1003.0146); Thompson sampling
draws from the posterior (Agrawal, Goyal, ICML 2013, arXiv 1209.3352). Because each arm has its own
model, the draw is of ``θ_a · x`` itself, which is normal with variance ``scale² s_a²``: no
matrix decomposition is needed.

Inverses are updated by the formula of Sherman and Morrison and recomputed from the exact sums after
every 4,096 updates of an arm, so that rounding errors do not accumulate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.choice import (
    Choice,
    Rule,
    Thompson,
    UpperConfidence,
    require_share,
)
from tactful_bandits.policies.codec import pack, unpack
from tactful_bandits.policies.linear_models import LinearModels, require_shape
from tactful_bandits.policies.memory import (
    GRID,
    LARGEST,
    Memory,
    Observation,
    PeriodSums,
    on_grid,
    require_room,
)

_UPDATES_BETWEEN_REFRESHES = 4096


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="linear"):
    arms: int
    features: int
    rule: UpperConfidence | Thompson
    ridge: float
    explore: float
    memory: Memory
    newest: int
    sums: dict[str, bytes]


class LinearBandit:
    """Contextual bandit with a linear model per arm.

    Attributes:
        arms: Number of arms.
        features: Length of the feature vector; include a constant 1 for an intercept.
        rule: Rule that chooses from means and deviations.
        ridge: Constant added to the diagonal of every ``A``, above 0: the strength of the prior
            that coefficients are 0.
        explore: Share of decisions that take any arm, from 0 to 1. Above 0 every propensity is
            exact, and at least ``explore / arms``.
    """

    def __init__(
        self,
        arms: int,
        features: int,
        *,
        rule: Rule | None = None,
        ridge: float = 1.0,
        explore: float = 0.0,
        memory: Memory | None = None,
    ) -> None:
        """Create a policy without observations.

        Args:
            arms: Number of arms, at least 1.
            features: Length of the feature vector, at least 1.
            rule: `UpperConfidence` or `Thompson`, the default.
            ridge: Ridge penalty, above 0.
            explore: Share of decisions that take any arm, from 0 to 1.
            memory: Periods and their weights; by default everything is kept without limit.

        Raises:
            PolicyError: A value is out of range.
        """
        kept = memory or Memory()
        require_shape(arms, features, ridge, kept.periods or 1)
        self.arms, self.features = arms, features
        self.rule: Rule = rule if rule is not None else Thompson()
        self.ridge = float(ridge)
        self.explore = require_share(explore)
        shapes = {"gram": (arms, features, features), "moment": (arms, features), "count": (arms,)}
        self._sums = PeriodSums(kept, shapes)
        self.refresh()

    @property
    def memory(self) -> Memory:
        """Number of periods and their weights."""
        return self._sums.memory

    @property
    def period(self) -> int:
        """Number of the current period."""
        return self._sums.newest

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """Coefficients ``θ``, ``[arms, features]``."""
        return self._models.coefficients.copy()

    @property
    def counts(self) -> NDArray[np.float64]:
        """Number of observations of each arm, weighted by period, ``[arms]``."""
        return self._sums.weighted("count")

    def inverse(self, arm: int) -> NDArray[np.float64]:
        """Return ``A⁻¹`` of an arm, ``[features, features]``: covariance for unit noise."""
        inverse: NDArray[np.float64] = self._models.inverse[arm].copy()
        return inverse

    def predict(self, features: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute each arm's mean reward and standard deviation for noise variance 1.

        Raises:
            PolicyError: The features have another shape, are not finite or exceed the range.
        """
        return self._models.predict(features)

    def choose(
        self,
        features: ArrayLike,
        rng: np.random.Generator,
        *,
        penalties: ArrayLike | None = None,
        allowed: ArrayLike | None = None,
    ) -> Choice:
        """Choose an arm.

        Args:
            features: Feature vector, ``[features]``.
            rng: Random generator.
            penalties: Cost of each arm in units of reward, subtracted from its score, ``[arms]``.
            allowed: Mask of allowed arms, ``[arms]``.

        Raises:
            PolicyError: The features are invalid, or no arm is allowed.
        """
        return self._models.choose(features, self.rule, self.explore, rng, penalties, allowed)

    def update(
        self, arm: int, features: ArrayLike, reward: float, *, period: int | None = None
    ) -> bool:
        """Learn from one decision, at once.

        Args:
            arm: Index of the chosen arm.
            features: Features at the time of the choice, ``[features]``.
            reward: Reward, between -8 and 8.
            period: Period of the choice; None: the current one.

        Returns:
            Whether the decision counts: False for a dropped period.

        Raises:
            PolicyError: The arm does not exist, the values are invalid, or the period has not
                begun. Nothing is learnt then.
        """
        row = self._sums.row(period)
        x, gram, moment = self._terms(arm, features, reward)
        if row is None:
            return False
        rows = self._sums.rows
        require_room(int(rows["count"][row, arm]))
        rows["gram"][row, arm] += gram
        rows["moment"][row, arm] += moment
        rows["count"][row, arm] += 1
        weight = self._sums.weight(period)
        inverse = self._models.inverse[arm]
        projected = inverse @ x
        inverse -= projected[:, None] * (projected * (weight / (1.0 + weight * (x @ projected))))
        self._moment[arm] += moment * (weight / GRID**2)
        self._models.coefficients[arm] = inverse @ self._moment[arm]
        self._since_refresh[arm] += 1
        if self._since_refresh[arm] >= _UPDATES_BETWEEN_REFRESHES:
            self.refresh()
        return True

    def learn(self, observations: Iterable[Observation]) -> int:
        """Learn from many decisions with one recomputation; return the number that count.

        Raises:
            PolicyError: A decision is invalid; those before it are learnt.
        """
        return self._add(observations, 1)

    def forget(self, observations: Iterable[Observation]) -> int:
        """Unlearn decisions, such as all those of one person.

        Afterwards the policy equals one that never learnt them: its sums are equal to the bit, and
        so is everything computed from them. Observations of dropped periods have no trace left.

        Args:
            observations: Decisions exactly as they were learnt, each with its period.

        Returns:
            Number of decisions removed.

        Raises:
            PolicyError: A decision cannot have been learnt. Nothing is unlearnt then.
        """
        kept = {name: array.copy() for name, array in self._sums.rows.items()}
        try:
            return self._add(observations, -1)
        except PolicyError:
            self._sums.rows.update(kept)
            self.refresh()
            raise

    def advance(self, period: int) -> None:
        """Begin a period: older periods lose weight, the oldest are dropped.

        Raises:
            PolicyError: The period is before the current one.
        """
        if period != self._sums.newest:
            self._sums.advance(period)
            self.refresh()

    def refresh(self) -> None:
        """Recompute the models from the sums."""
        gram = self._sums.weighted("gram") / GRID**2
        self._moment = self._sums.weighted("moment") / GRID**2
        gram[:, range(self.features), range(self.features)] += self.ridge
        inverse = np.linalg.inv(gram).astype(np.float64, copy=False)
        self._models = LinearModels(inverse, np.einsum("aij,aj->ai", inverse, self._moment))
        self._since_refresh = [0] * self.arms

    def to_bytes(self) -> bytes:
        """Serialise the policy."""
        sums = self._sums
        return pack(
            _State(
                self.arms,
                self.features,
                self.rule,
                self.ridge,
                self.explore,
                sums.memory,
                sums.newest,
                sums.to_bytes(),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Restore the policy of `to_bytes`.

        Raises:
            PolicyError: The bytes are damaged or hold something else.
        """
        state = unpack(data, _State)
        policy = cls(
            state.arms,
            state.features,
            rule=state.rule,
            ridge=state.ridge,
            explore=state.explore,
            memory=state.memory,
        )
        policy._sums.read(state.newest, state.sums)
        policy.refresh()
        return policy

    def _terms(
        self, arm: int, features: ArrayLike, reward: float
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        if not 0 <= arm < self.arms:
            raise PolicyError(f"arm {arm}: there are {self.arms}, counted from 0")
        whole = on_grid(features, "features")
        if whole.shape != (self.features,):
            raise PolicyError(f"features have shape {whole.shape}, not [{self.features}]")
        if not -LARGEST <= reward <= LARGEST:
            raise PolicyError(f"rewards must lie between -{LARGEST:g} and {LARGEST:g}: scale them")
        return whole / GRID, whole[:, None] * whole, whole * round(reward * GRID)

    def _add(self, observations: Iterable[Observation], sign: int) -> int:
        rows = self._sums.rows
        added = 0
        try:
            for decision in observations:
                row = self._sums.row(decision.period)
                _, gram, moment = self._terms(decision.arm, decision.features, decision.reward)
                if row is None:
                    continue
                count = int(rows["count"][row, decision.arm])
                if sign > 0:
                    require_room(count)
                elif not count or (np.diagonal(rows["gram"][row, decision.arm] - gram) < 0).any():
                    raise PolicyError(
                        f"an observation of arm {decision.arm} was never learnt: unlearn only"
                        " decisions that were learnt, with the same values"
                    )
                rows["gram"][row, decision.arm] += sign * gram
                rows["moment"][row, decision.arm] += sign * moment
                rows["count"][row, decision.arm] += sign
                added += 1
        finally:
            self.refresh()
        return added

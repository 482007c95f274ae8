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

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies import choice
from tactful_bandits.policies.memory import (
    GRID,
    LARGEST,
    Memory,
    Observation,
    PeriodPolicy,
    PeriodSums,
    on_grid,
    require_room,
    require_small,
)

_UPDATES_BETWEEN_REFRESHES = 4096
_MOST_CELLS = 20_000_000


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="linear"):
    arms: int
    features: int
    rule: choice.UpperConfidence | choice.Thompson
    ridge: float
    explore: float
    memory: Memory
    newest: int
    sums: dict[str, bytes]


class LinearBandit(PeriodPolicy):
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

    _state = _State
    _settings = ("arms", "features", "rule", "ridge", "explore", "memory")

    def __init__(
        self,
        arms: int,
        features: int,
        *,
        rule: choice.Rule | None = None,
        ridge: float = 1.0,
        explore: float = 0.0,
        memory: Memory | None = None,
    ) -> None:
        """Create a policy without observations, by default of Thompson sampling."""
        kept = memory or Memory()
        require_shape(arms, features, ridge, kept.periods or 1)
        self.arms, self.features = arms, features
        self.rule: choice.Rule = rule if rule is not None else choice.Thompson()
        self.ridge = float(ridge)
        self.explore = choice.require_share(explore)
        shapes = {"gram": (arms, features, features), "moment": (arms, features), "count": (arms,)}
        self._sums = PeriodSums(kept, shapes)
        self.refresh()

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
        """Compute each arm's mean reward and standard deviation for noise variance 1."""
        return self._models.predict(features)

    def choose(
        self,
        features: ArrayLike,
        rng: np.random.Generator,
        *,
        penalties: ArrayLike | None = None,
        allowed: ArrayLike | None = None,
    ) -> choice.Choice:
        """Choose an arm; `allowed` is the mask of the allowed ones.

        `penalties`, ``[arms]``, are costs in units of reward, subtracted from the scores.
        """
        return self._models.choose(features, self.rule, self.explore, rng, penalties, allowed)

    def update(
        self, arm: int, features: ArrayLike, reward: float, *, period: int | None = None
    ) -> bool:
        """Learn from one decision, at once; return False for one of a dropped period.

        Rewards lie between -8 and 8. The period is that of the choice; None: the current one.
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

        Those before an invalid decision are learnt.
        """
        try:
            return self._add(observations, 1)
        finally:
            self.refresh()

    def refresh(self) -> None:
        """Recompute the models from the sums."""
        gram = self._sums.weighted("gram") / GRID**2
        self._moment = self._sums.weighted("moment") / GRID**2
        gram[:, range(self.features), range(self.features)] += self.ridge
        inverse = np.linalg.inv(gram).astype(np.float64, copy=False)
        self._models = LinearModels(inverse, np.einsum("aij,aj->ai", inverse, self._moment))
        self._since_refresh = [0] * self.arms

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

    def _subtract(self, observations: Iterable[Observation]) -> int:
        return self._add(observations, -1)

    def _add(self, observations: Iterable[Observation], sign: int) -> int:
        rows = self._sums.rows
        added = 0
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
        return added


class LinearModels:
    """One linear model per arm: ``A⁻¹`` ``[arms, features, features]``, ``θ`` ``[arms, features]``.

    The inverse is the covariance of the coefficients for noise of variance 1; it may be changed in
    place.
    """

    def __init__(self, inverse: NDArray[np.float64], coefficients: NDArray[np.float64]) -> None:
        """Store both without a copy; `inverse` must be contiguous."""
        self.inverse, self.coefficients = inverse, coefficients
        self._arms, self._features = coefficients.shape
        # A view: one product with a tall matrix is faster than one product per arm.
        self._flat = inverse.reshape(self._arms * self._features, self._features)

    def predict(self, features: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute each arm's mean reward and standard deviation for noise variance 1."""
        x = checked_features(features, self._features)
        spread = (self._flat @ x).reshape(self._arms, self._features) @ x
        # A tiny variance may be negative after rounding.
        deviations: NDArray[np.float64] = np.sqrt(np.maximum(spread, 0.0))
        means: NDArray[np.float64] = self.coefficients @ x
        return means, deviations

    def choose(
        self,
        features: ArrayLike,
        rule: choice.Rule,
        explore: float,
        rng: np.random.Generator,
        penalties: ArrayLike | None,
        allowed: ArrayLike | None,
    ) -> choice.Choice:
        """Choose an arm; see `LinearBandit.choose`."""
        means, deviations = self.predict(features)
        if penalties is not None:
            means = means - checked_penalties(penalties, self._arms)
        mask = None if allowed is None else np.asarray(allowed, dtype=np.bool_)
        if isinstance(rule, choice.UpperConfidence):
            return choice.choose_best(means + rule.width * deviations, explore, rng, mask)
        draws = rng.standard_normal((rule.draws, self._arms))
        draws *= rule.scale * deviations
        draws += means
        return choice.choose_winner(draws, explore, rng, mask)


def checked_penalties(penalties: ArrayLike, arms: int) -> NDArray[np.float64]:
    """Validate the penalties, which are subtracted from the arms' scores, ``[arms]``."""
    values = np.asarray(penalties, dtype=np.float64)
    # A NaN would win every choice: argmax returns it.
    if values.shape != (arms,) or not np.isfinite(values).all():
        raise PolicyError(f"penalties must be {arms} finite numbers, one for each arm")
    return values


def checked_features(features: ArrayLike, length: int) -> NDArray[np.float64]:
    """Validate a feature vector ``[length]``: finite, and at most `LARGEST`."""
    x = np.asarray(features, dtype=np.float64)
    if x.shape != (length,):
        raise PolicyError(f"features have shape {x.shape}, not [{length}]")
    require_small(x, "features")
    return x


def require_shape(arms: int, features: int, ridge: float, periods: int = 1) -> None:
    """Check the dimensions and the ridge of a linear policy."""
    if arms < 1 or features < 1 or arms * features**2 * periods > _MOST_CELLS:
        raise PolicyError(
            f"{arms} arms of {features} features in {periods} periods: give at least one of each,"
            f" and at most {_MOST_CELLS:,} for arms * features² * periods"
        )
    if not 0 < ridge < float("inf"):
        raise PolicyError(f"ridge is {ridge}: it must be finite and above 0")

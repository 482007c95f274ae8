"""Thompson sampling for rewards of 0 and 1 without features.

The share of successes of each arm has a beta distribution (Thompson 1933; Chapelle, Li, "An
Empirical Evaluation of Thompson Sampling", NIPS 2011). With a memory of several periods it follows
shares that change: a sliding window, or discounted Thompson sampling (Raj, Kalyani 2017, arXiv
1707.09727).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.choice import Choice, choose_winner, require_share
from tactful_bandits.policies.memory import Memory, Observation, PeriodPolicy, PeriodSums


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="beta"):
    arms: int
    prior: tuple[float, float]
    explore: float
    draws: int
    memory: Memory
    newest: int
    sums: dict[str, bytes]


class BetaBandit(PeriodPolicy):
    """Thompson sampling from beta posteriors of the arms' success rates.

    Attributes:
        prior: Prior successes and failures of every arm, each above 0.
        explore: Share of decisions that take any arm, from 0 to 1.
        draws: Joint draws from the posterior per decision, see `Thompson`.
    """

    _state = _State
    _settings = ("arms", "prior", "explore", "draws", "memory")

    def __init__(
        self,
        arms: int,
        *,
        prior: tuple[float, float] = (1.0, 1.0),
        explore: float = 0.0,
        draws: int = 32,
        memory: Memory | None = None,
    ) -> None:
        """Create a policy with the prior only."""
        if not 1 <= arms <= 10_000:
            raise PolicyError(f"{arms} arms: give 1 to 10,000")
        if not all(0 < value < float("inf") for value in prior):
            raise PolicyError(f"prior is {prior}: both numbers must be finite and above 0")
        if not 1 <= draws <= 4096:
            raise PolicyError(f"draws is {draws}: it must lie between 1 and 4,096")
        self.arms, self.prior, self.draws = arms, prior, draws
        self.explore = require_share(explore)
        self._sums = PeriodSums(memory or Memory(), {"success": (arms,), "failure": (arms,)})
        self.refresh()

    @property
    def parameters(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Parameters ``(α, β)`` of the beta posteriors, each ``[arms]``."""
        return self._alpha.copy(), self._beta.copy()

    def choose(self, rng: np.random.Generator, *, allowed: ArrayLike | None = None) -> Choice:
        """Choose an arm; `allowed` is the mask of the allowed ones, ``[arms]``."""
        draws = rng.beta(self._alpha, self._beta, size=(self.draws, self.arms))
        mask = None if allowed is None else np.asarray(allowed, dtype=np.bool_)
        return choose_winner(draws, self.explore, rng, mask)

    def update(self, arm: int, reward: float, *, period: int | None = None) -> bool:
        """Learn from one decision of reward 0 or 1; return False for a dropped period."""
        row = self._sums.row(period)
        rows = self._rows_of(arm, reward)
        if row is None:
            return False
        rows[row, arm] += 1
        (self._alpha if reward else self._beta)[arm] += self._sums.weight(period)
        return True

    def learn(self, observations: Iterable[Observation]) -> int:
        """Learn from many decisions and return the number that count.

        Those before an invalid decision are learnt.
        """
        return sum(
            self.update(decision.arm, decision.reward, period=decision.period)
            for decision in observations
        )

    def refresh(self) -> None:
        """Recompute the posteriors from the sums."""
        self._alpha = self._sums.weighted("success") + self.prior[0]
        self._beta = self._sums.weighted("failure") + self.prior[1]

    def _subtract(self, observations: Iterable[Observation]) -> int:
        removed = 0
        for decision in observations:
            row = self._sums.row(decision.period)
            rows = self._rows_of(decision.arm, decision.reward)
            if row is None:
                continue
            if not rows[row, decision.arm]:
                raise PolicyError(f"an observation of arm {decision.arm} was never learnt")
            rows[row, decision.arm] -= 1
            removed += 1
        return removed

    def _rows_of(self, arm: int, reward: float) -> NDArray[np.int64]:
        if not 0 <= arm < self.arms:
            raise PolicyError(f"arm {arm}: there are {self.arms}, counted from 0")
        if reward not in (0, 1):
            raise PolicyError(f"the reward is {reward}: it must be 0 or 1; see `LinearBandit`")
        return self._sums.rows["success" if reward else "failure"]

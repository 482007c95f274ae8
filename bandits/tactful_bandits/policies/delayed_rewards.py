"""Delayed rewards: decisions wait for their reward until a window ends.

A click comes within seconds, a purchase within days, and most rewards are never sent. A missing
reward means 0, but only after the window. Until then a decision is pending and not learnt, whether
it was rewarded or not: rewards that are learnt before the missing ones make every arm look better
than it is, and most of all the arm with most decisions; a missing reward that counts as 0 at once
makes new arms look worse.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from operator import itemgetter
from typing import Generic, TypeVar

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.memory import Observation

D = TypeVar("D", bound=Observation)


class PendingRewards(Generic[D]):
    """Decisions that wait for the end of their window.

    Each decision is returned exactly once, after its window: with its first reward, or with 0.
    Rewards that repeat, come too late, or belong to an unknown decision are ignored.

    Attributes:
        window: Longest delay of a reward, in the unit of the times given, above 0.
    """

    def __init__(self, window: float) -> None:
        """Create an empty queue."""
        if not 0 < window < float("inf"):
            raise PolicyError(f"window is {window}: it must be finite and above 0")
        self.window = float(window)
        self._waiting: dict[str, tuple[float, D]] = {}  # time and decision
        self._rewards: dict[str, float] = {}

    def __len__(self) -> int:
        """Return the number of pending decisions."""
        return len(self._waiting)

    @property
    def rewards(self) -> Mapping[str, float]:
        """The rewards of pending decisions, by id."""
        return self._rewards

    @property
    def decisions(self) -> Collection[D]:
        """The pending decisions, in the order of `add`."""
        return [decision for _, decision in self._waiting.values()]

    def find(self, decision_id: str) -> D | None:
        """Return a pending decision; None if it is unknown."""
        entry = self._waiting.get(decision_id)
        return None if entry is None else entry[1]

    def add(self, decision_id: str, decision: D, at: float) -> None:
        """Add a decision with an id of its own; its `reward` is ignored."""
        if decision_id in self._waiting:
            raise PolicyError("a decision with this id is pending: ids must not repeat")
        self._waiting[decision_id] = float(at), decision

    def settle(self, decision_id: str, reward: float, at: float) -> bool:
        """Keep the reward of a pending decision; return whether it counts.

        It does not if the decision is unknown or has a reward, or its window was over at `at`.
        """
        if not math.isfinite(reward):
            raise PolicyError(f"reward is {reward}: it must be finite")
        entry = self._waiting.get(decision_id)
        if entry is None or decision_id in self._rewards or at >= entry[0] + self.window:
            return False
        self._rewards[decision_id] = float(reward)
        return True

    def expire(self, now: float) -> list[D]:
        """Remove and return decisions after their window, with their rewards, oldest first."""
        over = [key for key, (at, _) in self._waiting.items() if now >= at + self.window]
        expired = sorted(((*self._waiting.pop(key), key) for key in over), key=itemgetter(0))
        return [
            replace(decision, reward=self._rewards.pop(key, 0.0)) for _, decision, key in expired
        ]

    def discard(self, decision_ids: Iterable[str]) -> int:
        """Remove pending decisions, for example of an erased person; return their number."""
        removed = 0
        for key in decision_ids:
            self._rewards.pop(key, None)
            removed += self._waiting.pop(key, None) is not None
        return removed

"""Delayed rewards: decisions wait for their reward until a window ends.

A click comes within seconds, a purchase within days, and most rewards are never sent. A missing
reward means 0, but only after the window. Until then a decision is pending and not learnt;
counting it as 0 at once would bias the policy against new arms.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.memory import Observation

D = TypeVar("D", bound=Observation)


class PendingRewards(Generic[D]):
    """Decisions that wait for their reward.

    Each decision is returned exactly once: with its reward, or with 0 after its window. Rewards
    that repeat, come too late, or belong to an unknown decision are ignored.

    Attributes:
        window: Longest delay of a reward, in the unit of the times given, above 0.
    """

    def __init__(self, window: float) -> None:
        """Create an empty queue."""
        if not 0 < window < float("inf"):
            raise PolicyError(f"window is {window}: it must be finite and above 0")
        self.window = float(window)
        self._waiting: dict[str, tuple[float, D]] = {}  # time and decision

    def __len__(self) -> int:
        """Return the number of pending decisions."""
        return len(self._waiting)

    def __contains__(self, decision_id: str) -> bool:
        """Return whether a decision is pending."""
        return decision_id in self._waiting

    @property
    def decisions(self) -> Collection[D]:
        """The pending decisions, in the order of `add`."""
        return [decision for _, decision in self._waiting.values()]

    def add(self, decision_id: str, decision: D, at: float) -> None:
        """Add a decision with an id of its own; its `reward` is ignored."""
        if decision_id in self._waiting:
            raise PolicyError("a decision with this id is pending: ids must not repeat")
        self._waiting[decision_id] = float(at), decision

    def settle(self, decision_id: str, reward: float, at: float) -> D | None:
        """Match a reward to its decision, and return the decision ready to be learnt.

        Return None if it is unknown, was settled before, or its window was over at `at`; in the
        last case it stays for `expire`. With a reward that is not finite it stays pending.
        """
        if not math.isfinite(reward):
            raise PolicyError(f"reward is {reward}: it must be finite")
        entry = self._waiting.get(decision_id)
        if entry is None or at >= entry[0] + self.window:
            return None
        del self._waiting[decision_id]
        return replace(entry[1], reward=float(reward))

    def expire(self, now: float) -> list[D]:
        """Remove and return decisions after their window, with reward 0, oldest first."""
        over = [key for key, (at, _) in self._waiting.items() if now >= at + self.window]
        expired = sorted((self._waiting.pop(key) for key in over), key=lambda entry: entry[0])
        return [replace(decision, reward=0.0) for _, decision in expired]

    def discard(self, decision_ids: Iterable[str]) -> int:
        """Remove pending decisions, for example of an erased person; return their number."""
        return sum(self._waiting.pop(key, None) is not None for key in decision_ids)

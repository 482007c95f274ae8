"""Rewards that come later than the decision, or never.

A click comes within seconds, a purchase within days, and most rewards are never sent at all.
Silence means 0, but only once the window is over. Until then a decision is pending and teaches
nothing; counting it as 0 at once would make every fresh arm look bad.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import msgspec
import numpy as np

from tactful_bandits.bandit_memory import Observation
from tactful_bandits.bandit_state import pack, unpack
from tactful_bandits.errors import PolicyError


class _Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at: float
    arm: int
    features: bytes
    period: int | None
    propensity: float


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="pending"):
    window: float
    pending: dict[str, _Pending]


@dataclass(frozen=True, slots=True)
class _Waiting:
    at: float
    decision: Observation


class PendingRewards:
    """Decisions that wait for their reward.

    Each decision comes out exactly once: with its reward, or with 0 when its window is over. What
    is sent a second time, too late, or for a decision that is not known, changes nothing.

    Attributes:
        window: How long a reward may take, in the unit of the times given, above 0.
    """

    def __init__(self, window: float) -> None:
        """Start with none.

        Raises:
            PolicyError: The window is not positive.
        """
        if not 0 < window < float("inf"):
            raise PolicyError(f"window is {window}: it must be finite and above 0")
        self.window = float(window)
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, decision_id: str, decision: Observation, at: float) -> None:
        """Wait for the reward of a decision; what stands in its `reward` does not matter.

        Raises:
            PolicyError: A decision of this id waits already.
        """
        if decision_id in self._waiting:
            raise PolicyError("a decision of this id waits already: ids must not repeat")
        self._waiting[decision_id] = _Waiting(float(at), decision)

    def settle(self, decision_id: str, reward: float, at: float) -> Observation | None:
        """Take a reward in.

        Returns:
            The decision with its reward, ready to be learnt; None if it is not known, was settled
            before, or its window was over at `at`. The last stays, for `expire`.

        Raises:
            PolicyError: The reward is not finite; the decision still waits.
        """
        if not math.isfinite(reward):
            raise PolicyError(f"reward is {reward}: it must be finite")
        waiting = self._waiting.get(decision_id)
        if waiting is None or at >= waiting.at + self.window:
            return None
        del self._waiting[decision_id]
        return replace(waiting.decision, reward=float(reward))

    def expire(self, now: float) -> list[Observation]:
        """Decisions whose window is over, with reward 0, oldest first."""
        over = [key for key, entry in self._waiting.items() if now >= entry.at + self.window]
        found = sorted((self._waiting.pop(key) for key in over), key=lambda entry: entry.at)
        return [replace(entry.decision, reward=0.0) for entry in found]

    def discard(self, decision_ids: Iterable[str]) -> int:
        """Forget decisions that wait, such as those of a person who leaves; returns how many."""
        return sum(self._waiting.pop(key, None) is not None for key in decision_ids)

    def to_bytes(self) -> bytes:
        """All that waits."""
        pending = {
            key: _Pending(
                entry.at,
                entry.decision.arm,
                np.asarray(entry.decision.features, dtype="<f8").tobytes(),
                entry.decision.period,
                entry.decision.propensity,
            )
            for key, entry in self._waiting.items()
        }
        return pack(_State(self.window, pending))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote.

        Raises:
            PolicyError: The bytes are damaged or hold something else.
        """
        state = unpack(data, _State)
        waiting = cls(state.window)
        for key, entry in state.pending.items():
            if len(entry.features) % 8:
                raise PolicyError("the features of a pending decision are cut off")
            features = np.frombuffer(entry.features, dtype="<f8").astype(np.float64)
            decision = Observation(entry.arm, features, 0.0, entry.period, entry.propensity)
            waiting.add(key, decision, entry.at)
        return waiting

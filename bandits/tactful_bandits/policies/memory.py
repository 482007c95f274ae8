"""Exact sums by period, a policy's memory with decay and exact unlearning.

Sums are integers on a fixed grid, so adding is exact and independent of the order, and a person's
contribution can be subtracted to the bit. The same sums by period support decay: a sliding window
drops the oldest period, and discounting weights a period of age k by ``discount ** k``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.codec import pack_policy, settings_of, unpack

GRID = 1 << 16
"""Steps of the grid per unit: features and rewards are rounded to 1/65,536."""

LARGEST = 8.0
"""Features and rewards lie between -8 and 8."""

# Products reach (8 * 2^16)^2 = 2^38; so many of them stay below 2^63.
_MOST_PER_CELL = 1 << 24


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Memory of a policy: number of periods and their weights.

    Attributes:
        periods: Number of periods kept, including the current one; None: everything without limit.
        discount: Weight of a period relative to the next younger one, above 0 and at most 1. Data
            older than `periods` are dropped: with 0.9, 60 periods lose 0.2 % of the weight.

    Raises:
        PolicyError: A value is out of range, or there is a discount without periods.
    """

    periods: int | None = None
    discount: float = 1.0

    def __post_init__(self) -> None:
        """Validate periods and discount."""
        if self.periods is not None and not 1 <= self.periods <= 1000:
            raise PolicyError(f"a memory of {self.periods} periods: give 1 to 1,000, or None")
        if not 0 < self.discount <= 1:
            raise PolicyError(f"discount is {self.discount}: it must lie above 0 and at most at 1")
        if self.periods is None and self.discount != 1:
            raise PolicyError("discount needs periods: give the number of periods to keep")


@dataclass(frozen=True, slots=True)
class Observation:
    """One decision with its reward.

    Attributes:
        arm: Index of the arm that was chosen.
        features: Features at the time of the choice, ``[features]``; empty without features.
        reward: Reward of the decision.
        period: Period of the decision; None: the current one.
        propensity: Probability with which the arm had been chosen.
    """

    arm: int
    features: NDArray[np.float64]
    reward: float
    period: int | None = None
    propensity: float = 1.0


class PeriodSums:
    """Named integer arrays with one row per remembered period.

    Attributes:
        memory: Number of periods and their weights.
        newest: Number of the current period; it starts at 0.
        rows: Sums by name, int64 ``[periods, ...]``; period p is in row ``p % periods``. A linear
            policy has ``{"gram": [periods, arms, f, f], "moment": [periods, arms, f], ...}``.
    """

    def __init__(self, memory: Memory, shapes: Mapping[str, Sequence[int]]) -> None:
        """Create sums of 0."""
        self.memory = memory
        self.newest = 0
        self._length = memory.periods or 1
        self.rows = {
            name: np.zeros((self._length, *shape), dtype=np.int64) for name, shape in shapes.items()
        }

    def row(self, period: int | None) -> int | None:
        """Return the row of a period that has begun, or None for a dropped one."""
        if self.memory.periods is None:
            return 0
        number = self.newest if period is None else period
        if number > self.newest:
            raise PolicyError(f"period {number} has not begun: advance from {self.newest} first")
        return number % self._length if number > self.newest - self._length else None

    def weight(self, period: int | None) -> float:
        """Return the present weight of a period."""
        if period is None or self.memory.periods is None:
            return 1.0
        return float(self.memory.discount ** (self.newest - period))

    def advance(self, period: int) -> None:
        """Begin a period and drop the periods that are too old."""
        if period < self.newest:
            raise PolicyError(f"period {period} lies before {self.newest}, the current one")
        if self.memory.periods is not None:
            begun = range(max(self.newest + 1, period - self._length + 1), period + 1)
            for array in self.rows.values():
                array[[number % self._length for number in begun]] = 0
        self.newest = period

    def weighted(self, name: str) -> NDArray[np.float64]:
        """Return the weighted sum over the periods, in steps of the grid."""
        array = self.rows[name]
        if self.memory.periods is None:
            total: NDArray[np.float64] = array[0].astype(np.float64)
            return total
        ages = (self.newest - np.arange(self._length)) % self._length
        result: NDArray[np.float64] = np.tensordot(self.memory.discount**ages, array, axes=1)
        return result

    def to_bytes(self) -> dict[str, bytes]:
        """Return the rows as little-endian int64."""
        return {name: array.astype("<i8").tobytes() for name, array in self.rows.items()}

    def read(self, newest: int, rows: Mapping[str, bytes]) -> None:
        """Replace the sums by those of `to_bytes`; raise PolicyError if they do not fit."""
        if rows.keys() != self.rows.keys() or newest < 0:
            raise PolicyError("the state of this policy holds other sums than expected")
        for name, array in self.rows.items():
            if len(rows[name]) != array.nbytes:
                raise PolicyError(
                    f"the state holds {len(rows[name])} bytes of {name!r}, not"
                    f" {array.nbytes}: it belongs to a policy of another shape"
                )
            array[...] = np.frombuffer(rows[name], dtype="<i8").reshape(array.shape)
        self.newest = newest


class PeriodPolicy(ABC):
    """Base of the policies whose state is a `PeriodSums`, from which decisions are subtracted."""

    _state: ClassVar[type[msgspec.Struct]]  # form of the serialised policy
    _settings: ClassVar[tuple[str, ...]]  # fields of the state that are arguments of the class
    _sums: PeriodSums

    @property
    def memory(self) -> Memory:
        """Number of periods and their weights."""
        return self._sums.memory

    @property
    def period(self) -> int:
        """Number of the current period."""
        return self._sums.newest

    def advance(self, period: int) -> None:
        """Begin a period: older periods lose weight, the oldest are dropped."""
        if period != self._sums.newest:
            self._sums.advance(period)
            self.refresh()

    def forget(self, observations: Iterable[Observation]) -> int:
        """Unlearn decisions, such as all those of one person; return their number.

        Give them exactly as they were learnt, each with its period. Afterwards the policy equals
        one that never learnt them: its sums are equal to the bit, and so is everything computed
        from them. Observations of dropped periods have no trace left. If one cannot have been
        learnt, nothing is unlearnt.
        """
        kept = {name: array.copy() for name, array in self._sums.rows.items()}
        try:
            return self._subtract(observations)
        except PolicyError:
            self._sums.rows.update(kept)
            raise
        finally:
            self.refresh()

    def to_bytes(self) -> bytes:
        """Serialise the policy."""
        sums = self._sums
        return pack_policy(self._state, self, newest=sums.newest, sums=sums.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Restore the policy of `to_bytes`; raise PolicyError if it is damaged."""
        state: Any = unpack(data, cls._state)
        policy = cls(**settings_of(state, cls._settings))
        policy._sums.read(state.newest, state.sums)
        policy.refresh()
        return policy

    @abstractmethod
    def refresh(self) -> None:
        """Recompute everything that follows from the sums."""

    @abstractmethod
    def _subtract(self, observations: Iterable[Observation]) -> int: ...


def on_grid(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """Round values to the grid."""
    array = np.asarray(values, dtype=np.float64)
    require_small(array, name)
    return np.rint(array * GRID).astype(np.int64)


def require_small(values: NDArray[np.float64], name: str) -> None:
    """Check that values are finite and within `LARGEST`, the range of the sums."""
    # No value exceeds the root of the sum of squares, so usually one product suffices.
    if not np.vdot(values, values) <= LARGEST**2 and not np.abs(values).max() <= LARGEST:
        raise PolicyError(
            f"{name} must be finite and lie between -{LARGEST:g} and {LARGEST:g}: scale them"
        )


def require_room(count: int) -> None:
    """Check that one more observation of an arm in a period cannot overflow a sum."""
    if count >= _MOST_PER_CELL:
        raise PolicyError(
            f"{count:,} observations of one arm in one period are all that its sums can hold: use a"
            " memory of periods, and advance"
        )

"""Updates as integers, so that sums and their noise are exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import require
from tactful_federated.model.vectors import Vector, clip_to_norm

IntegerVector = NDArray[np.int64]
"""Flat int64 vector of shape (parameters,)."""

_MAX_UNITS = 1 << 24
_SHRINK = 1 - 1e-12


@dataclass(frozen=True)
class FixedPoint:
    """Integer grid of updates: the norm `update_norm` is `units` on the grid.

    Guarantee: rounding is towards zero and never increases a norm. The integers have a Euclidean
    norm of at most `units`, exactly, so the sensitivity of their sum to one device is `units`. From
    2^16 units on the rounding error is small for tens of thousands of parameters.
    """

    update_norm: float  # largest Euclidean norm of an update, above 0
    units: int  # the same norm on the grid, 1 to 2^24

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a setting outside its range."""
        require(
            0 < self.update_norm < float("inf"),
            f"update_norm is {self.update_norm}: give a finite number above 0",
        )
        require(
            1 <= self.units <= _MAX_UNITS,
            f"units is {self.units}: give a whole number from 1 to {_MAX_UNITS}",
        )

    def encode(self, update: Vector) -> IntegerVector:
        """Clip an update and round it to the grid, to int64 with a norm of at most `units`.

        Raises:
            WeightsError: The update holds a value that is not finite.
        """
        scaled = clip_to_norm(update, self.update_norm).astype(np.float64)
        scaled *= self.units / self.update_norm
        # float64 may exceed the bound by rounding before it truncates: shrink until it holds.
        while True:
            encoded = np.trunc(scaled).astype(np.int64)
            if self.holds(encoded):
                return encoded
            scaled *= _SHRINK

    def holds(self, encoded: IntegerVector) -> bool:
        """Return whether the exact norm is at most `units`."""
        if encoded.size and int(np.abs(encoded).max()) > self.units:
            return False
        return int(np.square(encoded).sum()) <= self.units**2

    def decode(self, total: NDArray[np.number]) -> NDArray[np.float64]:
        """Convert a sum on the grid to a sum of updates, float64."""
        return total.astype(np.float64) * (self.update_norm / self.units)

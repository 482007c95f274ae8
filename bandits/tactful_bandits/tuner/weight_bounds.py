"""Mapping from a bounded action to objective weights near those of the champion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError

OBJECTIVES = ("relevance", "price", "novelty", "margin", "campaign")
"""Objectives of a ranking, each with its weight."""

CHAMPION = (0.59, 0.12, 0.17, 0.06, 0.06)
"""Weights that a shop without a tuner might use."""


@dataclass(frozen=True)
class WeightBounds:
    """Bounds of the weights around the champion's.

    Weights are at least 0 and sum to 1. Action 0 is the champion.

    Attributes:
        champion: The weights in service, at least 0, summing to 1.
        reach: Largest change of a weight before all are normalised to sum 1, above 0.
        largest_step: Largest change of a weight between two updates; None: no limit.

    Raises:
        PolicyError: A value is out of range.
    """

    champion: tuple[float, ...]
    reach: float = 0.5
    largest_step: float | None = None

    def __post_init__(self) -> None:
        """Validate weights and limits."""
        weights = np.array(self.champion, dtype=np.float64)
        if not len(weights) or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6:
            raise PolicyError("the champion's weights must be at least 0 and sum to 1")
        if not 0 < self.reach <= 1:
            raise PolicyError(f"reach is {self.reach}: it must lie above 0 and at most at 1")
        if self.largest_step is not None and not 0 < self.largest_step <= 1:
            raise PolicyError(f"largest_step is {self.largest_step}: it must lie in (0, 1]")

    def weights(self, action: ArrayLike, previous: ArrayLike | None = None) -> NDArray[np.float64]:
        """Compute the weights of an action.

        The action, ``[..., weights]``, is clipped to [-1, 1]; `previous` are the weights before
        this update. The result, of the same shape, is the champion's if the action makes all
        weights 0.
        """
        values = np.asarray(action, dtype=np.float64)
        champion = np.array(self.champion)
        if values.shape[-1:] != champion.shape or not np.isfinite(values).all():
            raise PolicyError(f"an action is {len(champion)} finite numbers, not {values.shape}")
        moved = np.maximum(champion + self.reach * np.clip(values, -1, 1), 0.0)
        sums = moved.sum(axis=-1, keepdims=True)
        target = np.where(sums > 1e-9, moved / np.maximum(sums, 1e-9), champion)
        if previous is None or self.largest_step is None:
            return target
        before = np.asarray(previous, dtype=np.float64)
        # Scaled as a whole, not clipped by component, so that the weights keep the sum 1.
        farthest = np.abs(target - before).max(axis=-1, keepdims=True)
        share = np.minimum(1.0, self.largest_step / np.maximum(farthest, 1e-12))
        shortened: NDArray[np.float64] = before + share * (target - before)
        return shortened

"""Counts of answered questions; what an evaluation on a device reports, and nothing more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """How a predictor did on a number of questions; scores of several devices add up.

    `top1` and `top5` count the answers ranked first and among the first five; `loss` is the sum
    of -log p(answer) in nats (0.0 for a predictor that ranks but gives no probabilities).
    """

    steps: int = 0
    top1: int = 0
    top5: int = 0
    loss: float = 0.0

    def __post_init__(self) -> None:
        """Raise `ValueError` on counts no evaluation can produce."""
        if not (0 <= self.top1 <= self.top5 <= self.steps and 0 <= self.loss < math.inf):
            raise ValueError(f"impossible score: {self}")

    def __add__(self, other: Score) -> Score:
        """Score of both sets of questions together."""
        return Score(
            self.steps + other.steps,
            self.top1 + other.top1,
            self.top5 + other.top5,
            self.loss + other.loss,
        )

    @property
    def top1_rate(self) -> float:
        """Share of answers ranked first, NaN without questions."""
        return self.top1 / self.steps if self.steps else float("nan")

    @property
    def top5_rate(self) -> float:
        """Share of answers among the first five, NaN without questions."""
        return self.top5 / self.steps if self.steps else float("nan")

    @property
    def mean_loss(self) -> float:
        """Mean -log p(answer) in nats, NaN without questions."""
        return self.loss / self.steps if self.steps else float("nan")


@dataclass(frozen=True)
class Difference:
    """A difference of two rates with its 95 % interval."""

    value: float
    low: float
    high: float


def paired_difference(
    ours: Sequence[tuple[int, int]], theirs: Sequence[tuple[int, int]], *, seed: int
) -> Difference:
    """Difference of two hit rates on the same questions, resampled by household.

    Steps of one household are not independent, so the household is the unit of the percentile
    bootstrap (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13): 2,000
    resamples of (hits, questions) per household.

    Args:
        ours: Per household (hits, questions) of the first predictor.
        theirs: The same households and questions, of the second.
        seed: Seed of the resampling.

    Raises:
        ValueError: The questions of the two differ, or there are none.
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.shape != b.shape or not np.array_equal(a[:, 1], b[:, 1]) or a[:, 1].sum() == 0:
        raise ValueError("a paired difference needs the same, non-zero questions on both sides")
    gain = a[:, 0] - b[:, 0]
    chosen = np.random.default_rng(seed).integers(0, len(a), size=(2000, len(a)))
    questions = a[:, 1][chosen].sum(axis=1)
    rates = gain[chosen].sum(axis=1)[questions > 0] / questions[questions > 0]
    low, high = np.quantile(rates, (0.025, 0.975))
    return Difference(float(gain.sum() / a[:, 1].sum()), float(low), float(high))

"""Counts of right answers, the only output of an evaluation on a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """Counts of right answers of a predictor; scores of several devices can be added.

    `top1` and `top5` count the answers ranked first and among the first five; `loss` is the sum
    of -log p(answer) in nats (0.0 for a predictor without probabilities).
    """

    steps: int = 0
    top1: int = 0
    top5: int = 0
    loss: float = 0.0

    def __post_init__(self) -> None:
        """Raise `ValueError` on inconsistent counts."""
        if not (0 <= self.top1 <= self.top5 <= self.steps and 0 <= self.loss < math.inf):
            raise ValueError(f"impossible score: {self}")

    def __add__(self, other: Score) -> Score:
        """Return the score of both sets of questions together."""
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


Scores = Mapping[int, Score]
"""Scores by device."""


@dataclass(frozen=True)
class Difference:
    """Difference of two rates with its 95 % interval."""

    value: float
    low: float
    high: float


def paired_difference(
    first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]], *, seed: int
) -> Difference:
    """Return the difference of two hit rates on the same questions.

    The interval is a percentile bootstrap (Efron & Tibshirani, "An Introduction to the Bootstrap",
    1993, ch. 13) with 2,000 resamples of households, since the questions of one household are not
    independent. Both sides hold (hits, questions) of the same households in the same order.

    Raises:
        ValueError: The two have different questions, or there are none.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or not np.array_equal(a[:, 1], b[:, 1]) or a[:, 1].sum() == 0:
        raise ValueError(
            "a paired difference needs the same number of questions, above 0, on both sides"
        )
    gain = a[:, 0] - b[:, 0]
    chosen = np.random.default_rng(seed).integers(0, len(a), size=(2000, len(a)))
    questions = a[:, 1][chosen].sum(axis=1)
    rates = gain[chosen].sum(axis=1)[questions > 0] / questions[questions > 0]
    low, high = np.quantile(rates, (0.025, 0.975))
    return Difference(float(gain.sum() / a[:, 1].sum()), float(low), float(high))

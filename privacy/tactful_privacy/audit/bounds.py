"""Lower bounds on a privacy loss from outputs, wrong with a stated probability."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.mechanisms._clopper_pearson import clopper_pearson

_THRESHOLDS = 60
_CERTIFIED = 3


@dataclass(frozen=True)
class LowerBound:
    """A proved privacy loss."""

    epsilon: float  # the loss is at least this, except with probability `alpha`
    event: str  # the set of outputs that proves it, in words
    # confidence limit (lower or upper, as the bound needs) of the event's probability with the
    # person
    probability_with: float
    probability_without: float  # confidence limit of its probability without the person


NOTHING_PROVED = LowerBound(0.0, "none", 0.0, 0.0)


@dataclass(frozen=True)
class _Event:
    """Outputs whose score is at least (or below) a threshold."""

    score: str
    threshold: float
    below: bool

    def count(self, scores: Mapping[str, NDArray[Any]], part: slice) -> int:
        values = scores[self.score][part]
        reached = int((values >= self.threshold).sum())
        return len(values) - reached if self.below else reached

    def __str__(self) -> str:
        return f"{self.score} {'<' if self.below else '>='} {self.threshold:g}"


def prove_loss(
    # scores of outputs with the person, by name, each ``[trials]``, numbers or bools
    present: Mapping[str, NDArray[Any]],
    absent: Mapping[str, NDArray[Any]],  # scores of outputs without the person, likewise
    *,
    alpha: float,  # probability that the result is above the true loss
    delta: float = 0.0,  # allowed delta of the mechanism
) -> LowerBound:
    """Return the largest epsilon proved by outputs with and without a person.

    A mechanism that is (epsilon, delta)-private has P(event | with) <= e^epsilon P(event | without)
    + delta for every event, and the other way round. The first third of the outputs selects the
    three most promising events; the remaining outputs, independent of the selection, certify them
    by Clopper-Pearson limits. Both limits of the three events share alpha (Bonferroni).
    """
    trials = min(len(scores) for scores in (*present.values(), *absent.values()))
    picking = trials // 3
    share = alpha / (2 * _CERTIFIED)

    def proved(event: _Event, part: slice, scale: float) -> LowerBound:
        """Return the bound of an event on a part of the outputs, scaled to more trials."""
        trials_of_part = (part.stop - part.start) * scale
        (low1, high1), (low0, high0) = (
            clopper_pearson(round(event.count(scores, part) * scale), round(trials_of_part), share)
            for scores in (present, absent)
        )
        with_more = _log_ratio(low1 - delta, high0), low1, high0
        with_less = _log_ratio(low0 - delta, high1), high1, low0
        epsilon, shown1, shown0 = max(with_more, with_less)
        return LowerBound(epsilon, str(event), shown1, shown0)

    expected = (trials - picking) / picking
    events = sorted(
        _events(present, absent, picking),
        key=lambda event: proved(event, slice(0, picking), expected).epsilon,
    )
    certified = (proved(event, slice(picking, trials), 1.0) for event in events[-_CERTIFIED:])
    best = max(certified, key=lambda bound: bound.epsilon)
    return best if best.epsilon > 0 else NOTHING_PROVED


def _log_ratio(more: float, less: float) -> float:
    return max(0.0, math.log(more / less)) if more > 0 else 0.0


def _events(
    present: Mapping[str, NDArray[Any]], absent: Mapping[str, NDArray[Any]], picking: int
) -> Iterator[_Event]:
    for score, values in present.items():
        sample = np.concatenate([values[:picking], absent[score][:picking]]).astype(np.float64)
        for threshold in np.unique(np.quantile(sample, np.linspace(0.001, 0.999, _THRESHOLDS))):
            yield _Event(score, float(threshold), below=False)
            yield _Event(score, float(threshold), below=True)

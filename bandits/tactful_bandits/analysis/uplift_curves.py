"""Judge rankings of users by their expected gain from a treatment: uplift and Qini curves.

Nobody is seen both with and without the treatment, so a ranking is judged by groups: among the
first k users of a ranking, those with the treatment are compared with those without. Users must
have been treated at random, by one share for all. A ranking is judged on users that it was not
learnt from; otherwise both areas are too large.

Source: Radcliffe, "Using control groups to target on predicted lift", Direct Marketing Analytics
Journal 1 (2007); Gutierrez and Gérardy, "Causal inference and uplift modelling", PMLR 67 (2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.analysis.comparison import Interval
from tactful_bandits.analysis.samples import columns
from tactful_bandits.errors import StatisticsError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class UpliftCurves:
    """Points at the ends of each group of equal scores, from the highest score on."""

    users: Floats  # number of users so far, beginning with 0
    uplift: Floats  # difference of the means of both arms among them, times their number
    # Outcomes of the treated, minus those of the others scaled to the number of the treated
    qini: Floats

    @property
    def uplift_area(self) -> float:
        """Area between the uplift curve and the straight line to its end, per squared user."""
        return _area(self.users, self.uplift)

    @property
    def qini_area(self) -> float:
        """Area between the Qini curve and the straight line to its end, per squared user."""
        return _area(self.users, self.qini)


@dataclass(frozen=True, slots=True)
class RankingComparison:
    """Two rankings judged on the same users."""

    uplift_areas: tuple[float, float]  # `UpliftCurves.uplift_area` of the first and the second
    qini_areas: tuple[float, float]  # `UpliftCurves.qini_area` of both
    uplift_gain: Interval  # of the second area minus the first
    qini_gain: Interval  # of the second area minus the first

    @property
    def second_is_better(self) -> bool:
        """Whether both intervals lie above 0."""
        return self.uplift_gain.low > 0 and self.qini_gain.low > 0


def uplift_curves(outcome: ArrayLike, treated: ArrayLike, scores: ArrayLike) -> UpliftCurves:
    """Compute both curves of a ranking.

    Args:
        outcome: One value per user, ``[users]``.
        treated: 1 for users with the treatment, 0 for others, ``[users]``.
        scores: Expected gain by user; only the order counts, ``[users]``.

    Raises:
        StatisticsError: Shapes differ, a value is not finite, or `treated` is not 0 or 1.
    """
    y, w, s = _checked(outcome, treated, scores)
    return _curves(y, w, *_ranks(s), np.ones(len(y)))


def compare_rankings(
    outcome: ArrayLike,
    treated: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    seed: int,
    samples: int = 400,
    confidence: float = 0.95,
) -> RankingComparison:
    """Compare two rankings by the bootstrap over users, the same sample for both.

    Args:
        outcome: One value per user, ``[users]``.
        treated: 1 for users with the treatment, 0 for others, ``[users]``.
        first: Scores of the first ranking, ``[users]``.
        second: Scores of the second ranking, ``[users]``.
        seed: Seed of the bootstrap.
        samples: Number of bootstrap samples, at least 20.
        confidence: Confidence of the percentile intervals, in (0, 1).

    Raises:
        StatisticsError: `uplift_curves` refuses the data, or an argument is out of range.
    """
    if samples < 20 or not 0 < confidence < 1:
        raise StatisticsError("samples must be at least 20, and confidence lie between 0 and 1")
    y, w, one = _checked(outcome, treated, first)
    _, _, other = _checked(outcome, treated, second)
    ranked = _ranks(one), _ranks(other)
    rng = np.random.default_rng(seed)
    drawn = []
    for number in range(samples + 1):
        counts = np.ones(len(y)) if not number else _resampled(len(y), rng)
        curves = [_curves(y, w, *ranks, counts) for ranks in ranked]
        drawn.append([(curve.uplift_area, curve.qini_area) for curve in curves])
    areas = np.array(drawn)  # [samples, rankings, uplift and qini]
    gains = areas[1:, 1] - areas[1:, 0]
    low, high = np.quantile(gains, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    uplift, qini = (
        Interval(float(low[kind]), float(high[kind]), confidence, "bootstrap over users")
        for kind in (0, 1)
    )
    (a, b), (c, d) = areas[0].T.tolist()
    return RankingComparison((a, b), (c, d), uplift, qini)


def _checked(outcome: ArrayLike, treated: ArrayLike, scores: ArrayLike) -> tuple[Floats, ...]:
    y, w = columns(outcome, treated)
    s = np.asarray(scores, np.float64)
    if s.shape != y.shape or not len(y):
        raise StatisticsError(f"{len(y)} outcomes need as many scores, not {s.shape}")
    if not (np.isfinite(y).all() and np.isfinite(s).all() and np.isin(w, (0, 1)).all()):
        raise StatisticsError("outcomes and scores must be finite, and treated 0 or 1")
    return y, w, s


def _ranks(scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the order from the highest score, and the last index of each group of equal ones."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return order, ends


def _curves(
    y: Floats, w: Floats, order: NDArray[np.intp], ends: NDArray[np.intp], counts: Floats
) -> UpliftCurves:
    weight, took, gained = counts[order], (counts * w)[order], (counts * y)[order]
    with_it = np.cumsum(took)[ends]
    users = np.cumsum(weight)[ends]
    without = users - with_it
    sum_with = np.cumsum(gained * w[order])[ends]
    sum_without = np.cumsum(gained * (1 - w[order]))[ends]
    mean_with, mean_without = _divided(sum_with, with_it), _divided(sum_without, without)
    return UpliftCurves(
        *(
            np.append(0.0, values)
            for values in (
                users,
                (mean_with - mean_without) * users,
                sum_with - mean_without * with_it,
            )
        )
    )


def _divided(sums: Floats, counts: Floats) -> Floats:
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)


def _area(users: Floats, curve: Floats) -> float:
    total = users[-1]
    return float(np.trapezoid(curve, users) - curve[-1] * total / 2) / float(total) ** 2


def _resampled(users: int, rng: np.random.Generator) -> Floats:
    return np.bincount(rng.integers(0, users, users), minlength=users).astype(np.float64)

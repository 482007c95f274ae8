"""Quality of recommendations: hit rate, NDCG, MRR and coverage, with intervals over users.

The requests of one user are not independent: intervals come from resampling users, not requests.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CUTOFF = 20  # number of first items that count, in every figure
MEASURES = ("hr20", "ndcg20", "mrr20", "recall20")
"""Figures of a `Scorecard`; `recall20` is the share of the taken items that a list held."""

_DISCOUNTS = 1.0 / np.log2(np.arange(2, CUTOFF + 2))


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """Quality of a recommender."""

    hr20: Estimate  # share of lists with an item that was taken
    ndcg20: Estimate  # normalised discounted cumulative gain of the lists
    mrr20: Estimate  # reciprocal place of the first item that was taken, 0 when none was
    coverage20: Estimate  # share of the catalogue that appeared in some list


class Scorecard:
    """Collects the lists of one recommender, request by request."""

    def __init__(self) -> None:
        """Start empty."""
        self._people: list[str] = []
        self._values: dict[str, list[float]] = {measure: [] for measure in MEASURES}
        self._shown: list[tuple[str, ...]] = []

    def __len__(self) -> int:
        """Return the number of requests so far."""
        return len(self._people)

    def add(self, person: str, shown: Sequence[str], taken: Collection[str]) -> bool:
        """Score one list, best first, and return whether it had a hit.

        Only its first `CUTOFF` items count; at least one item was `taken`.
        """
        top = tuple(shown[:CUTOFF])
        right = [place for place, item in enumerate(top) if item in taken]
        self._people.append(person)
        self._shown.append(top)
        figures = {**_figures(right, len(taken)), "recall20": len(right) / len(taken)}
        for measure, value in figures.items():
            self._values[measure].append(value)
        return bool(right)

    def mean(self, measure: str) -> float:
        """Return the mean of one of `MEASURES` over all requests; NaN when there is none."""
        values = self._values[measure]
        return float(np.mean(values)) if values else float("nan")

    def estimate(self, measure: str, *, resamples: int = 1000, seed: int = 0) -> Estimate:
        """Estimate one of `MEASURES` with its percentile bootstrap interval over users."""
        if not self._people:
            return Estimate(float("nan"), float("nan"), float("nan"))
        return self._over_users(np.array(self._values[measure]), resamples, seed)

    def quality(self, catalogue_size: int, *, resamples: int = 1000, seed: int = 0) -> Quality:
        """Estimate all figures, with percentile bootstrap intervals over users; NaN for none.

        Coverage of a resample is smaller by construction, so its interval is the value plus and
        minus 1.96 bootstrap standard deviations.
        """
        if not self._people:
            nothing = Estimate(float("nan"), float("nan"), float("nan"))
            return Quality(nothing, nothing, nothing, nothing)
        hr20, ndcg20, mrr20 = (
            self.estimate(measure, resamples=resamples, seed=seed)
            for measure in ("hr20", "ndcg20", "mrr20")
        )
        user, draws = self._draws(resamples, seed)
        return Quality(hr20, ndcg20, mrr20, self._coverage(user, draws[:200], catalogue_size))

    def lead(self, other: Scorecard, *, resamples: int = 1000, seed: int = 0) -> Estimate:
        """Estimate the hit rate minus that of another recommender, with a paired interval.

        Raises:
            ValueError: if the requests of the two are not the same, in the same order.
        """
        self._check_paired(other)
        gained = np.array(self._values["hr20"]) - np.array(other._values["hr20"])
        return self._over_users(gained, resamples, seed)

    def ratio(
        self, other: Scorecard, measure: str, *, resamples: int = 1000, seed: int = 0
    ) -> Estimate:
        """Estimate one of `MEASURES` divided by another recommender's, with a paired interval.

        Each resample draws the same users for both. The ratio is infinite where the other scored
        nothing.

        Raises:
            ValueError: if the requests of the two are not the same, in the same order, or none.
        """
        self._check_paired(other)
        if not self._people:
            raise ValueError("the scorecards are empty: add lists before comparing them")
        user, draws = self._draws(resamples, seed)
        own, others = (
            draws @ np.bincount(user, weights=card._values[measure]) for card in (self, other)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = np.nanquantile(own / others, [0.025, 0.975])
            value = np.float64(self.mean(measure)) / other.mean(measure)
        return Estimate(float(value), float(low), float(high))

    def _check_paired(self, other: Scorecard) -> None:
        if self._people != other._people:
            raise ValueError("the two scorecards hold different requests: they cannot be paired")

    def _draws(self, resamples: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Return the user of each request, and each resample's multiplicity of each user.

        Shapes (requests,) and (resamples, users).
        """
        _, user = np.unique(np.array(self._people), return_inverse=True)
        users = int(user.max()) + 1
        generator = np.random.default_rng(seed)
        return user, generator.multinomial(users, np.full(users, 1.0 / users), size=resamples)

    def _over_users(self, values: NDArray[np.float64], resamples: int, seed: int) -> Estimate:
        """Estimate the mean over requests with a percentile bootstrap interval over users."""
        user, draws = self._draws(resamples, seed)
        means = (draws @ np.bincount(user, weights=values)) / (draws @ np.bincount(user))
        low, high = np.quantile(means, [0.025, 0.975])
        return Estimate(float(np.mean(values)), float(low), float(high))

    def _coverage(
        self, user: NDArray[np.intp], draws: NDArray[np.int64], catalogue_size: int
    ) -> Estimate:
        numbers: dict[str, int] = {}
        pairs = {
            (int(number), numbers.setdefault(item, len(numbers)))
            for number, shown in zip(user, self._shown, strict=True)
            for item in shown
        }
        users, items = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
        value = len(numbers) / catalogue_size
        covered = []
        for draw in draws:
            seen = np.zeros(len(numbers), np.bool_)
            seen[items[draw[users] > 0]] = True
            covered.append(int(seen.sum()) / catalogue_size)
        spread = 1.96 * float(np.std(covered))
        return Estimate(value, max(0.0, value - spread), min(1.0, value + spread))


def ndcg(right: Sequence[int], relevant: int) -> float:
    """Compute NDCG@20, between 0 and 1, with binary gains.

    Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques" (2002). `right` are
    the places (from 0) of the right items within the list, `relevant` their number in all.
    """
    if not right:
        return 0.0
    ideal = float(_DISCOUNTS[: min(relevant, CUTOFF)].sum())
    return float(_DISCOUNTS[list(right)].sum()) / ideal


def _figures(right: Sequence[int], relevant: int) -> dict[str, float]:
    return {
        "hr20": float(bool(right)),
        "ndcg20": ndcg(right, relevant),
        "mrr20": 1.0 / (right[0] + 1) if right else 0.0,
    }


FIGURES = ("hr20", "ndcg20", "mrr20", "recall")
"""Figures of a scored list; `recall` is 1 where recall found a right item."""


def list_metrics(
    scores: NDArray[np.float32],  # of all rows, list after list, shape (n,)
    labels: NDArray[np.bool_],  # whether each row is right, shape (n,)
    sizes: NDArray[np.int64],  # rows of each list, shape (lists,)
    relevant: Sequence[int],  # number of right items of each list, found by recall or not
) -> dict[str, float]:
    """Compute the mean `FIGURES` of scored lists, for a training run; 0 without any list."""
    figures = list_figures(scores, labels, sizes, relevant)
    means = figures.mean(axis=0) if len(figures) else np.zeros(len(FIGURES))
    return dict(zip(FIGURES, means.tolist(), strict=True))


def list_figures(
    scores: NDArray[np.float32],
    labels: NDArray[np.bool_],
    sizes: NDArray[np.int64],
    relevant: Sequence[int],
) -> NDArray[np.float64]:
    """Compute the `FIGURES` of each scored list, shape (lists, figures); as `list_metrics`."""
    figures = np.zeros((len(sizes), len(FIGURES)))
    start = 0
    for number, (size, count) in enumerate(zip(sizes.tolist(), relevant, strict=True)):
        end = start + size
        order = np.argsort(-scores[start:end], kind="stable")[:CUTOFF]
        right = np.flatnonzero(labels[start:end][order]).tolist()
        found = float(labels[start:end].any())
        figures[number] = (*_figures(right, count).values(), found)
        start = end
    return figures


def user_intervals(
    figures: NDArray[np.float64],  # of each list, shape (lists, figures)
    users: NDArray[np.int64],  # a number of the user of each list, shape (lists,)
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return 95 % bootstrap intervals of the means over lists, shape (figures, 2).

    Users are drawn, not lists: those of one user are not independent.
    """
    _, user = np.unique(users, return_inverse=True)
    count = int(user.max()) + 1
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(count, np.full(count, 1.0 / count), size=resamples)
    sums = np.column_stack([np.bincount(user, weights=column) for column in figures.T])
    means = (draws @ sums) / (draws @ np.bincount(user))[:, None]
    bounds: NDArray[np.float64] = np.quantile(means, [0.025, 0.975], axis=0).T
    return bounds


class NdcgByTree:
    """NDCG@20 of lists after each tree, as `list_metrics` has it, at little cost.

    Only places of right items are counted; no list is sorted.
    """

    def __init__(
        self, labels: NDArray[np.bool_], sizes: NDArray[np.int64], relevant: Sequence[int]
    ) -> None:
        """Prepare to measure scores of the rows of these lists; see `list_metrics`."""
        ends = np.cumsum(sizes)
        right = np.flatnonzero(labels)
        of_list = np.searchsorted(ends, right, side="right")
        lengths, firsts = sizes[of_list], (ends - sizes)[of_list]
        # Each right row is compared with all rows of its list: pairs, right row by right row.
        self._begins = np.cumsum(lengths) - lengths
        within = np.arange(int(lengths.sum())) - np.repeat(self._begins, lengths)
        self._rows = np.repeat(firsts, lengths) + within
        self._right = np.repeat(right, lengths)
        self._before = self._rows < self._right
        ideal = np.cumsum(_DISCOUNTS)[np.minimum(np.array(relevant, np.int64), CUTOFF) - 1]
        self._shares = 1.0 / ideal[of_list] if len(right) else np.zeros(0)
        self._lists = len(sizes)
        self.values: list[float] = []

    def add(self, scores: NDArray[np.float32]) -> None:
        """Append the figure of scores of all rows, shape (n,)."""
        if not len(self._begins):
            self.values.append(0.0)
            return
        others, own = scores[self._rows], scores[self._right]
        above = (others > own) | ((others == own) & self._before)
        places = np.add.reduceat(above.astype(np.int64), self._begins)
        inside = places < CUTOFF
        gains = _DISCOUNTS[places[inside]] * self._shares[inside]
        self.values.append(float(gains.sum()) / self._lists)

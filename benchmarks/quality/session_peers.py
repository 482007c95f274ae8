"""Session-kNN with time and order: S-KNN, STAN and VSTAN, plain and from the papers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.peers import Lists, Peer, best, grid, visits_matrix
from benchmarks.quality.questions import Question, Trial

_LONGEST = 100
"""Latest items of a visit that a question starts from."""

_Weights = NDArray[np.float64]


class PastVisits:
    """Past visits to look for neighbours in.

    Attributes:
        lengths: different items of each visit, shape (visits,).
        ended: end of each visit as a share of the time that the visits span, shape (visits,).
        counts: visits that hold each item, shape (items,).
    """

    def __init__(self, trial: Trial) -> None:
        """Index the visits of a trial."""
        held = visits_matrix(trial)
        self.lengths = np.diff(held.indptr)
        by_item = held.tocsc()
        by_item.sort_indices()
        self._visits, self._bounds = by_item.indices, by_item.indptr
        self.counts = np.diff(self._bounds)
        self._first = min(trial.ended, default=0)
        self._span = max(max(trial.ended, default=0) - self._first, 1)
        self.ended = self.moment(np.array(trial.ended, np.float64))
        self._items = trial.items
        # The items of all visits one after the other, with their places.
        sizes = np.array([len(visit) for visit in trial.visits], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._flat = np.fromiter((item for visit in trial.visits for item in visit), np.int64)
        self._places = np.arange(len(self._flat)) - np.repeat(self._starts[:-1], sizes)

    def moment(self, at: _Weights | float) -> _Weights:
        """Convert a time to a share of the time that the visits span."""
        return np.asarray((np.asarray(at) - self._first) / self._span)

    def __len__(self) -> int:
        """Return the number of visits."""
        return len(self.lengths)

    def likeness(
        self, question: Question, weigh: Callable[[int], float]
    ) -> tuple[_Weights, NDArray[np.int64]]:
        """Sum the weights of shared items, by visit, and name the latest shared item.

        Args:
            question: its items are compared.
            weigh: weight of an item by its distance from the latest one.

        Returns:
            Sums, and item numbers (-1 for none); both of shape (visits,).
        """
        known = question.known[-_LONGEST:]
        sums = np.zeros(len(self))
        latest = np.full(len(self), -1, np.int64)
        place = {item: number for number, item in enumerate(known)}
        for item, number in sorted(place.items(), key=lambda entry: entry[1]):
            visits = self._visits[self._bounds[item] : self._bounds[item + 1]]
            sums[visits] += weigh(len(known) - 1 - number)
            latest[visits] = item
        return sums, latest

    def vote(
        self,
        visits: NDArray[np.intp],
        votes: _Weights,
        shared: NDArray[np.int64],
        reach: float | None,
    ) -> _Weights:
        """Sum votes for the items of some visits, shape (items,).

        Args:
            visits: their numbers.
            votes: weight of each.
            shared: an item of each, from which distances are counted.
            reach: distance at which a vote has fallen to 1/e; None: it does not fall.
        """
        sizes = self._starts[visits + 1] - self._starts[visits]
        which = np.repeat(np.arange(len(visits)), sizes)
        offsets = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = self._starts[visits][which] + offsets
        items, weights = self._flat[rows], votes[which]
        if reach is not None:
            places = self._places[rows]
            at = np.zeros(len(visits), np.int64)
            met = items == shared[which]
            np.maximum.at(at, which[met], places[met])
            weights = weights * np.exp(-np.abs(places - at[which]) / reach)
        return np.asarray(np.bincount(items, weights, self._items), np.float64)


def nearest(values: _Weights, count: int) -> NDArray[np.intp]:
    """Return the numbers of the greatest positive values, at most `count` of them."""
    positive = np.flatnonzero(values > 0)
    if len(positive) > count:
        order = np.argpartition(-values[positive], count)[:count]
        positive = np.sort(positive[order])
    return positive


def s_knn(trial: Trial, *, neighbours: int) -> Lists:
    """Session kNN: cosine of sets of items, and votes as large as the likeness.

    Jannach and Ludewig, "When recurrent neural networks meet the neighborhood for session-based
    recommendation" (RecSys 2017). All past visits are looked at, not a sample of recent ones.
    """
    past = PastVisits(trial)

    def votes(question: Question) -> _Weights:
        sums, latest = past.likeness(question, lambda distance: 1.0)
        alike = sums / np.sqrt(np.maximum(past.lengths, 1))
        near = nearest(alike, neighbours)
        return past.vote(near, alike[near], latest[near], None)

    return _ranked(trial, votes)


def stan(trial: Trial, *, neighbours: int, order: float, age: float, reach: float) -> Lists:
    """Sequence and time aware neighbourhood.

    Garg et al., "Sequence and time aware neighborhood for session-based recommendations: STAN"
    (SIGIR 2019).

    Args:
        trial: the questions.
        neighbours: number of visits that vote.
        order: distance from the latest item at which an item's weight has fallen to 1/e.
        age: age of a visit at which its weight has fallen to 1/e, as a share of the time that all
            past visits span, so that the same settings fit a week and a year.
        reach: distance from the shared item at which a vote has fallen to 1/e.
    """
    return vstan(
        trial, neighbours=neighbours, order=order, age=age, reach=reach, place=None, rare=0.0
    )


def vstan(
    trial: Trial,
    *,
    neighbours: int,
    order: float,
    age: float,
    reach: float,
    place: float | None,
    rare: float,
) -> Lists:
    """STAN with the weights of V-SKNN.

    Ludewig et al., "Empirical analysis of session-based recommendation algorithms" (User Modeling
    and User-Adapted Interaction 31, 2021).

    Args:
        trial: the questions.
        neighbours: see `stan`.
        order: see `stan`.
        age: see `stan`.
        reach: see `stan`.
        place: distance of the shared item from the latest one at which a vote has fallen to 1/e;
            None: it does not fall.
        rare: how much more a rare item counts: ``1 + rare * log(visits / visits with the item)``.
    """
    past = PastVisits(trial)
    rarity = 1.0 + rare * np.log(max(len(past), 1) / np.maximum(past.counts, 1))

    def votes(question: Question) -> _Weights:
        sums, latest = past.likeness(question, lambda distance: float(np.exp(-distance / order)))
        alike = sums / np.sqrt(np.maximum(past.lengths, 1))
        alike *= np.exp(-np.maximum(past.moment(question.at) - past.ended, 0.0) / age)
        near = nearest(alike, neighbours)
        weights = alike[near]
        if place is not None:
            known = question.known
            distance = {item: len(known) - 1 - number for number, item in enumerate(known)}
            away = np.array([distance[item] for item in latest[near].tolist()], np.float64)
            weights = weights * np.exp(-away / place)
        return np.asarray(past.vote(near, weights, latest[near], reach) * rarity)

    return _ranked(trial, votes)


def _ranked(trial: Trial, votes: Callable[[Question], _Weights]) -> Lists:
    return best(trial, lambda part: np.array([votes(it) for it in trial.questions[part]]))


S_KNN = Peer("s_knn", s_knn, grid(neighbours=(100, 500, 1_500)))
STAN = Peer(
    "stan",
    stan,
    grid(neighbours=(200, 1_000), order=(1.5, 4.0), age=(0.1, 10.0), reach=(4.0,)),
    uses_time=True,
)
VSTAN = Peer(
    "vstan",
    vstan,
    grid(
        neighbours=(200, 1_000),
        order=(2.0,),
        age=(0.1, 10.0),
        reach=(4.0,),
        place=(2.0,),
        rare=(0.0, 1.0),
    ),
    uses_time=True,
)

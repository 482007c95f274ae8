"""Scores of items by the learned neighbours of the items of a visit and a history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tactful.kernels.sparse_scores import Scores, begins, stable_order, sum_by_key
from tactful.util.checked_arrays import is_finite, is_partition, map_array, require, within

FADE = 0.9
"""Weight of an item of a visit, relative to the one after it."""

NEAREST = 3
"""Items of a visit that `NeighbourScores.next_three` counts."""

_NEAREST_SHARES = np.array([1.0 / (place + 1) for place in range(NEAREST)], np.float32)

_NEIGHBOURS = 500
_PART = 1 << 20
DOUBT = 5.0

_FIELDS: Mapping[str, type[np.generic]] = {
    "session_starts": np.int64,
    "session_items": np.int32,
    "visit_starts": np.int64,
    "visits": np.int32,
    "visit_places": np.int32,
}


_Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class VisitWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights by which past visits are compared with a visit, and vote for their items.

    With `fade` 1 and `distance_power` 0 it is S-KNN, with less of the one and more of the other
    V-SKNN (Ludewig and Jannach, "Evaluation of session-based recommendation algorithms", 2018).
    The defaults are those of indexes that do not say.
    """

    fade: _Share = 0.5  # weight of a shared item, relative to the one after it in this visit
    length_power: _Share = 0.25  # long visits are less alike by this power of their length
    age: _Share = 0.2  # part of a vote that is lost with each item after the newest shared one
    # votes fall by this power of the distance from the shared item
    distance_power: Annotated[float, Meta(ge=0.0, le=4.0)] = 1.5
    before: _Share = 0.3  # weight of what came before the shared item
    looks_back: Annotated[int, Meta(ge=1, le=100)] = 10  # newest items of the visit that count
    history: bool = False  # whether the history stands for a visit without items


@dataclass(frozen=True)
class NeighbourTable:
    """The strongest `k` neighbours of every item, best first."""

    items: NDArray[np.int32]  # neighbour rows, shape (n_items, k); -1 where there are fewer
    # their weights in (0, 1], shape (n_items, k); 0 where there are fewer
    weights: NDArray[np.float32]

    @classmethod
    def load(cls, directory: Path, name: str, count: int) -> NeighbourTable:
        """Map a table of `count` items; ModelError names a file that does not fit."""
        items = map_array(directory / f"{name}_items.npy", np.int32, 2)
        weights = map_array(path := directory / f"{name}_weights.npy", np.float32, 2)
        fits = len(items) == count and within(items, count, begin=-1)
        require(fits, directory / f"{name}_items.npy", "rows of items")
        fits = weights.shape == items.shape and is_finite(weights)
        require(fits and weights.min(initial=0.0) >= 0.0, path, "weights of neighbours")
        return cls(items, weights)


@dataclass(frozen=True)
class SessionNeighbours:
    """Past visits, and for each item its latest visits. No visit has a user.

    session_starts [0, 3, 5]   session_items [7, 2, 9, | 2, 7]   two visits
    visit_starts [..., 4, 6]   visits [..., | 0, 1]   visit_places [..., | 1, 0]   item 2
    """

    session_starts: NDArray[np.int64]  # start of each visit in `session_items`, shape (visits + 1,)
    session_items: NDArray[np.int32]  # item rows visit by visit, in the order of each visit
    visit_starts: NDArray[np.int64]  # start of each item in `visits`, shape (n_items + 1,)
    visits: NDArray[np.int32]  # the latest visits of each item
    # the place of the item in each of them, the last if it occurs twice
    visit_places: NDArray[np.int32]
    weights: VisitWeights = field(default_factory=VisitWeights)

    @classmethod
    def build(
        cls,
        session: NDArray[np.int64],  # visit number of each event, in time order
        item: NDArray[np.int64],  # item row of each event
        count: int,
        *,
        latest: int = 500,  # visits kept for each item
    ) -> SessionNeighbours:
        """Lay out past visits."""
        # Visits are numbered by their last event, so a higher number is a later visit.
        distinct, last = np.unique(session[::-1], return_index=True)
        rank = np.empty(len(distinct), np.int64)
        rank[np.argsort(-last, kind="stable")] = np.arange(len(distinct))
        number = rank[np.searchsorted(distinct, session)]
        order = np.argsort(number, kind="stable")
        number, items = number[order], item[order]
        sizes = np.bincount(number, minlength=len(distinct))
        starts = np.concatenate([[0], np.cumsum(sizes)])
        places = np.arange(len(items)) - starts[number]
        # By item, then visit, then place: of one item in one visit the last place is kept.
        by_item = np.lexsort((places, number, items))
        items_, number_, places_ = items[by_item], number[by_item], places[by_item]
        final = np.ones(len(items_), np.bool_)
        final[:-1] = (items_[1:] != items_[:-1]) | (number_[1:] != number_[:-1])
        items_, number_, places_ = items_[final], number_[final], places_[final]
        ends = np.cumsum(np.bincount(items_, minlength=count))
        recent = np.arange(len(items_)) >= ends[items_] - latest
        kept = np.bincount(items_[recent], minlength=count)
        return cls(
            session_starts=starts.astype(np.int64),
            session_items=items.astype(np.int32),
            visit_starts=np.concatenate([[0], np.cumsum(kept)]).astype(np.int64),
            visits=number_[recent].astype(np.int32),
            visit_places=places_[recent].astype(np.int32),
        )

    def _places_fit(self) -> bool:
        """Return whether each item is at its places in its visits; in parts, to save memory."""
        for begin in range(0, len(self.visits), _PART):
            part = slice(begin, begin + _PART)
            visits, places = self.visits[part], self.visit_places[part]
            at = self.session_starts.take(visits) + places
            numbers = np.arange(begin, begin + len(visits))
            items = np.searchsorted(self.visit_starts, numbers, side="right") - 1
            inside = (places >= 0) & (at < self.session_starts.take(visits + np.int64(1)))
            if not inside.all() or (self.session_items.take(at) != items).any():
                return False
        return True

    def scores(self, session: Sequence[int], *, neighbours: int = _NEIGHBOURS) -> Scores:
        """Score the items of the visits most like this one, at most `neighbours` visits.

        `session` has item rows, newest first; unknown rows are skipped.
        """
        distinct = list(dict.fromkeys(session))[: self.weights.looks_back]
        known = np.array([row for row in distinct if row < len(self.visit_starts) - 1], np.int64)
        starts = self.visit_starts[known]
        sizes = self.visit_starts[known + 1] - starts
        held = ranges(starts, sizes)
        if not len(held):
            return Scores.empty()
        shared = self.visits.take(held).astype(np.int64)
        places = self.visit_places.take(held)
        ages = np.repeat(np.arange(len(known)), sizes)
        fades = np.repeat(self.weights.fade ** np.arange(len(known)), sizes)
        # Of one visit's entries the first is that of the newest shared item.
        order = stable_order(shared)
        first = begins(shared.take(order))
        newest = order.take(np.flatnonzero(first))
        visits = shared.take(newest)
        lengths = self.session_starts[visits + 1] - self.session_starts[visits]
        damping, strengths = self._powers
        likeness = np.bincount(np.cumsum(first) - 1, fades.take(order)) / damping.take(lengths)
        if len(visits) > neighbours:
            chosen = np.argpartition(-likeness, neighbours)[:neighbours]
            visits, newest = visits[chosen], newest[chosen]
            lengths, likeness = lengths[chosen], likeness[chosen]
        votes = likeness * np.maximum(0.0, 1.0 - self.weights.age * ages.take(newest))
        starts = self.session_starts[visits]
        at = ranges(starts, lengths)
        distance = at - np.repeat(starts + places.take(newest), lengths)
        votes = strengths[distance] * np.repeat(votes, lengths)
        return Scores.summed(self.session_items.take(at), votes, len(self.visit_starts) - 1)

    @cached_property
    def _powers(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Damping by length of a visit, and strength of a vote by distance from the shared item.

        Both are tables: powers are slow. A negative distance counts from the end of a table.
        """
        longest = int(np.diff(self.session_starts).max(initial=1))
        after = np.arange(1.0, longest) ** -self.weights.distance_power
        strengths = np.concatenate([[0.0], after, self.weights.before * after[::-1]])
        return np.arange(longest + 1.0) ** self.weights.length_power, strengths

    def rows_beside(self, row: int, step: int) -> tuple[NDArray[np.int32], int]:
        """Return the rows `step` places after an item in its latest visits, and the visits' number.

        The item itself is left out; both are empty for an unknown item.
        """
        if row >= len(self.visit_starts) - 1:
            return self.session_items[:0], 0
        span = slice(int(self.visit_starts[row]), int(self.visit_starts[row + 1]))
        visits = self.visits[span]
        begins = self.session_starts[visits]
        places = begins + self.visit_places[span] + step
        inside = (places >= begins) & (places < self.session_starts[visits + 1])
        rows = self.session_items[places[inside]]
        return rows[rows != row], len(visits)

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the arrays to save, by name."""
        return {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def load(cls, directory: Path, count: int, weights: VisitWeights) -> SessionNeighbours:
        """Map the arrays of `count` items; ModelError names a file that does not fit."""
        arrays = {name: map_array(_path(directory, name), k) for name, k in _FIELDS.items()}
        made = cls(**arrays, weights=weights)
        visits = len(made.session_starts) - 1
        for name, starts, parts, held in (
            ("session_starts", made.session_starts, visits, made.session_items),
            ("visit_starts", made.visit_starts, count, made.visits),
        ):
            fits = parts >= 0 and is_partition(starts, parts, len(held))
            require(fits, _path(directory, name), "begin of each part")
        rows_fit = within(made.session_items, count)
        require(rows_fit, _path(directory, "session_items"), "rows of items")
        require(within(made.visits, visits), _path(directory, "visits"), "numbers of visits")
        fits = len(made.visit_places) == len(made.visits) and made._places_fit()
        require(fits, _path(directory, "visit_places"), "the place of the item in the visit")
        return made

    @classmethod
    def empty(cls) -> SessionNeighbours:
        """Make it without visits."""
        nothing = np.zeros(0, np.int64)
        return cls.build(nothing, nothing, 0)


def _path(directory: Path, name: str) -> Path:
    return directory / f"{name}.npy"


def ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers from each start on, one range after the other: [3, 9], [2, 1] -> 3 4 9."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - ends + sizes, sizes)


class NeighbourScores(NamedTuple):
    """Scores of all items, one `Scores` for each relation to the recent items."""

    next_last: Scores  # items that followed the last item
    next_three: Scores  # items that followed the last three items, nearer ones counting more
    next_session: Scores  # items that followed any item of the visit
    together_session: Scores  # items that were together with the items of the visit
    together_history: Scores  # items that were together with the items of the history
    together_last: Scores  # items that were together with the last item
    after_last: Scores  # share of visits in which an item came right after the last item
    after_second: Scores  # share of visits in which it came two places after the last item but one
    before_last: Scores  # share of visits in which it came right before the last item


_RELATIONS = len(NeighbourScores._fields)
_BESIDE = (("after_last", 0, 1), ("after_second", 1, 2), ("before_last", 0, -1))
"""Relation, place of the item it starts from, and distance in visits."""


class _Blend(NamedTuple):
    """Items whose neighbours count in the relations of one table, each with its share.

    For a visit of two items and a history of one, the relations 0 to 2 of `following` have:

        places    [0, 0, 1, 0, 1]               items by place in the visit and history
        shares    [[1], [1], [.5], [1], [.9]]
        relations [[0], [1], [1], [2], [2]]
    """

    places: NDArray[np.int64]
    shares: NDArray[np.float32]
    relations: NDArray[np.int64]


def score_neighbours(
    following: NeighbourTable,
    together: NeighbourTable,
    sessions: SessionNeighbours,
    recent: NDArray[np.int64],
    visited: int,
    count: int,
) -> NeighbourScores:
    """Sum the weights of the neighbours of recent items, in float64 and in their order.

    `recent` has the rows of the visit and then of the history, each newest first, `visited` of them
    in the visit; unknown rows count for nothing. `count` is the number of rows of the catalogue.
    """
    # All relations are summed at once, by keys of ``relation * count + row``.
    keys, weights = [], []
    for table, blend in zip((following, together), _blends(visited, len(recent)), strict=True):
        if len(table.items) and len(blend.places):
            table_keys, table_weights = _neighbour_keys(table, recent, blend, count)
            keys.append(table_keys)
            weights.append(table_weights)
    divisors = {}
    last = min(NEAREST, visited or len(recent))
    for name, place, step in _BESIDE:
        if place < last:
            relation = NeighbourScores._fields.index(name)
            rows, visits = sessions.rows_beside(int(recent[place]), step)
            keys.append(rows + np.int64(relation * count))
            weights.append(np.ones(len(rows), np.float32))
            divisors[relation] = np.float32(visits + DOUBT)
    if not keys:
        return NeighbourScores(*[Scores.empty()] * _RELATIONS)
    present, sums = sum_by_key(np.concatenate(keys), np.concatenate(weights))
    ends = np.searchsorted(present, count * np.arange(_RELATIONS + 1)).tolist()
    for relation, divisor in divisors.items():
        sums[ends[relation] : ends[relation + 1]] /= divisor
    return NeighbourScores._make(
        Scores(present[start:end] - relation * count, sums[start:end])
        for relation, (start, end) in enumerate(pairwise(ends))
    )


@lru_cache
def fading(count: int) -> NDArray[np.float32]:
    """Return the weights of the items of a visit, newest first; cached, so read-only."""
    counts = np.array([FADE**place for place in range(count)], np.float32)
    counts.flags.writeable = False
    return counts


def direction(vectors: NDArray[np.float32], rows: Sequence[int]) -> NDArray[np.float32]:
    """Return the unit vector of the faded sum of vectors, newest first; zero for a sum of zero."""
    if not len(rows):
        return np.zeros(vectors.shape[1], np.float32)
    total = fading(len(rows)) @ vectors
    norm = np.sqrt(total.dot(total))
    return total / norm if norm > 0 else total


@lru_cache(maxsize=1_024)
def _blends(visited: int, total: int) -> tuple[_Blend, _Blend]:
    """Lay out the relations of `following` and `together`, of a visit and then a history."""
    last = min(NEAREST, visited or total)
    fades = fading(total)
    return (
        _blend(
            (0, range(min(last, 1)), fades),
            (1, range(last), _NEAREST_SHARES),
            (2, range(visited), fades),
        ),
        _blend(
            (3, range(visited), fades),
            (4, range(visited, total), fades),
            (5, range(min(last, 1)), fades),
        ),
    )


def _blend(*parts: tuple[int, range, NDArray[np.float32]]) -> _Blend:
    """Join relations: number, places of its items, and shares by order."""
    sizes = [len(places) for _, places, _ in parts]
    return _Blend(
        np.concatenate([np.array(places, np.int64) for _, places, _ in parts]),
        np.concatenate([shares[: len(places)] for _, places, shares in parts])[:, None],
        np.repeat([number for number, _, _ in parts], sizes)[:, None],
    )


def _neighbour_keys(
    table: NeighbourTable, recent: NDArray[np.int64], blend: _Blend, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return keys (``relation * count + row``) and weights of the neighbours of recent items."""
    known = recent < len(table.items)
    sources = np.where(known, recent, 0)
    rows = table.items.take(sources, axis=0)
    rows[~known] = -1
    rows = rows.take(blend.places, axis=0)
    weights = table.weights.take(sources, axis=0).take(blend.places, axis=0)
    filled = np.flatnonzero(rows >= 0)
    keys = rows + blend.relations * count
    return keys.take(filled), (weights * blend.shares).take(filled)

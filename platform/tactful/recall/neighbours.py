"""Scores of items by the learned neighbours of the items of a visit and a history."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.kernels.sparse_scores import Scores, sum_by_key
from tactful.recall.index import NeighbourTable, RecallIndex, fading
from tactful.recall.session_knn import DOUBT

NEAREST = 3
"""Items of a visit that `NeighbourScores.next_three` counts."""

_NEAREST_SHARES = np.array([1.0 / (place + 1) for place in range(NEAREST)], np.float32)


class NeighbourScores(NamedTuple):
    """Scores of all items, one `Scores` for each relation to the recent items.

    Attributes:
        next_last: items that followed the last item.
        next_three: items that followed the last three items, nearer ones counting more.
        next_session: items that followed any item of the visit.
        together_session: items that were together with the items of the visit.
        together_history: items that were together with the items of the history.
        together_last: items that were together with the last item.
        after_last: share of visits in which an item came right after the last item.
        after_second: share of visits in which it came two places after the last item but one.
        before_last: share of visits in which it came right before the last item.
    """

    next_last: Scores
    next_three: Scores
    next_session: Scores
    together_session: Scores
    together_history: Scores
    together_last: Scores
    after_last: Scores
    after_second: Scores
    before_last: Scores


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
    index: RecallIndex, recent: NDArray[np.int64], visited: int, count: int
) -> NeighbourScores:
    """Sum the weights of the neighbours of recent items.

    Args:
        index: the learned tables.
        recent: rows of the visit and then of the history, each newest first; rows that the index
            does not have count for nothing.
        visited: number of rows of the visit.
        count: number of rows of the catalogue.

    Returns:
        Scores, summed in float64 in the order of `recent`.
    """
    # All relations are summed at once, by keys of ``relation * count + row``.
    keys, weights = [], []
    for table, blend in zip(
        (index.following, index.together), _blends(visited, len(recent)), strict=True
    ):
        if len(table.items) and len(blend.places):
            table_keys, table_weights = _neighbour_keys(table, recent, blend, count)
            keys.append(table_keys)
            weights.append(table_weights)
    divisors = {}
    last = min(NEAREST, visited or len(recent))
    for name, place, step in _BESIDE:
        if place < last:
            relation = NeighbourScores._fields.index(name)
            rows, visits = index.sessions.rows_beside(int(recent[place]), step)
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


@lru_cache(maxsize=1_024)
def _blends(visited: int, total: int) -> tuple[_Blend, _Blend]:
    """Lay out what counts in the relations of `following` and of `together`.

    Args:
        visited: number of items of the visit.
        total: number of items of the visit and the history.
    """
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
    """Look up the neighbours of recent items once, and weigh them for every relation.

    Returns:
        Keys (``relation * count + row``) and weights.
    """
    known = recent < len(table.items)
    sources = np.where(known, recent, 0)
    rows = table.items.take(sources, axis=0)
    rows[~known] = -1
    rows = rows.take(blend.places, axis=0)
    weights = table.weights.take(sources, axis=0).take(blend.places, axis=0)
    filled = np.flatnonzero(rows >= 0)
    keys = rows + blend.relations * count
    return keys.take(filled), (weights * blend.shares).take(filled)

"""What is known of the items around those of a visit and of a history, found in one go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.kernels.sparse_scores import Scores, sum_by_key
from tactful.recall.index import Neighbours, RecallIndex, fading
from tactful.recall.session_knn import DOUBT

_NEARER = np.array([1.0 / (place + 1) for place in range(3)], np.float32)
_LISTS = 9


class Neighbourhood(NamedTuple):
    """Lists of scores, as `tactful.recall.candidates.Candidates` has them under the same names.

    Attributes:
        best: the best allowed rows of ``next_three``, of ``next_session`` where it has more to say,
            of ``together_session`` and of ``together_history``; each list with its best first.
        sizes: how many rows each of these four lists has.
    """

    best: NDArray[np.int64]
    sizes: list[int]
    next_last: Scores
    next_three: Scores
    next_session: Scores
    together_session: Scores
    together_history: Scores
    together_last: Scores
    after_last: Scores
    after_second: Scores
    before_last: Scores


def neighbourhood(
    index: RecallIndex,
    recent: NDArray[np.int64],
    visited: int,
    *,
    allowed: NDArray[np.bool_],
    following: int,
    together: int,
) -> Neighbourhood:
    """Look around what somebody dealt with.

    Args:
        index: what was learned.
        recent: rows of the visit and then of the history, each newest first; those that the index
            does not know have nothing around them.
        visited: how many of them are of the visit.
        allowed: which rows may be among the best, shape (at least all rows of the index,).
        following: so many of the best of each list of what followed.
        together: so many of the best of each list of what was together.
    """
    last = min(len(_NEARER), visited or len(recent))
    fades = fading(len(recent))
    keys, values = _neighbour_keys(
        [
            (index.following, recent[:1], fades),
            (index.following, recent[:last], _NEARER),
            (index.following, recent[:visited], fades),
            (index.together, recent[:visited], fades),
            (index.together, recent[visited:], fades),
            (index.together, recent[:1], fades),
        ],
        size := len(allowed),
    )
    divisors = np.ones(_LISTS)
    for number, place, step in ((6, 0, 1), (7, 1, 2), (8, 0, -1)):
        if place < last:
            rows, visits = index.sessions.rows_beside(int(recent[place]), step)
            keys.append(rows + np.int64(number * size))
            values.append(np.ones(len(rows), np.float32))
            divisors[number] = visits + DOUBT
    every, sums = sum_by_key(np.concatenate(keys), np.concatenate(values))
    ends = np.searchsorted(every, size * np.arange(_LISTS + 1))
    sums = (sums / np.repeat(divisors, np.diff(ends))).astype(np.float32)
    every %= size
    lists = [
        Scores(every[start:end], sums[start:end])
        for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]
    more = following if visited > len(_NEARER) else 0
    best = []
    for scores, quota in zip(lists[1:5], (following, more, together, together), strict=True):
        order = scores.best() if quota else scores.rows[:0]
        best.append(order[allowed[order]][:quota])
    return Neighbourhood(np.concatenate(best), [len(rows) for rows in best], *lists)


def _neighbour_keys(
    lists: Sequence[tuple[Neighbours, NDArray[np.int64], NDArray[np.float32]]], size: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
    """Look up the neighbours of the items of several lists.

    Args:
        lists: neighbours, items, and the share of each item by its place.
        size: number of rows.

    Returns:
        By list, keys of neighbours (``number of the list * size + row``) and their weights.
    """
    keys, weights = [], []
    for number, (neighbours, items, shares) in enumerate(lists):
        known = items < len(neighbours.items)
        sources, shares = items[known], shares[: len(items)][known]
        rows = neighbours.items.take(sources, axis=0)
        there = rows >= 0
        keys.append(rows[there] + np.int64(number * size))
        weights.append((neighbours.weights.take(sources, axis=0) * shares[:, None])[there])
    return keys, weights

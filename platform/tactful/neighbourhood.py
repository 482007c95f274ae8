"""What is known of the items around those of a visit and of a history, found in one go."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.recall import RecallIndex, fading
from tactful.scores import Scores, kernels
from tactful.session_neighbours import DOUBT

_NEARER = np.array([1.0 / (place + 1) for place in range(3)], np.float32)
_NOTHING = Scores(np.zeros(0, np.int64), np.zeros(0, np.float32))


class Neighbourhood(NamedTuple):
    """Lists of scores, as `tactful.candidates.Candidates` has them under the same names.

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
    sessions = index.sessions
    more = following if visited > len(_NEARER) else 0
    quotas = (0, following, more, together, together, 0, 0, 0, 0)
    rows, values, ends, best, sizes = kernels().around(
        index.following.items,
        index.following.weights,
        index.together.items,
        index.together.weights,
        sessions.session_starts,
        sessions.session_items,
        sessions.visit_starts,
        sessions.visits,
        sessions.visit_places,
        recent,
        visited,
        fading(len(recent)),
        _NEARER,
        DOUBT,
        allowed,
        np.array(quotas, np.int64),
    )
    lists, start = [], 0
    for end in ends.tolist():
        lists.append(Scores(rows[start:end], values[start:end]) if end > start else _NOTHING)
        start = end
    return Neighbourhood(best, sizes[1:5].tolist(), *lists)

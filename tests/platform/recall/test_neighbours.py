"""Scores by neighbours: the same as those summed one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.neighbour_scores import beside, neighbour_scores
from tests.platform.shop import learned

from tactful.kernels.sparse_scores import Scores
from tactful.recall.index import empty_index
from tactful.recall.neighbours import FADE, NeighbourScores, score_neighbours

COUNT = 80


INDEX = learned(COUNT, neighbours=12)
# Two rows are unknown to the index.
rows = st.integers(0, COUNT + 1)


@given(st.lists(rows, max_size=20), st.lists(rows, max_size=30, unique=True), st.booleans())
@settings(deadline=None)
def test_scores_are_sums_by_hand(visit: list[int], history: list[int], nothing: bool) -> None:
    index = empty_index() if nothing else INDEX
    last = (visit or history)[:3]
    visit_shares = [FADE**place for place in range(len(visit))]
    wanted = {
        "next_last": neighbour_scores(index.following, last[:1], [1.0] * len(last[:1])),
        "next_three": neighbour_scores(index.following, last, [1.0, 1 / 2, 1 / 3][: len(last)]),
        "next_session": neighbour_scores(index.following, visit, visit_shares),
        "together_session": neighbour_scores(index.together, visit, visit_shares),
        "together_history": neighbour_scores(
            index.together, history, [FADE**place for place in range(len(history))]
        ),
        "together_last": neighbour_scores(index.together, last[:1], [1.0] * len(last[:1])),
        **{
            name: beside(index.sessions, last[place], step)
            for name, place, step in (
                ("after_last", 0, 1),
                ("after_second", 1, 2),
                ("before_last", 0, -1),
            )
            if place < len(last)
        },
    }

    tables = index.following, index.together, index.sessions
    recent = np.array([*visit, *history], np.int64)
    made = score_neighbours(*tables, recent, len(visit), COUNT + 2)

    for name in NeighbourScores._fields:
        scores, expected = getattr(made, name), wanted.get(name, Scores.empty())
        assert scores.rows.tolist() == expected.rows.tolist(), name
        assert scores.values.tobytes() == expected.values.tobytes(), name

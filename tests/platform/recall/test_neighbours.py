"""The neighbourhood of a visit and a history: the same as its lists one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.platform.neighbour_scores import beside, neighbour_scores
from tests.platform.shop import learned

from tactful.kernels.sparse_scores import Scores
from tactful.recall.index import FADE, empty_index
from tactful.recall.neighbours import neighbourhood

COUNT = 80


INDEX = learned(COUNT, neighbours=12)
# Two rows are unknown to the index.
rows = st.integers(0, COUNT + 1)


@given(
    st.lists(rows, max_size=20),
    st.lists(rows, max_size=30, unique=True),
    st.integers(0, 2**32),
    st.tuples(st.integers(0, 40), st.integers(0, 40)),
    st.booleans(),
)
@settings(deadline=None)
def test_a_neighbourhood_is_its_lists_one_by_one(
    visit: list[int], history: list[int], seed: int, quotas: tuple[int, int], nothing: bool
) -> None:
    index = empty_index() if nothing else INDEX
    allowed = np.random.default_rng(seed).random(COUNT + 2) < 0.7
    following, together = quotas
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

    found = neighbourhood(
        index,
        np.array([*visit, *history], np.int64),
        len(visit),
        allowed=allowed,
        following=following,
        together=together,
    )

    nobody = Scores(np.zeros(0, np.int64), np.zeros(0, np.float32))
    for name in found._fields[2:]:
        scores, expected = getattr(found, name), wanted.get(name, nobody)
        assert scores.rows.tolist() == expected.rows.tolist(), name
        assert scores.values.tobytes() == expected.values.tobytes(), name
    chosen = [
        _best(wanted["next_three"], allowed, following),
        _best(wanted["next_session"], allowed, following if len(visit) > 3 else 0),
        _best(wanted["together_session"], allowed, together),
        _best(wanted["together_history"], allowed, together),
    ]
    assert found.sizes == [len(each) for each in chosen]
    assert found.best.tolist() == [row for each in chosen for row in each]


def _best(scores: Scores, allowed: NDArray[np.bool_], quota: int) -> list[int]:
    return [row for row in scores.best().tolist() if allowed[row]][:quota]

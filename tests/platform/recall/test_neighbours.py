"""Scores by neighbours of items and of visits: the same as those summed one by one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.neighbour_scores import beside, neighbour_scores
from tests.platform.shop import learned

from tactful.kernels.sparse_scores import Scores
from tactful.recall.fit_blend import TRIED
from tactful.recall.index import empty_index
from tactful.recall.neighbours import (
    FADE,
    NeighbourScores,
    SessionNeighbours,
    VisitWeights,
    score_neighbours,
)

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


# Visits against the same thing written with dictionaries

ITEMS = 12
visits_of = st.lists(
    st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=8), min_size=0, max_size=30
)


def built(visits: list[list[int]], *, seed: int = 0, latest: int = 500) -> SessionNeighbours:
    """The events of all visits shuffled together, each visit's in order."""
    numbers = np.random.default_rng(seed).permutation(len(visits))
    events = [
        (number, item) for number, visit in zip(numbers, visits, strict=True) for item in visit
    ]
    session, item = np.array(events, np.int64).reshape(-1, 2).T
    return SessionNeighbours.build(session, item, ITEMS, latest=latest)


def by_hand(
    visits: list[list[int]], session: list[int], weights: VisitWeights, *, latest: int = 500
) -> dict[int, float]:
    asked = [item for item in list(dict.fromkeys(session))[: weights.looks_back] if item < ITEMS]
    found: dict[int, float] = defaultdict(float)
    usable = {
        item: {n for n in [n for n, visit in enumerate(visits) if item in visit][-latest:]}
        for item in asked
    }
    for number, visit in enumerate(visits):
        shared = [(age, item) for age, item in enumerate(asked) if number in usable[item]]
        if not shared:
            continue
        likeness = sum(weights.fade**age for age, _ in shared) / len(visit) ** weights.length_power
        age, item = shared[0]
        vote = likeness * max(0.0, 1 - weights.age * age)
        anchor = max(place for place, other in enumerate(visit) if other == item)
        for place, other in enumerate(visit):
            if place != anchor:
                distance = abs(place - anchor)
                after = vote * distance**-weights.distance_power
                found[other] += after * (1.0 if place > anchor else weights.before)
    return {row: value for row, value in found.items() if value > 0}


@given(
    visits_of,
    st.lists(st.integers(0, ITEMS + 2), max_size=14),
    st.integers(1, 6),
    st.sampled_from([VisitWeights(), *TRIED]),
)
@settings(max_examples=200, deadline=None)
def test_scores_by_hand(
    visits: list[list[int]], session: list[int], latest: int, weights: VisitWeights
) -> None:
    scores = replace(built(visits, latest=latest), weights=weights).scores(session)
    wanted = by_hand(visits, session, weights, latest=latest)
    assert scores.rows.tolist() == sorted(wanted)
    assert scores.values == pytest.approx([wanted[row] for row in sorted(wanted)], rel=1e-5)


def test_only_the_visits_most_like_this_one_vote() -> None:
    visits = [[0, 1, 2, 9], [0, 3], [0, 4], [0, 5]]
    scores = built(visits).scores([2, 1, 0], neighbours=1)
    assert set(scores.rows.tolist()) == {0, 1, 9}
    arrays: dict[str, Any] = {**built(visits).arrays()}
    again = SessionNeighbours(**arrays).scores([2, 1, 0], neighbours=1)
    assert np.array_equal(scores.values, again.values)


def test_visits_are_numbered_by_their_last_event() -> None:
    session, item = np.array([7, 3, 3, 7]), np.array([0, 0, 1, 2])
    made = SessionNeighbours.build(session, item, 3, latest=1)
    # Item 0 was in both visits; visit 7 went on longest, so it is the latest.
    assert set(made.scores([0]).rows.tolist()) == {2}


@given(visits_of, st.integers(0, ITEMS + 2), st.sampled_from([-2, -1, 1, 2, 3]), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_rows_beside_by_hand(visits: list[list[int]], row: int, step: int, latest: int) -> None:
    rows, visited = built(visits, latest=latest).rows_beside(row, step)
    expected = []
    held = [visit for visit in visits if row in visit][-latest:]
    for visit in held:
        place = max(place for place, other in enumerate(visit) if other == row) + step
        if 0 <= place < len(visit) and visit[place] != row:
            expected.append(visit[place])
    assert sorted(rows.tolist()) == sorted(expected)
    assert visited == len(held)


def test_nobody_has_no_neighbours() -> None:
    assert SessionNeighbours.empty().scores([0, 1]).rows.shape == (0,)
    rows, visits = SessionNeighbours.empty().rows_beside(0, 1)
    assert (len(rows), visits) == (0, 0)
    assert built([[0, 1]]).scores([]).rows.shape == (0,)
    assert built([[0, 1]]).scores([5, 99]).rows.shape == (0,)

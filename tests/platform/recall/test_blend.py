"""The blend of all evidence: its shares by hand, and what a history teaches of its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.shop import learned

from tactful.recall.blend import Blend, Blends, Own, gather_evidence, kinds, ordered, popular_shares
from tactful.recall.fit_blend import TRIED, _Asked, _calibrated, fit_blend
from tactful.recall.index import RecallIndex, build_index
from tactful.recall.neighbours import VisitWeights, score_neighbours
from tactful.recall.tables import Interactions, Tables, learn_tables

COUNT = 40
INDEX = learned(COUNT, neighbours=12)
rows_of = st.lists(st.integers(0, COUNT - 1), max_size=8, unique=True)
factors = st.floats(0.0, 4.0)


@given(rows_of, rows_of, st.dictionaries(st.integers(0, COUNT - 1), st.floats(0.1, 9.0)), factors)
@settings(deadline=None)
def test_scores_are_shares_by_hand(
    visit: list[int], history: list[int], amounts: dict[int, float], known: float
) -> None:
    blend = Blend(known=known, visited=0.25)
    recent = np.array([*visit, *history], np.int64)
    tables = INDEX.following, INDEX.together, INDEX.sessions
    neighbours = score_neighbours(*tables, recent, len(visit), COUNT)
    similar = INDEX.sessions.scores(visit or history)
    own = Own(np.array(visit, np.int64), np.array(history, np.int64), ordered(amounts))
    places = np.random.default_rng(1).permutation(COUNT).astype(np.int32)
    every = np.arange(COUNT)
    of = kinds(neighbours, similar, own)
    evidence = gather_evidence(every, of, own)
    found = evidence.score(blend, popular_shares(places, 30))
    weighed = (
        (blend.similar, similar),
        (blend.following, neighbours.next_three),
        (blend.after, neighbours.after_last),
        (blend.together, neighbours.together_session),
        (blend.together_history, neighbours.together_history),
        (blend.own, own.amounts),
    )
    for row in range(COUNT):
        total = 0.0
        if places[row] < 30:
            total = blend.popular / ((places[row] + 20) * math.log1p(30 / 20))
        for weight, scores in weighed:
            by_row = dict(zip(scores.rows.tolist(), scores.values.tolist(), strict=True))
            whole = sum(value for other, value in by_row.items() if other not in visit)
            if whole > 1e-6:
                total += weight * by_row.get(row, 0.0) / whole
        factor = 1.0
        if row in visit:
            factor = 0.25
        elif row in history or row in amounts:
            factor = known
        assert found[row] == pytest.approx(total * factor, rel=1e-3, abs=1e-6)
    some = every[::3]
    assert np.array_equal(gather_evidence(some, of, own).score(blend), evidence.score(blend)[::3])


def events(visits: Sequence[tuple[int, Sequence[int]]]) -> Interactions:
    """Events of visits, each with its person."""
    rows = [
        (number, item, 60_000 * number + place, person)
        for number, (person, items) in enumerate(visits)
        for place, item in enumerate(items)
    ]
    session, item, timestamp, person = np.array(rows, np.int64).T
    return Interactions(session, item, timestamp, person)


def fitted(seen: Interactions, count: int) -> tuple[VisitWeights, Blends]:
    return fit_blend(seen, lambda part: learn_tables(part, count, neighbours=30)[0], count)


@pytest.mark.parametrize("true", [(0.4, 0.1), (2.0, 0.5)], ids=str)
def test_factors_are_those_by_which_answers_were_drawn(true: tuple[float, float]) -> None:
    """Of 3,000 answers drawn by score times factor; beyond four standard errors fails."""
    generator = np.random.default_rng(4)
    table = np.zeros((3_000, 6, 30), np.float32)
    table[:, 0] = generator.exponential(size=(3_000, 30))
    standing = generator.integers(0, 3, (3_000, 30)).astype(np.int8)
    weights = table[:, 0] * np.array([1.0, *true])[standing]
    ends = np.cumsum(weights, axis=1)
    drawn = (ends < generator.random((3_000, 1)) * ends[:, -1:]).sum(axis=1)
    right = np.arange(30) == drawn[:, None]
    asked = _Asked(table, np.zeros((3_000, 30), np.float32), standing, right)
    found = _calibrated(asked, Blend(known=1.0, visited=1.0))
    assert (found.known, found.visited) == pytest.approx(true, rel=0.25)


@pytest.mark.slow
def test_order_counts_where_visits_have_one() -> None:
    """Items 0 to 59 stand in a circle, and every visit goes on from a place in it."""
    generator = np.random.default_rng(1)
    starts = generator.integers(0, 60, 300).tolist()
    visits = [(n, [(start + step) % 60 for step in range(8)]) for n, start in enumerate(starts)]
    weights, _ = fitted(events(visits), 60)
    assert weights == TRIED[0]


@pytest.mark.slow
def test_order_counts_nothing_where_visits_have_none() -> None:
    """A visit is about one group of items, in any order; popular ones come first."""
    generator = np.random.default_rng(2)
    shares = 1.0 / np.arange(1, 41)
    shares /= shares.sum()
    visits = [
        (n, [40 * (n % 5) + int(it) for it in generator.choice(40, 5, replace=False, p=shares)])
        for n in range(500)
    ]
    weights, _ = fitted(events(visits), 200)
    assert weights.distance_power == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(("again", "least", "most"), [(0.0, 0.0, 0.1), (0.9, 1.0, 99.0)])
def test_repeats_count_where_people_repeat(again: float, least: float, most: float) -> None:
    """A music service and a grocery: of the same visits, other things follow."""
    generator = np.random.default_rng(3)
    have: dict[int, list[int]] = {person: [] for person in range(30)}
    visits = []
    for _ in range(400):
        person = int(generator.integers(30))
        items: list[int] = []
        while len(items) < 4:
            old = [item for item in have[person] if item not in items]
            if old and generator.random() < again:
                items.append(int(generator.choice(old)))
            else:
                fresh = [i for i in range(300) if i not in have[person] and i not in items]
                items.append(int(generator.choice(fresh)))
        have[person] += [item for item in items if item not in have[person]]
        visits.append((person, items))
    _, blends = fitted(events(visits), 300)
    assert least <= blends.within.known <= most


def test_only_earlier_visits_teach() -> None:
    """A visit that is asked about must not vote for itself."""
    seen = events([(n % 7, [n % 11, (n * 3) % 11, (n * 5) % 11]) for n in range(300)])
    parts: list[Interactions] = []

    def learn(part: Interactions) -> Tables:
        parts.append(part)
        return learn_tables(part, 11, neighbours=5)[0]

    fit_blend(seen, learn, 11)
    (part,) = parts
    assert part.timestamp.max() < seen.timestamp[int(0.8 * len(seen.item))]


def test_few_visits_change_nothing() -> None:
    assert fitted(events([(n, [n % 5, (n + 1) % 5]) for n in range(40)]), 5) == (
        TRIED[0],
        Blends(),
    )
    nothing = np.zeros(0, np.int64)
    assert fitted(Interactions(nothing, nothing, nothing), 5) == (TRIED[0], Blends())


@pytest.mark.slow
def test_people_may_be_unknown() -> None:
    seen = events([(n, [n % 9, (n + 1) % 9, (n + 2) % 9]) for n in range(300)])
    assert fitted(replace(seen, person=None), 9) == fitted(replace(seen, person=None), 9)


def test_an_index_keeps_its_weights(tmp_path: Path) -> None:
    seen = events([(n % 7, [n % 11, (n * 3) % 11, (n * 5) % 11]) for n in range(300)])
    index = build_index([f"i{n}" for n in range(11)], seen)
    index.save(tmp_path / "index")
    again = RecallIndex.load(tmp_path / "index")
    assert (again.blends, again.sessions.weights) == (index.blends, index.sessions.weights)

"""Pairs of enough people against a plain count, and what a few people cannot change."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.errors import ModelError
from tactful.recall import common_pairs
from tactful.recall.common_pairs import CommonPairs
from tactful.recall.tables import Interactions
from tactful.util.checksummed_directory import sealing

ITEMS = 6
# Visits: the person, and of each event the item and whether it has the time of the one before.
VISIT = st.tuples(
    st.integers(-1, 4), st.lists(st.tuples(st.integers(0, ITEMS - 1), st.booleans()), max_size=6)
)
VISITS = st.lists(VISIT, max_size=14)
Visit = tuple[int, Sequence[tuple[int, bool]]]
Counts = dict[tuple[int, int], set[int]]


def interactions(visits: Sequence[Visit]) -> Interactions:
    """Return visits as columns; their events take turns."""
    rows = []
    for number, (person, events) in enumerate(visits):
        at = 0
        for place, (item, same) in enumerate(events):
            at += not same
            rows.append((place, number, item, at, person))
    rows.sort()
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    return Interactions(columns[1], columns[2], columns[3], columns[4])


def counted(visits: Sequence[Visit], least: int) -> tuple[dict[int, int], Counts, Counts]:
    """Return the people of common items, and those of pairs, the plain way."""
    takers: dict[int, set[int]] = defaultdict(set)
    for person, events in visits:
        for item, _ in events:
            if person >= 0:
                takers[item].add(person)
    common = {item: len(people) for item, people in takers.items() if len(people) >= least}
    together: Counts = defaultdict(set)
    following: Counts = defaultdict(set)
    for person, events in visits:
        if person < 0:
            continue
        timed, at = [], 0
        for item, same in events:
            at += not same
            if item in common:
                timed.append((item, at))
        for one, other in itertools.permutations({item for item, _ in timed}, 2):
            together[one, other].add(person)
        for (one, earlier), (other, later) in itertools.pairwise(timed):
            if one != other:
                following[one, other].add(person)
                if earlier == later:
                    following[other, one].add(person)
    return common, together, following


@settings(max_examples=300)
@given(visits=VISITS, least=st.integers(1, 4), more=st.integers(0, 2), at_once=st.integers(1, 40))
def test_pairs_are_those_of_a_plain_count(
    visits: list[Visit], least: int, more: int, at_once: int
) -> None:
    """Each person once for a pair, whatever the parts in which it is counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common_pairs, "_AT_ONCE", at_once)
        pairs = CommonPairs.learn(interactions(visits), ITEMS, least=least)
    asked = max(least, 2) + more
    common, together, following = counted(visits, max(least, 2))
    assert pairs.people.tolist() == [common.get(item, 0) for item in range(ITEMS)]
    for row in range(ITEMS):
        for scores, people in (
            (pairs.together_with(row, asked), together),
            (pairs.following_of(row, asked), following),
        ):
            expected = {
                other: len(who) / math.sqrt(common[row] * common[other])
                for (one, other), who in people.items()
                if one == row and len(who) >= asked
            }
            found = zip(scores.rows.tolist(), scores.values.tolist(), strict=True)
            assert dict(found) == pytest.approx(expected)


@settings(max_examples=200)
@given(visits=VISITS, least=st.integers(2, 4))
def test_alike_items_share_their_company(visits: list[Visit], least: int) -> None:
    pairs = CommonPairs.learn(interactions(visits), ITEMS, least=least)
    cosines = np.zeros((ITEMS, ITEMS))
    for row in range(ITEMS):
        scores = pairs.together_with(row, least)
        cosines[row, scores.rows] = scores.values
    for row in range(ITEMS):
        whole = (cosines[row] ** 2).sum()
        expected = np.minimum(cosines[row] @ cosines / whole, 1.0) if whole else np.zeros(ITEMS)
        assert pairs.alike(row, least).of(np.arange(ITEMS)) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=300)
@given(
    visits=VISITS,
    own=st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=5), max_size=3),
    least=st.integers(2, 4),
)
def test_a_person_among_few_changes_nothing(
    visits: list[Visit], own: list[list[int]], least: int
) -> None:
    """Visits of one more person leave the tables as they are, except for what many others did.

    An item or a pair changes only if `least` - 1 others took it.
    """
    person = 99
    before, with_them = (
        CommonPairs.learn(interactions(shown), ITEMS, least=least)
        for shown in (
            visits,
            [*visits, *((person, [(item, False) for item in visit]) for visit in own)],
        )
    )
    takers, together, following = counted(visits, 1)
    if all(takers.get(item, 0) < least - 1 for visit in own for item in visit):
        assert arrays(with_them) == arrays(before)
    for item in range(ITEMS):
        if takers.get(item, 0) < least - 1:
            assert with_them.people[item] == before.people[item] == 0
            assert not len(with_them.together_with(item, least).rows)
            assert not len(with_them.following_of(item, least).rows)
    for name, others in (("together_with", together), ("following_of", following)):
        for one in range(ITEMS):
            shown = {*getattr(with_them, name)(one, least).rows.tolist()}
            for other in range(ITEMS):
                # Adjacent ones may be apart for the plain count, by an item that is left out.
                if name == "together_with" and len(others[one, other]) < least - 1:
                    assert other not in shown


def arrays(pairs: CommonPairs) -> dict[str, list[int]]:
    """Return all numbers."""
    return {name: array.tolist() for name, array in pairs._arrays().items()}


def test_only_the_strongest_pairs_are_kept() -> None:
    visits: list[Visit] = [
        (person, [(0, False), (item, False)])
        for item in range(1, ITEMS)
        for person in range(2 + item)
    ]
    pairs = CommonPairs.learn(interactions(visits), ITEMS, least=2, most=2)
    scores = pairs.together_with(0, 2)
    # Of item 5 seven people, of item 4 six: the cosine with the seven people of item 0.
    assert scores.rows.tolist() == [4, 5]
    assert scores.values.tolist() == pytest.approx([6 / math.sqrt(42), 1.0])
    assert pairs.following_of(0, 2).ranked.tolist() == [5, 4]


def test_a_visit_of_more_than_500_items_makes_no_pairs() -> None:
    long: list[Visit] = [(person, [(item, False) for item in range(501)]) for person in range(3)]
    short: list[Visit] = [(person, [(0, False), (1, False)]) for person in range(2)]
    pairs = CommonPairs.learn(interactions([*long, *short]), 501, least=2)
    assert pairs.together_with(0, 2).rows.tolist() == [1]
    assert pairs.together.people.tolist() == [2, 2]


def test_without_people_there_are_no_pairs() -> None:
    """Of a history that names nobody, and of an empty one."""
    seen = interactions([(person, [(0, False), (1, False)]) for person in range(12)])
    unnamed = Interactions(seen.session, seen.item, seen.timestamp)
    for part in (unnamed, seen.part(0, 0)):
        pairs = CommonPairs.learn(part, 2, least=2)
        assert not pairs.people.any()
        assert not len(pairs.together_with(0, 2).rows)
        assert not len(pairs.alike(0, 2).rows)
    assert not len(CommonPairs.empty().together_with(3, 2).rows), "an item that came later"


def saved(directory: Path) -> CommonPairs:
    visits = [(person, [(item, False) for item in range(3)]) for person in range(4)]
    pairs = CommonPairs.learn(interactions(visits), ITEMS, least=2)
    with sealing(directory) as scratch:
        pairs.save(scratch)
    return pairs


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    pairs = saved(tmp_path / "pairs")
    loaded = CommonPairs.load(tmp_path / "pairs", ITEMS, 2)
    assert arrays(loaded) == arrays(pairs)
    for row in range(ITEMS):
        for asked in (2, 4, 5):
            one, other = (held.following_of(row, asked) for held in (pairs, loaded))
            assert one.rows.tolist() == other.rows.tolist()
            assert one.values.tolist() == other.values.tolist()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("people", lambda array: array[:-1]),
        ("people", lambda array: array * 0),
        ("people", lambda array: array * np.array([0, 1, 1, 1, 1, 1], np.int32)),
        ("people", lambda array: -array),
        ("together_starts", lambda array: array + 1),
        ("together_items", lambda array: array + ITEMS),
        ("together_items", lambda array: -array),
        ("following_people", lambda array: array * 0),
        ("following_people", lambda array: array.astype(np.int64)),
        ("following_items", lambda array: array[:-1]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, name: str, change: object) -> None:
    saved(tmp_path / "pairs")
    path = tmp_path / "pairs" / f"common_pairs_{name}.npy"
    assert callable(change)
    np.save(path, change(np.load(path)))
    with pytest.raises(ModelError, match="common_pairs"):
        CommonPairs.load(tmp_path / "pairs", ITEMS, 2)

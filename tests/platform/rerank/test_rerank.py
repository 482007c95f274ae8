"""Lists under diversity and placement rules, against brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tactful.rerank.diversity import Diversity, Likeness
from tactful.rerank.rerank import Arrangement, Bounds, Group, arrange

values_of = st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0, 7.0]), min_size=1, max_size=9)


def floats(values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def flags(of: list[bool]) -> NDArray[np.bool_]:
    return np.array(of, np.bool_)


# Diversity


def alike(one: int, other: int, vectors: NDArray[np.float32], category: NDArray[np.int32]) -> float:
    """How alike two items are, by the definition."""
    if vectors[one].any() and vectors[other].any():
        return min(max(float(vectors[one] @ vectors[other]), 0.0), 1.0)
    return float(category[one] == category[other] and category[one] >= 0)


@given(values_of, st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 1.0, 10.0]), st.data())
@settings(max_examples=100, deadline=None)
def test_mmr_by_hand(values: list[float], seed: int, strength: float, data: st.DataObject) -> None:
    generator, total = np.random.default_rng(seed), len(values)
    # Steps of a quarter: sums in another order are the same.
    vectors = np.float32(0.25) * generator.integers(-2, 3, (total, 3)).astype(np.float32)
    vectors[generator.random(total) < 0.3] = 0.0
    category = generator.integers(-1, 2, total).astype(np.int32)
    count, places = data.draw(st.integers(1, 10)), data.draw(st.integers(1, 10))
    likeness, diversity = Likeness(vectors, category), Diversity(strength, places)
    found = arrange(floats(values), count, diversity=diversity, likeness=likeness)
    chosen: list[int] = []
    while len(chosen) < min(count, total):
        best, best_worth = -1, -np.inf
        for item in range(total):
            if item in chosen:
                continue
            loss = max((alike(item, it, vectors, category) for it in chosen), default=0.0)
            worth = values[item] - (strength * loss if len(chosen) < places else 0.0)
            if worth > best_worth:
                best, best_worth = item, worth
        chosen.append(best)
    assert found.order.tolist() == chosen
    assert found.propensities is None
    assert found.short == ()


def test_a_near_duplicate_makes_room_and_none_is_lost() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], np.float32)
    category = np.array([0, 0, 1, 0], np.int32)
    worth = floats([3.0, 2.9, 2.0, 1.9])

    def order(strength: float) -> list[int]:
        likeness = Likeness(vectors, category)
        found = arrange(worth, 4, diversity=Diversity(strength), likeness=likeness)
        places: list[int] = found.order.tolist()
        return places

    assert order(0.0) == [0, 1, 2, 3]
    assert order(0.95) == [0, 2, 1, 3]
    assert order(100.0) == [0, 2, 1, 3], "negative worth is worth, too"


# Placement rules


def allowed(order: tuple[int, ...], bounds: Bounds) -> bool:
    """Whether a list breaks no rule that forbids."""
    for group in bounds.groups:
        inside = [bool(group.members[item]) for item in order]
        if group.most is not None and sum(inside[: group.within]) > group.most:
            return False
        if any(inside[: group.first]):
            return False
    return True


def fulfilled(order: tuple[int, ...], bounds: Bounds) -> bool:
    """Whether a list has all that is demanded of groups."""
    return all(
        sum(bool(group.members[item]) for item in order[: group.within]) >= group.least
        for group in bounds.groups
    )


def check_forbidden(found: Arrangement, bounds: Bounds, total: int) -> None:
    order = found.order.tolist()
    assert len(set(order)) == len(order)
    assert set(order) <= set(range(total))
    assert allowed(tuple(order), bounds)
    for group in bounds.groups:
        enough = group.members[order[: group.within]].sum() >= group.least
        assert enough or group.name in found.short


@given(
    st.lists(st.tuples(st.sampled_from([-2.0, 0.0, 1.0, 5.0]), st.integers(0, 2)), max_size=6),
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.integers(0, 3)), max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_demands_of_categories_are_met_where_possible(
    items: list[tuple[float, int]], count: int, demands: list[tuple[int, int, int]]
) -> None:
    """Demands are met whenever some list meets them."""
    kinds = np.array([kind for _, kind in items], np.int64)
    bounds = Bounds(
        groups=[
            Group(f"rule-{number}", kinds == kind, within=within, least=min(least, within))
            for number, (kind, within, least) in enumerate(demands)
        ]
    )
    found = arrange(floats([value for value, _ in items]), count, bounds=bounds)
    check_forbidden(found, bounds, len(items))
    length = min(count, len(items))
    assert len(found.order) == length
    possible = any(fulfilled(order, bounds) for order in permutations(range(len(items)), length))
    one_each = len({kind for kind, _, _ in demands}) == len(demands)
    if one_each:
        assert fulfilled(tuple(found.order.tolist()), bounds) == possible
        assert bool(found.short) != possible


@given(values_of, st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_what_is_forbidden_is_never_shown(values: list[float], count: int, seed: int) -> None:
    """Whatever overlaps, and whatever else is demanded or pinned."""
    generator, total = np.random.default_rng(seed), len(values)
    groups = []
    for number in range(int(generator.integers(0, 5))):
        kind, within = generator.integers(0, 3), int(generator.integers(1, 8))
        groups.append(
            Group(
                f"rule-{number}",
                flags((generator.random(total) < 0.5).tolist()),
                within=within if kind < 2 else 0,
                least=int(generator.integers(1, within + 1)) if kind == 0 else 0,
                most=int(generator.integers(0, within)) if kind == 1 else None,
                first=int(generator.integers(1, 5)) if kind == 2 else 0,
            )
        )
    pinned = generator.permutation(total)[: int(generator.integers(0, 3))].tolist()
    places = generator.permutation(8)[: len(pinned)].tolist()
    bounds = Bounds(
        groups=groups,
        pins={place: (f"pin-{place}", item) for place, item in zip(places, pinned, strict=True)},
    )
    found = arrange(floats(values), count, bounds=bounds)
    check_forbidden(found, bounds, total)
    order = found.order.tolist()
    for place, (name, item) in bounds.pins.items():
        assert len(order) <= place or order[place] == item or name in found.short
    if not groups:
        assert len(order) == min(count, total)


def test_rules_move_no_more_than_they_have_to() -> None:
    worth = floats([9, 8, 7, 6, 5, 4])
    last = flags([False] * 5 + [True])
    least = Group("least", last, within=4, least=1)
    assert arrange(worth, 6, bounds=Bounds([least])).order.tolist() == [0, 1, 2, 5, 3, 4]
    first = flags([True, True, False, False, False, False])
    most = Group("most", first, within=3, most=1)
    assert arrange(worth, 6, bounds=Bounds([most])).order.tolist() == [0, 2, 3, 1, 4, 5]
    later = Group("later", first, first=2)
    assert arrange(worth, 6, bounds=Bounds([later])).order.tolist() == [2, 3, 0, 1, 4, 5]
    pin = Bounds(pins={1: ("pin", 5)})
    assert arrange(worth, 4, bounds=pin).order.tolist() == [0, 5, 1, 2]
    assert arrange(worth, 1, bounds=pin).order.tolist() == [0]


def test_a_list_ends_where_nothing_may_stand() -> None:
    most = Group("most", flags([True] * 4), within=3, most=1)
    found = arrange(floats([4, 3, 2, 1]), 4, bounds=Bounds([most]))
    assert found.order.tolist() == [0]
    nothing = arrange(floats([]), 4, bounds=Bounds([], missing=("pin",)))
    assert (nothing.order.tolist(), nothing.short) == ([], ("pin",))


def test_an_item_that_fulfils_two_wishes_comes_first() -> None:
    """With one place for both, an item of only one of them would spoil it."""
    groups = [
        Group("tea", flags([False, True, True]), within=1, least=1),
        Group("spring", flags([False, False, True]), within=1, least=1),
    ]
    found = arrange(floats([3, 2, 1]), 3, bounds=Bounds(groups))
    assert found.order.tolist() == [2, 0, 1]
    assert found.short == ()

"""What people like somebody take: counted as defined, for groups only, gone after a few items."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.catalogue.request_context import RequestContext
from tactful.recall.cohorts import FEWEST_PEOPLE, KNOWN_ITEMS, Cohorts, coldness
from tactful.recall.index import RecallIndex, build_index
from tactful.recall.tables import Interactions

ITEMS = 12


def fit(
    people: list[dict[str, Any]], took: list[set[int]], *, most: int = 50, count: int = ITEMS
) -> Cohorts:
    pairs = [(who, it) for who, items in enumerate(took) for it in sorted(items)]
    # Twice the same item is one person who takes it.
    pairs += pairs[:3]
    columns = np.array(pairs, np.int64).reshape(-1, 2).T
    return Cohorts.fit(people, columns[0], columns[1], count, most=most)


people_of = st.lists(
    st.tuples(
        st.fixed_dictionaries(
            {},
            optional={
                "gender": st.sampled_from(["F", "M", ""]),
                "age": st.integers(10, 80) | st.none(),
                "member": st.booleans(),
                "likes": st.lists(st.sampled_from(["tea", "mugs"]), max_size=2),
                "consent.identity": st.booleans(),
            },
        ),
        st.sets(st.integers(0, ITEMS - 1), max_size=5),
    ),
    min_size=8,
    max_size=40,
)


@given(people_of)
@settings(max_examples=60, deadline=None)
def test_a_lift_is_the_one_of_its_definition(drawn: list[tuple[dict[str, Any], set[int]]]) -> None:
    people, took = [who for who, _ in drawn], [items for _, items in drawn]
    cohorts = fit(people, took)
    active = [(who, items) for who, items in drawn if items]
    if len(active) < FEWEST_PEOPLE:
        assert len(cohorts.items) == 0
        return

    def members(name: str, value: object) -> list[set[int]]:
        return [
            items
            for who, items in active
            if name in who and (value in who[name] if name == "likes" else who[name] == value)
        ]

    share = [sum(it in items for _, items in active) / len(active) for it in range(ITEMS)]
    assert np.allclose(cohorts.shares, share)
    for name, value, text in (
        ("gender", "F", "=F"),
        ("member", True, "yes"),
        ("likes", "tea", "=tea"),
    ):
        inside = members(name, value)
        number = cohorts.layout.values.get(name, {}).get(text)
        assert (number is not None) == (len(inside) >= FEWEST_PEOPLE), "no small cohorts"
        if number is None:
            continue
        told = dict(
            zip(cohorts.items[number].tolist(), cohorts.lifts[number].tolist(), strict=True)
        )
        for it in range(ITEMS):
            if share[it]:
                chance = (sum(it in items for items in inside) + 50 * share[it]) / (
                    len(inside) + 50
                )
                assert told[it] == pytest.approx(math.log(chance / share[it]), abs=1e-5)
            else:
                assert it not in told
    assert "consent.identity" not in cohorts.layout.values
    assert "" not in cohorts.layout.values.get("gender", {})


def test_ages_are_cut_into_bins_of_as_many_people() -> None:
    people = [{"age": 18 + number} for number in range(60)]
    cohorts = fit(people, [{number % ITEMS} for number in range(60)])
    assert len(cohorts.items) == 6
    assert [cohorts.of({"age": age}) for age in (-5, 18, 27, 28, 77, 200)] == [
        [0], [0], [0], [1], [5], [5],
    ]  # fmt: skip
    for odd in ("28", None, float("nan"), True, [28]):
        assert cohorts.of({"age": odd}) in ([], [1])
    assert cohorts.of({}) == []


def test_postcodes_are_no_cohorts() -> None:
    people = [{"zip": f"z{number % 70}", "kind": "k"} for number in range(1_400)]
    cohorts = fit(people, [{number % ITEMS} for number in range(1_400)])
    assert set(cohorts.layout.values) == {"kind"}


def test_cohorts_add_up_and_put_their_items_first() -> None:
    people = [{"gender": "FM"[n % 2], "job": "xy"[n // 2 % 2]} for n in range(80)]
    took = [{0} | ({1} if n % 2 else {2}) | ({3} if n // 2 % 2 else {4}) for n in range(80)]
    cohorts = fit(people, took)
    lift = cohorts.lift({"gender": "M", "job": "y"})
    one, other = cohorts.lift({"gender": "M"}), cohorts.lift({"job": "y"})
    assert lift is not None
    assert one is not None
    assert other is not None
    assert cohorts.expected(lift)[:3].tolist() == [0, 1, 3]
    rows = np.arange(ITEMS)
    assert np.allclose(lift.of(rows), one.of(rows) + other.of(rows), atol=1e-6)
    assert lift.of(rows)[[1, 3]].min() > 0 > lift.of(rows)[[2, 4]].max()
    assert lift.of(rows)[0] == pytest.approx(0.0, abs=1e-6)
    assert cohorts.lift({"gender": "other"}) is None


def test_what_is_kept_of_a_cohort_moves_most_people() -> None:
    people = [{"gender": "FM"[n % 2]} for n in range(80)]
    took = [{5} | ({1} if n % 2 else set()) | ({7} if n == 1 else set()) for n in range(80)]
    assert fit(people, took, most=1).items.tolist() == [[1], [1]]


def test_cohorts_come_back_with_the_index(tmp_path: Path) -> None:
    people = [{"gender": "FM"[n % 2], "age": n} for n in range(40)]
    cohorts = fit(people, [{n % ITEMS} for n in range(40)])
    nothing = np.zeros(0, np.int64)
    names = [f"i{number}" for number in range(ITEMS)]
    build_index(names, Interactions(nothing, nothing, nothing), cohorts=cohorts).save(
        tmp_path / "x"
    )
    again = RecallIndex.load(tmp_path / "x").cohorts
    assert again.layout == cohorts.layout
    for name, array in cohorts.arrays().items():
        assert np.array_equal(array, again.arrays()[name])
    assert again.of({"gender": "F", "age": 3}) == cohorts.of({"gender": "F", "age": 3}) != []


def test_behaviour_takes_over() -> None:
    def cold(session: list[int], history: list[int]) -> float:
        return coldness(RequestContext(at=0, user={}, session=session, history=history))

    assert cold([], []) == 1.0
    assert cold([1], []) == cold([], [1]) == cold([1, 1], [1]) == pytest.approx(0.8)
    assert cold([1, 2], [3, 4, 5]) == 0.0
    assert cold([*range(9)], []) == 0.0
    assert KNOWN_ITEMS == 5

"""Popularity: its order, what a filter leaves of it, and how it grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.platform.shop import definitions, learned

from tactful.catalogue.catalogue import Catalogue
from tactful.recall import popularity
from tactful.recall.blend import Blends, Window
from tactful.recall.index import empty_index
from tactful.recall.popularity import Popularity, popular_rows
from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.entity_table import NonZero

DAY = 86_400_000
COUNT = 60
INDEX = learned(COUNT)
# Two items came after the index was learned.
ITEMS = {it: Item(item_id=it, timestamp=0) for it in (*INDEX.item_ids, "new-a", "new-b")}
CATALOGUE = Catalogue(INDEX.item_ids, ITEMS)


def sold(*items: str) -> Engine:
    engine = Engine(definitions(), MemoryState())
    bought = partial(Event, type="purchase", timestamp=100 * DAY, user_id="u")
    for number, item in enumerate(items):
        engine.apply([(number, encode_entry(bought(event_id=str(number), item_id=item)))])
    return engine


def test_popular_is_what_is_sold_now_then_what_was_then_the_rest() -> None:
    engine = sold("new-b", "i05", "i05", "i02", "unknown", "i40")
    rows_of = popular_rows(engine, CATALOGUE, INDEX).rows.tolist()
    now = [CATALOGUE.item_ids[row] for row in rows_of[:4]]
    assert now == ["i05", "i02", "i40", "new-b"], "most first, ties by row"
    before = [row for row in INDEX.popular.tolist() if row not in rows_of[:4]]
    assert rows_of[4:-1] == before
    assert [CATALOGUE.item_ids[row] for row in rows_of[-1:]] == ["new-a"], "nobody took it yet"


def test_another_window_comes_first_and_a_month_after_it() -> None:
    """By hand: `i05` is taken often and long ago, `i02` once and now."""
    engine = Engine(definitions(), MemoryState())
    bought = partial(Event, type="purchase", user_id="u")
    for number, (item, day) in enumerate([*[("i05", 80)] * 5, ("i40", 80), ("i02", 100)]):
        event = bought(event_id=str(number), item_id=item, timestamp=day * DAY)
        engine.apply([(number, encode_entry(event))])
    windows: list[tuple[Window, list[str]]] = [
        ("now", ["i02", "i05", "i40"]),
        ("week", ["i02", "i05", "i40"]),
        ("month", ["i05", "i02", "i40"]),
    ]
    for window, wanted in windows:
        index = replace(INDEX, blends=Blends(popular=window))
        rows = popular_rows(engine, CATALOGUE, index).rows.tolist()
        assert [CATALOGUE.item_ids[row] for row in rows[:3]] == wanted, window


def test_the_whole_history_orders_before_the_sales_of_a_month() -> None:
    index = replace(INDEX, blends=Blends(popular="ever"))
    engine = sold("new-b", "i05", "i05", "i02", "unknown", "i40")
    rows = popular_rows(engine, CATALOGUE, index).rows.tolist()
    trained = index.popular.tolist()
    assert rows[: len(trained)] == trained
    left = [it for it in map(CATALOGUE.item_ids.__getitem__, rows[len(trained) :])]
    unknown = {"i02", "i05", "i40"} - {CATALOGUE.item_ids[row] for row in trained}
    assert set(left[: len(unknown) + 1]) == {"new-b", *unknown}, "by what is sold now"
    assert left[-1] == "new-a", "nobody took it yet"


def _split(amount: float) -> tuple[float, float]:
    """Divide an amount into what was taken and ten times as much that was only seen."""
    taken = math.trunc(amount)
    return float(taken), 10.0 * (amount - taken)


class Counted(Engine):
    """An engine that says of items what a table says."""

    def __init__(self, sold: Sequence[float]) -> None:
        super().__init__(definitions(), MemoryState())
        self._amounts = np.array([*map(_split, sold)]).reshape(-1, 2)

    def read_placed(
        self, entity: str, placing: Any, places: NDArray[np.int64], names: Any, at: int
    ) -> NDArray[np.float64]:
        assert (entity, names) == ("item", ("sold_28d", "seen_28d"))
        return self._amounts[places]


class Told:
    """A source that keeps nothing by place and says in parts which items were taken."""

    watermark = 0

    def __init__(self, sold: Sequence[float], part: int) -> None:
        """What `sold` says of each item, and of one that nobody knows; some come twice."""
        said = [(f"{row:02}", _split(each)) for row, each in enumerate(sold) if each]
        early = [(item_id, (2 * taken, 2 * seen)) for item_id, (taken, seen) in said[::3]]
        self._said = [*early, ("unknown", (3.0, 1.0)), *reversed(said)]
        self._part = part

    def read_nonzero(self, entity: str, name: str, at: int, start: int) -> NonZero:
        assert (entity, at) == ("item", 0)
        number = ("sold_28d", "seen_28d").index(name)
        said = [(item, parts[number]) for item, parts in self._said if parts[number]]
        some, end = said[start : start + self._part], start + self._part
        numbers = np.array([number for _, number in some], np.float64)
        following = end if end < len(said) else None
        return NonZero([item_id for item_id, _ in some], numbers, following)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, -0.0, 1.0, 2.0, 0.5, -1.0, -2.0]), st.booleans()),
        max_size=30,
    ),
    st.randoms(use_true_random=False),
    st.integers(1, 9),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_order(items: list[tuple[float, bool]], chance: Random, part: int, told: bool) -> None:
    sold, rows = [amount for amount, _ in items], [*range(len(items))]
    described = [
        Item(item_id=f"{row:02}", timestamp=0, available=available)
        for row, (_, available) in enumerate(items)
    ]
    catalogue = Catalogue([it.item_id for it in described], {it.item_id: it for it in described})
    before = chance.sample(rows, chance.randint(0, len(rows)))
    index = replace(empty_index(), popular=np.array(before, np.int32))
    place = {row: number for number, row in enumerate(before)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(popularity, "_PART", part)
        source: Any = Told(sold, part) if told else Counted(sold)
        found = popular_rows(source, catalogue, index)
    wanted = sorted(rows, key=lambda row: (-sold[row], place.get(row, len(rows)), row))
    wanted = [row for row in wanted if items[row][1]]
    assert found.rows.tolist() == wanted
    assert found.places_of(np.array(rows, np.int64)).tolist() == [
        wanted.index(row) if row in wanted else len(wanted) for row in rows
    ]


@given(
    st.lists(st.booleans(), max_size=8),
    st.lists(st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=5), max_size=5),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_growth(
    at_first: list[bool], batches: list[list[tuple[int, bool]]], told: bool
) -> None:
    """`told`: it is said which rows may have changed."""
    available = np.array(at_first, np.bool_)
    wanted = np.flatnonzero(available)[::-1].tolist()
    popular = Popularity.of(np.array(wanted, np.int64), len(available))
    older: list[tuple[Popularity, list[int], int]] = []
    for batch in batches:
        older.append((popular, list(wanted), len(available)))
        changed = {row if row < len(available) else len(available) + n: here
                   for n, (row, here) in enumerate(batch)}  # fmt: skip
        grown = np.zeros(max([len(available) - 1, *changed]) + 1, np.bool_)
        grown[: len(available)] = available
        available = grown
        for row, here in changed.items():
            available[row] = here
        wanted += [row for row in sorted(changed) if available[row] and row not in wanted]
        rows = np.array(sorted(changed), np.int64) if told else None
        popular = popular.grown(available, rows)
        for each, said, count in [*older, (popular, wanted, len(available))]:
            assert each.rows.tolist() == said
            places = {row: place for place, row in enumerate(said)}
            assert each.places_of(np.arange(count)).tolist() == [
                places.get(row, len(said)) for row in range(count)
            ]
            every = np.ones(count, np.bool_)
            assert each.first(every, 3).tolist() == said[:3]
            assert each.best(np.arange(count), 3).tolist() == said[:3]


@given(st.integers(1, 300), st.floats(0, 1), st.integers(0, 60), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_first_equals_a_scan(count: int, share: float, wanted: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    order = generator.permutation(count)[: int(0.9 * count)]
    allowed = generator.random(count) < share
    popular = Popularity.of(order, count)
    scan = [row for row in order.tolist() if allowed[row]][:wanted]
    assert popular.first(allowed, wanted).tolist() == scan
    grown = popular.grown(np.concatenate([np.ones(count, bool), [True, False]]))
    assert grown.rows[: len(order)].tolist() == order.tolist()
    assert sorted(grown.rows.tolist()) == list(range(count + 1))

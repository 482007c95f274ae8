"""Filters of items, against a plain evaluation item by item."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.catalogue import properties
from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.ids import ItemIds
from tactful.catalogue.item_filter import passing_rows
from tactful.catalogue.properties import MOST_PROPERTIES
from tactful.schemas.item_filter import ItemFilter, check_filter
from tactful.schemas.problems import ProblemError
from tactful_streaming.contract.log_entries import Item

SCALARS = st.sampled_from(["red", "blue", "1", "", 1, 2, 1.0, 2.5, -3, True, False])
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
NAMES = st.sampled_from(["colour", "size", "new"])
ITEMS = st.lists(
    st.builds(
        lambda number, category, price, values: Item(
            item_id=f"i{number}", timestamp=0, category=category, price=price, properties=values
        ),
        st.integers(0, 12),
        st.sampled_from([None, "a", "b"]),
        st.sampled_from([None, 0.0, 1.0, 2.5, 4.0]),
        st.dictionaries(NAMES, VALUES, max_size=3),
    ),
    max_size=15,
)


def conditions() -> st.SearchStrategy[ItemFilter]:
    field = st.one_of(NAMES, st.sampled_from(["category", "price", "item_id", "nothing"]))
    wanted = st.one_of(SCALARS, st.sampled_from(["a", "i1", "i2", 4.0]))
    leaf = st.one_of(
        st.builds(
            lambda field, values: ItemFilter(field=field, in_=tuple(values)),
            field,
            st.lists(wanted, max_size=3),
        ),
        st.builds(
            lambda field, least, most: ItemFilter(field=field, min=least, max=most),
            field,
            st.sampled_from([None, -5.0, 1.0, 2.5]),
            st.sampled_from([1.0, 2.5, 9.0]),
        ),
        st.builds(lambda field, known: ItemFilter(field=field, known=known), field, st.booleans()),
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.builds(lambda parts: ItemFilter(and_=tuple(parts)), st.lists(inner, min_size=1)),
            st.builds(lambda parts: ItemFilter(or_=tuple(parts)), st.lists(inner, min_size=1)),
            st.builds(lambda part: ItemFilter(not_=part), inner),
        ),
        max_leaves=5,
    )


def same(left: object, right: object) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def passes(condition: ItemFilter, item: Item) -> bool:
    """Evaluate a condition by its definition."""
    if not all(passes(part, item) for part in condition.and_):
        return False
    if condition.or_ and not any(passes(part, item) for part in condition.or_):
        return False
    if condition.not_ is not None and passes(condition.not_, item):
        return False
    if condition.field is None:
        return True
    own = {"category": item.category, "price": item.price, "item_id": item.item_id}
    value: Any = {**item.properties, **own}.get(condition.field)
    value = None if value == [] else value
    parts = value if isinstance(value, list) else [] if value is None else [value]
    wanted = condition.in_
    if wanted is not None and not any(same(part, value) for part in parts for value in wanted):
        return False
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if condition.min is not None and (number is None or number < condition.min):
        return False
    if condition.max is not None and (number is None or number > condition.max):
        return False
    return condition.known is None or condition.known == (value is not None)


def assert_equal(condition: ItemFilter, catalogue: Catalogue, items: dict[str, Item]) -> None:
    found = passing_rows(condition, catalogue)
    unknown = Item(item_id="", timestamp=0)
    wanted = []
    for item_id in catalogue.item_ids:
        described = items.get(item_id, msgspec.structs.replace(unknown, item_id=item_id))
        wanted.append(passes(condition, described))
    assert found.tolist() == wanted


@given(ITEMS, ITEMS, conditions(), st.booleans())
def test_a_filter_passes_the_items_that_its_definition_names(
    before: list[Item], after: list[Item], condition: ItemFilter, in_place: bool
) -> None:
    """At first, after changes, and after a move to the rows of another index."""
    known = ItemIds.of(["i3", "i1", "i9"])
    items = {item.item_id: item for item in before}
    catalogue = Catalogue(known, items)
    assert_equal(condition, catalogue, items)
    later = {item.item_id: item for item in after}
    items |= later
    changed = catalogue.updated(known, list(later.values()), in_place=in_place)
    assert changed is not None
    assert_equal(condition, changed, items)
    moved = changed.moved(["i9", "i4", "i1"])
    assert_equal(condition, moved, items)


def test_values_that_no_item_has_any_more_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(properties, "_SPARE", 3)
    none = ItemIds.of([])
    catalogue = Catalogue(none, {})
    for stock in range(100):
        item = Item(item_id="a", timestamp=stock, properties={"stock": stock})
        changed = catalogue.updated(none, [item], in_place=True)
        assert changed is not None
        catalogue = changed
        assert passing_rows(ItemFilter(field="stock", in_=(stock,)), catalogue).tolist() == [True]
        assert len(catalogue.properties._columns["stock"].values.values) <= 6


def test_further_properties_cannot_be_filtered_by() -> None:
    many: dict[str, Any] = {f"p{number:03d}": 1 for number in range(MOST_PROPERTIES + 5)}
    catalogue = Catalogue([], {"a": Item(item_id="a", timestamp=0, properties=many)})
    assert len(catalogue.properties.names) == MOST_PROPERTIES
    beyond = ItemFilter(field=f"p{MOST_PROPERTIES:03d}", known=True)
    assert not passing_rows(beyond, catalogue).any()


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("{}", "$.filter", "restricts nothing"),
        ('{"in": ["a"]}', "$.filter", "name the `field`"),
        ('{"and": [{"field": "a", "min": 1}, {"field": "b"}]}', "$.filter.and[1]", "needs `in`"),
        ('{"not": {"field": "a", "min": 2, "max": 1}}', "$.filter.not", "above"),
        ('{"not":' * 8 + '{"field": "a", "known": true}' + "}" * 8, "$.filter", "8 deep"),
        (
            '{"or": [' + ",".join(['{"field": "a", "known": true}'] * 64) + "]}",
            "$.filter",
            "at most 64",
        ),
    ],
)
def test_a_filter_that_means_nothing_is_refused(text: str, field: str, message: str) -> None:
    with pytest.raises(ProblemError, match=message) as refused:
        check_filter(msgspec.json.decode(text, type=ItemFilter))
    assert refused.value.problem(None).field == field


def test_columns_of_many_items_are_evaluated_at_once() -> None:
    items = {
        f"i{number}": Item(item_id=f"i{number}", timestamp=0, properties={"size": number % 50})
        for number in range(2_000)
    }
    catalogue = Catalogue([], items)
    narrow = ItemFilter(and_=(ItemFilter(field="size", min=48),))
    rows = np.flatnonzero(passing_rows(narrow, catalogue))
    wanted = {it for it, item in items.items() if item.properties["size"] in (48, 49)}
    assert {catalogue.item_ids[row] for row in rows.tolist()} == wanted

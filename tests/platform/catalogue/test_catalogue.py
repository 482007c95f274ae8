"""A catalogue that grows equals one laid out anew."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.catalogue.catalogue import Catalogue
from tactful_streaming.contract.log_entries import Item

names = st.sampled_from([f"i{number}" for number in range(20)])
items_of = st.lists(
    st.builds(
        lambda item_id, category, price, available, campaign: Item(
            item_id=item_id,
            timestamp=0,
            category=category,
            price=price,
            available=available,
            properties={"campaign": campaign} if campaign else {},
        ),
        names,
        st.sampled_from([None, "tea", "mugs"]),
        st.sampled_from([None, 1.0, 2.0]),
        st.booleans(),
        st.sampled_from(["", "spring"]),
    ),
    max_size=8,
)


def content(catalogue: Catalogue) -> dict[str, object]:
    """What a catalogue says of each item, without row and category numbers."""
    campaign = set(catalogue.in_campaign.tolist())
    return {
        item_id: (
            None if np.isnan(catalogue.price[row]) else float(catalogue.price[row]),
            None if catalogue.category[row] < 0 else catalogue.categories[catalogue.category[row]],
            bool(catalogue.available[row]),
            row in campaign,
        )
        for row, item_id in enumerate(catalogue.item_ids)
    }


@given(
    st.lists(names, unique=True, max_size=5),
    st.lists(items_of, max_size=6),
    st.booleans(),
    st.lists(st.booleans(), min_size=6, max_size=6),
)
@settings(max_examples=200, deadline=None)
def test_updates_equal_a_new_catalogue_and_move_no_row(
    known: list[str], batches: list[list[Item]], indexed: bool, in_place: list[bool]
) -> None:
    """`indexed`: the index gives every new item a row, as it does once there is a model."""
    items: dict[str, Item] = {}
    then: tuple[str, ...] = ()
    catalogue = Catalogue(known, items)
    for batch, here in zip(batches, in_place, strict=False):
        changed = {item.item_id: item for item in batch}
        items |= changed
        if indexed:
            then += tuple(it for it in changed if it not in known and it not in then)
        before, held, said = list(catalogue.item_ids), catalogue, content(catalogue)
        news = list(changed.values())
        updated = catalogue.updated(catalogue._ids, news, then=then, in_place=here)
        assert updated is not None
        catalogue = updated
        assert list(held.item_ids) == before
        if not here:
            assert content(held) == said, "what is copied stays as it was"
        assert list(catalogue.item_ids)[: len(before)] == before
        assert content(catalogue) == content(Catalogue(known, items, then=then))
        assert [*map(catalogue.rows.get, catalogue.item_ids)] == [*range(len(catalogue))]
        assert catalogue.rows.of_many(catalogue.item_ids) == [*range(len(catalogue))]
        assert catalogue.rows.get("nothing") is None
        assert len(catalogue) == len({*known, *then, *items})
        assert not catalogue.available.flags.writeable
        listed = list(catalogue.item_ids)
        assert catalogue.item_ids.of_rows(np.arange(len(catalogue))) == listed
        for start in range(-1, len(listed) + 1):
            for part in (slice(start, None), slice(start, -1), slice(start), slice(start, None, 2)):
                assert list(catalogue.item_ids[part]) == listed[part]


@given(
    st.lists(names, unique=True, max_size=5),
    st.lists(names, unique=True, max_size=9),
    st.lists(names, unique=True, max_size=4),
    st.lists(items_of, min_size=1, max_size=4),
    items_of,
)
@settings(max_examples=200, deadline=None)
def test_what_moves_to_another_index_equals_a_new_catalogue(
    known: list[str], other: list[str], then: list[str], batches: list[list[Item]], more: list[Item]
) -> None:
    items: dict[str, Item] = {}
    catalogue = Catalogue(known, items)
    for batch in batches:
        changed = {item.item_id: item for item in batch}
        items |= changed
        updated = catalogue.updated(catalogue._ids, list(changed.values()))
        assert updated is not None
        catalogue = updated
    before = content(catalogue)
    then = [item_id for item_id in then if item_id not in other]
    changed = {item.item_id: item for item in more}
    moved = catalogue.moved(other, list(changed.values()), then=then)
    anew = Catalogue(other, items | changed, then=then)
    assert list(moved.item_ids) == list(anew.item_ids)
    assert content(moved) == content(anew)
    assert np.array_equal(moved.described, anew.described)
    assert moved.rows.of_many(anew.item_ids) == [*range(len(anew))]
    assert not moved.available.flags.writeable
    assert content(catalogue) == before
    rows = np.arange(len(moved))
    assert [*moved.item_places.keys_at(rows)] == list(anew.item_ids)
    assert [*catalogue.item_places.keys_at(np.arange(len(before)))] == list(before)
    for name, number in catalogue.category_numbers.items():
        assert moved.category_places.place_of(name) == number, "categories keep their numbers"


def test_rows_that_would_move_are_refused() -> None:
    tea, mug = (Item(item_id=it, timestamp=0) for it in ("tea", "mug"))
    catalogue = Catalogue(["a"], {"tea": tea})
    # The index comes to know the mug first: the tea can no longer be row 1.
    assert catalogue.updated(catalogue._ids, [mug], then=("mug",)) is None
    assert catalogue.updated(catalogue._ids, [mug], then=("mug", "tea")) is None
    followed = catalogue.updated(catalogue._ids, [mug], then=("tea", "mug"))
    assert followed is not None
    assert list(followed.item_ids) == ["a", "tea", "mug"]
    merged = followed.updated(["a", "tea"], [], then=("mug",))
    assert merged is not None
    assert list(merged.item_ids) == ["a", "tea", "mug"]
    assert merged.item_ids[1:3] == ("tea", "mug")
    assert merged.item_ids[-1] == "mug"


def test_only_what_was_asked_for_is_cached() -> None:
    known = [f"k{number}" for number in range(10)]
    items = [Item(item_id=item_id, timestamp=1, price=2.0) for item_id in [*known, "new"]]
    updated = Catalogue(known, {}).updated(known, items)
    assert updated is not None
    assert updated.price.tolist() == [2.0] * 11
    assert updated.rows._cached == {}
    assert [*map(updated.rows.get, ("k3", "new", "none"))] == [3, 10, None]
    assert updated.rows._cached == {"k3": 3, "new": 10}


def test_many_rows_are_those_of_one_by_one() -> None:
    known = [f"k{number}" for number in range(60)]
    before = Catalogue(known, {})
    after = before.updated(known, [Item(item_id="new", timestamp=1)])
    assert after is not None
    asked = ["k3", "new", "none", *known, "k3"]
    assert before.rows._cached is after.rows._cached
    for _ in range(2):  # looked up, then remembered
        for catalogue in (after, before):
            wanted = [catalogue.rows.get(item_id) for item_id in asked]
            assert catalogue.rows.of_many(asked) == wanted
            catalogue.rows._cached.clear()
            assert catalogue.rows.of_many(iter(asked)) == wanted
    assert after.rows.of_many(["new"]) == [60]
    assert before.rows.of_many(["new"]) == [None], "a catalogue never changes"
    assert after.rows._cached == {item_id: row for row, item_id in enumerate(known)} | {"new": 60}


def test_an_update_in_place_costs_what_changed() -> None:
    known = [f"k{number}" for number in range(1_000)]
    catalogue = Catalogue(known, {})
    first = catalogue.updated(known, [Item(item_id="a", timestamp=1, price=1.0)], in_place=True)
    assert first is not None
    moved = first.moved([*known[1:], known[0]])
    second = moved.updated(moved._ids, [Item(item_id="c", timestamp=1, price=3.0)], in_place=True)
    assert second is not None
    then = first.updated(first._ids, [Item(item_id="b", timestamp=1, price=2.0)], in_place=True)
    assert then is not None
    for name in ("price", "category", "available", "described", "margin", "released", "campaign"):
        for one, other in ((catalogue, first), (first, then), (moved, second)):
            assert np.shares_memory(getattr(one, name), getattr(other, name)), name
    assert (len(first), len(then)) == (1_001, 1_002)
    assert np.isnan(first.price).sum() == 1_000

"""Filters against the same question asked item by item."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext
from tactful.recall.candidates import allowed_rows
from tactful.schemas.recommendations import RecommendRequest
from tactful_streaming.contract.log_entries import Item

IDS = [f"i{number}" for number in range(24)]
names = st.sampled_from([*IDS, "gone"])
prices = st.none() | st.sampled_from([0.0, 1.0, 2.5, 9.99, 10.0])

catalogues = st.lists(
    st.builds(
        lambda item_id, category, price, available: Item(
            item_id=item_id, timestamp=0, category=category, price=price, available=available
        ),
        st.sampled_from(IDS),
        st.sampled_from([None, "tea", "mugs", "books"]),
        prices,
        st.booleans(),
    ),
    unique_by=lambda item: item.item_id,
    max_size=24,
).map(lambda items: (items, Catalogue(IDS[:10], {item.item_id: item for item in items})))

filters = st.builds(
    RecommendRequest,
    category=st.sampled_from([None, "tea", "mugs", "none"]),
    min_price=prices,
    max_price=prices,
    exclude=st.lists(names, max_size=4).map(tuple),
    exclude_seen=st.booleans(),
    exclude_taken=st.booleans(),
)


@given(catalogues, filters, st.data())
@settings(max_examples=120, deadline=None)
def test_any_filter(
    shop: tuple[list[Item], Catalogue], which: RecommendRequest, data: st.DataObject
) -> None:
    items, catalogue = shop
    any_row = st.integers(0, len(catalogue) - 1)
    taken: Mapping[str, Mapping[str, float]] = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                name: st.dictionaries(names, st.just(1.0), max_size=3)
                for name in ("taken_last", "taken_364d")
            },
        )
    )
    context = RequestContext(
        at=0,
        user=taken,
        session=data.draw(st.lists(any_row, max_size=3)),
        history=data.draw(st.lists(any_row, max_size=3)),
    )

    passing = allowed_rows(which, catalogue, context)

    described = {item.item_id: item for item in items}
    took = {item for group in taken.values() for item in group}
    for row, item_id in enumerate(catalogue.item_ids):
        item = described.get(item_id)
        wanted = (
            item is not None
            and item.available
            and which.category in (None, item.category)
            and (
                which.min_price is None
                or (item.price is not None and item.price >= which.min_price)
            )
            and (
                which.max_price is None
                or (item.price is not None and item.price <= which.max_price)
            )
            and item_id not in which.exclude
            and not (which.exclude_seen and (row in context.session or row in context.history))
            and not ((which.exclude_seen or which.exclude_taken) and item_id in took)
        )
        # Prices are kept in single precision.
        if item is None or item.price != 9.99:
            assert bool(passing[row]) == wanted, item_id
    assert not passing.flags.writeable


def test_without_a_filter_nothing_is_copied() -> None:
    catalogue = Catalogue(["a"], {"a": Item(item_id="a", timestamp=0)})
    nobody = RequestContext(at=0, user={}, session=[0], history=[])
    assert allowed_rows(RecommendRequest(), catalogue, nobody) is catalogue.available
    seen = allowed_rows(RecommendRequest(exclude_seen=True), catalogue, nobody)
    assert np.array_equal(seen, [False])

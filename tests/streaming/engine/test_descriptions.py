"""Versions of items against sorted lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_streaming.contract.log_entries import Item
from tactful_streaming.engine.descriptions import ItemVersions
from tactful_streaming.errors import StateError


@given(
    st.lists(st.tuples(st.sampled_from("ij"), st.integers(0, 20)), max_size=12),
    st.integers(1, 5),
    st.integers(-1, 21),
)
def test_a_version_is_the_newest_not_younger_than_the_event(
    updates: list[tuple[str, int]], limit: int, at: int
) -> None:
    versions = ItemVersions(limit)
    items = [
        Item(item_id=item, timestamp=timestamp, price=float(number))
        for number, (item, timestamp) in enumerate(updates)
    ]
    kept: dict[str, list[Item]] = {}
    for item in items:
        versions.add(item)
        # Stable: among equal timestamps the later arrival is newer.
        mine = sorted([*kept.get(item.item_id, []), item], key=lambda i: i.timestamp)
        kept[item.item_id] = mine[-limit:]
    restored = ItemVersions(limit)
    for key in "ij":
        restored.unpack(key, versions.pack(key))
        visible = [item for item in kept.get(key, []) if item.timestamp <= at]
        expected = visible[-1] if visible else None
        assert versions.at(key, at) == restored.at(key, at) == expected
    assert versions.lookup(["i", None, "j"], [at] * 3) == [
        versions.at("i", at),
        None,
        versions.at("j", at),
    ]


def test_damaged_versions_are_refused() -> None:
    with pytest.raises(StateError, match="versions"):
        ItemVersions().unpack("i", b"\xc1")


def test_eight_versions_are_stored() -> None:
    versions = ItemVersions()
    for time in range(1, 10):
        versions.add(Item(item_id="i", timestamp=time))
    found = [versions.at("i", time) for time in range(1, 10)]
    assert [item and item.timestamp for item in found] == [None, *range(2, 10)]

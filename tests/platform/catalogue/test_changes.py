"""Items as they change: each once, again when it changed, and from any place on."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.catalogue.changes import ChangeList, EngineItems
from tactful_streaming.contract.log_entries import Item, decode_entry

changes = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=12)


@dataclass
class Source:
    """As much of an engine as a feed reads."""

    items: dict[str, Item] = field(default_factory=dict)
    items_version: int = 0

    def put(self, number: int) -> None:
        self.items_version += 1
        item_id = f"i{number}"
        self.items[item_id] = Item(item_id=item_id, timestamp=self.items_version)

    def items_since(self, version: int) -> list[Item]:
        return [item for item in self.items.values() if item.timestamp > version]


@given(changes)
@settings(deadline=None)
def test_a_feed_gives_what_changed_and_nothing_twice(batches: list[list[int]]) -> None:
    source = Source()
    feed = EngineItems(source)  # type: ignore[arg-type]
    for batch in batches:
        for number in batch:
            source.put(number)
        given_ = feed.changes()
        assert {item.item_id for item in given_} == {f"i{number}" for number in batch}
        assert all(source.items[item.item_id] is item for item in given_)
        assert not feed.changes()
    feed = EngineItems(source)  # type: ignore[arg-type]
    assert {item.item_id: item for item in feed.changes()} == source.items


@given(changes, st.integers(0, 12), st.booleans())
@settings(deadline=None)
def test_readers_get_all_items(batches: list[list[int]], late: int, compacted: bool) -> None:
    source = Source()
    listed = ChangeList(source, compact_above=0 if compacted else 10_000)  # type: ignore[arg-type]
    held: dict[str, Item] = {}
    epoch = start = 0
    for number, batch in enumerate([*batches, []]):
        for item in batch:
            source.put(item)
        listed.look(None)
        assert number != 0 or not listed.read(epoch, start)[2], "nothing is told unpublished"
        listed.publish()
        if number >= late or number == len(batches):
            while True:
                epoch, start, encoded = listed.read(epoch, start)
                if not encoded:
                    break
                for payload in encoded:
                    item_ = decode_entry(payload)
                    assert isinstance(item_, Item)
                    held[item_.item_id] = item_
    assert held == source.items

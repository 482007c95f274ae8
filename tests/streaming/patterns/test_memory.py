"""Memory of sequences, joins and the catalogue, which no limit bounds.

The bounds are those of ``docs/how-to/operate.md``.
"""

import gc
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from tests.alone import alone
from tests.streaming.streams import engine_of, event_of

from tactful_streaming.contract.log_entries import Entry, Event, Item, encode_entry
from tactful_streaming.definitions.reader import load_definitions as load

START = 1_700_000_000_000
COUNT = 1_500

SEQUENCE = "- {name: s, entity: user, sequence: [view, add_to_cart, purchase], within: 30d}\n"
JOIN = "- {name: j, entity: user, join: {event: view, with: item_updates, within: 1h}}\n"
LAST = "- {name: l, entity: user, event: x.none, aggregate: last_time}\n"


def event(number: int, type_: str = "view") -> Event:
    event_id, user, item = f"e-{type_}-{number:08}", f"user-{number:08}", f"item-{number:08}"
    return event_of(event_id, type_, START + number, user, item_id=item)


def views(count: int) -> list[Entry]:
    return [event(number) for number in range(count)]


def carts(count: int) -> list[Entry]:
    return [event(n, type_) for n in range(count) for type_ in ("view", "add_to_cart")]


def items(count: int) -> list[Entry]:
    return [
        Item(item_id=f"item-{n:08}", timestamp=START, title=f"A thing {n}", category="c", price=n)
        for n in range(count)
    ]


def taken(definitions: str, entries: Sequence[Entry]) -> int:
    """Bytes that an engine holds for committed entries."""
    engine = engine_of(load(definitions), dedupe_days=0, memory_bytes=1 << 30)
    # The store of a real engine is on disk.
    engine._state.store.write = lambda changes: None  # type: ignore[method-assign]
    records = [(offset, encode_entry(entry)) for offset, entry in enumerate(entries)]
    engine.apply(records[:1])
    engine.commit()
    gc.collect()
    tracemalloc.start()
    try:
        for start in range(1, len(records), 100):  # so that what grows by a share grows often
            engine.apply(records[start : start + 100])
        engine.commit()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return kept


def sizes(definitions: str, made: Callable[[int], list[Entry]]) -> list[int]:
    return [taken(definitions, made(count)) for count in (COUNT, COUNT, 2 * COUNT)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("definitions", "made", "most"),
    [
        pytest.param(SEQUENCE, views, 400, id="a partial match of one event"),
        pytest.param(SEQUENCE, carts, 1_000, id="a partial match of several events"),
        pytest.param(JOIN, views, 1_000, id="an event that waits in a join"),
        pytest.param(LAST, items, 500, id="an item"),
    ],
)
def test_memory_without_a_limit(
    definitions: str, made: Callable[[int], list[Entry]], most: int
) -> None:
    # The difference of two sizes leaves out fixed parts; the first run also fills caches.
    _, once, twice = alone(sizes, definitions, made)
    assert most / 4 < (twice - once) / COUNT < most

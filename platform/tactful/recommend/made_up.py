"""Features of a person who does not exist, computed by an engine of their own in memory.

The engine has the definitions of the server and gets the events as the log would have them, so that
a made-up person is read like a real one. No event of theirs reaches the server's engine.
"""

from __future__ import annotations

from collections.abc import Iterator

from tactful.catalogue.request_context import FeatureSource
from tactful.schemas.trials import MadeUpPerson, PastEvent
from tactful_streaming.contract.log_entries import Entry, Event, User, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

MADE_UP = "a made-up person"
"""User id of every made-up person."""


def made_up_engine(shop: FeatureSource, person: MadeUpPerson, at: int) -> Engine:
    """Compute the features of a made-up person at a time, epoch milliseconds.

    `shop` gives the definitions and the descriptions of the items; hold its lock.
    """
    engine = Engine(shop.definitions, MemoryState())
    entries = _entries(shop, person, at)
    engine.apply([(offset, encode_entry(entry)) for offset, entry in enumerate(entries)])
    return engine


def _entries(shop: FeatureSource, person: MadeUpPerson, at: int) -> Iterator[Entry]:
    """Yield the log of one person: descriptions first, then the events in their order."""
    events = sorted(person.events, key=lambda event: -event.seconds_ago)
    begin = _time_of(events[0], at) if events else at
    ids = dict.fromkeys(event.item_id for event in events if event.item_id is not None)
    items = {item_id: shop.items[item_id] for item_id in ids if item_id in shop.items}
    yield from items.values()
    if person.properties:
        yield User(user_id=MADE_UP, timestamp=begin, properties=person.properties)
    for number, event in enumerate(events):
        item = items.get(event.item_id or "")
        known = {} if item is None or item.price is None else {"price": item.price}
        yield Event(
            event_id=str(number),
            type=event.type,
            timestamp=_time_of(event, at),
            user_id=MADE_UP,
            item_id=event.item_id,
            properties={**known, **event.properties},
        )


def _time_of(event: PastEvent, at: int) -> int:
    return max(at - round(event.seconds_ago * 1000), 0)

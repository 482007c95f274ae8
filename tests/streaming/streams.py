"""Random streams as a shop sends them: out of order, late, repeated, incomplete."""

import functools
import random
from collections.abc import Sequence
from typing import Any

from tactful_streaming.contract.log_entries import Event, Item, User, encode_entry
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.state.store import MemoryState, StateStore

START = 1_700_000_000_000

DEFINITIONS = """
- {name: count, entity: user, event: view, aggregate: count, window: {size: 5m, slide: 1m}}
- {name: decayed, entity: user, event: [view, click], aggregate: count,
   window: {size: 10m, slide: 1m, decay: 0.8}}
- {name: spend, entity: user, event: purchase, aggregate: sum, of: properties.price,
   window: {size: 30m, slide: 10m, decay: 0.7}}
- {name: tumbling, entity: user, event: [purchase, x.gift], aggregate: sum, of: properties.price,
   window: {size: 10m}}
- {name: categories, entity: user, event: [view, purchase], aggregate: count, group_by: category,
   window: {size: 20m, slide: 5m, decay: 0.9}}
- {name: item_spend, entity: user, event: [view, purchase], aggregate: sum, of: properties.price,
   group_by: item_id, max_groups: 3, window: {size: 20m, slide: 5m, decay: 0.9}}
- {name: colours, entity: item, event: click, aggregate: count, group_by: properties.colour,
   window: {size: 1h}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: visit, entity: session, event: view, aggregate: last_n, of: item_id, n: 5,
   window: {size: 3m}}
- {name: visit_views, entity: session, event: view, aggregate: count, window: {size: 8m, slide: 1m}}
- {name: last_view, entity: user, event: view, aggregate: last_time}
- {name: last_views, entity: user, event: view, aggregate: last_time, group_by: item_id,
   max_groups: 4}
- {name: item_views, entity: item, event: view, aggregate: count,
   window: {size: 10m, slide: 1m, decay: 0.5}}
- {name: item_prices, entity: item, event: [view, purchase], aggregate: sum, of: properties.price,
   window: {size: 7m, slide: 1m, decay: 0.9}}
- {name: category_views, entity: category, event: view, aggregate: count,
   window: {size: 1h, slide: 1m}}
- {name: shoppers, entity: category, event: purchase, aggregate: count, group_by: user_id,
   window: {size: 1h, slide: 20m}}
"""


@functools.cache
def definitions() -> Definitions:
    return load_definitions(DEFINITIONS)


def engine_of(chosen: Definitions, store: StateStore | None = None, **options: Any) -> Engine:
    """Return an engine with these options, in memory unless a store is given."""
    return Engine(chosen, MemoryState() if store is None else store, EngineOptions(**options))


def event_of(
    event_id: str, type_: str, timestamp: int, user_id: str | None = None, **more: Any
) -> Event:
    return Event(event_id=event_id, type=type_, timestamp=timestamp, user_id=user_id, **more)


def random_entries(seed: int, count: int) -> list[Event | Item | User]:
    rng = random.Random(seed)
    now = START
    entries: list[Event | Item | User] = []
    for number in range(count):
        now += rng.randrange(0, 4000) if rng.random() < 0.99 else rng.randrange(0, 900_000)
        if rng.random() < 0.03:
            entries.append(
                Item(item_id=f"i{rng.randrange(20)}", timestamp=now, category=rng.choice("xyz"))
            )
        elif rng.random() < 0.01:
            entries.append(User(user_id=f"u{rng.randrange(20)}", timestamp=now))
        elif entries and rng.random() < 0.05:
            entries.append(rng.choice(entries[-200:]))
        else:
            entries.append(_random_event(rng, number, now))
    return entries


def records(entries: Sequence[Event | Item | User]) -> list[tuple[int, bytes]]:
    return [(offset, encode_entry(entry)) for offset, entry in enumerate(entries)]


def _random_event(rng: random.Random, number: int, now: int) -> Event:
    late = rng.random() < 0.1
    delay = rng.randrange(3_000_000) if late else int(rng.expovariate(1 / 20_000))
    properties: dict[str, str | int | float | bool | None] = {}
    if rng.random() < 0.8:
        price: list[str | int | float | bool | None]
        price = [rng.random() * 10, rng.randrange(9), -rng.random(), "3", True, None]
        properties["price"] = rng.choices(price, [5, 5, 1, 1, 1, 1])[0]
    if rng.random() < 0.5:
        properties["category"] = rng.choice("abc")
    if rng.random() < 0.5:
        colours: list[str | int | float] = ["red", "blue", 7, 0.5]
        properties["colour"] = rng.choice(colours)
    return Event(
        event_id=str(number),
        type=rng.choice(["view", "view", "click", "purchase", "x.gift", "leave"]),
        timestamp=now - delay,
        user_id=f"u{rng.randrange(30)}" if rng.random() < 0.8 else None,
        device_id=f"d{rng.randrange(10)}",
        session_id=f"s{rng.randrange(40) + now // 600_000}" if rng.random() < 0.7 else None,
        item_id=f"i{rng.randrange(20)}" if rng.random() < 0.9 else None,
        properties={**properties},
    )

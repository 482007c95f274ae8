"""Random streams for the gate: disordered, late, repeated, with updates."""

import random
from collections.abc import Sequence

from msgspec.structs import replace
from tests.streaming.random_definitions import TYPES

from tactful_streaming.contract.log_entries import Entry, Event, Item, Tick

START = 1_700_000_000_000
_COLOURS: list[str | int] = ["red", "blue", 'o\'brien | "x"', 7]


def random_stream(seed: int, count: int) -> list[Entry]:
    """So many entries of one partition, in the order of the log.

    A few users, 12 items, 3 categories. An event is up to some seconds out of order; one in
    ten is later than that, up to twenty minutes. Some have a time of receipt, and some of these
    are of devices whose clocks are up to five minutes fast. In two of three streams times are whole
    seconds or multiples of five, or a millisecond beside: events meet the ends of windows and of
    waits.
    """
    rng, clocks = random.Random(seed), random.Random(seed + 1)
    grid, people = rng.choice([1, 1000, 5000]), rng.choice([4, 12])
    now = START + rng.randrange(10_000_000)
    entries: list[Entry] = []
    for number in range(count):
        now += _pause(rng)
        kind = rng.random()
        if kind < 0.06:
            entries.append(_item(rng, now, grid))
        elif kind < 0.10 and entries:
            entries.append(rng.choice(entries[-100:]))
        elif kind < 0.11:
            entries.append(Tick(timestamp=now - now % grid))
        else:
            event = _event(rng, f"e{number}", now, grid, people)
            entries.append(_received(clocks, event, now) if seed % 3 else event)
    return entries


def with_items_in_order(entries: Sequence[Entry]) -> list[Entry]:
    """The log with the updates of each item in order of time, each once."""
    updates: dict[str, list[Item]] = {}
    for entry in entries:
        if isinstance(entry, Item):
            updates.setdefault(entry.item_id, []).append(entry)
    for of_item in updates.values():
        of_item.sort(key=lambda item: item.timestamp, reverse=True)
    return [updates[e.item_id].pop() if isinstance(e, Item) else e for e in entries]


def with_end(entries: Sequence[Entry], after_ms: int = 10 * 86_400_000) -> list[Entry]:
    """The entries, and a tick so late that every window and every timer ends."""
    newest = max((entry.timestamp for entry in entries), default=START)
    return [*entries, Tick(timestamp=newest + after_ms)]


def _pause(rng: random.Random) -> int:
    chance = rng.random()
    if chance < 0.3:
        return 0
    if chance < 0.99:
        return rng.randrange(3000)
    return rng.randrange(600_000)


def _event(rng: random.Random, event_id: str, now: int, grid: int, people: int) -> Event:
    delay = rng.choice([0, 0, rng.randrange(4000), int(rng.expovariate(1 / 10_000))])
    if rng.random() < 0.1:
        delay = rng.randrange(1_200_000)
    timestamp = now - delay
    timestamp -= timestamp % (60_000 if rng.random() < 0.1 else grid)
    if grid > 1:
        timestamp += rng.choice([0, 0, 0, -1, 1])
    properties: dict[str, str | int | float | bool | None] = {}
    if rng.random() < 0.85:
        prices: list[str | int | float | bool | None]
        prices = [rng.random() * 10, rng.randrange(9), -rng.random(), 0, "3", True, None]
        properties["price"] = rng.choices(prices, [6, 6, 1, 1, 1, 1, 1])[0]
    if rng.random() < 0.7:
        properties["quantity"] = rng.randrange(1, 6)
    if rng.random() < 0.5:
        properties["category"] = rng.choice("abc")
    if rng.random() < 0.6:
        properties["colour"] = rng.choice([*_COLOURS, 0.5, None])
    known = rng.random() < 0.8
    return Event(
        event_id=event_id,
        type=rng.choice(TYPES),
        timestamp=timestamp,
        user_id=f"u{rng.randrange(people)}" if known else None,
        device_id=None if known and rng.random() < 0.5 else f"d{rng.randrange(3)}",
        session_id=f"s{rng.randrange(8)}" if rng.random() < 0.7 else None,
        item_id=f"i{rng.randrange(12)}" if rng.random() < 0.9 else None,
        properties={**properties},
    )


def _received(rng: random.Random, event: Event, now: int) -> Event:
    ahead = rng.randrange(300_000) if rng.random() < 0.1 else 0
    received = now if rng.random() < 0.8 else None
    timestamp = event.timestamp + ahead if received else event.timestamp
    return replace(event, timestamp=timestamp, received_at=received)


def _item(rng: random.Random, now: int, grid: int) -> Item:
    now -= rng.choice([0, rng.randrange(20_000), rng.randrange(600_000)])
    return Item(
        item_id=f"i{rng.randrange(12)}",
        timestamp=now - now % grid,
        title=rng.choice([None, "one", "two"]),
        category=rng.choice(["a", "b", "c", None]),
        price=rng.choice([None, 1.5, 2.0, round(rng.random() * 10, 2)]),
        available=rng.random() < 0.8,
        properties={"weight": rng.choice([1, 2.5, "heavy", None])},
    )

"""Random streams for the gate: disordered, late, repeated, in bursts and silences, with updates."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.streaming.random_definitions import TYPES

from tactful_streaming import Entry, Event, Item, Tick

START = 1_700_000_000_000
_COLOURS: list[str | int] = ["red", "blue", 'o\'brien | "x"', 7]


def random_stream(
    seed: int, count: int, *, repeats: bool = True, ticks: bool = True
) -> list[Entry]:
    """So many entries of one partition, in the order of the log.

    Some 15 people, 12 items, 3 categories. An event is up to some seconds out of order; one in ten
    is later than that, up to twenty minutes. Times fall on whole seconds and minutes more often
    than by chance, because that is where windows end.
    """
    rng = random.Random(seed)
    now = START + rng.randrange(10_000_000)
    entries: list[Entry] = []
    for number in range(count):
        now += _pause(rng)
        kind = rng.random()
        if kind < 0.06:
            entries.append(_item(rng, now))
        elif kind < 0.10 and entries and repeats:
            entries.append(rng.choice(entries[-100:]))
        elif kind < 0.11 and ticks:
            entries.append(Tick(timestamp=now))
        else:
            entries.append(_event(rng, f"e{number}", now))
    return entries


def with_end(entries: Sequence[Entry], after_ms: int = 10 * 86_400_000) -> list[Entry]:
    """The entries, and a tick so much later that every window ends and every wait is over."""
    newest = max((entry.timestamp for entry in entries), default=START)
    return [*entries, Tick(timestamp=newest + after_ms)]


def _pause(rng: random.Random) -> int:
    chance = rng.random()
    if chance < 0.3:
        return 0
    if chance < 0.985:
        return rng.randrange(3000)
    return rng.randrange(600_000)


def _event(rng: random.Random, event_id: str, now: int) -> Event:
    delay = rng.choice([0, 0, rng.randrange(4000), int(rng.expovariate(1 / 10_000))])
    if rng.random() < 0.1:
        delay = rng.randrange(1_200_000)
    timestamp = now - delay
    chance = rng.random()
    if chance < 0.1:
        timestamp -= timestamp % 60_000
    elif chance < 0.3:
        timestamp -= timestamp % 1000
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
        user_id=f"u{rng.randrange(12)}" if known else None,
        device_id=None if known and rng.random() < 0.5 else f"d{rng.randrange(3)}",
        session_id=f"s{rng.randrange(8)}" if rng.random() < 0.7 else None,
        item_id=f"i{rng.randrange(12)}" if rng.random() < 0.9 else None,
        properties={**properties},
    )


def _item(rng: random.Random, now: int) -> Item:
    return Item(
        item_id=f"i{rng.randrange(12)}",
        timestamp=now - rng.choice([0, rng.randrange(20_000), rng.randrange(600_000)]),
        title=rng.choice([None, "one", "two"]),
        category=rng.choice(["a", "b", "c", None]),
        price=rng.choice([None, 1.5, 2.0, round(rng.random() * 10, 2)]),
        available=rng.random() < 0.8,
        properties={"weight": rng.choice([1, 2.5, "heavy", None])},
    )

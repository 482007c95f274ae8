"""Reads by place, or of all entities, equal reads by key."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.errors import EngineError
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows import column_cache
from tactful_streaming.windows import entity_table as entities
from tactful_streaming.windows.column_cache import RowCache
from tactful_streaming.windows.columns import Selection
from tactful_streaming.windows.entity_table import EntityTable

MINUTE = 60_000
START = 1_700_000_000_000
TEXT = """
- {name: n5, entity: item, event: view, aggregate: count, window: {size: 5m, slide: 1m}}
- {name: n20, entity: item, event: view, aggregate: count, window: {size: 20m, slide: 1m}}
"""
FEATURES = load_definitions(TEXT).features
NAMES = [feature.name for feature in FEATURES]
KEYS = [f"i{number}" for number in range(12)]


class Growing:
    """The first of `KEYS`, a growing number; counts look-ups."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked = 0

    def keys_at(self, places: NDArray[np.int64]) -> Sequence[str]:
        self.asked += len(places)
        return [KEYS[place] for place in places.tolist()]

    def place_of(self, key: str) -> int | None:
        place = KEYS.index(key)
        return place if place < self.size else None


def feed(table: EntityTable, keys: Sequence[str], time: int, watermark: int) -> None:
    timestamps = np.full(len(keys), time)
    rows = table.touch(keys, timestamps)
    before = np.full(len(keys), watermark, np.int64)
    for number in range(len(table.aggregates)):
        table.apply(number, Selection(rows, timestamps, before, None, None))


def wrong(table: EntityTable, placing: Growing, places: NDArray[np.int64], at: int) -> int:
    found = table.read_placed(placing, places, NAMES, at)
    keys = [KEYS[place] for place in places.tolist()]
    wanted = [[table.read(key, at)[name] for name in NAMES] for key in keys]
    return int((found != np.array(wanted, np.float64).reshape(found.shape)).sum())


def nonzero(table: EntityTable, name: str, at: int) -> dict[str, float]:
    """All numbers that are not 0, read in pages."""
    found: dict[str, float] = {}
    start: int | None = 0
    while start is not None:
        part = table.read_nonzero(name, at, start)
        assert part is not None
        assert not found.keys() & set(part.keys), "no entity comes twice without changes"
        found |= zip(part.keys, part.numbers.tolist(), strict=True)
        start = part.following
    return found


def live(seed: int, *, spills: bool = False, rounds: int = 60) -> int:
    """Run events, time, merges, new keys and reads in any order; count wrong reads."""
    rng = random.Random(seed)
    stored: dict[str, bytes | None] = {}
    load = (lambda keys: [stored.get(key) for key in keys]) if spills else None
    table = EntityTable(FEATURES, load, capacity=2)
    placings = [Growing(rng.randrange(len(KEYS))) for _ in range(2)]
    now = START
    bad = 0
    for _ in range(rounds):
        what = rng.random()
        if what < 0.35:
            feed(table, rng.choices(KEYS, k=rng.randrange(1, 4)), now, now - 10 * MINUTE)
        elif what < 0.5:
            now += rng.choice([1_000, MINUTE, 40 * MINUTE])
            table.expire(now - 10 * MINUTE)
        elif what < 0.55:
            table.merge(*rng.sample(KEYS, 2))
        elif what < 0.6:
            table.detach(rng.choice(KEYS))
        elif what < 0.65 and spills:
            stored |= table.pack_changes(now - 10 * MINUTE)
            table.shrink(0)
        else:
            placing = rng.choice(placings)
            placing.size = rng.randrange(placing.size, len(KEYS) + 1)
            places = np.array(rng.choices(range(placing.size or 1), k=rng.randrange(5)), np.int64)
            bad += wrong(table, placing, places[places < placing.size], now)
            if not spills:
                read = {key: table.read(key, now) for key in KEYS}
                for name in NAMES:
                    some = {key: values[name] for key, values in read.items() if values[name]}
                    bad += nonzero(table, name, now) != some
    return bad


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.booleans())
def test_a_place_reads_what_its_key_reads(seed: int, spills: bool) -> None:
    assert live(seed, spills=spills) == 0


@pytest.mark.parametrize(
    ("module", "name", "size"),
    [(column_cache, "_MOST_MOVED", 3), *((entities, "_ROWS_AT_ONCE", size) for size in (1, 2, 5))],
)
def test_small_pages_and_many_moves_change_nothing(
    module: Any, name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, size)
    assert sum(map(live, range(20))) == 0


def test_a_move_without_a_note_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowCache, "moved", lambda self, keys: None)
    assert sum(map(live, range(20))) > 0


def test_no_page_while_entities_may_be_in_the_store_alone() -> None:
    table = EntityTable(FEATURES, lambda keys: [None for _ in keys])
    feed(table, KEYS[:3], START, START)
    assert table.read_nonzero("n5", START, 0) is None


def test_an_engine_reads_defined_features_only() -> None:
    engine = Engine(load_definitions(TEXT), MemoryState())
    nothing = engine.read_nonzero("item", "n5", START)
    assert nothing is not None and (nothing.keys, nothing.following) == ([], None)
    with pytest.raises(EngineError, match="n6"):
        engine.read_nonzero("item", "n6", START)
    with pytest.raises(EngineError, match="category"):
        engine.read_nonzero("category", "n5", START)
    engine = Engine(load_definitions(TEXT.replace("item", "user")), MemoryState())
    with pytest.raises(EngineError, match="by place"):
        engine.read_placed("user", Growing(1), np.zeros(1, np.int64), ["n5"], START)


def test_keys_are_looked_up_once() -> None:
    table, placing = EntityTable(FEATURES), Growing(len(KEYS))
    everything = np.arange(len(KEYS))
    feed(table, KEYS[:3], START, START)
    for _ in range(3):
        assert table.read_placed(placing, everything, NAMES, START)[:, 0].sum() == 3
    feed(table, [KEYS[3], KEYS[0]], START, START)
    assert table.read_placed(placing, everything, NAMES, START)[:, 0].sum() == 5
    assert placing.asked == len(KEYS) + 1

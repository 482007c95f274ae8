"""Reads by column, by place, or of all entities, equal reads by key."""

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
from tactful_streaming.windows import entity_table as entities
from tactful_streaming.windows import reads
from tactful_streaming.windows.columns import Selection
from tactful_streaming.windows.entity_table import EntityTable
from tactful_streaming.windows.reads import ColumnCache, RowCache

MINUTE = 60_000
START = 1_700_000_000_000
TEXT = """
- {name: n5, entity: item, event: view, aggregate: count, window: {size: 5m, slide: 1m}}
- {name: n20, entity: item, event: view, aggregate: count,
   window: {size: 20m, slide: 1m, decay: 0.7}}
- {name: total, entity: item, event: view, aggregate: sum, of: properties.price,
   window: {size: 15m, slide: 5m}}
- {name: usual, entity: item, event: view, aggregate: mean, of: properties.price,
   window: {size: 15m, slide: 5m}}
- {name: least, entity: item, event: view, aggregate: min, of: properties.price,
   window: {size: 10m, slide: 5m}}
- {name: newest, entity: item, event: view, aggregate: last_time}
"""
FEATURES = load_definitions(TEXT).features
NAMES = [feature.name for feature in FEATURES]
KEPT = {"n5", "n20", "total", "usual", "least"}
KEYS = [f"i{number}" for number in range(8)]
PLACED_TEXT = """
- {name: n5, entity: item, event: view, aggregate: count, window: {size: 5m, slide: 1m}}
- {name: n20, entity: item, event: view, aggregate: count, window: {size: 20m, slide: 1m}}
"""
PLACED = load_definitions(PLACED_TEXT).features
PLACED_NAMES = [feature.name for feature in PLACED]
PLACED_KEYS = [f"i{number}" for number in range(12)]


def feed(table: EntityTable, keys: Sequence[str], times: Sequence[int], watermark: int) -> None:
    timestamps = np.array(times, np.int64)
    rows = table.touch(keys, timestamps)
    before = np.full(len(keys), watermark, np.int64)
    prices: NDArray[np.float64] = np.arange(len(keys)) % 7 + np.float64(0.25)
    for number, store in enumerate(table.aggregates):
        amounts = prices if store.source.amounts is not None else None
        table.apply(number, Selection(rows, timestamps, before, amounts, None))


def wrong(table: EntityTable, at: int) -> list[tuple[str, str]]:
    """Keys and names whose column differs from the read of the entity alone."""
    keys = [*KEYS, "nobody"]
    columns = table.read_columns(keys, NAMES, at)
    return [
        (key, name)
        for key, values in zip(keys, columns.tolist(), strict=True)
        for name, value in zip(NAMES, values, strict=True)
        if table.read(key, at)[name] != value
    ]


def live(seed: int, rounds: int = 40) -> list[tuple[str, str]]:
    """Run events, time, merges, spills and reads in any order; return wrong reads."""
    rng = random.Random(seed)
    stored: dict[str, bytes] = {}
    table = EntityTable(FEATURES, lambda keys: [stored.get(key) for key in keys], capacity=2)
    now, found = START, []
    for _ in range(rounds):
        what = rng.random()
        if what < 0.4:
            count = rng.randrange(1, 6)
            times = [now - rng.choice([0, 0, 40_000, 6 * MINUTE]) for _ in range(count)]
            feed(table, rng.choices(KEYS, k=count), times, now - 10 * MINUTE)
        elif what < 0.5:
            now += rng.choice([1_000, MINUTE, 11 * MINUTE])
            table.expire(now - 10 * MINUTE)
        elif what < 0.56:
            table.merge(*rng.sample(KEYS, 2))
        elif what < 0.65:
            for key, blob in table.pack_changes(now - 10 * MINUTE).items():
                if blob is None:
                    stored.pop(key, None)
                else:
                    stored[key] = blob
            table.shrink(rng.choice([0, table.nbytes // 2]))
        else:
            at = now + rng.choice([0, 0, 0, 0, 30_000, 2 * MINUTE, -3 * MINUTE, 90 * MINUTE])
            found += wrong(table, at)
    return found


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32))
def test_columns_are_what_each_entity_reads(seed: int) -> None:
    assert live(seed) == []


def test_a_change_without_a_note_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ColumnCache, "note_change", lambda self, rows: None)
    assert any(live(seed) for seed in range(20))


def counting(table: EntityTable, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Row counts that later reads of ``n5`` compute."""
    view, counts = table._views["n5"], []
    compute = view.read_many

    def counted(rows: NDArray[np.int64], at: int) -> object:
        counts.append(len(rows))
        return compute(rows, at)

    monkeypatch.setattr(view, "read_many", counted)
    return counts


def test_only_what_changed_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    table = EntityTable(FEATURES)
    feed(table, KEYS, [START] * len(KEYS), START)
    counts = counting(table, monkeypatch)

    def read(at: int) -> int:
        counts.clear()
        table.read_columns(KEYS, ["n5"], at)
        return sum(counts)

    read(START)
    assert [read(START), read(START + 1)] == [8, 0], "kept from the second look at a time on"
    feed(table, ["i3", "i3", "i5"], [START] * 3, START)
    assert [read(START), read(START)] == [2, 0]
    later = START + 5 * MINUTE
    assert [read(later), read(START), read(later), read(START)] == [8, 0, 8, 0], "a single look"
    assert [read(later), read(later), read(later)] == [8, 8, 0], "time went on"


def test_only_paned_windows_are_cached() -> None:
    table = EntityTable(FEATURES)
    feed(table, KEYS, [START] * len(KEYS), START)
    table.read_columns(KEYS, NAMES, START)
    assert set(table._cache._columns) == KEPT


class Growing:
    """The first of `PLACED_KEYS`, a growing number; counts look-ups."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked = 0

    def keys_at(self, places: NDArray[np.int64]) -> Sequence[str]:
        self.asked += len(places)
        return [PLACED_KEYS[place] for place in places.tolist()]

    def place_of(self, key: str) -> int | None:
        place = PLACED_KEYS.index(key)
        return place if place < self.size else None


def wrong_placed(table: EntityTable, placing: Growing, places: NDArray[np.int64], at: int) -> int:
    found = table.read_placed(placing, places, PLACED_NAMES, at)
    keys = [PLACED_KEYS[place] for place in places.tolist()]
    wanted = [[table.read(key, at)[name] for name in PLACED_NAMES] for key in keys]
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


def live_placed(seed: int, *, spills: bool = False, rounds: int = 60) -> int:
    """Run events, time, merges, new keys and reads in any order; count wrong reads."""
    rng = random.Random(seed)
    stored: dict[str, bytes | None] = {}
    load = (lambda keys: [stored.get(key) for key in keys]) if spills else None
    table = EntityTable(PLACED, load, capacity=2)
    placings = [Growing(rng.randrange(len(PLACED_KEYS))) for _ in range(2)]
    now = START
    bad = 0
    for _ in range(rounds):
        what = rng.random()
        if what < 0.35:
            count = rng.randrange(1, 4)
            feed(table, rng.choices(PLACED_KEYS, k=count), [now] * count, now - 10 * MINUTE)
        elif what < 0.5:
            now += rng.choice([1_000, MINUTE, 40 * MINUTE])
            table.expire(now - 10 * MINUTE)
        elif what < 0.55:
            table.merge(*rng.sample(PLACED_KEYS, 2))
        elif what < 0.6:
            table.detach(rng.choice(PLACED_KEYS))
        elif what < 0.65 and spills:
            stored |= table.pack_changes(now - 10 * MINUTE)
            table.shrink(0)
        else:
            placing = rng.choice(placings)
            placing.size = rng.randrange(placing.size, len(PLACED_KEYS) + 1)
            places = np.array(rng.choices(range(placing.size or 1), k=rng.randrange(5)), np.int64)
            bad += wrong_placed(table, placing, places[places < placing.size], now)
            if not spills:
                read = {key: table.read(key, now) for key in PLACED_KEYS}
                for name in PLACED_NAMES:
                    some = {key: values[name] for key, values in read.items() if values[name]}
                    bad += nonzero(table, name, now) != some
    return bad


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.booleans())
def test_a_place_reads_what_its_key_reads(seed: int, spills: bool) -> None:
    assert live_placed(seed, spills=spills) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "size"),
    [(reads, "_MOST_MOVED", 3), *((entities, "_ROWS_AT_ONCE", size) for size in (1, 2, 5))],
)
def test_small_pages_and_many_moves_change_nothing(
    module: Any, name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, size)
    assert sum(map(live_placed, range(20))) == 0


def test_a_move_without_a_note_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowCache, "moved", lambda self, keys: None)
    assert sum(map(live_placed, range(20))) > 0


def test_no_page_while_entities_may_be_in_the_store_alone() -> None:
    table = EntityTable(PLACED, lambda keys: [None for _ in keys])
    feed(table, PLACED_KEYS[:3], [START] * 3, START)
    assert table.read_nonzero("n5", START, 0) is None


def test_an_engine_reads_defined_features_only() -> None:
    engine = Engine(load_definitions(PLACED_TEXT), MemoryState())
    nothing = engine.read_nonzero("item", "n5", START)
    assert nothing is not None and (nothing.keys, nothing.following) == ([], None)
    with pytest.raises(EngineError, match="n6"):
        engine.read_nonzero("item", "n6", START)
    with pytest.raises(EngineError, match="category"):
        engine.read_nonzero("category", "n5", START)
    engine = Engine(load_definitions(PLACED_TEXT.replace("item", "user")), MemoryState())
    with pytest.raises(EngineError, match="by place"):
        engine.read_placed("user", Growing(1), np.zeros(1, np.int64), ["n5"], START)


def test_keys_are_looked_up_once() -> None:
    table, placing = EntityTable(PLACED), Growing(len(PLACED_KEYS))
    everything = np.arange(len(PLACED_KEYS))
    feed(table, PLACED_KEYS[:3], [START] * 3, START)
    for _ in range(3):
        assert table.read_placed(placing, everything, PLACED_NAMES, START)[:, 0].sum() == 3
    feed(table, [PLACED_KEYS[3], PLACED_KEYS[0]], [START] * 2, START)
    assert table.read_placed(placing, everything, PLACED_NAMES, START)[:, 0].sum() == 5
    assert placing.asked == len(PLACED_KEYS) + 1

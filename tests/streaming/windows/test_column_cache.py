"""Cached numbers equal the numbers that another read computes."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.windows.column_cache import ColumnCache
from tactful_streaming.windows.columns import Selection
from tactful_streaming.windows.entity_table import EntityTable

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

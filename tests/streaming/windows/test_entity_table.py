"""Entities: rows, packed state, memory. Their values: test_shared_aggregate.py."""

import contextlib
import gc
import random
import sys
import tracemalloc
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.alone import alone

from tactful_streaming.definitions.model import Feature
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import EngineError, StateError
from tactful_streaming.windows.columns import Selection
from tactful_streaming.windows.entity_table import EntityTable, PackedReader, read_packed
from tactful_streaming.windows.packed_entity import combine_packed, newest_packed

START = 1_700_000_000_000
TEXT = """
- {name: n, entity: user, event: view, aggregate: count, window: {size: 5m, slide: 1m}}
- {name: g, entity: user, event: view, aggregate: count, group_by: item_id, max_groups: 50,
   window: {size: 5m, slide: 1m}}
- {name: last, entity: user, event: view, aggregate: last_time, group_by: item_id, max_groups: 50}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 3}
- {name: kinds, entity: user, event: view, aggregate: distinct, of: item_id, window: {size: 1h}}
"""


@cache
def features(*names: str) -> tuple[Feature, ...]:
    every = load_definitions(TEXT).features
    return tuple(f for f in every if not names or f.name in names)


def feed(table: EntityTable, keys: Sequence[str | None], at: int = START, item: str = "i") -> None:
    times = np.full(len(keys), at, np.int64)
    rows = table.touch(keys, times)
    chosen = np.flatnonzero(rows >= 0)
    for number, store in enumerate(table.aggregates):
        texts = [item] * len(chosen) if store.source.texts else None
        table.apply(number, Selection(rows[chosen], times[chosen], times[chosen], None, texts))


def loaded(stored: dict[str, bytes], *names: str, emits: bool = False) -> EntityTable:
    return EntityTable(
        features(*names), lambda keys: [stored.get(key) for key in keys], emits=emits
    )


def commit(table: EntityTable, stored: dict[str, bytes], horizon: int = START) -> None:
    for key, blob in table.pack_changes(horizon).items():
        if blob is None:
            stored.pop(key, None)
        else:
            stored[key] = blob


def test_events_without_a_key_have_no_row() -> None:
    table = EntityTable(features())
    assert table.touch(["a", None, "a"], np.full(3, START)).tolist() == [1, -1, 1]
    assert len(table) == 1


def test_reads_do_not_insert_and_shrinking_loses_nothing() -> None:
    stored: dict[str, bytes] = {}
    table = loaded(stored)
    keys = [f"u{n}" for n in range(500)]
    feed(table, keys)
    expected = table.read("u7", START)
    assert table.shrink(0) == 0, "nothing is in the store yet"
    commit(table, stored)
    assert table.shrink(0) == 500
    assert len(table) == 0
    assert table.read("u7", START) == expected
    columns = table.read_columns(["u7", "nobody", "u8"], ["n", "kinds"], START)
    assert columns[:, 0].tolist() == [1, 0, 1]
    assert len(table) == 0
    feed(table, ["u7"])
    assert table.read("u7", START)["n"] == 2
    assert table.read("u7", START)["g"] == {"i": 2}


def test_the_longest_untouched_leave_first_and_changes_stay() -> None:
    stored: dict[str, bytes] = {}
    table = loaded(stored)
    for number in range(10):
        feed(table, [f"u{number}-{n}" for n in range(20)])
    commit(table, stored)
    feed(table, ["u0-0"])
    before = table.nbytes
    went = table.shrink(before // 2)
    assert 80 <= went <= 160
    assert table.nbytes <= before // 2
    asked: list[str] = []
    table._load = lambda keys: [asked.append(key) or stored.get(key) for key in keys]  # type: ignore[func-returns-value]
    feed(table, ["u0-0", "u9-0", "u1-0"])
    assert asked == ["u1-0"]


def test_memory_stays_under_the_cap_while_keys_keep_coming() -> None:
    stored: dict[str, bytes] = {}
    table = loaded(stored, "n", "recent")
    cap, most = 400_000, 0
    for batch in range(60):
        feed(table, [f"u{batch * 100 + n}" for n in range(100)], START + batch)
        commit(table, stored)
        table.shrink(cap)
        table.expire(START)
        most = max(most, table.nbytes)
    assert len(stored) == 6000
    assert most < 2 * cap
    assert table.read("u0", START)["n"] == 1


def test_entities_stay_until_their_windows_are_emitted() -> None:
    stored: dict[str, bytes] = {}
    table = loaded(stored, "n", emits=True)
    feed(table, ["u"])
    commit(table, stored)
    table.expire(START)
    assert table.shrink(0) == 0
    after = START + 400_000
    assert sum(len(fired.keys) for fired in table.emit(START, after)) == 5
    table.expire(after)
    assert len(table) == 0


def test_a_dropped_entity_is_not_loaded_again() -> None:
    stored: dict[str, bytes] = {}
    table = loaded(stored)
    feed(table, ["a", "b"], item="x")
    commit(table, stored)
    table.merge("a", "b")
    feed(table, ["a"], item="y")
    assert table.read("a", START)["n"] == 1
    assert table.read("b", START)["n"] == 2
    commit(table, stored)
    assert loaded(stored).read("a", START)["g"] == {"y": 1}


def test_merging_loads_spilled_entities_and_ignores_unknown_ones() -> None:
    stored: dict[str, bytes] = {}
    table = loaded(stored)
    feed(table, ["a"], item="x")
    feed(table, ["b"], item="y")
    commit(table, stored)
    table.shrink(0)
    table.merge("nobody", "b")
    table.merge("b", "b")
    table.merge("a", "c")
    assert table.read("c", START)["g"] == {"x": 1}
    table.merge("c", "b")
    read = table.read("b", START)
    assert (read["n"], read["g"]) == (2, {"x": 1, "y": 1})
    assert read["recent"] == [("x", START), ("y", START)]
    assert table.read("a", START)["n"] == table.read("c", START)["n"] == 0
    commit(table, stored)
    assert [*stored] == ["b"]


def test_columns_are_of_numbers() -> None:
    table = EntityTable(features())
    feed(table, ["a"])
    columns = table.read_columns(["a", "b"], ["kinds", "n"], START)
    assert columns.tolist() == [[pytest.approx(1), 1], [0, 0]]
    assert table.read_columns([], ["n"], START).shape == (0, 1)
    for name in ("g", "recent", "absent"):
        with pytest.raises(EngineError, match=f"'{name}' is not a feature with one number"):
            table.read_columns(["a"], [name], START)


def test_silent_entities_go_with_the_longest_window() -> None:
    table = EntityTable(features("n", "kinds"))
    feed(table, ["a"])
    table.pack_changes(START)
    table.expire(START + 3_599_999)
    assert len(table) == 1
    table.expire(START + 3_600_000)
    assert table.pack_changes(START + 3_600_000) == {"a": None}
    assert EntityTable(features()).memory_ms is None


def test_groups_beyond_the_bound_and_silent_groups_leave_memory() -> None:
    table = EntityTable(features("g", "n"))
    for minute in range(300):
        feed(table, ["a"], START + minute * 60_000, item=f"i{minute}")
        table.expire(START + minute * 60_000)
    cells = next(store.groups for store in table.aggregates if store.groups is not None)
    assert len(cells) <= 7
    assert cells.capacity == 64


def blob(*names: str) -> bytes:
    table = EntityTable(features(*names))
    feed(table, ["a"])
    packed = table.pack_changes(START)["a"]
    assert packed is not None
    return packed


def test_packed_state_is_read_elsewhere() -> None:
    assert newest_packed(blob()) == START
    reader = PackedReader(features())
    for _ in range(2):
        assert reader.read(blob(), START)["g"] == {"i": 1}
        assert reader.read(None, START)["g"] == {}
        for wrong in (b"\x81\xa0\x01\x01", b"", b"\xc1", b"\x91\x00"):
            with pytest.raises(StateError):
                reader.read(wrong, START)
            with pytest.raises(StateError):
                read_packed(features(), wrong, 0)


def test_recomputed_state_joins_stored_state() -> None:
    part = EntityTable(features("last"))
    later = EntityTable(features("last"))
    feed(later, ["a"], item="other")
    feed(later, ["a"], START + 1)
    computed = later.pack_changes(START)["a"]
    assert computed is not None
    joined = combine_packed(blob("n", "g"), computed, part.spans)
    read = read_packed(features(), joined, START)
    assert read["last"] == {"i": START + 1, "other": START}
    assert (read["n"], read["g"], read["recent"]) == (1, {"i": 1}, [])
    table = EntityTable(features())
    table.unpack([("a", joined)])
    feed(table, ["a"])
    again = table.pack_changes(START)["a"]
    assert read_packed(features(), again, START)["g"] == {"i": 2}
    assert read_packed(features(), combine_packed(None, computed, part.spans), START)["n"] == 0
    assert newest_packed(joined) == START + 1


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"\xc1",
        b"\x91\x01",
        blob()[:-1],
        blob() + b"\xc0",
        blob() * 2,
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode({"": "x"}),
        *(
            msgspec.msgpack.encode({**msgspec.msgpack.decode(blob()), key: wrong})
            for key in msgspec.msgpack.decode(blob())
            if key
            for wrong in (b"abc", 7, [b"a", b"b"], [["i"], b"abc"], [["i", "j"], b"", b"", b""])
        ),
    ],
)
def test_damaged_state_is_refused(state: bytes) -> None:
    for before, after in ((0, 0), (0, 4), (2, 2), (4, 0)):  # alone at first, then among others
        states = [*[blob()] * before, state, *[blob()] * after]
        with pytest.raises(StateError, match="packed state of an entity"):
            EntityTable(features()).unpack((f"u{n}", packed) for n, packed in enumerate(states))


WRONG: list[Any] = [None, 7, -1.5, "text", b"", b"abc", b"\0" * 16, [], {}, [[]], {1: b"x"}]


@pytest.mark.parametrize("seed", range(20))
def test_state_of_another_form_is_refused_or_read(seed: int) -> None:
    """Nothing but StateError comes of a value that is replaced, wherever it lies."""
    rng = random.Random(seed)

    def damage(value: Any) -> Any:
        if not isinstance(value, dict | list) or not value or rng.random() < 0.2:
            return rng.choice(WRONG)
        place = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copied = value.copy()
        copied[place] = damage(value[place])
        return copied

    whole = msgspec.msgpack.decode(blob())
    for _ in range(200):
        place = rng.choice(list(whole))
        state = {**whole, place: damage(whole[place])}
        with contextlib.suppress(StateError):
            EntityTable(features()).unpack([("a", msgspec.msgpack.encode(state))])


def test_a_merge_counts_the_groups_of_both_before_evicting() -> None:
    (feature,) = load_definitions(
        "- {name: g, entity: user, event: view, aggregate: count, group_by: item_id, "
        "max_groups: 2, window: {size: 5m, slide: 1m}}"
    ).features
    table = EntityTable((feature,))
    for key, at, item in zip(["target"] * 2 + ["source"] * 2, [0, 1, 3, 2], "cadc", strict=True):
        feed(table, [key], START + at, item)
    table.merge("source", "target")
    assert table.read("target", START + 3)["g"] == {"c": 2, "d": 1}


def test_a_session_is_not_emitted_again_after_a_restart() -> None:
    (feature,) = load_definitions(
        "- {name: s, entity: user, event: view, aggregate: count, window: {gap: 3m}}"
    ).features
    stored: dict[str, bytes] = {}
    table = EntityTable((feature,), emits=True)
    feed(table, ["u"])
    commit(table, stored)
    end = START + 180_000
    assert [one.window_end for one in table.emit(START, end)] == [end]
    commit(table, stored, end)
    again = EntityTable((feature,), emits=True)
    again.unpack(stored.items())
    assert again.next_pending(end) is None
    assert [*again.emit(end, end + 60_000)] == []


def test_rows_are_used_again() -> None:
    stored: dict[str, bytes] = {}
    table = loaded(stored, "n")
    rows = set()
    for batch in range(20):
        keys = [f"u{batch}-{n}" for n in range(50)]
        feed(table, keys)
        commit(table, stored)
        rows |= {table._rows.row_of[key] for key in keys}
        assert len({table._rows.row_of[key] for key in keys}) == 50
        table.shrink(0)
    assert len(rows) == 50
    assert all(table.read(f"u{batch}-7", START)["n"] == 1 for batch in range(20))


def sizes(name: str) -> tuple[int, int]:
    """Bytes of a table by its own estimate, and as allocated."""
    keys = [f"user-{n:08}" for n in range(40_000)]
    tracemalloc.start()
    table = EntityTable(features(name))
    feed(table, [key + "" for key in keys])
    gc.collect()
    return table.nbytes, tracemalloc.get_traced_memory()[0] + sum(map(sys.getsizeof, keys))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["n", "recent"])
def test_the_estimate_of_memory_is_near_the_real_one(name: str) -> None:
    estimate, taken = alone(sizes, name)
    assert 0.6 < estimate / taken < 1.6

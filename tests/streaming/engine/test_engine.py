import functools
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.streaming.kills import run_with_kills
from tests.streaming.oracle import Oracle
from tests.streaming.streams import (
    DEFINITIONS,
    START,
    definitions,
    engine_of,
    random_entries,
    records,
)

import tactful_streaming.engine.engine_state
from tactful_streaming.contract.log_entries import (
    APART,
    EntryFormat,
    Event,
    Item,
    Tick,
    User,
    decode_entry,
    encode_entry,
)
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.batches import Applied
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import CoCommittedConsumer, EngineOptions
from tactful_streaming.errors import EngineError, StateError
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.log.dead_letters import DeadLetter
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.rules.rules import Dropped
from tactful_streaming.state.store import Change, MemoryState, RocksState, StateStore

MINUTE, DAY = 60_000, 86_400_000


def compare(engine: Engine, oracle: Oracle, at: int) -> int:
    """Compare every value the oracle knows, exactly; returns how many."""
    compared = 0
    for feature in oracle.features:
        keys = sorted(key for name, key in oracle.kept if name == feature.name)
        expected = [oracle.read(feature, key, at) for key in keys]
        assert expected == [engine.read(feature.entity, key, at)[feature.name] for key in keys]
        assert expected == [engine.read_late(feature.entity, key, at)[feature.name] for key in keys]
        if feature.group_by is None and feature.aggregate != "last_n":
            columns = engine.read_columns(feature.entity, keys, [feature.name], at)
            assert expected == columns[:, 0].tolist()
        compared += len(keys)
    return compared


def test_memory_grows_with_users_not_events() -> None:
    engine = Engine(definitions(), MemoryState())

    def after(people: int) -> int:
        """The size once each of `people` has done the same again."""
        begin = engine.offset
        commit(engine, [view(n, user_id=f"u{n % people}") for n in range(begin, begin + 8_000)])
        return engine.nbytes

    first, again, more = after(1_000), after(1_000), after(8_000)
    assert first == again
    assert more > 4 * first > 0


@pytest.mark.parametrize("lateness", [0, MINUTE, 10**7])
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_oracle_agrees_on_10_000_events(seed: int, lateness: int) -> None:
    entries = random_entries(seed, 10_000)
    rng = random.Random(seed)
    oracle = Oracle(definitions(), lateness)
    engine = Engine(definitions(), MemoryState(), EngineOptions(allowed_lateness_ms=lateness))
    done = late = compared = 0
    stream = records(entries)
    while done < len(entries):
        size = rng.choice([1, 10, 100, 1000])
        late += engine.apply(stream[done : done + size]).late
        for entry in entries[done : done + size]:
            oracle.apply(entry)
        done = min(done + size, len(entries))
        if rng.random() < 0.5:
            engine.commit()
        if rng.random() < 0.1 or done == len(entries):
            at = max(oracle.newest - lateness, 0) + rng.choice([0, 1, MINUTE, 10 * MINUTE, DAY])
            compared += compare(engine, oracle, at)
            compared += compare(engine, oracle, oracle.newest)
    assert oracle.late == late
    assert compared > 2000
    if lateness < 10**7:
        assert late > 100


APPLY_ALL = """
import sys
from pathlib import Path
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import RocksState

directory, lateness = Path(sys.argv[1]), 0
log = EmbeddedLog(directory / "log", read_only=True)
engine = Engine(
    load_definitions(directory / "features.yaml"),
    RocksState(directory / "state"),
    EngineOptions(allowed_lateness_ms=0),
)
while engine.offset < log.end:
    engine.apply(log.read(engine.offset, 17))
    engine.commit()
    print(engine.offset, flush=True)
engine.close()
print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "count"),
    [(4, 2000), *(pytest.param(seed, 4000, marks=pytest.mark.slow) for seed in range(5, 10))],
)
def test_kill_9_counts_every_event_once(tmp_path: Path, seed: int, count: int) -> None:
    entries = random_entries(seed, count)
    (tmp_path / "features.yaml").write_text(DEFINITIONS)
    assert load_definitions(tmp_path / "features.yaml") == definitions()
    with EmbeddedLog(tmp_path / "log", durability="process") as log:
        log.append([payload for _, payload in records(entries)])
    rng = random.Random(seed)
    kills = run_with_kills(APPLY_ALL, tmp_path, rng, 60)
    assert kills >= 3
    oracle = Oracle(definitions(), 0)
    for entry in entries:
        oracle.apply(entry)
    engine = engine_of(definitions(), RocksState(tmp_path / "state"), allowed_lateness_ms=0)
    assert len(entries) == engine.offset
    assert {e.item_id: e for e in entries if isinstance(e, Item)} == engine.items
    assert compare(engine, oracle, oracle.newest) > 100
    engine.close()


def view(number: int, at: int = START, **fields: Any) -> tuple[int, bytes]:
    fields = {"user_id": "u", "item_id": "i", "type": "view", **fields}
    return number, encode_entry(Event(event_id=str(number), timestamp=at, **fields))


def commit(engine: Engine, batch: Sequence[tuple[int, bytes]]) -> None:
    engine.apply(batch)
    engine.commit()


@functools.cache
def small(extra: str = "") -> Definitions:
    return load_definitions(
        "- {name: n, entity: user, event: view, aggregate: count, window: {size: 5m, slide: 1m}}\n"
        + extra
    )


def test_silence_ages_a_window_pane_by_pane() -> None:
    start = START // MINUTE * MINUTE
    engine = Engine(small(), MemoryState())
    engine.apply([view(number, start + number * MINUTE) for number in range(5)])
    ages = range(-1, 11)
    read = [engine.read("user", "u", start + age * MINUTE)["n"] for age in ages]
    assert read == [0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 0]
    edge = start + 5 * MINUTE
    assert [engine.read("user", "u", at)["n"] for at in (edge - 1, edge)] == [5, 4]


def test_late_events_count_until_their_last_window_has_ended() -> None:
    start = START // MINUTE * MINUTE
    engine = Engine(small(), MemoryState(), EngineOptions(allowed_lateness_ms=0))
    engine.apply([view(0, start + 5 * MINUTE - 1)])
    assert engine.apply([view(1, start)]).late == 0
    engine.apply([view(2, start + 5 * MINUTE)])
    assert Applied(applied=1, late=1) == engine.apply([view(3, start + MINUTE - 1)])
    assert engine.apply([view(4, start + MINUTE)]).late == 0


def test_unknown_entities_read_as_nothing() -> None:
    engine = Engine(definitions(), MemoryState())
    read: list[Any] = [*engine.read("user", "nobody", START).values()]
    assert (read.count(0.0), read.count({}), read.count([])) == (5, 3, 1)
    columns = engine.read_columns("item", ["a", "b"], ["item_views", "item_prices"], START)
    assert np.zeros((2, 2)).tolist() == columns.tolist()
    assert engine.read_columns("item", [], ["item_views", "item_prices"], START).shape == (0, 2)


def test_wrong_questions_are_refused() -> None:
    more = "- {name: g, entity: user, event: view, aggregate: last_time, group_by: item_id}"
    engine = Engine(small(more), MemoryState())
    with pytest.raises(EngineError, match="'shop' is not one of user"):
        engine.read("shop", "x", START)
    with pytest.raises(EngineError, match="'g' is not a feature with one number"):
        engine.read_columns("user", ["u"], ["n", "g"], START)
    with pytest.raises(EngineError, match="'absent' is not"):
        engine.read_columns("user", ["u"], ["absent"], START)
    with pytest.raises(EngineError, match="no feature describes"):
        engine.read_columns("item", ["i"], ["n"], START)
    assert engine.read("item", "i", START) == {}


def test_device_keys_and_catalogue_categories() -> None:
    """A device has its own history, and the catalogue gives the category of an event."""
    more = "- {name: c, entity: category, event: view, aggregate: count, window: {size: 5m}}\n"
    engine = Engine(small(more), MemoryState())
    item = Item(item_id="i", timestamp=START, category="shoes")
    engine.apply(
        [
            view(0, user_id=None, device_id="d"),
            (1, encode_entry(item)),
            view(2),
            view(3, properties={"category": "hats"}),
            (4, encode_entry(User(user_id="u", timestamp=START, properties={"age": 3}))),
        ]
    )
    assert [engine.read("user", key, START)["n"] for key in ("device:d", "u")] == [1, 2]
    assert [engine.read("category", key, START)["c"] for key in ("shoes", "hats")] == [1, 1]
    assert ({"i": item}, 1, ["u"]) == (engine.items, engine.items_version, [*engine.users])


_BATCHES = st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=8)


@given(_BATCHES, st.integers(0, 8), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_the_items_since_a_version_are_those_that_changed(
    batches: list[list[int]], reopened: int, remembered: int
) -> None:
    """Each once; all of them where too much changed, and after a restart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tactful_streaming.engine.engine_state, "_LATEST_ITEMS", remembered)
        store = MemoryState()
        engine, forgotten = Engine(small(), store), 0
        history: list[str] = []
        for number, batch in enumerate(batches):
            for each in batch:
                history.append(f"i{each}")
                item = Item(item_id=history[-1], timestamp=len(history))
                engine.apply([(engine.offset, encode_entry(item))])
            engine.commit()
            if number == reopened:
                engine, forgotten = Engine(small(), store), len(history)
            for version in range(-1, len(history) + 1):
                told = engine.items_since(version)
                known = version >= max(forgotten, len(history) - remembered)
                wanted = {*history[version:]} if known else {*history}
                assert sorted(each.item_id for each in told) == sorted(wanted)
                assert all(engine.items[each.item_id] is each for each in told)


def test_old_records_are_skipped_and_invalid_ones_counted() -> None:
    engine = Engine(small(), MemoryState())
    rubbish = [(1, b""), (2, b"\xc1"), (3, b"{}"), (4, view(4, user_id=None)[1])]
    huge = (5, view(5)[1].replace(START.to_bytes(8, "big"), b"\xff" * 8))
    assert Applied(applied=1, invalid=5) == engine.apply([view(0), *rubbish, huge])
    assert Applied() == engine.apply([view(0), *rubbish])
    assert Applied(applied=1) == engine.apply([huge, view(6)])
    assert engine.read("user", "u", START)["n"] == 2
    assert engine.offset == 7


def test_event_ids_count_once() -> None:
    """An event id counts once across batches, commits and restarts."""
    store = MemoryState()
    engine = Engine(small(), store)
    payload = view(7)[1]
    assert not engine.seen("7")
    assert Applied(applied=1, duplicates=1) == engine.apply([(0, payload), (1, payload)])
    assert engine.seen("7")
    engine.commit()
    assert engine.seen("7")
    assert Applied(duplicates=1) == engine.apply([(2, payload)])
    engine = Engine(small(), store)
    assert Applied(duplicates=1) == engine.apply([(1, payload), (2, payload)])
    assert engine.read("user", "u", START)["n"] == 1
    assert not engine.seen("8")


def keys_of(store: StateStore, prefix: bytes) -> list[bytes]:
    return [key for key, _ in store.scan(prefix)]


def test_event_ids_expire() -> None:
    """Event ids are deleted after their days, and the store shrinks."""
    store = MemoryState()
    engine = Engine(small(), store, EngineOptions(dedupe_days=2, allowed_lateness_ms=0))
    noon = START // DAY * DAY + DAY // 2
    payload = view(0, noon)[1]
    commit(engine, [(0, payload)])
    for day, seen in [(1, True), (2, True), (3, False)]:
        commit(engine, [view(day, noon + day * DAY)])
        assert seen == engine.seen("0")
        assert seen == (b"d0" in keys_of(store, b"d"))
    assert engine.apply([(4, payload)]).applied == 1
    engine.commit()
    assert Applied(duplicates=1) == engine.apply([(5, payload)])


def test_forgetting_many_ids_is_spread_over_commits() -> None:
    store = MemoryState()
    engine = Engine(small(), store, EngineOptions(dedupe_days=1, allowed_lateness_ms=0))
    for number in range(30):
        commit(engine, [view(number)])
    left = []
    for number in range(30, 40):
        commit(engine, [view(number, START + 3 * DAY)])
        left.append(len(keys_of(store, b"d")))
    assert all(-1 <= before - after <= 3 for before, after in zip([30, *left], left, strict=False))
    assert left[-1] == 10
    assert not engine.seen("0")


@pytest.mark.slow
def test_expired_entities_are_deleted() -> None:
    """Entities without readable features are deleted from memory and store."""
    common = "entity: session, event: view, window: {size: 1h}"
    only_sessions = load_definitions(
        f"- {{name: v, {common}, aggregate: last_n, of: item_id, n: 3}}\n"
        f"- {{name: n, {common}, aggregate: count}}\n"
    )
    store = MemoryState()
    engine = Engine(only_sessions, store, EngineOptions(allowed_lateness_ms=0))
    most = 0
    for number in range(2000):
        at = START + number * 10 * MINUTE
        engine.apply([view(number, at, session_id=f"s{number}")])
        if number % 3 == 0:
            engine.commit()
        most = max(most, len(keys_of(store, b"e")))
        assert {"v": [("i", at)], "n": 1.0} == engine.read("session", f"s{number}", at)
    assert most <= 12
    again = Engine(only_sessions, store, EngineOptions(allowed_lateness_ms=0))
    assert again.read("session", "s1998", START + 1998 * 10 * MINUTE)["n"] == 1.0


BRIEF = load_definitions(
    "- {name: n, entity: user, event: view, aggregate: count, window: {size: 1m}}\n"
)


def test_stored_entities_expire_some_at_each_commit() -> None:
    """Also those that a limit of memory left in the store alone."""
    store = MemoryState()
    engine = Engine(BRIEF, store, EngineOptions(allowed_lateness_ms=0, memory_bytes=1000))
    commit(engine, [view(number, user_id=f"u{number}") for number in range(600)])
    left = []
    for number in range(600, 603):
        commit(engine, [view(number, START + DAY, user_id="v")])
        left.append(len(keys_of(store, b"e")))
    assert (left[0] - left[1], left[2]) == (256, 1)
    assert left[0] > 256, "the first commit deleted no more either"


def test_a_dropped_entity_that_comes_back_is_kept() -> None:
    store, options = MemoryState(), EngineOptions(allowed_lateness_ms=0)
    engine = Engine(BRIEF, store, options)
    commit(engine, [view(0)])
    engine.apply([view(1, START + 10 * MINUTE, user_id="other")])
    commit(engine, [view(2, START + 10 * MINUTE)])
    again = Engine(BRIEF, store, options)
    assert again.read("user", "u", START + 10 * MINUTE)["n"] == 1


def test_groups_are_bounded_and_evictions_counted() -> None:
    common = "entity: user, event: view, group_by: item_id, max_groups: 50"
    text = (
        f"- {{name: g, {common}, aggregate: count, window: {{size: 10m, slide: 1m}}}}\n"
        f"- {{name: t, {common}, aggregate: last_time}}\n"
    )
    engine = Engine(load_definitions(text), MemoryState())
    stream = [view(n, START + n, item_id=f"i{n}") for n in range(2000)]
    applied = engine.apply(stream)
    assert applied.evicted == 1950
    read = engine.read("user", "u", START + 2000)
    assert [f"i{n}" for n in range(1950, 2000)] == sorted(read["t"])  # type: ignore[arg-type]
    assert len(read["g"]) == 50  # type: ignore[arg-type]


def test_other_definitions_take_over_what_they_share(tmp_path: Path) -> None:
    stream = [view(number) for number in range(5)]
    engine = Engine(small(), RocksState(tmp_path))
    commit(engine, stream)
    engine.close()
    wider = small(
        "- {name: m, entity: user, event: view, aggregate: count, window: {size: 6m, slide: 1m}}"
    )
    engine = Engine(wider, RocksState(tmp_path))
    assert (engine.offset, engine.missing) == (5, ("m",))
    engine.apply([view(5)])
    assert engine.read("user", "u", START) == {"n": 6.0, "m": 0.0}
    assert engine.read_columns("user", ["u"], ["m", "n"], START).tolist() == [[0.0, 6.0]]
    engine.close()
    engine = Engine(wider, RocksState(tmp_path), EngineOptions(rebuild=True))
    assert (engine.offset, engine.missing) == (0, ())
    commit(engine, stream)
    engine.close()
    engine = Engine(wider, RocksState(tmp_path))
    assert (engine.offset, engine.missing) == (5, ())
    assert engine.read("user", "u", START) == {"n": 5.0, "m": 5.0}
    engine.close()


ENTITIES = [b"\xc1", b"\x91\x01", b"\x92\x01\xc0", b"\x92\xa1x\xc4\x00", b"\x92\x01\xc4\x03abc"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(b"meta", b"\xc1"), (b"meta", b"\x80"), (b"ii", b"\xc1"), (b"uu", b"\x80")],
        *((b"euser:u", value) for value in ENTITIES),
    ],
)
def test_a_damaged_state_is_refused(key: bytes, value: bytes) -> None:
    store = MemoryState()
    engine = Engine(small(), store)
    commit(engine, [view(0)])
    store.write([(key, value)])
    with pytest.raises(StateError, match="tactful serve --rebuild"):
        Engine(small(), store)


class Tally(CoCommittedConsumer):
    """A consumer that counts events by the category of their item."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.changed = False
        self.snapshots = 0
        self.poison: str | None = None

    def apply(self, event: Event, item: Item | None) -> None:
        if event.event_id == self.poison:
            raise ZeroDivisionError
        category = item.category if item and item.category else "?"
        self.counts[category] = self.counts.get(category, 0) + 1
        self.changed = True

    def snapshot(self) -> bytes | None:
        if not self.changed:
            return None
        self.changed = False
        self.snapshots += 1
        return repr(self.counts).encode()

    def restore(self, state: bytes) -> None:
        self.counts = eval(state)


def test_restarts_change_nothing_and_consumers_commit_with_the_offset() -> None:
    entries = random_entries(5, 3000)
    stream = records(entries)
    oracle = Oracle(definitions(), 0)
    for entry in entries:
        oracle.apply(entry)
    tally = Tally()
    options: dict[str, Any] = {"allowed_lateness_ms": 0}
    straight = engine_of(definitions(), consumers={"tally": tally}, **options)
    counts = straight.apply(stream)
    assert counts.applied + counts.duplicates == len(stream)
    assert sum(tally.counts.values()) < len(stream)
    rng = random.Random(5)
    store, again = MemoryState(), Tally()
    engine = engine_of(definitions(), store, consumers={"tally": again}, **options)
    while engine.offset < len(stream):
        engine.apply(stream[engine.offset : engine.offset + rng.randrange(1, 100)])
        if rng.random() < 0.5:
            engine.commit()
        if rng.random() < 0.3:
            again = Tally()
            engine = engine_of(definitions(), store, consumers={"tally": again}, **options)
    assert tally.counts == again.counts
    for name in ("watermark", "items", "users", "items_version"):
        assert getattr(straight, name) == getattr(engine, name)
    assert compare(engine, oracle, oracle.newest) == compare(straight, oracle, oracle.newest)


def test_consumers_prepare_before_any_snapshot_is_taken() -> None:
    calls: list[str] = []

    class Ordered(Tally):
        def before_commit(self) -> None:
            calls.append("before_commit")

        def snapshot(self) -> bytes | None:
            calls.append("snapshot")
            return super().snapshot()

    tally = Ordered()
    engine = Engine(small(), MemoryState(), EngineOptions(consumers={"a": tally, "b": Ordered()}))
    commit(engine, [view(0)])
    assert calls == ["before_commit", "before_commit", "snapshot", "snapshot"]
    engine.commit()
    assert tally.snapshots == 1, "an unchanged consumer is not written again"
    engine.close()
    with pytest.raises(EngineError, match="open it again"):
        engine.apply([view(1)])


def test_a_consumer_that_was_absent_begins_anew() -> None:
    store = MemoryState()
    for offset, consumers in enumerate([{"tally": Tally()}, {}, {"tally": Tally()}]):
        engine = Engine(small(), store, EngineOptions(consumers=consumers))
        commit(engine, [view(offset)])
    assert consumers["tally"].counts == {"?": 1}


def test_a_failing_consumer_stops_the_engine() -> None:
    """A failing consumer stops the engine, and no event is lost."""
    store, tally = MemoryState(), Tally()
    engine = Engine(small(), store, EngineOptions(consumers={"tally": tally}))
    commit(engine, [view(0)])
    tally.poison = "2"
    with pytest.raises(ZeroDivisionError):
        engine.apply([view(1), view(2)])
    for action in (engine.commit, lambda: engine.apply([])):
        with pytest.raises(EngineError, match="open it again"):
            action()
    engine = Engine(small(), store, EngineOptions(consumers={"tally": Tally()}))
    engine.apply([view(1), view(2)])
    assert (engine.offset, engine.read("user", "u", START)["n"]) == (3, 3)


class FullStore(MemoryState):
    full = False

    def write(self, changes: Sequence[Change]) -> None:
        if self.full:
            raise StateError("No space left on device")
        super().write(changes)


def test_a_refused_commit_loses_nothing_and_may_be_tried_again() -> None:
    store, tally = FullStore(), Tally()
    engine = Engine(small(), store, EngineOptions(consumers={"tally": tally}))
    commit(engine, [view(0)])
    store.full = True
    engine.apply([view(1), (2, encode_entry(User(user_id="u", timestamp=START)))])
    with pytest.raises(StateError):
        engine.commit()
    crashed = Engine(small(), store, EngineOptions(consumers={"tally": Tally()}))
    assert (crashed.offset, crashed.read("user", "u", START)["n"]) == (1, 1)
    engine.apply([view(3)])
    with pytest.raises(StateError):
        engine.commit()
    store.full = False
    engine.commit()
    again = Tally()
    engine = Engine(small(), store, EngineOptions(consumers={"tally": again}))
    assert (engine.offset, engine.read("user", "u", START)["n"]) == (4, 3)
    assert (again.counts, list(engine.users), engine.seen("1")) == ({"?": 3}, ["u"], True)


def test_refused_commits_do_not_accumulate() -> None:
    class Counting(FullStore):
        def write(self, changes: Sequence[Change]) -> None:
            sizes.append(len(changes))
            super().write(changes)

    sizes: list[int] = []
    store = Counting()
    engine = Engine(small(), store)
    engine.apply([view(0)])
    store.full = True
    for _ in range(5):
        with pytest.raises(StateError):
            engine.commit()
    assert max(sizes) <= 2 * sizes[0]
    store.full = False
    engine.commit()
    assert Engine(small(), store).read("user", "u", START)["n"] == 1


def test_a_damaged_block_on_disk_is_loud(tmp_path: Path) -> None:
    store = RocksState(tmp_path)
    store.write([(b"e%06d" % n, os.urandom(200)) for n in range(20_000)])
    store._db.flush()
    store.close()
    file = next(tmp_path.glob("*.sst"))
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(8)
    file.write_bytes(content)
    store = RocksState(tmp_path)
    with pytest.raises(StateError, match="move the directory away"):
        list(store.scan(b"e"))
    with pytest.raises(StateError):
        store.get_many([b"e%06d" % n for n in range(20_000)])
    store.close()


class Nobody(Tally):
    """A consumer without a state, which makes the engine admit events one by one."""

    def snapshot(self) -> None:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("dedupe_days", [0, 1])
@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_events_count_alike_whether_taken_together_or_one_by_one(
    format: EntryFormat, dedupe_days: int
) -> None:
    rng = random.Random(11)
    entries = random_entries(11, 4000)
    if not dedupe_days:
        entries = [*{e.event_id: e for e in entries if isinstance(e, Event)}.values()]
    stream = [(offset, encode_entry(entry, format)) for offset, entry in enumerate(entries)]
    stores = [MemoryState(), MemoryState()]
    together, apart = (
        Engine(definitions(), store, EngineOptions(dedupe_days=dedupe_days, consumers=consumers))
        for store, consumers in zip(stores, ({}, {"nobody": Nobody()}), strict=True)
    )
    while together.offset < len(stream):
        records = stream[together.offset : together.offset + rng.randrange(1, 60)]
        assert together.apply(records) == apart.apply(records)
        assert together.watermark == apart.watermark
        if rng.random() < 0.2:
            together.commit()
            apart.commit()
    together.commit()
    apart.commit()
    states = [dict(store.scan(b"")) for store in stores]
    for state in states:
        del state[b"meta"]
    assert states[0] == states[1]
    assert together.items == apart.items
    assert together.users == apart.users


def test_a_tick_moves_the_watermark_and_counts_for_nothing() -> None:
    engine = engine_of(small(), watermark_delay_ms=1000, allowed_lateness_ms=500)
    engine.apply([view(0)])
    assert (engine.watermark, engine.horizon) == (START - 1000, START - 1500)
    later = START + 10 * MINUTE
    assert Applied(applied=1) == engine.apply([(1, encode_entry(Tick(timestamp=later)))])
    assert engine.watermark == later - 1000
    engine.apply([(2, encode_entry(Tick(timestamp=START)))])
    assert engine.watermark == later - 1000
    assert engine.apply([view(3, START)]).late == 1


def test_a_watermark_does_not_go_back_when_the_delay_grows() -> None:
    store = MemoryState()
    engine = Engine(small(), store, EngineOptions(watermark_delay_ms=0))
    commit(engine, [view(0)])
    assert Engine(small(), store, EngineOptions(watermark_delay_ms=DAY)).watermark == START


class Tidy:
    """A cleaner that drops bots, sets refunds aside, and mends a misspelt item."""

    def __init__(self) -> None:
        self.seen = 0

    def clean(
        self,
        event: Event,
        item: Item | None = None,
        items: Mapping[str, Item] = MappingProxyType({}),
        received: int | None = None,
    ) -> Event | Dropped:
        self.seen += 1
        if event.context.get("bot"):
            return Dropped("bots", "a bot", "drop")
        if event.type == "refund":
            return Dropped("refunds", "no such order", "dead_letter")
        if event.item_id == "I":
            return msgspec.structs.replace(event, item_id="i")
        return event

    def pack_changes(self) -> dict[str, bytes | None]:
        return {"seen": str(self.seen).encode()}

    def restore(self, stored: Iterable[tuple[str, bytes]]) -> None:
        self.seen = int(dict(stored)["seen"])


def test_a_cleaner_commits_with_the_offset() -> None:
    """A cleaner judges every event once, and its memory commits with the offset."""
    features = small("- {name: c, entity: category, event: view, aggregate: last_time}")
    store, letters = MemoryState(), list[DeadLetter]()
    engine = Engine(features, store, EngineOptions(cleaner=Tidy(), on_dead_letter=letters.extend))
    refund = view(3, START + DAY, type="refund")
    stream = [
        (0, encode_entry(Item(item_id="i", timestamp=START, category="shoes"))),
        view(1, context={"bot": True}),
        view(2, item_id="I"),
        refund,
        (4, b"rubbish"),
        view(5, user_id=None),
        (6, refund[1]),
    ]
    applied = engine.apply(stream)
    assert Applied(applied=2, duplicates=0, invalid=2, dropped=3) == applied
    assert [letter.offset for letter in letters] == [3, 4, 5, 6]
    assert (letters[0].rule, letters[0].reason) == ("refunds", "no such order")
    assert letters[0].payload == refund[1]
    assert engine.watermark == START
    assert engine.read("category", "shoes", START)["c"] == START
    engine.commit()
    again = Tidy()
    Engine(features, store, EngineOptions(cleaner=again))
    assert again.seen == 4


def test_what_was_set_aside_counts_once_it_comes_again_mended() -> None:
    engine = Engine(small(), MemoryState(), EngineOptions(cleaner=Tidy()))
    commit(engine, [view(0, type="refund")])
    assert not engine.seen("0")
    mended = view(0)[1]
    applied = engine.apply([(1, mended), (2, mended)])
    assert (applied.applied, applied.duplicates) == (1, 1)
    assert engine.seen("0")


def test_numbers_that_no_float_holds_count_for_nothing() -> None:
    more = "aggregate: sum, of: properties.x, window: {size: 1h}"
    engine = Engine(small(f"- {{name: s, entity: user, event: view, {more}}}"), MemoryState())
    payload = view(0, properties={"x": 1})[1]
    huge = encode_entry(decode_entry(payload), "json").replace(b'"x":1', b'"x":1' + b"0" * 400)
    engine.apply([(0, huge), view(1, properties={"x": 2})])
    assert engine.read("user", "u", START)["s"] == 2


@given(st.integers(0, 10**6), st.sets(st.integers(0, 29), max_size=5), st.booleans())
@settings(max_examples=15, deadline=None)
def test_tracked_entities_are_as_if_all_were(seed: int, users: set[int], linked: bool) -> None:
    """Those of items do not change; others have none, but of devices that were merged into them."""
    entries = records(random_entries(seed, 300))
    devices = {f"device:d{number}{end}" for number in range(10) for end in ("", APART)}
    tracked = {"user": {f"u{number}" for number in users} | devices, "session": {"s7"}}
    identity = Identity() if linked else None
    whole, some = (
        Engine(definitions(), MemoryState(), EngineOptions(identity=identity, tracked=keys))
        for keys in ({}, tracked)
    )
    for engine in (whole, some):
        for begin in range(0, len(entries), 70):
            engine.apply(entries[begin : begin + 70])
    at = whole.watermark
    keys = [("item", f"i{number}") for number in range(20)]
    keys += [
        (kind, key)
        for kind, chosen in tracked.items()
        for key in chosen
        if whole.resolve(key, at) in chosen  # a device may be a user's who is not tracked
    ]
    assert [some.read(*key, at) for key in keys] == [whole.read(*key, at) for key in keys]
    others = [f"u{number}" for number in range(30) if number not in users]
    unknown = some.read("user", "nobody", at)
    assert linked or all(some.read("user", key, at) == unknown for key in others)

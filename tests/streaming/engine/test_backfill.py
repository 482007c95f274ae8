import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.streaming.kills import run_with_kills
from tests.streaming.memory_online import MemoryOnlineStore
from tests.streaming.streams import definitions, random_entries

from tactful_streaming.contract.log_entries import Event, Item, decode_entry, encode_entry
from tactful_streaming.definitions.model import Definitions, dump_definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.backfill import (
    PartComputation,
    adopt_definitions,
    compute_to_end,
    merge_computed,
)
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import DEFAULT_OPTIONS, EngineOptions
from tactful_streaming.engine.schema_evolution import plan_evolution
from tactful_streaming.errors import StateError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.state.store import MemoryState, RocksState, StateStore
from tactful_streaming.windows.entity_table import read_packed

MINUTE = 60_000
DAY = 1440 * MINUTE

EXTRA = """
- {name: clicks, entity: user, event: click, aggregate: count, window: {size: 15m, slide: 5m}}
- {name: longer, entity: user, event: view, aggregate: count, window: {size: 50m, slide: 1m}}
- {name: gifts, entity: item, event: x.gift, aggregate: count, group_by: user_id,
   window: {size: 2h, slide: 30m}}
- {name: priced, entity: user, event: view, aggregate: sum, of: item.price,
   window: {size: 1h, slide: 10m}}
- {name: bought_twice, entity: user, sequence: [purchase, purchase], within: 1h}
"""


def chosen(names: Sequence[str], extra: str = "") -> Definitions:
    """The definitions of the streams without some, and with others."""
    kept = [f for f in definitions().features if f.name not in names]
    return load_definitions(dump_definitions(Definitions(tuple(kept))) + extra)


DROPPED = ["decayed", "item_spend", "recent", "shoppers", "last_views"]
OLD = chosen(DROPPED)
NEW = chosen(["count", "visit_views", "spend"], EXTRA)
RECOMPUTED = {*DROPPED, "clicks", "longer", "gifts", "priced"}


def fill(log: EmbeddedLog, seed: int, count: int) -> None:
    rng = random.Random(seed)
    entries = [
        msgspec.structs.replace(e, price=rng.random()) if isinstance(e, Item) else e
        for e in random_entries(seed, count)
    ]
    for start in range(0, count, 50):
        log.append([encode_entry(entry) for entry in entries[start : start + 50]])


def follow(engine: Engine, log: EmbeddedLog, until: int) -> None:
    while engine.offset < until:
        engine.apply(log.read(engine.offset, min(97, until - engine.offset)))
        engine.commit()


def everything(
    engine: Engine, definitions: Definitions, log: EmbeddedLog
) -> dict[tuple[str, str], object]:
    """All features of all entities in the log, now and later."""
    entries = [decode_entry(payload) for _, payload in log.read(log.begin, log.end)]
    keys = {
        "user": [*(f"u{n}" for n in range(30)), *(f"device:d{n}" for n in range(10))],
        "item": [f"i{n}" for n in range(20)],
        "category": [*"abcxyz"],
        "session": sorted({e.session_id for e in entries if isinstance(e, Event) and e.session_id}),
    }
    names = {f.name for f in definitions.features}
    return {
        (key, str(at)): {
            name: value for name, value in engine.read(entity, key, at).items() if name in names
        }
        for at in (engine.horizon, engine.watermark, engine.watermark + 20 * MINUTE)
        for entity, of_entity in keys.items()
        for key in of_entity
    }


def check(log: EmbeddedLog, store: StateStore, until: int) -> None:
    """The state is that of a rebuild."""
    rebuilt = Engine(NEW, MemoryState())
    follow(rebuilt, log, until)
    assert everything(rebuilt, NEW, log) == everything(Engine(NEW, store), NEW, log)


def backfill(
    log: EventLog,
    store: StateStore,
    scratch: StateStore,
    definitions: Definitions,
    options: EngineOptions = DEFAULT_OPTIONS,
    reached: Callable[[int, int], None] = lambda position, wanted: None,
) -> tuple[str, ...]:
    """Compute what a state misses, and merge it; return the names of the features."""
    meta = adopt_definitions(store, definitions)
    assert meta is not None
    if meta.missing:
        part = PartComputation(log, scratch, definitions, meta.missing, meta.offset, options)
        compute_to_end(part, lambda: reached(part.position, meta.offset))
    merge_computed(store, scratch, definitions)
    return tuple(meta.missing)


def test_a_plan_says_what_stays_and_what_is_read_for_the_rest(tmp_path: Path) -> None:
    store = MemoryState()
    assert plan_evolution(store, NEW).records == 0
    with EmbeddedLog(tmp_path) as log:
        fill(log, 1, 500)
        follow(Engine(OLD, store), log, 400)
    plan = plan_evolution(store, NEW, begin=30)
    assert set(plan.recomputed) == RECOMPUTED
    assert set(plan.dropped) == {"count", "visit_views", "spend"}
    assert set(plan.kept) == {f.name for f in NEW.features} - RECOMPUTED
    assert plan.restarted == ("bought_twice",)
    assert (plan.begin, plan.offset, plan.records) == (30, 400, 370)
    renamed = load_definitions(dump_definitions(OLD).replace("categories", "kinds"))
    assert plan_evolution(store, renamed).records == 0


@pytest.mark.slow
@pytest.mark.parametrize("lateness", [0, 5 * MINUTE])
def test_a_backfilled_state_is_that_of_a_rebuild(tmp_path: Path, lateness: int) -> None:
    options = EngineOptions(allowed_lateness_ms=lateness)
    with EmbeddedLog(tmp_path) as log:
        fill(log, 2, 4000)
        store, scratch = MemoryState(), MemoryState()
        follow(Engine(OLD, store, options), log, 2500)
        engine = Engine(NEW, store, options)
        assert set(engine.missing) == RECOMPUTED
        follow(engine, log, 3000)
        nothing = Engine(NEW, MemoryState()).read("user", "u1", engine.watermark)
        read = engine.read("user", "u1", engine.watermark)
        assert all(read[name] == nothing[name] for name in RECOMPUTED & read.keys())
        assert engine.read_late("user", "u1", engine.watermark) == read
        users = [engine.read("user", f"u{n}", engine.watermark) for n in range(30)]
        assert any(user["categories"] for user in users)
        assert set(backfill(log, store, scratch, NEW, options)) == RECOMPUTED
        assert list(scratch.scan(b"")) == []
        assert backfill(log, store, scratch, NEW, options) == ()
        rebuilt = Engine(NEW, MemoryState(), options)
        follow(rebuilt, log, 3000)
        engine = Engine(NEW, store, options)
        assert engine.missing == ()
        for until in (3000, 3500, 4000):
            follow(engine, log, until)
            follow(rebuilt, log, until)
            assert everything(rebuilt, NEW, log) == everything(engine, NEW, log)


def test_a_copy_in_an_online_store_gets_what_was_computed(tmp_path: Path) -> None:
    online = MemoryOnlineStore()
    copied = [f for f in NEW.features if f.entity == "user"]

    def copies() -> dict[str, Any]:
        blobs = online.get_many([f"u{n}" for n in range(30)])
        return {
            f"u{n}": read_packed(copied, blob, engine.watermark) for n, blob in enumerate(blobs)
        }

    with EmbeddedLog(tmp_path) as log:
        fill(log, 2, 1500)
        store = MemoryState()
        follow(Engine(OLD, store), log, 1000)
        engine = Engine(NEW, store, EngineOptions(online=online))  # under the tag of NEW
        assert online.marked(0) == 1000
        before = copies()
        backfill(log, store, MemoryState(), NEW)
        for offset in (1000, 1001, 1001):
            engine = Engine(NEW, store, EngineOptions(online=online))
            follow(engine, log, offset)
            assert online.marked(0) == offset
            names = {feature.name for feature in copied}
            for user, values in copies().items():
                read = engine.read("user", user, engine.watermark)
                assert values == {name: read[name] for name in names}
        assert copies() != before
        online.put_many({"u1": b"spoilt"})
        Engine(NEW, store, EngineOptions(online=online))
        assert online.get_many(["u1"]) == [b"spoilt"], "a later mark speaks for the copy"


@pytest.mark.slow
def test_what_is_dropped_and_comes_back_is_computed_anew(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path) as log:
        fill(log, 3, 3000)
        store = MemoryState()
        follow(Engine(NEW, store), log, 1000)
        follow(Engine(OLD, store), log, 2000)
        assert "longer" in plan_evolution(store, NEW).recomputed
        backfill(log, store, MemoryState(), NEW)
        check(log, store, 2000)


def test_computation_runs_ahead_of_the_engine(tmp_path: Path) -> None:
    """The long computation may run before the engine catches up, the merge may not."""
    with EmbeddedLog(tmp_path) as log:
        fill(log, 4, 1000)
        store, scratch = MemoryState(), MemoryState()
        follow(Engine(OLD, store), log, 500)
        compute_to_end(PartComputation(log, scratch, NEW, RECOMPUTED, 700), lambda: None)
        with pytest.raises(StateError, match="up to offset 700, the state only up to 500"):
            backfill(log, store, scratch, NEW)
        follow(Engine(NEW, store), log, 800)
        reached: list[tuple[int, int]] = []
        backfill(log, store, scratch, NEW, reached=lambda *at: reached.append(at))
        assert reached == [(800, 800)]
        check(log, store, 800)


def test_definitions_that_change_again_begin_the_backfill_anew(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path) as log:
        fill(log, 5, 1000)
        store, scratch = MemoryState(), MemoryState()
        follow(Engine(OLD, store), log, 800)
        part = PartComputation(log, scratch, chosen([]), {"decayed"}, 700)
        compute_to_end(part, lambda: None)
        backfill(log, store, scratch, NEW)
        check(log, store, 800)


def test_a_log_that_lost_its_beginning_counts_what_is_left(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path, segment_bytes=20_000, retention_bytes=200_000) as log:
        store = MemoryState()
        fill(log, 6, 3000)
        engine = Engine(OLD, store)
        follow(engine, log, 3000)
        begin = log.trim(3000)
        assert 0 < begin < 2900
        backfill(log, store, MemoryState(), NEW)
        rebuilt = Engine(NEW, MemoryState())
        rebuilt.apply(log.read(begin, 1))
        follow(rebuilt, log, 3000)
        read = Engine(NEW, store)
        at = read.watermark
        for user in range(30):
            new, left = read.read("user", f"u{user}", at), rebuilt.read("user", f"u{user}", at)
            assert all(new[name] == left[name] for name in RECOMPUTED & new.keys())


BACKFILL = """
import sys
from pathlib import Path
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import RocksState
import tactful_streaming.engine.backfill as module

module._BATCH, module._COMMIT_EVERY, module._PIECE = 50, 1, 3
write = RocksState.write

def noisy_write(self, changes):
    write(self, changes)
    print("written", flush=True)

RocksState.write = noisy_write
directory = Path(sys.argv[1])
log = EmbeddedLog(directory / "log", read_only=True)
state, scratch = RocksState(directory / "state"), RocksState(directory / "scratch")
definitions = load_definitions(directory / "features.yaml")
meta = module.adopt_definitions(state, definitions)
if meta.missing:
    part = module.PartComputation(log, scratch, definitions, meta.missing, meta.offset)
    module.compute_to_end(part, lambda: None)
module.merge_computed(state, scratch, definitions)
state.close()
scratch.close()
print("done", flush=True)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_of_a_backfill(tmp_path: Path) -> None:
    (tmp_path / "features.yaml").write_text(dump_definitions(NEW))
    store: StateStore = RocksState(tmp_path / "state")
    with EmbeddedLog(tmp_path / "log", durability="process") as log:
        fill(log, 7, 2500)
        follow(Engine(OLD, store), log, 2000)
        store.close()
        rng = random.Random(7)
        merged = 0

        def go_on() -> None:
            """Let the engine go on in between, with some of the entities merged."""
            nonlocal merged
            if rng.random() < 0.3:
                engine = Engine(NEW, RocksState(tmp_path / "state"))
                follow(engine, log, min(engine.offset + 37, log.end))
                engine.close()
                merged += 1

        kills = run_with_kills(BACKFILL, tmp_path, rng, 25, go_on)
        assert kills >= 3 and merged
        rebuilt = Engine(NEW, MemoryState())
        engine = Engine(NEW, RocksState(tmp_path / "state"))
        follow(rebuilt, log, engine.offset)
        for until in (engine.offset, log.end):
            follow(engine, log, until)
            follow(rebuilt, log, until)
            assert everything(rebuilt, NEW, log) == everything(engine, NEW, log)
        engine.close()

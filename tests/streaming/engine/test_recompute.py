"""A state computed again without some records is that of a log that never had them."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.streaming.engine.test_backfill import everything, follow
from tests.streaming.memory_online import MemoryOnlineStore
from tests.streaming.streams import definitions, random_entries

from tactful_streaming.contract.log_entries import Event, decode_entry, encode_entry, import_of
from tactful_streaming.definitions.model import Definitions, dump_definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.engine.recompute import changes_to, compute_state
from tactful_streaming.errors import StateError
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.redaction import redact
from tactful_streaming.log.segment import BLANK
from tactful_streaming.state.store import MemoryState

MINE = "9f3c" * 8
SEQUENCE = """
- {name: bought_twice, entity: user, sequence: [purchase, purchase], within: 1h}
"""


def with_sequence() -> Definitions:
    return load_definitions(dump_definitions(definitions()) + SEQUENCE)


def fill(path: Path, seed: int, count: int, share: float) -> EmbeddedLog:
    """Fill a log, of which a share of the records belongs to an import."""
    rng = random.Random(seed)
    log = EmbeddedLog(path, durability="process")
    log.append(
        [
            encode_entry(msgspec.structs.replace(e, import_id=MINE) if rng.random() < share else e)
            for e in random_entries(seed, count)
        ]
    )
    return log


def without(path: Path, seed: int, count: int, share: float, kept: Path) -> EmbeddedLog:
    """Fill a log with those of `fill` that belong to no import."""
    with fill(path, seed, count, share) as log:
        entries = [decode_entry(payload) for _, payload in log.read(0, count)]
    other = EmbeddedLog(kept, durability="process")
    other.append([encode_entry(entry) for entry in entries if import_of(entry) is None])
    return other


@pytest.mark.parametrize(
    ("seed", "linked"),
    [(1, True), *(pytest.param(n, n % 2, marks=pytest.mark.slow) for n in (0, 2, 3))],
)
def test_what_is_left_is_what_never_had_the_import(tmp_path: Path, seed: int, linked: bool) -> None:
    chosen, count = definitions(), 700
    options: dict[str, Any] = {"identity": Identity()} if linked else {}
    online, expected_online = MemoryOnlineStore(), MemoryOnlineStore()
    with fill(tmp_path / "log", seed, count, 0.4) as log:
        store = MemoryState()
        engine = Engine(chosen, store, EngineOptions(online=online, **options))
        follow(engine, log, count)
    redact(
        tmp_path / "log",
        {MINE.encode()},
        lambda _, payload: BLANK if import_of(decode_entry(payload)) == MINE else None,
    )
    with (
        EmbeddedLog(tmp_path / "log", durability="process") as log,
        without(tmp_path / "a", seed, count, 0.4, tmp_path / "b") as other,
    ):
        scratch = MemoryState()
        for until in (count // 3, count):  # killed after a third
            compute_state(log, scratch, chosen, EngineOptions(**options), until=until)
        version = engine.items_version
        engine.adopt(changes_to(store, scratch))
        expected = Engine(chosen, MemoryState(), EngineOptions(online=expected_online, **options))
        follow(expected, other, other.end)
        assert everything(engine, chosen, other) == everything(expected, chosen, other)
        changed = {item.item_id: item for item in engine.items_since(version)}
        assert changed == dict(expected.items)
        assert dict(engine.users) == dict(expected.users)
        assert online.blobs.keys() == expected_online.blobs.keys()
        seen = [e.event_id for e in map(decode_entry, payloads(other)) if isinstance(e, Event)]
        assert engine.seen_many(seen) == {*seen}
        # It goes on, also after it is opened again.
        more = [encode_entry(entry) for entry in random_entries(seed + 9, 200)]
        for target, of_log in ((engine, log), (expected, other)):
            of_log.append(more)
            follow(target, of_log, of_log.end)
        assert everything(engine, chosen, other) == everything(expected, chosen, other)
        opened = Engine(chosen, store, EngineOptions(**options))
        assert everything(opened, chosen, other) == everything(expected, chosen, other)


def payloads(log: EmbeddedLog) -> list[bytes]:
    return [payload for _, payload in log.read(0, log.end)]


def test_matches_of_the_import_are_gone(tmp_path: Path) -> None:
    chosen = with_sequence()
    bought = [
        Event(event_id=f"e{n}", type="purchase", timestamp=60_000 * (n + 1), user_id="ada")
        for n in range(2)
    ]
    store, scratch = MemoryState(), MemoryState()
    with EmbeddedLog(tmp_path, durability="process") as log:
        log.append([encode_entry(msgspec.structs.replace(bought[0], import_id=MINE))])
        later = Event(event_id="e2", type="view", timestamp=3_600_000, user_id="bob")
        log.append([encode_entry(bought[1]), encode_entry(later)])
        engine = Engine(chosen, store)
        follow(engine, log, 3)
    assert engine.read("user", "ada", 3_600_000)["bought_twice"]
    redact(tmp_path, {MINE.encode()}, lambda _, __: BLANK)
    with EmbeddedLog(tmp_path, durability="process") as log:
        compute_state(log, scratch, chosen, EngineOptions(), until=3)
        engine.adopt(changes_to(store, scratch))
    assert not engine.read("user", "ada", 3_600_000)["bought_twice"]


def test_states_of_two_offsets_are_not_compared(tmp_path: Path) -> None:
    chosen, store, scratch = definitions(), MemoryState(), MemoryState()
    with fill(tmp_path, 1, 100, 0.1) as log:
        follow(Engine(chosen, store), log, 100)
        compute_state(log, scratch, chosen, EngineOptions(), until=99)
        with pytest.raises(StateError, match="another offset"):
            changes_to(store, scratch)
        with pytest.raises(StateError, match="ends at offset 100"):
            compute_state(log, scratch, chosen, EngineOptions(), until=101)
        # A state of other definitions, or of more than is asked for, begins anew.
        compute_state(log, scratch, with_sequence(), EngineOptions(), until=50)
        compute_state(log, scratch, chosen, EngineOptions(), until=40)

"""A copy written before the commit never shows values that a crash would revert."""

import random

import pytest
from tests.streaming.engine.test_engine import FullStore
from tests.streaming.memory_online import MemoryOnlineStore
from tests.streaming.streams import START, definitions, random_entries, records

from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import StateError
from tactful_streaming.online.fenced_store import PartitionView
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.entity_table import read_packed
from tactful_streaming.windows.shared_aggregate import Value

BATCH = 10
KEYS = [f"u{user}" for user in range(10)]

Reading = dict[str, dict[str, Value]]


def truth(stream: list[tuple[int, bytes]]) -> dict[int, tuple[int, Reading]]:
    """By offset, the watermark and all reads of an engine without crashes."""
    engine = Engine(definitions(), MemoryState(), EngineOptions(allowed_lateness_ms=0))
    by_offset = {}
    for begin in range(0, len(stream), BATCH):
        engine.apply(stream[begin : begin + BATCH])
        at = engine.watermark
        by_offset[engine.offset] = at, {key: engine.read("user", key, at) for key in KEYS}
    return by_offset


@pytest.mark.parametrize(
    ("seed", "memory_bytes"), [(0, None), (1, 1)], ids=["in-memory", "spilled"]
)
def test_marks_hold_through_crashes(seed: int, memory_bytes: int | None) -> None:
    rng = random.Random(seed)
    stream = records(random_entries(seed, 300))
    expected = truth(stream)
    features = definitions().of_entity("user")
    state, copy = MemoryState(), MemoryOnlineStore()
    committed, furthest, ahead, checked = 0, 0, 0, 0
    while committed < len(stream):
        engine = Engine(
            definitions(),
            state,
            EngineOptions(
                allowed_lateness_ms=0,
                memory_bytes=memory_bytes,
                online=PartitionView(copy, 0, committed),
            ),
        )
        assert engine.offset == committed
        for _ in range(rng.randrange(1, 12)):
            engine.apply(stream[engine.offset : engine.offset + BATCH])
            engine.publish()
            if rng.random() < 0.3:
                engine.commit()
                committed = engine.offset
            marked = copy.marked(0) or 0
            assert marked >= furthest
            furthest = marked
            ahead += marked > committed
            if not marked:  # the first commit fills the copy
                continue
            at, values = expected[marked]
            for key, blob in zip(KEYS, copy.get_many(KEYS), strict=True):
                assert read_packed(features, blob, at) == values[key]
            checked += 1
            if engine.offset >= len(stream):
                engine.commit()
                committed = engine.offset
                break
    assert ahead > 5
    assert checked > ahead
    assert copy.marked(0) == len(stream)


def test_without_an_online_store_there_is_nothing_to_publish() -> None:
    stream = records(random_entries(1, 50))
    state = MemoryState()
    engine = Engine(definitions(), state)
    engine.apply(stream)
    engine.publish()
    assert list(state.scan(b"")) == []
    engine.commit()
    assert Engine(definitions(), state).offset == len(stream)


HOURLY = load_definitions(
    "- {name: n, entity: user, event: view, aggregate: count, window: {size: 1h}}"
)


class Spilling:
    """An engine that spills all packed entities, and its copy."""

    def __init__(self, state: MemoryState) -> None:
        self.copy = MemoryOnlineStore()
        self.engine = Engine(
            HOURLY, state, EngineOptions(allowed_lateness_ms=0, memory_bytes=1, online=self.copy)
        )
        self.now = START

    def see(self, user: str, minute: int) -> None:
        self.now = START + 60_000 * minute
        offset = self.engine.offset
        event = Event(event_id=f"{offset}", type="view", timestamp=self.now, user_id=user)
        self.engine.apply([(offset, encode_entry(event))])
        self.engine.publish()

    def counts(self, user: str) -> tuple[Value, Value]:
        """By the engine and by the copy."""
        (blob,) = self.copy.get_many([user])
        return (
            self.engine.read("user", user, self.now)["n"],
            read_packed(HOURLY.of_entity("user"), blob, self.now)["n"],
        )


def test_a_user_who_returns_at_expiry_stays_in_the_copy() -> None:
    spilling = Spilling(MemoryState())
    spilling.see("u", 0)
    spilling.engine.commit()
    spilling.see("other", 300)
    spilling.see("u", 300)
    spilling.engine.commit()
    assert spilling.counts("u") == (1, 1)


def test_spilled_entities_survive_a_failed_commit() -> None:
    store = FullStore()
    spilling = Spilling(store)
    for minute in range(3):
        spilling.see("u", minute)
    spilling.see("other", 3)
    store.full = True
    with pytest.raises(StateError):
        spilling.engine.commit()
    store.full = False
    spilling.see("u", 4)
    spilling.engine.commit()
    assert spilling.counts("u") == (4, 4)

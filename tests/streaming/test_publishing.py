"""A copy that is written before the state is committed shows nothing that a crash takes back."""

from __future__ import annotations

import random

import pytest
from tests.streaming.streams import definitions, random_entries, records

from tactful_streaming import (
    EmbeddedOnlineStore,
    Engine,
    MemoryState,
    PartitionView,
    Value,
    read_packed,
)

BATCH = 10
KEYS = [f"u{user}" for user in range(10)]

Reading = dict[str, dict[str, Value]]


def truth(stream: list[tuple[int, bytes]]) -> dict[int, tuple[int, Reading]]:
    """By offset, the watermark and what an uninterrupted engine reads of each user."""
    engine = Engine(definitions(), MemoryState(), allowed_lateness_ms=0)
    found = {}
    for begin in range(0, len(stream), BATCH):
        engine.apply(stream[begin : begin + BATCH])
        at = engine.watermark
        found[engine.offset] = at, {key: engine.read("user", key, at) for key in KEYS}
    return found


@pytest.mark.parametrize(
    ("seed", "memory_bytes"), [(0, None), (1, 1)], ids=["in-memory", "spilled"]
)
def test_whatever_is_marked_is_true_through_crashes(seed: int, memory_bytes: int | None) -> None:
    rng = random.Random(seed)
    stream = records(random_entries(seed, 300))
    expected = truth(stream)
    features = definitions().of_entity("user")
    state, copy = MemoryState(), EmbeddedOnlineStore(MemoryState())
    committed, furthest, ahead, checked = 0, 0, 0, 0
    while committed < len(stream):
        engine = Engine(
            definitions(),
            state,
            allowed_lateness_ms=0,
            memory_bytes=memory_bytes,
            online=PartitionView(copy, 0, committed),
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

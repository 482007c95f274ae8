"""A cap on memory: users and sessions leave it, and their values stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.memory_cap import MemoryCap
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.state.store import MemoryState

START = 1_700_000_000_000
DEFINITIONS = load_definitions(
    """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 30d}}
- {name: seen, entity: user, event: view, aggregate: last_n, of: item_id, n: 20}
- {name: viewed, entity: item, event: view, aggregate: count, window: {size: 30d}}
"""
)


class CountedState(MemoryState):
    """A store that counts the keys that are read."""

    reads = 0

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.reads += sum(key[:1] == b"e" for key in keys)
        return super().get_many(keys)


def view(number: int) -> tuple[int, bytes]:
    event = Event(
        event_id=str(number),
        type="view",
        timestamp=START + number,
        user_id=f"u{number * 3000 // 6_000}",
        item_id=f"i{number % 40}",
    )
    return number, encode_entry(event)


def fill(engine: Engine) -> None:
    for begin in range(engine.offset, 6_000, 500):
        engine.apply([*map(view, range(begin, begin + 500))])
        engine.commit()


@pytest.mark.parametrize("whole", [True, False], ids=["process", "entities"])
def test_values_are_those_without_a_cap(whole: bool) -> None:
    """Also after a restart; items never leave memory, since requests read them all."""
    engines: list[Engine] = []

    def resident() -> int:
        return 1 + (2 * engines[-1].nbytes if engines else 0)

    plain, store = Engine(DEFINITIONS, MemoryState()), CountedState()
    fill(plain)
    limit = plain.nbytes // 2
    resident_or_none = resident if whole else None
    options = EngineOptions(memory_bytes=(2 if whole else 1) * limit, resident=resident_or_none)
    engines.append(Engine(DEFINITIONS, store, options))
    fill(engines[0])
    for engine in (engines[0], Engine(DEFINITIONS, store, options)):
        tables = engine._state.tables
        assert 0 < len(tables["user"]) < 3000
        assert len(tables["item"]) == 40
        assert engine.read_nonzero("item", "viewed", START + 6_000) is not None
        for number in range(0, 3000, 30):
            key = f"u{number}"
            assert engine.read("user", key, START + 6_000) == plain.read("user", key, START + 6_000)
    assert engines[0].nbytes < 1.5 * limit


def test_a_cap_that_is_not_reached_costs_no_read() -> None:
    """Everything is loaded at the opening, and no read or event asks the store."""
    store = CountedState()
    options = EngineOptions(memory_bytes=1 << 30, resident=lambda: 1 << 20)
    engine = Engine(DEFINITIONS, store, options)
    fill(engine)
    again = Engine(DEFINITIONS, store, options)
    for opened in (engine, again):
        assert len(opened._state.tables["user"]) == 3000
        opened.read("user", "nobody", START)
        assert opened.read_nonzero("user", "views", START + 6_000) is not None
    assert store.reads == 0


def test_memory_of_the_process_may_grow_a_little_between_removals() -> None:
    """What leaves memory leaves holes: the process does not shrink, and must not lose all users."""
    mebibyte = 1 << 20
    resident = [100 * mebibyte]
    cap = MemoryCap(512 * mebibyte, lambda: resident[0])
    assert cap.is_due(1)
    assert not cap.is_due(1_000)
    assert cap.is_due(24)
    taken = []
    for size in (500, 513, 515, 520, 521, 525, 400, 513):
        resident[0] = size * mebibyte
        taken.append(cap.allowance(300 * mebibyte, 0) is not None)
    assert taken == [False, True, False, False, True, False, False, True]
    assert cap.allowance(10 * mebibyte, 0) is None, "nothing to gain"

"""Comparisons of two computations of one log, beside a brute-force reading of both."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from tests.streaming.random_definitions import random_definitions
from tests.streaming.random_streams import START, random_stream

from tactful_streaming.contract.log_entries import Entry, Event, encode_entry
from tactful_streaming.definitions.model import Definitions, Feature, ForwardDecay
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.errors import StateError
from tactful_streaming.flink.entities import entity_hash, entity_kinds
from tactful_streaming.online.comparison import Comparison, StateSide, compare_sides
from tactful_streaming.state.key_layout import entity_prefix
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.entity_table import read_packed

DEFINITIONS = load_definitions("""
- {name: views, entity: user, event: view, aggregate: count, window: {size: 1h, slide: 1m}}
- {name: faded, entity: user, event: view, aggregate: sum, of: properties.price, group_by: item_id,
   window: {half_life: 10m}}
- {name: total, entity: user, event: view, aggregate: sum, of: properties.price,
   window: {size: 2h, slide: 1h}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 3}
- {name: seen, entity: session, event: view, aggregate: count, window: {size: 30m, slide: 1m}}
""")


def states(definitions: Definitions, log: Sequence[Entry], batch: int) -> MemoryState:
    """The state of an engine that has read the log in batches of one size."""
    state = MemoryState()
    engine = Engine(definitions, state)
    records = [(offset, encode_entry(entry)) for offset, entry in enumerate(log)]
    for begin in range(0, len(records), batch):
        engine.apply(records[begin : begin + batch])
        engine.commit()
    return state


def side(name: str, state: MemoryState) -> StateSide:
    made = StateSide(name, lambda: [(state, {0: 0})])
    made.reached()
    return made


def compared(definitions: Definitions, first: MemoryState, second: MemoryState) -> Comparison:
    sides = side("first", first), side("second", second)
    return compare_sides(*sides, definitions, settle=lambda: True)


def view(number: int, user: str = "ada", at: int = START, **more: Any) -> Event:
    properties = {"price": more.pop("price", 2.5)}
    return Event(
        event_id=f"e{number}",
        type="view",
        timestamp=at,
        user_id=user,
        session_id=f"visit-{user}",
        item_id=more.pop("item", "tea"),
        properties=properties,
    )


def change(state: MemoryState, kind: str, key: str, blob: bytes | None) -> None:
    state.write([(entity_prefix(kind) + key.encode(), blob)])


def blob_of(state: MemoryState, kind: str, key: str) -> bytes:
    blob = state.get(entity_prefix(kind) + key.encode())
    assert blob is not None
    return blob


def differing(comparison: Comparison) -> dict[str, int]:
    return {one.feature: one.different for one in comparison.features if one.different}


LOG = [view(n, f"u{n % 5}", START + 7000 * n, item=f"i{n % 3}") for n in range(60)]


@pytest.mark.parametrize("seed", range(12))
def test_logs_that_are_read_in_other_batches_give_equal_values(seed: int) -> None:
    definitions = random_definitions(seed, 12, sequences=0, joins=0)
    log, rng = random_stream(seed, 600), random.Random(seed)
    first, second = (states(definitions, log, rng.choice([1, 7, 50, 600])) for _ in range(2))
    comparison = compared(definitions, first, second)
    assert comparison.different == comparison.unsettled == 0
    assert sum(kind.both for kind in comparison.kinds) > 0


@pytest.mark.parametrize("seed", range(12))
def test_it_finds_what_a_brute_force_reading_finds(seed: int) -> None:
    """One side lacks an event here and there."""
    definitions = random_definitions(seed, 12, sequences=0, joins=0)
    log, rng = random_stream(seed, 300), random.Random(seed)
    first = states(definitions, log, 50)
    second = states(definitions, [entry for entry in log if rng.random() < 0.97], 50)
    found = compared(definitions, first, second)
    expected, alone = brute_force(definitions, first, second, at=found.at)
    assert differing(found) == expected
    assert {one.entity: (one.only_first, one.only_second) for one in found.kinds} == alone


def brute_force(
    definitions: Definitions, *states: MemoryState, at: int
) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    wrong: Counter[str] = Counter()
    alone = {}
    for kind in entity_kinds(definitions):
        prefix, features = entity_prefix(kind), definitions.of_entity(kind)
        tables = [dict(state.scan(prefix)) for state in states]
        only = [0, 0]
        for key in tables[0].keys() | tables[1].keys():
            differences = {
                feature.name
                for later in (0, 60_000, 3_600_000, 86_400_000)
                for values in [[read_packed(features, t.get(key), at + later) for t in tables]]
                for feature in features
                if not alike(feature, *(of.get(feature.name) for of in values))
            }
            if key in tables[0] and key in tables[1]:
                wrong.update(differences)
            elif differences:
                only[key in tables[1]] += 1
        alone[kind] = only[0], only[1]
    return dict(wrong), alone


def alike(feature: Feature, first: Any, second: Any) -> bool:
    decays = isinstance(feature.window, ForwardDecay)
    return bool(first == (pytest.approx(second, rel=1e-9, abs=1e-300) if decays else second))


def test_a_planted_value_is_found_by_feature_name_and_no_user_is_named() -> None:
    first, second = states(DEFINITIONS, LOG, 60), states(DEFINITIONS, LOG, 7)
    more = states(DEFINITIONS, [*LOG, view(60, "u3", LOG[-1].timestamp, item="i0")], 60)
    change(second, "session", "visit-u3", blob_of(more, "session", "visit-u3"))
    comparison = compared(DEFINITIONS, first, second)
    assert differing(comparison) == {"seen": 1}
    (seen,) = [one for one in comparison.features if one.feature == "seen"]
    (example,) = seen.examples
    assert example.entity == entity_hash("session", "visit-u3")
    assert (example.first, example.second) == (12, 13)
    assert b"u3" not in msgspec.json.encode(comparison)
    change(second, "user", "u3", blob_of(more, "user", "u3"))
    found = differing(compared(DEFINITIONS, first, second))
    assert found == {"seen": 1, "views": 1, "faded": 1, "total": 1, "recent": 1}


def test_entities_on_one_side_alone() -> None:
    first, second = states(DEFINITIONS, LOG, 60), states(DEFINITIONS, LOG, 60)
    change(first, "user", "u1", None)
    change(second, "user", "u2", None)
    change(second, "user", "u4", None)
    comparison = compared(DEFINITIONS, first, second)
    (user, session) = comparison.kinds
    assert (user.both, user.only_first, user.only_second) == (2, 2, 1)
    assert (session.both, session.only_first, session.only_second) == (5, 0, 0)
    assert comparison.different == 3
    assert not differing(comparison)


def test_an_entity_whose_windows_are_over_may_be_gone_on_one_side() -> None:
    definitions = load_definitions(
        "- {name: n, entity: user, event: view, aggregate: count, window: {size: 1m, slide: 1m}}"
    )
    log = [view(0, "ada"), view(1, "bob", START + 3_600_000)]
    first, second = states(definitions, log, 1), states(definitions, log, 1)
    # The engine, which has dropped ada by now, had written this before.
    change(first, "user", "ada", blob_of(states(definitions, log[:1], 1), "user", "ada"))
    change(second, "user", "ada", None)
    assert compared(definitions, first, second).different == 0


@pytest.mark.parametrize(("factor", "equal"), [(1 + 1e-12, True), (1 + 1e-6, False)])
def test_decay_by_a_half_life_may_differ_in_the_last_digits(factor: float, equal: bool) -> None:
    for feature in ("faded", "total"):
        definitions = Definitions(tuple(f for f in DEFINITIONS.features if f.name == feature))
        first = states(definitions, [view(0, price=3.7)], 1)
        second = states(definitions, [view(0, price=3.7 * factor)], 1)
        comparison = compared(definitions, first, second)
        assert (comparison.different == 0) == (equal and feature == "faded")


def test_values_that_move_are_read_again() -> None:
    """A side that is ahead has other values until the other one has come to the same offset."""
    logs = [LOG[:50], LOG[:57], LOG]
    first, second = states(DEFINITIONS, LOG[:57], 57), states(DEFINITIONS, LOG[:50], 50)
    sides, waits = (side("first", first), side("second", second)), 0

    def settle() -> bool:
        nonlocal waits
        waits += 1
        moved = [logs[min(waits + 1, 2)], logs[min(waits, 2)]]
        for one, log in zip(sides, moved, strict=True):
            one._states = [(states(DEFINITIONS, log, 60), {0: len(log)})]
        return True

    comparison = compare_sides(*sides, DEFINITIONS, settle=settle)
    assert comparison.different == comparison.unsettled == 0
    assert waits == 2


def test_entities_that_never_rest_are_counted_when_the_time_is_over() -> None:
    first, second = states(DEFINITIONS, LOG, 60), states(DEFINITIONS, LOG[:-1], 60)
    sides = side("first", first), side("second", second)
    comparison = compare_sides(*sides, DEFINITIONS, settle=lambda: False)
    assert comparison.unsettled == 2  # a user and a visit
    assert comparison.different == 0


def test_progress_ends_with_all_that_is_read() -> None:
    told: list[tuple[int, int]] = []
    state = states(DEFINITIONS, LOG, 60)
    sides = side("first", state), side("second", state)
    compare_sides(
        *sides,
        DEFINITIONS,
        settle=lambda: True,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(5, 10), (10, 10)]


def test_a_damaged_value_is_an_error_that_names_the_side() -> None:
    first, second = states(DEFINITIONS, LOG, 60), states(DEFINITIONS, LOG, 60)
    change(second, "user", "u1", b"\xc1")
    with pytest.raises(StateError, match="second: the packed state of an entity is damaged"):
        compared(DEFINITIONS, first, second)


def test_states_of_several_partitions_are_one_side() -> None:
    halves: Mapping[int, list[Event]] = {
        n: [event for event in LOG if (event.user_id in ("u0", "u1")) == (n == 0)] for n in (0, 1)
    }
    parts = [(states(DEFINITIONS, log, 9), {n: len(log)}) for n, log in halves.items()]
    whole = StateSide("parts", lambda: parts)
    assert whole.reached() == {0: 24, 1: 36}
    first = side("first", states(DEFINITIONS, LOG, 60))
    comparison = compare_sides(first, whole, DEFINITIONS, settle=lambda: True)
    assert [(kind.both, kind.only_first) for kind in comparison.kinds] == [(5, 0), (5, 0)]
    assert comparison.different == 0

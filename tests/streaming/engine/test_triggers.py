import random
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

import pytest
from tests.streaming.gate import FiredKey, equal
from tests.streaming.oracle import Oracle
from tests.streaming.random_definitions import random_features
from tests.streaming.random_streams import START, random_stream, with_end
from tests.streaming.streams import engine_of

from tactful_streaming.contract.log_entries import Entry, Event, Tick, decode_entry, encode_entry
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions, LateEvent
from tactful_streaming.errors import EngineError
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.triggers import WindowResult

SECOND, MINUTE = 1000, 60_000

Rows = dict[FiredKey, list[Any]]
"""What each window gave, each time it fired, in order."""


def rows_of(fired: Sequence[WindowResult]) -> Rows:
    rows: Rows = {}
    for one in fired:
        groups: Sequence[str | None] = one.groups or [None] * len(one.keys)
        for key, group, value in zip(one.keys, groups, one.values, strict=True):
            place = (one.feature, key, group, one.window_start, one.window_end)
            rows.setdefault(place, []).append(value)
    return rows


def run(
    definitions: Definitions,
    entries: Sequence[Entry],
    seed: int,
    *,
    sizes: Sequence[int],
    restarts: bool = False,
    memory_bytes: int | None = None,
    delay: int = 0,
    lateness: int = 300_000,
) -> Rows:
    """Return the results with the log split and the engine restarted at random."""
    rng = random.Random(seed)
    stream = [(offset, encode_entry(entry)) for offset, entry in enumerate(entries)]
    store, fired = MemoryState(), list[WindowResult]()

    options = EngineOptions(
        on_results=fired.extend,
        portion_rows=rng.choice([1, 7, 50_000]),
        memory_bytes=memory_bytes,
        watermark_delay_ms=delay,
        allowed_lateness_ms=lateness,
    )
    engine = Engine(definitions, store, options)
    while engine.offset < len(stream):
        engine.apply(stream[engine.offset : engine.offset + rng.choice(sizes)])
        if rng.random() < 0.3:
            engine.commit()
            if restarts and rng.random() < 0.3:
                engine = Engine(definitions, store, options)
    return rows_of(fired)


def without_repeats(rows: Rows) -> Rows:
    """An emitted session may be emitted again after a restart, with the same value."""
    return {place: [value for value, _ in groupby(values)] for place, values in rows.items()}


@pytest.mark.parametrize("lateness", [0, 2 * MINUTE])
@pytest.mark.parametrize(
    "seed", [0, 1, 6, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))]
)
def test_windows_fire_as_if_events_came_one_by_one(seed: int, lateness: int) -> None:
    rng = random.Random(seed)
    definitions = Definitions(random_features(rng, 14))
    entries = with_end(random_stream(seed, 500))
    delay = rng.choice([0, 5 * SECOND])
    oracle = Oracle(definitions, lateness, delay, firing=True)
    for entry in entries:
        oracle.apply(entry)
    expected: Rows = {}
    for row in oracle.fired:
        expected.setdefault(row[:5], []).append(row.value)
    assert len(expected) > 300
    features = {feature.name: feature for feature in definitions.features}
    again = partial(run, definitions, entries, seed, delay=delay, lateness=lateness)
    for sizes in ([1], [1, 7, 60], [10_000]):
        got = again(sizes=sizes)
        assert got.keys() == expected.keys()
        for place, values in got.items():
            assert len(values) == len(expected[place]), place
            for value, other in zip(values, expected[place], strict=True):
                assert equal(features[place[0]], value, other), place
    assert without_repeats(got) == without_repeats(again(sizes=[20], restarts=True))


@pytest.mark.slow
def test_a_cap_on_memory_changes_nothing_that_fires() -> None:
    definitions = Definitions(random_features(random.Random(3), 14))
    entries = with_end(random_stream(3, 1500))
    everything = without_repeats(run(definitions, entries, 3, sizes=[20]))
    capped = run(definitions, entries, 4, sizes=[20], restarts=True, memory_bytes=20_000)
    assert everything == without_repeats(capped)


HOP = load_definitions(
    "- {name: n, entity: user, event: view, aggregate: count, window: {size: 3m, slide: 1m}}\n"
)


def view(number: int, at: int) -> tuple[int, bytes]:
    event = Event(event_id=str(number), type="view", timestamp=at, user_id="u")
    return number, encode_entry(event)


def test_a_window_is_emitted_again_when_it_changes() -> None:
    start = START // MINUTE * MINUTE
    fired: list[WindowResult] = []
    engine = engine_of(HOP, allowed_lateness_ms=2 * MINUTE, on_results=fired.extend)

    def told() -> list[tuple[int, float]]:
        rows = [((row.window_end - start) // MINUTE, row.values[0]) for row in fired]
        fired.clear()
        return rows

    engine.apply([view(0, start), view(1, start + MINUTE - 1)])
    assert (told(), engine.next_timer()) == ([], start + MINUTE)
    engine.apply([view(2, start + MINUTE)])
    assert told() == [(1, 2)]
    engine.apply([view(3, start + 1)])
    assert told() == [(1, 3)]
    engine.apply([view(4, start + 3 * MINUTE), view(5, start + 2)])
    assert told() == [(2, 4), (3, 4), (2, 5), (3, 5)]
    engine.apply([view(6, start + 4 * MINUTE)])
    assert told() == [(4, 2)]


@pytest.mark.parametrize(("before_end", "late", "fired"), [(1, 0, [(1, 2)]), (0, 1, [])])
def test_lateness_of_exactly_the_bound_is_too_late(
    before_end: int, late: int, fired: list[tuple[int, float]]
) -> None:
    """An event counts until its last window ended the allowed lateness before the watermark."""
    tumbling = load_definitions(
        "- {name: n, entity: user, event: view, aggregate: count, window: {size: 1m}}\n"
    )
    start, results = START // MINUTE * MINUTE, list[WindowResult]()
    lateness = 2 * MINUTE
    engine = engine_of(tumbling, allowed_lateness_ms=lateness, on_results=results.extend)
    engine.apply([view(0, start), view(1, start + MINUTE + lateness - before_end)])
    results.clear()
    assert engine.apply([view(2, start + MINUTE - 1)]).late == late
    rows = [((row.window_end - start) // MINUTE, row.values[0]) for row in results]
    assert rows == fired


def test_silence_fires_by_ticks_that_a_replay_repeats() -> None:
    start = START // MINUTE * MINUTE
    fired: list[WindowResult] = []
    engine = engine_of(HOP, watermark_delay_ms=SECOND, on_results=fired.extend)
    log = [view(0, start)]
    engine.apply(log)
    while (timer := engine.next_timer()) is not None:
        log.append((len(log), encode_entry(Tick(timestamp=timer + SECOND))))
        engine.apply(log[-1:])
    assert [(row.window_end - start) // MINUTE for row in fired] == [1, 2, 3]
    again: list[WindowResult] = []
    engine_of(HOP, watermark_delay_ms=SECOND, on_results=again.extend).apply(log)
    assert rows_of(again) == rows_of(fired)


def test_late_events_are_handed_out_with_the_features_they_miss() -> None:
    definitions = load_definitions(
        "- {name: short, entity: user, event: view, aggregate: count, window: {size: 1m}}\n"
        "- {name: long, entity: user, event: view, aggregate: count, window: {size: 1h}}\n"
        "- {name: last, entity: user, event: view, aggregate: last_time}\n"
    )
    start = START // (60 * MINUTE) * 60 * MINUTE
    late: list[LateEvent] = []
    engine = engine_of(definitions, allowed_lateness_ms=0, on_late=late.extend)
    nobody = Event(event_id="x", type="view", timestamp=start)
    stream = [view(0, start + 30 * MINUTE), (1, encode_entry(nobody)), view(2, start)]
    assert engine.apply([*stream, view(3, start - 1)]).late == 3
    missed = {event.offset: event.features for event in late}
    assert missed == {2: ("short",), 3: ("short", "long")}
    entry = decode_entry(late[0].payload)
    assert isinstance(entry, Event) and entry.event_id == "2"
    assert engine.read("user", "u", start)["last"] == start + 30 * MINUTE


def test_portions_hold_the_same_rows_in_the_same_order() -> None:
    rng = random.Random(4)
    definitions = Definitions(random_features(rng, 14))
    payloads = map(encode_entry, with_end(random_stream(4, 400)))
    stream = [*enumerate(payloads)]
    runs: list[list[Any]] = []
    for most in (3, 50_000):
        portions: list[list[WindowResult]] = []
        options = EngineOptions(on_results=portions.append, portion_rows=most)
        engine = Engine(definitions, MemoryState(), options)
        pauses = 0
        for begin in range(0, len(stream), 100):
            batch = engine.apply_in_portions(stream[begin : begin + 100])
            for _ in batch:
                pauses += 1
                with pytest.raises(EngineError):
                    engine.commit()
            engine.commit()
        sizes = [sum(len(one.keys) for one in portion) for portion in portions]
        assert max(sizes) < 2 * most
        assert (pauses > 100) == (most == 3)
        rows = [rows_of([one]) for portion in portions for one in portion]
        runs.append([row for one in rows for row in one.items()])
    assert len(runs[0]) > 300
    assert runs[0] == runs[1]

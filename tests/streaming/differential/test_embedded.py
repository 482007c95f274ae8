"""The gate: random definitions over random logs, by brute force and by the engine, row by row.

The logs are out of order, late, repetitive and full of gaps. However they are cut into batches,
committed and interrupted, what fires, what is found and what is read is the same.
"""

import os
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.streaming.gate import by_engine, by_oracle, differences, equal, once, only
from tests.streaming.oracle import Oracle
from tests.streaming.random_definitions import random_definitions
from tests.streaming.random_streams import random_stream, with_end
from tests.streaming.streams import engine_of

from tactful_streaming.contract.log_entries import encode_entry
from tactful_streaming.definitions.model import (
    CumulativeWindow,
    Definition,
    Definitions,
    Feature,
    ForwardDecay,
    Join,
    Sequence,
    SessionWindow,
    Step,
    Window,
)
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

DELAYS = (0, 5000, 60_000)
LATENESSES = (0, 0, 60_000, 1_000_000)
LONG = int(os.environ.get("TACTFUL_DIFFERENTIAL_LOGS", "15"))


@pytest.mark.parametrize("seed", range(3))
def test_what_fires_and_what_is_found(seed: int) -> None:
    check(seed, features=12, entries=500)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1000, 1000 + LONG))
def test_what_fires_and_what_is_found_at_length(seed: int) -> None:
    check(seed, features=20, entries=2500)


@given(st.integers(0, 2**32), st.integers(0, 120))
@settings(max_examples=40, deadline=None)
def test_any_definitions_over_any_log(seed: int, entries: int) -> None:
    check(seed, features=6, entries=entries, least=0)


def check(seed: int, *, features: int, entries: int, least: int = 300) -> None:
    """One log without and one with restarts."""
    definitions = random_definitions(seed, features)
    rng = random.Random(seed)
    delay, lateness = rng.choice(DELAYS), rng.choice(LATENESSES)
    log = with_end(random_stream(seed, entries))
    expected = by_oracle(definitions, log, delay, lateness)
    got = by_engine(definitions, log, delay, lateness, batches=rng)
    assert differences(definitions, expected, got) == []
    got = by_engine(definitions, log, delay, lateness, batches=rng, restarts=True)
    assert differences(definitions, once(expected), got) == []
    assert len(expected.fired) >= least


@pytest.mark.parametrize("seed", range(12))
def test_what_is_read(seed: int) -> None:
    rng = random.Random(seed)
    definitions = random_definitions(seed, 14, sequences=0, joins=0)
    delay, lateness = rng.choice(DELAYS), rng.choice(LATENESSES)
    oracle = Oracle(definitions, lateness, delay)
    store = MemoryState()
    engine = _engine(definitions, store, delay, lateness)
    log = list(enumerate(random_stream(seed, 500)))
    late = compared = 0
    while log:
        size = rng.choice([1, 7, 50, 200])
        late += engine.apply([(offset, encode_entry(entry)) for offset, entry in log[:size]]).late
        for _, entry in log[:size]:
            oracle.apply(entry)
        del log[:size]
        engine.commit()
        if rng.random() < 0.2:
            engine = _engine(definitions, store, delay, lateness)
        if rng.random() < 0.2 or not log:
            compared += _compare_reads(oracle, engine, rng)
    assert late == oracle.late
    assert compared > 200


def _engine(definitions: Definitions, store: MemoryState, delay: int, lateness: int) -> Engine:
    return engine_of(definitions, store, watermark_delay_ms=delay, allowed_lateness_ms=lateness)


def _compare_reads(oracle: Oracle, engine: Engine, rng: random.Random) -> int:
    compared = 0
    for feature in oracle.features:
        # Forward decay is read as of the newest event, which a fast clock may have stamped.
        newest = oracle.newest + 300_000 * isinstance(feature.window, ForwardDecay)
        times = [newest, newest + rng.randrange(2_000_000)]
        if not isinstance(feature.window, SessionWindow | ForwardDecay):
            times.append(oracle.watermark)
        for name, key in oracle.kept:
            for at in times if name == feature.name else ():
                expected = oracle.read(feature, key, at)
                got = engine.read(feature.entity, key, at)[feature.name]
                if isinstance(expected, dict):
                    assert isinstance(got, dict)
                    # What has decayed to nothing may be forgotten.
                    for group in expected.keys() | got.keys():
                        pair = expected.get(group, 0.0), got.get(group, 0.0)
                        assert equal(feature, *pair), (feature, key, group, pair)
                else:
                    assert equal(feature, expected, got), (feature, key, expected, got)
                compared += 1
    return compared


MINUTE = 60_000
HOP = Window(5 * MINUTE, MINUTE, 0.8)
COUNT = Feature("f", "user", ("click", "view"), "count", window=HOP)
TOTAL = Feature("f", "user", ("click",), "sum", "properties.price", "category", window=HOP)
VISIT = Feature("f", "user", ("view",), "count", window=SessionWindow(30_000))
PERIOD = Feature("f", "item", ("view",), "count", window=CumulativeWindow(10 * MINUTE, MINUTE))
TAIL = Feature(
    "f", "user", ("view",), "count", window=Window(5 * MINUTE, MINUTE, tail="approximate")
)
LAST = Feature("f", "user", ("view",), "last", "item.price", window=Window(MINUTE, MINUTE))
VIEW, CART = Step(("view",)), Step(("add_to_cart",))
PAIR = Sequence("s", "user", (VIEW, CART), 20_000)
QUIET = Sequence("s", "user", (VIEW, Step(("purchase",), negated=True, for_ms=20_000)), MINUTE)
TWICE = Sequence("s", "user", (VIEW, Step(("click",), least=2, most=2), CART), 2 * MINUTE)
NEAR = Join("j", "user", ("view", "click"), 10_000)


def _window(feature: Feature, **changes: Any) -> Feature:
    assert feature.window is not None
    return replace(feature, window=replace(feature.window, **changes))


MISTAKES: dict[str, tuple[Definition, Definition]] = {
    "a pane too many": (COUNT, _window(COUNT, size_ms=6 * MINUTE)),
    "a pane too few": (TOTAL, _window(TOTAL, size_ms=4 * MINUTE)),
    "panes of another length": (COUNT, _window(COUNT, size_ms=150_000, slide_ms=30_000)),
    "decay to another power": (TOTAL, _window(TOTAL, decay=0.64)),
    "no decay": (COUNT, _window(COUNT, decay=1.0)),
    "the group left out": (TOTAL, replace(TOTAL, group_by=None)),
    "a type left out": (COUNT, replace(COUNT, events=("view",))),
    "a session a millisecond longer": (VISIT, _window(VISIT, gap_ms=30_001)),
    "a session a millisecond shorter": (VISIT, _window(VISIT, gap_ms=29_999)),
    "a period that goes on": (PERIOD, _window(PERIOD, size_ms=20 * MINUTE)),
    "steps left out": (PERIOD, _window(PERIOD, step_ms=2 * MINUTE)),
    "no pane for the tail": (TAIL, _window(TAIL, tail="exact")),
    "the price of now": (LAST, replace(LAST, of="properties.price")),
    "within to the millisecond": (PAIR, replace(PAIR, within_ms=20_001)),
    "strict for relaxed": (TWICE, replace(TWICE, contiguity="strict")),
    "the search goes on too early": (PAIR, replace(PAIR, skip="to_next")),
    "silence a millisecond too long": (
        QUIET,
        replace(QUIET, steps=(VIEW, Step(("purchase",), negated=True, for_ms=20_001))),
    ),
    "once is enough": (TWICE, replace(TWICE, steps=(VIEW, Step(("click",)), CART))),
    "a join a millisecond narrower": (NEAR, replace(NEAR, within_ms=9_999)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_gate_sees(mistake: str) -> None:
    right, wrong = MISTAKES[mistake]
    assert not sees(right, right, logs=3)
    assert sees(right, wrong)


@pytest.mark.parametrize("delay", [4999, 5001])
def test_the_gate_sees_a_watermark_off_by_a_millisecond(delay: int) -> None:
    assert sees(PAIR, PAIR, delay=delay)


@pytest.mark.slow
@pytest.mark.parametrize("lateness", [59_999, 60_001])
def test_the_gate_sees_a_lateness_off_by_a_millisecond(lateness: int) -> None:
    short = replace(COUNT, window=Window(10_000, 5000))
    assert sees(short, short, lateness=lateness)


def test_the_gate_sees_events_counted_twice() -> None:
    assert sees(COUNT, COUNT, dedupe_days=0)


def sees(
    right: Definition,
    wrong: Definition,
    *,
    logs: int = 40,
    delay: int = 5000,
    lateness: int = 60_000,
    dedupe_days: int = 7,
) -> bool:
    """Whether an engine that computes `wrong` differs from what `right` means, in some log."""
    for seed in range(logs):
        log = with_end(random_stream(seed, 800))
        expected = by_oracle(only(right), log, 5000, 60_000)
        rng = random.Random(seed)
        got = by_engine(only(wrong), log, delay, lateness, batches=rng, dedupe_days=dedupe_days)
        if differences(only(right), expected, got):
            return True
    return False

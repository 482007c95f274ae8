import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.streaming.kills import run_with_kills
from tests.streaming.streams import START, event_of, random_entries

from tactful_streaming.contract.log_entries import Entry, Event, Tick, decode_entry, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.patterns.match import Match
from tactful_streaming.state.store import MemoryState

MINUTE = 60_000

DEFINITIONS = """
- {name: n, entity: user, event: [view, x.coupon], aggregate: count, window: {size: 5m, slide: 1m}}
- {name: browsed, entity: user, sequence: [view, click, {not: purchase, for: 2m}], within: 20m,
   emit: coupon}
- {name: twice, entity: item, sequence: [purchase, purchase], within: 1h}
- {name: fresh, entity: user, join: {event: view, with: item_updates, within: 30s}, emit: look}
"""
LOADED = load_definitions(DEFINITIONS)


def stream(seed: int, count: int) -> list[Entry]:
    rng = random.Random(seed)
    entries: list[Entry] = []
    for entry in random_entries(seed, count):
        entries.append(entry)
        if rng.random() < 0.01:
            entries.append(Tick(timestamp=entry.timestamp + rng.randrange(5 * MINUTE)))
    return entries


def run(entries: list[Entry], seed: int) -> tuple[list[Match], list[Event]]:
    """Matches, and the actions in the order in which they were appended."""
    rng = random.Random(seed)
    log = [encode_entry(entry) for entry in entries]
    store, matches, actions = MemoryState(), list[Match](), list[Event]()
    engine = Engine(LOADED, store, EngineOptions(on_match=matches.extend))
    while engine.offset < len(log):
        begin = engine.offset
        until = min(begin + rng.choice([1, 10, 300]), len(log))
        engine.apply(list(enumerate(log))[begin:until])
        if rng.random() < 0.2 or engine.offset == len(log):
            engine.commit()
            if engine.offset == len(log):
                log += map(encode_entry, ready := engine.outbox())
                actions += ready
                engine.sent(ready)
            if rng.random() < 0.3:
                engine = Engine(LOADED, store, EngineOptions(on_match=matches.extend))
    assert engine.outbox() == []
    return matches, actions


def test_matches_and_actions_depend_on_the_log_alone() -> None:
    entries = stream(1, 6000)
    matches, actions = run(entries, 1)
    assert min(Counter(match.name for match in matches).values()) > 10
    assert {action.type for action in actions} == {"x.coupon", "x.look"}
    for seed in (2, 3):
        again, actions_again = run(entries, seed)
        assert sorted(map(repr, again)) == sorted(map(repr, matches))
        assert sorted(map(repr, actions_again)) == sorted(map(repr, actions))


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 300_000), st.booleans())))
def test_fast_clocks(arrivals: list[tuple[int, int, bool]]) -> None:
    """Devices with fast clocks make no event late that comes within the watermark's delay.

    An arrival is a pause before it, the advance of a fast clock, and whether it has one; other
    events take so long as the pause.
    """
    now, entries, users = START, list[Entry](), list[str]()
    for number, (pause, ahead, fast) in enumerate([*arrivals, (5000, 300_000, True)]):
        now += pause
        shared: dict[str, Any] = {"item_id": f"i{number}", "received_at": now}
        if fast:
            at = now + ahead
            entries.append(event_of(f"f{number}", "view", at, device_id="fast", **shared))
            continue
        users.append(f"u{number}")
        for type_ in ("purchase", "purchase"):
            at = now - pause
            entries.append(event_of(f"{number}-{len(entries)}", type_, at, users[-1], **shared))
    matches = list[Match]()
    options = EngineOptions(on_match=matches.extend, watermark_delay_ms=5000)
    for batch in (1, len(entries)):
        matches.clear()
        engine = Engine(LOADED, MemoryState(), options)
        log = [*enumerate(map(encode_entry, entries))]
        late = sum(engine.apply(log[n : n + batch]).late for n in range(0, len(log), batch))
        assert (late, engine.watermark) == (0, now - 5000)
        engine.apply([(len(log), encode_entry(Tick(timestamp=now + MINUTE)))])
        assert len([match for match in matches if match.name == "twice"]) == len(users)


def test_a_receipt_at_time_zero_counts_alike_in_every_batch() -> None:
    """Batches of events alone are admitted by columns."""
    event = Event(event_id="e", type="view", timestamp=START, user_id="u", received_at=0)
    batches: tuple[list[Entry], ...] = ([event], [event, Tick(timestamp=0)])
    for entries in batches:
        engine = Engine(LOADED, MemoryState(), EngineOptions())
        engine.apply([(n, encode_entry(entry)) for n, entry in enumerate(entries)])
        assert engine.watermark == 0


def test_the_past_moves_time() -> None:
    """An import of history moves the watermark by its own time; a log without receipts as well."""
    for received in (START + 364 * 86_400_000, None):
        engine = Engine(LOADED, MemoryState(), EngineOptions(watermark_delay_ms=1000))
        event = Event(event_id="e", type="view", timestamp=START, user_id="u", received_at=received)
        engine.apply([(0, encode_entry(event))])
        assert engine.watermark == START - 1000


def test_a_tick_completes_a_sequence() -> None:
    engine = Engine(LOADED, MemoryState(), EngineOptions(watermark_delay_ms=1000))
    for offset, type_ in enumerate(["view", "click"]):
        event = Event(event_id=type_, type=type_, timestamp=START + offset, user_id="u")
        engine.apply([(offset, encode_entry(event))])
    due = START + 1 + 2 * MINUTE
    assert engine.next_timer() is not None
    assert engine.read("user", "u", START)["browsed"] == 0
    engine.apply([(2, encode_entry(Tick(timestamp=START + 2000)))])
    assert engine.next_timer() == due
    engine.apply([(3, encode_entry(Tick(timestamp=due + 999)))])
    assert engine.read("user", "u", due)["browsed"] == 0
    engine.apply([(4, encode_entry(Tick(timestamp=due + 1000)))])
    assert engine.read("user", "u", due)["browsed"] == START + 1
    assert engine.read_late("user", "u", due) == engine.read("user", "u", due)
    assert engine.outbox() == []  # not before it is committed
    engine.commit()
    (action,) = engine.outbox()
    assert (action.type, action.user_id, action.timestamp) == ("x.coupon", "u", due)
    assert (engine.next_timer(), engine.outbox()) == (None, [action])
    engine.sent([action])
    assert engine.outbox() == []
    engine.apply([(5, encode_entry(action))])
    engine.commit()
    assert engine.read("user", "u", due)["n"] == 2


RUNNER = """
import sys
from pathlib import Path
from tactful_streaming.contract.log_entries import encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import RocksState

directory = Path(sys.argv[1])
log = EmbeddedLog(directory / "log", durability="process")
engine = Engine(
    load_definitions(directory / "features.yaml"),
    RocksState(directory / "state"),
    EngineOptions(dedupe_days=0),
)
while True:
    while engine.offset < log.end:
        engine.apply(log.read(engine.offset, 37))
        engine.commit()
        print(engine.offset, flush=True)
    actions = engine.outbox()
    if not actions:
        break
    for action in actions:
        log.append([encode_entry(action)])
        print("appended", flush=True)
    engine.sent(actions)
print("done", flush=True)
engine.close()
log.close()
"""


@pytest.mark.slow
def test_kill_9_leaves_every_action_in_the_log_exactly_once(tmp_path: Path) -> None:
    # Without deduplication a second copy of an action would count and be seen.
    entries = list({repr(entry): entry for entry in stream(5, 3000)}.values())
    expected = Counter(action.event_id for action in run(entries, 0)[1])
    (tmp_path / "features.yaml").write_text(DEFINITIONS)
    with EmbeddedLog(tmp_path / "log", durability="process") as log:
        log.append([encode_entry(entry) for entry in entries])
    kills = run_with_kills(RUNNER, tmp_path, random.Random(5), 40)
    with EmbeddedLog(tmp_path / "log", read_only=True) as log:
        written = [decode_entry(payload) for _, payload in log.read(len(entries), 10**6)]
    assert Counter(e.event_id for e in written if isinstance(e, Event)) == expected
    assert max(expected.values()) == 1
    assert kills >= 3

"""Records made blank in the files of a log, and people removed from a stored state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.streaming.streams import engine_of

from tactful_streaming.contract.log_entries import Entry, Event, Item, Tick, User, encode_entry
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.erasure import delete_subjects
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import LogCorruptedError, LogLockedError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.redaction import matching_records, redact
from tactful_streaming.log.segment import BLANK
from tactful_streaming.state.store import MemoryState

DEFINITIONS = load_definitions("""
- {name: views, entity: user, event: view, aggregate: count, group_by: category,
   window: {size: 10m, slide: 1m}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: visit, entity: session, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: item_views, entity: item, event: view, aggregate: count, window: {size: 10m, slide: 1m}}
- {name: heat, entity: category, event: view, aggregate: distinct_users, sketch: hll,
   window: {size: 10m, slide: 1m}}
- {name: hot, entity: user, sequence: [view, add_to_cart], within: 5m, emit: coupon}
""")
PEOPLE = ("ada", "bob", "cyd")
MINUTE = 60_000
ENTITIES: dict[str, Sequence[str]] = {
    "user": PEOPLE,
    "session": [f"{person}-{n}" for person in PEOPLE for n in range(2)],
    "item": ["i0", "i1", "i2"],
    "category": ["c0", "c1"],
}


def fill(path: Path, payloads: Sequence[bytes], *, segment_bytes: int = 200) -> None:
    with EmbeddedLog(path, segment_bytes=segment_bytes, durability="process") as log:
        for payload in payloads:
            log.append([payload])


def contents(path: Path) -> list[bytes]:
    with EmbeddedLog(path, durability="process") as log:
        return [payload for _, payload in log.read(log.begin, 10_000)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40), max_size=30), st.sets(st.integers(0, 29)))
def test_only_matching_records_are_replaced(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], chosen: set[int]
) -> None:
    path = tmp_path_factory.mktemp("log")
    marked = [b"secret" + p if n in chosen else p for n, p in enumerate(payloads)]
    fill(path, marked)
    matches = dict(matching_records(path, {b"secret"}))
    done = redact(path, {b"secret"}, lambda offset, payload: BLANK)
    wanted = {n: p for n, p in enumerate(marked) if b"secret" in p}
    assert matches == wanted
    assert done.records == len(wanted)
    assert contents(path) == [BLANK if n in wanted else p for n, p in enumerate(marked)]
    assert not any(b"secret" in file.read_bytes() for file in path.iterdir())
    assert redact(path, {b"secret"}, lambda offset, payload: BLANK).records == 0


def test_times_of_receipt_and_later_appends_stay(tmp_path: Path) -> None:
    now = 1_000
    with EmbeddedLog(tmp_path, durability="process", clock=lambda: now) as log:
        for _ in range(5):
            now += 10
            log.append([b"secret", b"plain"])
    redact(tmp_path, {b"secret"}, lambda offset, payload: BLANK)
    with EmbeddedLog(tmp_path, durability="process", clock=lambda: now) as log:
        assert [log.offset_at(t) for t in (1_010, 1_011, 1_050)] == [0, 2, 8]
        assert log.append([b"more"]) == 11


def test_segments_without_matches_stay_unchanged(tmp_path: Path) -> None:
    fill(tmp_path, [b"x" * 150, b"secret" + b"x" * 150, b"y" * 150])
    before = {file.name: file.stat().st_ino for file in tmp_path.glob("*.log")}
    done = redact(tmp_path, {b"secret"}, lambda offset, payload: BLANK)
    after = {file.name: file.stat().st_ino for file in tmp_path.glob("*.log")}
    assert len(before) == 3
    assert {name for name in before if before[name] != after[name]} == set(done.segments)
    assert len(done.segments) == 1


def test_a_log_with_a_writer_is_refused(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path) as log:
        log.append([b"secret"])
        with pytest.raises(LogLockedError):
            redact(tmp_path, {b"secret"}, lambda offset, payload: BLANK)


def test_damage_within_is_refused_and_leftovers_are_removed(tmp_path: Path) -> None:
    fill(tmp_path, [b"secret" * 40, b"plain" * 40])
    first = min(tmp_path.glob("*.log"))
    (tmp_path / f"{first.name}.redacting").write_bytes(b"secret")
    data = bytearray(first.read_bytes())
    data[20] ^= 1
    first.write_bytes(data)
    with pytest.raises(LogCorruptedError, match="damaged"):
        redact(tmp_path, {b"secret"}, lambda offset, payload: BLANK)
    assert first.read_bytes() == data
    assert not list(tmp_path.glob("*.redacting"))


events = st.lists(
    st.tuples(
        st.sampled_from(PEOPLE),
        st.sampled_from(["view", "add_to_cart"]),
        st.integers(0, 20 * MINUTE),
        st.integers(0, 2),
        st.integers(0, 1),
    ),
    max_size=40,
)


def entries(drawn: list[tuple[str, str, int, int, int]]) -> list[Event]:
    return [
        Event(
            event_id=f"{person}-{number}",
            type=kind,
            timestamp=at,
            user_id=person,
            session_id=f"{person}-{visit}",
            item_id=f"i{item}",
        )
        for number, (person, kind, at, item, visit) in enumerate(drawn)
    ]


ITEMS = [Item(item_id=f"i{n}", timestamp=0, category=f"c{n % 2}") for n in range(3)]


def engine(store: MemoryState) -> Engine:
    return Engine(DEFINITIONS, store, EngineOptions(allowed_lateness_ms=0))


def run(payloads: Sequence[bytes], store: MemoryState, cuts: Sequence[int]) -> Engine:
    """Apply `payloads` with some commits, and again after a crash at each of `cuts`."""
    opened = engine(store)
    for number, payload in enumerate(payloads):
        opened.apply([(number, payload)])
        if number in cuts:
            if number % 2:
                opened.commit()
            opened = engine(store)
            opened.apply(list(enumerate(payloads))[opened.offset : number + 1])
    opened.commit()
    return opened


def readings(opened: Engine, people: Sequence[str], at: int) -> dict[str, Any]:
    matches: dict[str, Any] = {}
    for entity, keys in ENTITIES.items():
        for key in keys:
            if entity in ("item", "category") or any(key.startswith(p) for p in people):
                matches[f"{entity}:{key}"] = opened.read(entity, key, at)
    matches["seen"] = [opened.seen(f"{person}-{n}") for person in people for n in range(40)]
    matches["outbox"] = sorted(action.user_id or "" for action in opened.outbox())
    return matches


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, st.sets(st.integers(0, 40), max_size=4))
def test_replay_after_redaction_equals_a_log_without_the_user(
    drawn: list[tuple[str, str, int, int, int]], cuts: set[int]
) -> None:
    happened = entries(drawn)
    whole = [encode_entry(item) for item in ITEMS]
    redacted = whole + [BLANK if e.user_id == "ada" else encode_entry(e) for e in happened]
    without = whole + [encode_entry(e) for e in happened if e.user_id != "ada"]
    one = run(redacted, MemoryState(), sorted(cuts))
    other = run(without, MemoryState(), ())
    assert one.watermark == other.watermark
    at = 20 * MINUTE
    assert readings(one, PEOPLE, at) == readings(other, PEOPLE, at)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, st.sets(st.integers(0, 40), max_size=4))
def test_erasure_keeps_the_state_of_other_users(
    drawn: list[tuple[str, str, int, int, int]], cuts: set[int]
) -> None:
    happened = entries(drawn)
    payloads = [encode_entry(item) for item in ITEMS] + [encode_entry(e) for e in happened]
    store, kept = MemoryState(), MemoryState()
    run(payloads, store, sorted(cuts))
    untouched = run(payloads, kept, sorted(cuts))
    of_ada = [event for event in happened if event.user_id == "ada"]
    traces = SubjectIds(
        users=frozenset({"ada"}),
        sessions=frozenset(e.session_id for e in of_ada if e.session_id),
        event_ids=frozenset(e.event_id for e in of_ada),
    )
    delete_subjects(store, traces, DEFINITIONS, {})
    delete_subjects(store, traces, DEFINITIONS, {})  # as after a crash
    assert [pair for pair in store.scan(b"") if b"ada" in b"".join(pair)] == []
    left, at = engine(store), 20 * MINUTE
    others = ("bob", "cyd")
    before, after = readings(untouched, others, at), readings(left, others, at)
    before["outbox"] = [user for user in before["outbox"] if user != "ada"]
    assert after == before
    fresh = engine(MemoryState())
    assert left.read("user", "ada", at) == fresh.read("user", "ada", at)
    assert not any(left.seen(event.event_id) for event in of_ada)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, st.booleans())
def test_events_of_suppressed_users_do_not_count(
    drawn: list[tuple[str, str, int, int, int]], by_device: bool
) -> None:
    """A replay of a log that nobody can rewrite."""
    happened = entries(drawn)
    if by_device:
        happened = [
            msgspec.structs.replace(e, user_id=None, device_id="ada") if e.user_id == "ada" else e
            for e in happened
        ]
    written: list[Entry] = [*ITEMS, User(user_id="ada", timestamp=0), *happened]
    payloads = [encode_entry(entry) for entry in written]
    suppressed = {"device:ada" if by_device else "ada", "ada"}
    opened = engine_of(DEFINITIONS, allowed_lateness_ms=0, suppressed=suppressed)
    opened.apply(list(enumerate(payloads)))
    # Time passes all the same, so the others are as with ticks in the place of the person.
    ticks: list[Entry] = [
        Tick(timestamp=e.timestamp) if "ada" in (e.user_id, e.device_id) else e for e in happened
    ]
    plain = [encode_entry(entry) for entry in [*ITEMS, *ticks]]
    wanted = run(plain, MemoryState(), ())
    at, others = 20 * MINUTE, ("bob", "cyd")
    matches, expected = readings(opened, others, at), readings(wanted, others, at)
    assert {**matches, "outbox": []} == {**expected, "outbox": []}
    for person in ("ada", "device:ada"):
        assert opened.read("user", person, at) == wanted.read("user", person, at)
    assert "ada" not in opened.users

"""Erasure from a running engine, which continues as if the users had never existed."""

import contextlib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.streaming.streams import event_of

from tactful_streaming.contract.log_entries import Entry, Event, Item, Tick, User, encode_entry
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine import erasure as forgetting
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.patterns.match import Match
from tactful_streaming.rules.rules import load_rules
from tactful_streaming.state.key_layout import CHANGED_APART
from tactful_streaming.state.store import Change, MemoryState, RocksState, open_beside

RULES = "- {name: twice, when: {earlier: {same: [user_id, item_id], within: 1d}}, action: drop}"
FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 10m, slide: 1m}}
- {name: by_item, entity: user, event: view, aggregate: count, group_by: item_id,
   window: {size: 10m, slide: 1m, decay: 0.8}}
- {name: different, entity: user, event: view, aggregate: distinct, of: item_id,
   sketch: hll, window: {size: 10m, slide: 1m}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: visit, entity: session, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: item_views, entity: item, event: view, aggregate: count, window: {size: 10m, slide: 1m}}
- {name: hot, entity: user, sequence: [view, add_to_cart], within: 5m, emit: coupon}
- {name: left, entity: session, sequence: [view, add_to_cart], within: 5m}
- {name: near, entity: user, join: {event: view, with: item_updates, within: 10m}}
- {name: bought, entity: item, sequence: [view, add_to_cart, x.login], within: 5m}
- {name: by_each, entity: item, sequence: [view, add_to_cart], same: user_id, within: 5m,
   emit: mail}
- {name: viewers, entity: item, event: view, aggregate: last_n, of: user_id, n: 50}
- {name: by_whom, entity: item, event: view, aggregate: count, group_by: user_id,
   window: {size: 10m, slide: 1m}}
- {name: visits, entity: item, event: view, aggregate: distinct, of: session_id, sketch: exact,
   window: {size: 10m, slide: 1m}}
- {name: in_a_row, entity: item, event: view, aggregate: top_k, n: 3, of: user_id,
   window: {gap: 30m}}
- {name: item_near, entity: item, join: {event: view, with: item_updates, within: 10m}}
"""
MINUTE = 60_000
ADA = frozenset({"ada", "device:ada-phone"})
PAIRS = [
    *[("ada", "ada-phone"), ("ada", None), (None, "ada-phone")],
    *[("bob", "bob-phone"), ("bob", None), (None, "bob-phone"), (None, "tablet")],
]


class Breaking(MemoryState):
    """A store that is killed before one of its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes_left: int | None = None

    def write(self, changes: Sequence[Change]) -> None:
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 0:
                raise KeyboardInterrupt
        super().write(changes)


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    return load_definitions(FEATURES)


def opened(
    definitions: Definitions,
    store: Any,
    suppressed: Collection[str] = (),
    *,
    memory_bytes: int | None = None,
    on_match: Callable[[Sequence[Match]], None] | None = None,
) -> Engine:
    options = EngineOptions(
        allowed_lateness_ms=0,
        identity=Identity(),
        suppressed=suppressed,
        memory_bytes=memory_bytes,
        on_match=on_match,
    )
    return Engine(definitions, store, options)


drawn_events = st.lists(
    st.tuples(
        st.sampled_from(PAIRS),
        st.sampled_from(["view", "add_to_cart", "x.login", "x.logout", "described", "updated"]),
        st.integers(0, 20 * MINUTE),
    ),
    max_size=40,
)


def entries(drawn: list[tuple[tuple[str | None, str | None], str, int]]) -> list[Entry]:
    made: list[Entry] = []
    for number, ((user, device), kind, at) in enumerate(drawn):
        if kind == "updated":
            made.append(Item(item_id=f"i{number % 2}", timestamp=at))
        elif kind == "described" and user is not None:
            made.append(User(user_id=user, timestamp=at, properties={"n": number}))
        else:
            type_ = "view" if kind == "described" else kind
            visit, item = f"visit-{(user or device or '')[:3]}", f"i{number % 2}"
            more = {"device_id": device, "session_id": visit, "item_id": item}
            made.append(event_of(f"e{number:03}", type_, at, user, **more))
    return made


def is_theirs(entry: Entry) -> bool:
    if isinstance(entry, User):
        return entry.user_id == "ada"
    return isinstance(entry, Event) and (entry.user_id == "ada" or entry.device_id == "ada-phone")


def traces_of(log: Sequence[Entry]) -> SubjectIds:
    theirs = [entry for entry in log if isinstance(entry, Event) and is_theirs(entry)]
    return SubjectIds(
        users=frozenset({"ada"}),
        devices=frozenset({"ada-phone"}),
        sessions=frozenset(event.session_id for event in theirs if event.session_id),
        event_ids=frozenset(event.event_id for event in theirs),
    )


def apply(engine: Engine, log: Sequence[Entry], begin: int, end: int, commits: int) -> None:
    payloads = [encode_entry(entry) for entry in log]
    for start in range(begin, end, 3):
        engine.apply([(n, payloads[n]) for n in range(start, min(start + 3, end))])
        if commits >> (start % 7) & 1:
            engine.commit()


def kept(store: MemoryState) -> dict[bytes, bytes]:
    """Return the state without common counts, positions and numbers in sequences.

    Sequences of an item, too: what the events of others were a part of depends on hers.
    """
    return {
        key: b"" if key.startswith(b"q") else value
        for key, value in store.scan(b"")
        if key not in (b"meta", b"b")
        and not key.startswith((b"eitem:", b"qbought:", b"qitem_near:"))
    }


LIFE = [
    *((("ada", "ada-phone"), kind, at) for at, kind in enumerate(("x.login", "described", "view"))),
    (("ada", "ada-phone"), "add_to_cart", 4_000),
    (("bob", None), "view", MINUTE),
    (("ada", None), "view", MINUTE + 1),
    (("bob", "bob-phone"), "add_to_cart", 2 * MINUTE),
    (("bob", None), "view", 9 * MINUTE),
]
"""Linked, described, owed a coupon, and in the midst of what may become another one."""


@settings(max_examples=20, deadline=None)
@example(LIFE, 0.75, 127, None, None)
@example(LIFE, 0.75, 0, 1, 1)
@given(
    drawn_events,
    st.floats(0, 1),
    st.integers(0, 127),
    st.sampled_from([None, 1]),
    st.none() | st.integers(0, 4),
)
def test_an_engine_goes_on_as_if_it_had_never_seen_them(
    definitions: Definitions,
    drawn: list[tuple[tuple[str | None, str | None], str, int]],
    share: float,
    commits: int,
    memory_bytes: int | None,
    killed_after: int | None,
) -> None:
    """Erasure at any place of a stream, with any commits, and a kill before any write."""
    log = entries(drawn)
    place = round(share * len(log))
    suppressed: set[str] = set()
    store = Breaking()
    found: list[Match] = []
    open_it = partial(opened, memory_bytes=memory_bytes, on_match=found.extend)
    engine = open_it(definitions, store, suppressed)
    apply(engine, log, 0, place, commits)
    suppressed |= ADA
    traces = traces_of(log[:place])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(forgetting, "_PIECE", 2)
        if killed_after is not None:
            store.writes_left = killed_after
            with contextlib.suppress(KeyboardInterrupt):
                engine.erasure.delete(traces)
            store.writes_left = None
            # The next process applies what was not committed: by then they are suppressed.
            engine = open_it(definitions, store, suppressed)
            apply(engine, log, engine.offset, place, commits)
        engine.erasure.delete(traces)
    found.clear()
    at = 20 * MINUTE
    for key in ADA:
        assert not any(engine.read("user", key, at).values())
    assert engine.devices_of("ada") == ()
    assert "ada" not in engine.users
    assert not any(is_theirs(action) for action in engine.outbox())
    needles = [b"ada", *(event_id.encode() for event_id in traces.event_ids)]
    assert not [pair for pair in store.scan(b"") if any(n in pair[0] + pair[1] for n in needles)]
    apply(engine, log, place, len(log), commits)
    engine.commit()
    assert not [match for match in found if not traces.event_ids.isdisjoint(match.events)]

    # A log in which they never were; time passes in it all the same.
    def without(entry: Entry) -> Entry:
        at = 0 if isinstance(entry, User) else entry.timestamp
        return Tick(timestamp=at) if is_theirs(entry) else entry

    other_store = MemoryState()
    other = opened(definitions, other_store, memory_bytes=memory_bytes)
    unseen = [without(entry) for entry in log]
    apply(other, unseen, 0, place, commits)
    other.commit()
    apply(other, unseen, place, len(log), commits)
    other.commit()
    for key in ("bob", "device:bob-phone", "device:tablet", *ADA):
        assert engine.read("user", key, at) == other.read("user", key, at)
    assert engine.read("session", "visit-bob", at) == other.read("session", "visit-bob", at)
    for item in ("i0", "i1"):  # far fewer pairs than are kept of an item
        seen, unseen_by = (each.read("item", item, at) for each in (engine, other))
        for name in ("viewers", "by_whom", "visits", "item_near"):
            assert seen[name] == unseen_by[name]
    assert {a.event_id for a in engine.outbox()} == {a.event_id for a in other.outbox()}
    if killed_after is None:  # else commits were at other places, and what is packed follows them
        mine, theirs = map(kept, (store, other_store))
        assert {k: v for k, v in mine.items() if theirs.get(k) != v} == {
            k: v for k, v in theirs.items() if mine.get(k) != v
        }
    again = opened(definitions, store, suppressed)
    for key in ("bob", "device:bob-phone", "device:tablet"):
        assert again.read("user", key, at) == other.read("user", key, at)
    for item in ("i0", "i1"):
        assert again.read("item", item, at) == engine.read("item", item, at)


def test_a_shared_partial_match_loses_erased_steps(definitions: Definitions) -> None:
    """Partial matches and buffered events of others stay, in memory and store."""
    found: list[Match] = []
    store = MemoryState()
    engine = opened(definitions, store, on_match=found.extend)
    steps = [
        ("bob", "view", 1),
        ("ada", "add_to_cart", 2),  # is taken by Bob's beginning, which ends with her
        ("eve", "view", 3),
        ("bob", "add_to_cart", 4),
        ("ada", "view", 5),
        ("tom", "x.login", 5),  # waits for the watermark when she goes
        ("ada", "x.login", 5),
    ]
    log = [
        Event(event_id=f"{who}-{at}", type=kind, timestamp=at, user_id=who, item_id="i0")
        for who, kind, at in steps
    ]
    engine.apply(list(enumerate(map(encode_entry, log))))
    ids = frozenset(event.event_id for event in log if event.user_id == "ada")
    engine.erasure.delete(SubjectIds(users=frozenset({"ada"}), event_ids=ids))
    for going_on in (engine, opened(definitions, store, on_match=found.extend)):
        going_on.apply([(9, encode_entry(Tick(timestamp=2 * MINUTE)))])
        matches = [match for match in found if match.name == "bought"]
        assert [match.events for match in matches] == [("eve-3", "bob-4", "tom-5")]
        found.clear()


def test_an_unknown_user_is_found_by_mentions(definitions: Definitions) -> None:
    """A state that turns up late shows by itself that somebody had a part in it."""
    store = MemoryState()
    engine = opened(definitions, store)
    for number, who in enumerate(("ada", "bob")):
        event = event_of(f"{who}-1", "view", 1, who, item_id=f"i{number}")
        engine.apply([(number, encode_entry(event))])
    engine.commit()
    theirs = {key: blob for key, blob in store.scan(b"q") if b"bob" in blob}
    store.write([(key, None) for key, _ in store.scan(b"") if not key.startswith(b"q")])
    traces = forgetting.find_subject_ids(store, ADA, definitions)
    assert traces == SubjectIds(users=frozenset({"ada"}), event_ids=frozenset({"ada-1"}))
    forgetting.delete_subjects(store, traces, definitions, {})
    assert dict(store.scan(b"")) == theirs


def test_a_copy_is_renewed_after_a_killed_erasure(
    definitions: Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of blobs of items that a first run changed, the second would know nothing."""
    monkeypatch.setattr(forgetting, "_PIECE", 1)
    traces = SubjectIds(users=frozenset({"ada"}), event_ids=frozenset({"e0", "e1"}))
    for writes in range(20):
        store = Breaking()
        engine = opened(definitions, store)
        for number in range(2):
            event = event_of(f"e{number}", "view", 1, "ada", item_id=f"i{number}")
            engine.apply([(number, encode_entry(event))])
        engine.commit()
        before = {key: blob for key, blob in store.scan(b"eitem:")}
        store.writes_left = writes
        with contextlib.suppress(KeyboardInterrupt):
            forgetting.delete_subjects(store, traces, definitions, {})
        changed = {key: blob for key, blob in store.scan(b"eitem:")} != before
        assert not changed or store.get(CHANGED_APART) == b"2"
    assert changed  # the last one was not killed


def test_what_rules_remember_of_them_goes(definitions: Definitions, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    rules = load_rules(tmp_path / "rules.yaml")
    store = MemoryState()
    engine = Engine(definitions, store, EngineOptions(cleaner=rules))
    log = [
        Event(event_id=f"{user}-{n}", type="view", timestamp=1, user_id=user, item_id="i0")
        for user in ("ada", "bob")
        for n in range(2)
    ]
    applied = engine.apply(list(enumerate(map(encode_entry, log))))
    assert applied.dropped == 2  # each for being the same again
    engine.commit()
    assert any(key.startswith(b"r") and b"ada" in key for key, _ in store.scan(b""))
    ids = frozenset({"ada-0", "ada-1"})
    engine.erasure.delete(SubjectIds(users=frozenset({"ada"}), event_ids=ids))
    assert not any(b"ada" in key + value for key, value in store.scan(b""))
    left = [(key, blob) for key, blob in rules.pack_changes().items() if blob]
    assert not any(b"ada" in blob or "ada" in key for key, blob in left)
    again = [msgspec.structs.replace(event, event_id=f"again-{event.event_id}") for event in log]
    applied = engine.apply([(4 + n, encode_entry(event)) for n, event in enumerate(again)])
    assert applied.dropped == 3  # of hers the first is new


def test_bytes_are_gone_from_a_store_that_is_in_use(tmp_path: Path) -> None:
    store = RocksState(tmp_path / "state")
    for name in (b"first", b"second"):
        store.write(
            [(b"a-zqsentinel", b"zqvalue" + name), *((b"k%05d" % n, name) for n in range(99))]
        )
        store.purge()  # into files
    reading = store.scan(b"k")
    next(reading)
    assert found(tmp_path) != []
    store.write([(b"a-zqsentinel", None)])
    store.purge()
    store.write([(b"k00000", b"later")])
    assert sum(1 for _ in reading) == 98
    # What came and went between two files: of it the deletion alone gets into one.
    store.write([(b"b-zqsentinel", b"x")])
    store.write([(b"b-zqsentinel", None)])
    store.purge()
    assert found(tmp_path) == []
    assert sum(1 for _ in store.scan(b"")) == 99
    with contextlib.closing(open_beside(tmp_path / "state")) as beside:
        assert beside.get(b"k00000") == b"later"
    store.close()
    with contextlib.closing(RocksState(tmp_path / "state")) as again:
        assert sum(1 for _ in again.scan(b"")) == 99


def found(directory: Path) -> list[str]:
    """Files in which the name is."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return [path.name for path in files if b"zqsentinel" in path.read_bytes()]

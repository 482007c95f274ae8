import functools
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest
from tests.streaming.streams import definitions, random_entries

from tactful_streaming.contract.log_entries import Entry, Event, Tick, encode_entry, route_key
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.engine.rescale import rescale
from tactful_streaming.errors import StateError
from tactful_streaming.patterns.match import Match
from tactful_streaming.state.key_layout import OWNER, RESCALING, entity_prefix
from tactful_streaming.state.store import Change, MemoryState, StateStore

DELAY = 3_600_000
"""More than any event is late, so that it does not matter who else is in the partition."""

SESSION = entity_prefix("session")
SEQUENCES = """
- {name: bought, entity: user, sequence: [view, purchase], within: 1h, emit: thanks}
- {name: visited, entity: session, sequence: [view, click], within: 1h}
- {name: wanted, entity: item, sequence: [view, purchase], within: 1h}
- {name: fresh, entity: user, join: {event: view, with: item_updates, within: 1m}}
"""


@functools.cache
def chosen() -> Definitions:
    """What the streams are made for, without bounds on groups: those depend on the partition."""
    features = tuple(f for f in definitions().features if f.group_by != "item_id")
    more = load_definitions(SEQUENCES)
    return Definitions(features, more.sequences, more.joins)


def route_to(partitions: int) -> Callable[[str], int]:
    return lambda key: zlib.crc32(key.encode()) % partitions


class Cluster:
    """A log in partitions, with an engine for each."""

    def __init__(self, stores: Sequence[StateStore]) -> None:
        self.matches: list[Match] = []
        self.logs: list[list[bytes]] = [[] for _ in stores]
        self.stores = stores
        options = EngineOptions(
            watermark_delay_ms=DELAY, allowed_lateness_ms=10**8, on_match=self.matches.extend
        )
        self.engines = [Engine(chosen(), store, options) for store in stores]

    def route(self, key: str) -> int:
        return route_to(len(self.logs))(key)

    def feed(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            key = route_key(entry)
            for number in range(len(self.logs)) if key is None else [self.route(key)]:
                self.logs[number].append(encode_entry(entry))
        self.apply()

    def apply(self) -> None:
        for engine, log in zip(self.engines, self.logs, strict=True):
            while engine.offset < len(log):
                engine.apply(list(enumerate(log))[engine.offset : engine.offset + 97])
                engine.commit()
                actions = engine.outbox()
                log.extend(map(encode_entry, actions))
                engine.sent(actions)

    def drain(self, at: int) -> None:
        self.feed([Tick(timestamp=at + DELAY)])
        self.apply()

    def read(self, entity: str, key: str, owner: str, at: int) -> dict[str, object]:
        return dict(self.engines[self.route(owner)].read(entity, key, at))

    def total(self, entity: str, key: str, name: str, at: int) -> float:
        return sum(engine.read_columns(entity, [key], [name], at).item() for engine in self.engines)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (1, 4)])
def test_more_or_fewer_partitions_change_no_number(before: int, after: int) -> None:
    entries: list[Entry] = [*random_entries(before, 6000)]
    half = len(entries) // 2
    at = max(entry.timestamp for entry in entries[:half])
    old = Cluster([MemoryState() for _ in range(before)])
    old.feed(entries[:half])
    old.drain(at)
    new_stores = [MemoryState() for _ in range(after)]
    rescale(old.stores, new_stores, Cluster(new_stores).route)
    known = {pair for store in old.stores for pair in store.scan(OWNER)}
    for store in new_stores:
        users = dict(store.scan(OWNER))
        assert users.items() <= known
        sessions = [key.removeprefix(SESSION) for key, _ in store.scan(SESSION)]
        assert sessions == [key.removeprefix(OWNER) for key in users] != []
    new = Cluster(new_stores)
    assert {engine.watermark for engine in new.engines} == {at}
    new.feed(entries[half:])
    always = Cluster([MemoryState() for _ in range(after)])
    always.feed(entries[:half])
    always.drain(at)
    always.feed(entries[half:])
    events = [event for event in entries if isinstance(event, Event)]
    people = {route_key(event) for event in events}
    now = max(engine.watermark for engine in new.engines)
    for key in people:
        assert key is not None
        assert new.read("user", key, key, now) == always.read("user", key, key, now)
    owners = defaultdict(set)
    for event in events:
        if event.session_id:
            owners[event.session_id].add(route_key(event))
    for session, (owner, *others) in owners.items():
        if not others:
            assert owner is not None
            read = new.read("session", session, owner, now)
            assert read == always.read("session", session, owner, now)
    for item in range(20):
        for name in ("item_views", "item_prices"):
            total = new.total("item", f"i{item}", name, now)
            assert total == pytest.approx(always.total("item", f"i{item}", name, now), abs=1e-9)
    ours = [m for m in [*old.matches, *new.matches] if m.entity == "user"]
    theirs = [m for m in always.matches if m.entity == "user"]
    assert sorted(map(repr, ours)) == sorted(map(repr, theirs))
    assert len(ours) > 100
    # What was sent before is known wherever it comes again.
    again = [encode_entry(event) for event in events[-200:]]
    for engine in new.engines:
        applied = engine.apply([*enumerate(again, engine.offset)])
        assert applied.duplicates >= len(again) // after // 4


def test_states_that_do_not_belong_together_are_refused() -> None:
    def state(tick: int, names: str = "n") -> MemoryState:
        store = MemoryState()
        text = f"- {{name: {names}, entity: user, event: view, aggregate: last_time}}\n"
        engine = Engine(load_definitions(text), store)
        engine.apply([(0, encode_entry(Tick(timestamp=tick)))])
        engine.commit()
        return store

    def refused(sources: Sequence[StateStore], said: str) -> None:
        with pytest.raises(StateError, match=said):
            rescale(sources, [MemoryState()], lambda key: 0)

    refused([MemoryState()], "source 0 holds no state")
    refused([state(1), state(2)], "append a tick of one time")
    refused([state(1), state(1, "m")], "different definitions")
    with pytest.raises(StateError, match="target 1 holds a state"):
        rescale([state(1)], [MemoryState(), state(1)], lambda key: 0)


def drained(seed: int, count: int) -> Cluster:
    """Return two partitions that have applied random entries."""
    cluster = Cluster([MemoryState(), MemoryState()])
    entries: list[Entry] = [*random_entries(seed, count)]
    cluster.feed(entries)
    cluster.drain(max(entry.timestamp for entry in entries))
    return cluster


def test_a_rescaling_that_was_broken_off_is_done_again() -> None:
    old = drained(9, 1000)
    whole, broken = MemoryState(), MemoryState()
    rescale(old.stores, [whole], lambda key: 0)
    broken.write([(b"euser:gone", b"left by a rescaling that died")])
    rescale(old.stores, [broken], lambda key: 0)
    assert dict(broken.scan(b"")) == dict(whole.scan(b""))


class Dying(MemoryState):
    """A store whose process dies at one of its writes."""

    def __init__(self, lives: list[int]) -> None:
        super().__init__()
        self._lives = lives

    def write(self, changes: Sequence[Change]) -> None:
        self._lives[0] -= 1
        if self._lives[0] < 0:
            raise KeyboardInterrupt
        super().write(changes)


@pytest.mark.slow
def test_a_rescaling_that_died_at_any_write_goes_on_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tactful_streaming.engine.rescale._PIECE", 60)
    old = drained(5, 300)

    def run(targets: Sequence[StateStore]) -> list[tuple[int, int]]:
        told: list[tuple[int, int]] = []
        rescale(old.stores, targets, route_to(3), progress=lambda *at: told.append(at))
        return told

    lives = [10**6]
    whole = [Dying(lives) for _ in range(3)]
    told = run(whole)
    writes = 10**6 - lives[0]
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 300
    went_on = 0
    deaths = {*range(0, writes, max(writes // 6, 1)), writes - 2, writes - 1}
    for death in sorted(deaths):
        lives[0] = death
        targets = [Dying(lives) for _ in range(3)]
        with pytest.raises(KeyboardInterrupt):
            run(targets)
        if targets[0].get(RESCALING) is not None:
            with pytest.raises(StateError, match="run it again"):
                Engine(chosen(), targets[0])
        lives[0] = 10**6
        went_on += run(targets)[0][0] > 0
        for target, expected in zip(targets, whole, strict=True):
            assert dict(target.scan(b"")) == dict(expected.scan(b""))
    assert went_on > len(deaths) // 2


def test_a_rescaling_begins_again_when_the_states_have_gone_on() -> None:
    old = Cluster([MemoryState(), MemoryState()])
    entries: list[Entry] = [*random_entries(6, 200)]
    lives = [10**6]
    for part in (entries[:120], entries[120:]):
        old.feed(part)
        old.drain(max(entry.timestamp for entry in entries))
        whole, broken = MemoryState(), Dying(lives)
        rescale(old.stores, [whole], lambda key: 0)
        lives[0] = 2
        with pytest.raises(KeyboardInterrupt):
            rescale(old.stores, [broken], lambda key: 0)
        lives[0] = 10**6
    rescale(old.stores, [broken], lambda key: 0)
    assert dict(broken.scan(b"")) == dict(whole.scan(b""))

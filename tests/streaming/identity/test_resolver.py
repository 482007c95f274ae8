"""Identity resolution: explicit links, merged histories, and nothing covert."""

import functools
import itertools
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.streaming.naive_identity import NaiveIdentity, devices, people
from tests.streaming.streams import START, event_of

from tactful_streaming.contract.log_entries import (
    Entry,
    Event,
    Forwarded,
    Item,
    Link,
    Tick,
    Transfer,
    User,
    encode_entry,
    route_key,
)
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.backfill import (
    PartComputation,
    adopt_definitions,
    compute_together,
    merge_computed,
)
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.engine.outbox import Outbox
from tactful_streaming.engine.rescale import rescale
from tactful_streaming.errors import EngineError, StateError
from tactful_streaming.identity.device_links import DeviceMarks, Mark
from tactful_streaming.identity.history_merge import ProfileMerger
from tactful_streaming.identity.resolver import CONSENT_PROPERTY, Identity, Resolver
from tactful_streaming.state.key_layout import DEVICE, DEVICES_OF
from tactful_streaming.state.store import MemoryState, StateStore

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 20m, slide: 1m}}
- {name: decayed, entity: user, event: [view, purchase], aggregate: count,
   window: {size: 30m, slide: 1m, decay: 0.8}}
- {name: spend, entity: user, event: purchase, aggregate: sum, of: properties.price,
   window: {size: 1h, slide: 10m}}
- {name: kinds, entity: user, event: [view, purchase], aggregate: count, group_by: properties.kind,
   window: {size: 20m, slide: 5m, decay: 0.9}}
- {name: cheapest, entity: user, event: view, aggregate: min, of: properties.price,
   window: {size: 1h}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: last_view, entity: user, event: view, aggregate: last_time}
- {name: items, entity: user, event: view, aggregate: distinct, of: item_id, window: {size: 1d}}
- {name: visit, entity: session, event: view, aggregate: count, window: {size: 1h, slide: 1m}}
- {name: item_views, entity: item, event: view, aggregate: count, window: {size: 1h, slide: 1m}}
"""
IDENTITY = Identity(ttl_ms=3650 * DAY)


@functools.cache
def chosen() -> Definitions:
    return load_definitions(FEATURES)


def view(user: str | None = None, device: str | None = None, at: int = 0, **more: Any) -> Event:
    return event("view", user, device, at, **more)


_numbers = itertools.count()


def event(
    type_: str, user: str | None = None, device: str | None = None, at: int = 0, **more: Any
) -> Event:
    fields = {"item_id": "i0", "properties": {"price": 1.0, "kind": "x"}} | more
    return event_of(f"e{next(_numbers)}", type_, START + at, user, device_id=device, **fields)


def new_engine(store: StateStore | None = None, **options: Any) -> Engine:
    defaults: dict[str, Any] = {"identity": IDENTITY, "allowed_lateness_ms": 365 * DAY}
    return Engine(chosen(), store or MemoryState(), EngineOptions(**{**defaults, **options}))


def feed(engine: Engine, entries: Sequence[Entry]) -> None:
    engine.apply([(engine.offset + n, encode_entry(entry)) for n, entry in enumerate(entries)])


def fed(*entries: Entry, **options: Any) -> Engine:
    """Return a new engine that has applied these entries."""
    engine = new_engine(**options)
    feed(engine, entries)
    return engine


def views(engine: Engine, key: str, at: int = MINUTE) -> object:
    return engine.read("user", key, START + at)["views"]


def test_a_login_joins_what_the_device_did_and_will_do() -> None:
    engine = fed(view(device="d", at=1), view("u", at=2))
    assert (views(engine, "device:d"), views(engine, "u")) == (1, 1)
    feed(engine, [event("x.login", "u", "d", at=3), view(device="d", at=4)])
    assert (views(engine, "u"), views(engine, "device:d")) == (3, 3)
    assert engine.resolve("device:d", START + 5) == "u"
    assert engine.devices_of("u") == ("d",)


@pytest.mark.parametrize("type_", ["x.login", "x.link", "purchase"])
def test_logins_orders_and_explicit_links_link(type_: str) -> None:
    engine = fed(view(device="d", at=1), event(type_, "u", "d", at=2))
    assert engine.resolve("device:d", START + 3) == "u"
    assert views(engine, "u") == 1


def test_an_event_of_another_type_that_names_both_links_nothing() -> None:
    engine = fed(view(device="d", at=1), view("u", "d", at=2), event("payment", "u", "d", at=3))
    assert engine.resolve("device:d", START + 4) == "device:d"
    assert (views(engine, "u"), views(engine, "device:d")) == (1, 1)


def test_nothing_that_would_tell_people_apart_covertly_links() -> None:
    traits: dict[str, Any] = {
        "context": {"ip": "192.0.2.7", "user_agent": "Mozilla/5.0 (one of a kind)", "locale": "fo"},
        "properties": {"email": "a@example.org", "fingerprint": "f", "price": 1.0},
        "session_id": "s",
    }
    engine = fed(
        event("x.login", "u", "d", at=1, **traits),
        view(device="other", at=2, **traits),
        event("purchase", "v", at=3, **traits),
        view(device="third", at=4, **traits),
        event("x.login", device="third", at=5, **traits),
    )
    for device in ("other", "third"):
        assert engine.resolve(f"device:{device}", START + 9) == f"device:{device}"
        assert views(engine, f"device:{device}") == 1
    assert (views(engine, "u"), views(engine, "v")) == (0, 0)
    assert (engine.devices_of("u"), engine.devices_of("v")) == (("d",), ())


def test_a_device_that_changes_hands_leaves_each_their_own() -> None:
    engine = fed(
        view(device="d", at=1),
        event("x.login", "u", "d", at=10),
        view(device="d", at=11),
        event("x.login", "v", "d", at=20),
        view(device="d", at=21),
        view(device="d", at=12),  # late: from when it was u's
    )
    assert (views(engine, "u"), views(engine, "v")) == (3, 1)
    assert engine.resolve("device:d", START + 15) == "u"
    assert engine.resolve("device:d", START + 25) == "v"


def test_what_happens_after_a_logout_belongs_to_who_comes_next() -> None:
    engine = fed(
        event("x.login", "u", "d", at=10),
        event("x.logout", "v", "d", at=11),  # somebody else's: changes nothing
        view(device="d", at=12),
        event("x.logout", device="d", at=20),
        view(device="d", at=21),
    )
    assert (views(engine, "u"), views(engine, "device:d")) == (1, 1)
    feed(engine, [event("x.login", "v", "d", at=30)])
    assert (views(engine, "u"), views(engine, "v")) == (1, 1)


def test_a_late_login_takes_nothing_from_later_users() -> None:
    engine = fed(
        view(device="d", at=1),
        event("x.login", "v", "d", at=20),
        event("x.login", "u", "d", at=10),
        view(device="d", at=12),
        view(device="d", at=22),
    )
    assert (views(engine, "u"), views(engine, "v")) == (1, 2)


def test_a_late_login_claims_no_later_history() -> None:
    engine = fed(event("x.login", "v", "d", at=20), event("x.logout", "v", "d", at=30))
    feed(engine, [view(device="d", at=40), event("x.login", "u", "d", at=10)])
    assert (views(engine, "u"), views(engine, "v"), views(engine, "device:d")) == (0, 0, 1)


def test_a_link_is_forgotten_in_time() -> None:
    engine = fed(event("x.login", "u", "d"), view(device="d", at=1), identity=Identity(ttl_ms=HOUR))
    feed(engine, [view(device="d", at=HOUR)])
    assert engine.resolve("device:d", START + HOUR) == "device:d"
    assert engine.devices_of("u") == ()
    assert (views(engine, "u"), views(engine, "device:d", HOUR)) == (1, 1)


def test_expired_links_are_deleted_some_at_each_commit() -> None:
    store = MemoryState()
    engine = new_engine(store, identity=Identity(ttl_ms=HOUR))
    feed(engine, [event("x.login", f"u{n}", f"d{n}") for n in range(300)])
    engine.commit()
    stored = []
    for number in range(3):
        stored.append([len(list(store.scan(prefix))) for prefix in (DEVICE, DEVICES_OF)])
        feed(engine, [view("v", at=HOUR + number)])
        engine.commit()
    assert stored == [[300, 300], [44, 44], [0, 0]]


def test_features_of_a_linked_device_are_also_read_late() -> None:
    engine = fed(event("x.login", "u", "d"), view(device="d", at=1))
    late = engine.read_late("user", "device:d", START + MINUTE)
    assert (late["views"], views(engine, "device:d")) == (1, 1)


def test_a_person_has_so_many_devices_and_no_more() -> None:
    engine = fed(
        *[event("x.login", "u", f"d{n}", at=n) for n in range(3)],
        identity=replace(IDENTITY, devices_per_user=2),
    )
    assert engine.devices_of("u") == ("d1", "d2")
    feed(engine, [view(device="d0", at=9)])
    assert views(engine, "u") == 0


def test_marks_are_bounded_and_what_is_forgotten_is_nobodys() -> None:
    engine = fed(
        *[event("x.login", f"u{n}", "d", at=10 * n) for n in range(9)],
        identity=replace(IDENTITY, marks_per_device=4),
    )
    feed(engine, [view(device="d", at=5), view(device="d", at=85)])
    assert [views(engine, f"u{n}") for n in range(9)] == [0] * 8 + [1]


def agree(user: str, at: int = 0, answer: Any = True) -> User:
    return User(user_id=user, timestamp=START + at, properties={CONSENT_PROPERTY: answer})


def refuse(user: str, at: int = 0) -> User:
    return agree(user, at, False)


def test_who_refuses_is_never_linked() -> None:
    engine = fed(refuse("u"), view(device="d", at=1), event("x.login", "u", "d", at=2))
    feed(engine, [view(device="d", at=3)])
    assert views(engine, "u") == 0
    assert engine.resolve("device:d", START + 4) != "u"
    assert engine.devices_of("u") == ()
    # Nor does anybody else get what happened on the device then.
    feed(engine, [event("x.login", "v", "d", at=9)])
    assert views(engine, "v") == 0


def test_who_withdraws_is_unlinked_from_then_on() -> None:
    engine = fed(view(device="d", at=1), event("x.login", "u", "d", at=2))
    feed(engine, [refuse("u", 3), view(device="d", at=4), view(device="d", at=1)])
    assert views(engine, "u") == 1
    assert engine.devices_of("u") == ()
    # A description that says nothing of it changes nothing.
    feed(engine, [User(user_id="u", timestamp=START + 5), event("x.login", "u", "d", at=6)])
    assert engine.resolve("device:d", START + 7) != "u"
    feed(engine, [agree("u", 8), event("x.login", "u", "d", at=9), view(device="d", at=10)])
    assert views(engine, "u") == 2


def test_where_consent_is_required_silence_is_none() -> None:
    engine = new_engine(identity=replace(IDENTITY, consent_required=True))
    entries: list[Entry] = []
    for user in "uv":
        entries += [view(device=user, at=1), event("x.login", user, user, at=2)]
    feed(engine, [agree("v"), *entries])
    assert (views(engine, "u"), views(engine, "v")) == (0, 1)


@pytest.mark.parametrize("said", ["yes", 1, None])
def test_only_true_and_false_are_answers(said: Any) -> None:
    engine = new_engine(identity=replace(IDENTITY, consent_required=True))
    user = agree("u", answer=said)
    feed(engine, [user, view(device="d", at=1), event("x.login", "u", "d", at=2)])
    assert views(engine, "u") == 0


def test_consent_outlives_a_restart() -> None:
    store = MemoryState()
    engine = new_engine(store)
    feed(engine, [refuse("u"), agree("v")])
    engine.commit()
    engine = new_engine(store, identity=replace(IDENTITY, consent_required=True))
    feed(engine, [event("x.login", "u", "d", at=1), event("x.login", "v", "e", at=1)])
    assert engine.devices_of("u") == ()
    assert engine.devices_of("v") == ("e",)


def test_nothing_is_linked_without_identity() -> None:
    engine = fed(
        view(device="d", at=1),
        event("x.login", "u", "d", at=2),
        view(device="d", at=3),
        identity=None,
    )
    feed(engine, [Link(device_id="d", timestamp=START, user_id="u")])
    assert (views(engine, "u"), views(engine, "device:d")) == (0, 2)
    assert engine.resolve("device:d", START + 3) == "device:d"
    assert engine.devices_of("u") == ()


def test_an_identity_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(EngineError, match="both begin and end"):
        Identity(logouts=frozenset({"purchase"}))
    for wrong in ({"ttl_ms": 0}, {"devices_per_user": 0}, {"marks_per_device": 1}):
        with pytest.raises(EngineError, match="at least"):
            Identity(**wrong)  # type: ignore[arg-type]


OPERATORS = """
- {name: bought, entity: user, sequence: [view, purchase], within: 1h, emit: thanks}
- {name: fresh, entity: user, join: {event: view, with: item_updates, within: 1m}}
"""


def test_a_sequence_goes_on_where_the_device_began_it() -> None:
    options = EngineOptions(identity=IDENTITY)
    engine = Engine(load_definitions(OPERATORS), MemoryState(), options)
    feed(engine, [view(device="d", at=1), Item(item_id="i0", timestamp=START + 2)])
    feed(engine, [event("purchase", "u", "d", at=5), Tick(timestamp=START + MINUTE)])
    found = engine.read("user", "u", START + MINUTE)
    assert found == {"bought": START + 5, "fresh": [("i0", START + 1)]}
    engine.commit()
    assert [action.user_id for action in engine.outbox()] == ["u"]


def test_late_events_of_operators_are_counted() -> None:
    engine = Engine(load_definitions(OPERATORS), MemoryState())
    feed(engine, [view("u", at=HOUR)])
    applied = engine.apply([(1, encode_entry(view("u", at=1)))])
    assert applied.late == 2
    assert engine.apply([(2, encode_entry(view("u", at=HOUR)))]).late == 0


def random_lives(rng: random.Random, count: int, *, consent: bool = True) -> list[Entry]:
    """People and devices as they come: every timestamp of an event is another one."""
    entries: list[Entry] = []
    now = START
    for number in range(count):
        now += rng.randrange(1, 3 * MINUTE)
        late = rng.randrange(10 * MINUTE) if rng.random() < 0.3 else 0
        user = f"u{rng.randrange(4)}" if rng.random() < 0.5 else None
        device = f"d{rng.randrange(3)}" if user is None or rng.random() < 0.7 else None
        if consent and rng.random() < 0.12:
            say = rng.choice([refuse, agree])
            entries.append(say(f"u{rng.randrange(4)}"))
        (type_,) = rng.choices(
            ["view", "purchase", "x.login", "x.logout", "click"], [8, 2, 2, 2, 1]
        )
        more: dict[str, Any] = {
            "session_id": f"s{rng.randrange(5)}",
            "item_id": f"i{rng.randrange(6)}",
            "properties": {"price": rng.randrange(100), "kind": rng.choice("xyz")},
        }
        at = (now - late) // 1000 * 1000 + number
        entries.append(event_of(f"{number}", type_, at, user, device_id=device, **more))
        if rng.random() < 0.05:
            entries.append(rng.choice([e for e in entries if isinstance(e, Event)]))
    return entries


def once(entries: Sequence[Entry]) -> list[Entry]:
    """Without what was sent before."""
    seen = set[str]()
    kept: list[Entry] = []
    for entry in entries:
        if isinstance(entry, Event):
            if entry.event_id in seen:
                continue
            seen.add(entry.event_id)
        kept.append(entry)
    return kept


Read = Callable[[str, str, int], dict[str, Any]]


def check(read: Read, entries: Sequence[Entry], naive: NaiveIdentity, **options: Any) -> int:
    """Check features against a log in which all events name users; return their number."""
    naive.feed(once(entries))
    named = new_engine(identity=None, dedupe_days=0, **options)
    for each in naive.relabelled():
        feed(named, [each])
    compared = 0
    # Of what lies before the horizon, panes may be gone in one and not yet in the other.
    before = min(3 * MINUTE, options.get("allowed_lateness_ms", DAY))
    for at in (naive.newest, naive.newest + 7 * MINUTE, naive.newest - before):
        for user in people(entries):
            assert read("user", user, at) == named.read("user", user, at), user
            compared += 1
        for device in devices(entries):
            label = naive.label_of(device, at)
            assert read("user", f"device:{device}", at) == named.read("user", label, at), device
            compared += 1
        for item in range(6):
            assert read("item", f"i{item}", at) == named.read("item", f"i{item}", at)
        for session in range(5):
            read_here = read("session", f"s{session}", at)
            assert read_here == named.read("session", f"s{session}", at)
    return compared


@given(st.integers(0, 2**32), st.integers(1, 250), st.sampled_from([40 * MINUTE, 3650 * DAY]))
@settings(max_examples=25, deadline=None, phases=[Phase.generate])
def test_features_are_as_if_all_had_named_themselves(seed: int, count: int, ttl: int) -> None:
    rng = random.Random(seed)
    identity = replace(IDENTITY, ttl_ms=ttl, consent_required=rng.random() < 0.2)
    lateness = rng.choice([0, HOUR, 365 * DAY])
    check_one(rng, count, identity, lateness)


def check_one(rng: random.Random, count: int, identity: Identity, lateness: int) -> int:
    """One partition, cut and restarted anyhow."""
    entries = random_lives(rng, count, consent=identity.ttl_ms >= 3650 * DAY)
    records = [(offset, encode_entry(entry)) for offset, entry in enumerate(entries)]
    store = MemoryState()
    options: dict[str, Any] = {
        "identity": identity,
        "allowed_lateness_ms": lateness,
        "memory_bytes": rng.choice([None, 2000]),
    }
    engine = new_engine(store, **options)
    while engine.offset < len(records):
        engine.apply(records[engine.offset : engine.offset + rng.choice([1, 3, 20, 100])])
        if rng.random() < 0.5:
            engine.commit()
        if rng.random() < 0.2:
            engine = new_engine(store, **options)
    return check(engine.read, entries, NaiveIdentity(identity), allowed_lateness_ms=lateness)


class Cluster:
    """A log in partitions, an engine for each, and owners that die at any point."""

    def __init__(self, stores: Sequence[StateStore], rng: random.Random) -> None:
        self.logs: list[list[bytes]] = [[] for _ in stores]
        self.stores = stores
        self.rng = rng
        self.engines = [self._open(number) for number in range(len(stores))]
        self.handed_over = 0

    def route(self, key: str) -> int:
        return zlib.crc32(key.encode()) % len(self.logs)

    def append(self, entry: Entry) -> None:
        key = route_key(entry)
        for number in range(len(self.logs)) if key is None else [self.route(key)]:
            self.logs[number].append(encode_entry(entry, self.rng.choice(["json", "msgpack"])))

    def feed(self, entries: Sequence[Entry]) -> None:
        """Append entries, and let each come to rest before the next."""
        for entry in entries:
            self.append(entry)
            while any(self._step(number) for number in range(len(self.logs))):
                pass

    def read(self, entity: str, key: str, at: int) -> dict[str, Any]:
        if entity == "user":
            key = self.engines[self.route(key)].resolve(key, at)
            return self.engines[self.route(key.removesuffix("\x1f"))].read(entity, key, at)
        found = [dict(engine.read(entity, key, at)) for engine in self.engines]
        return {name: sum(values[name] for values in found) for name in found[0]}

    def _step(self, number: int) -> bool:
        """Go on a little; whether there was anything to do."""
        engine, log = self.engines[number], self.logs[number]
        if self._dies(number):
            return True
        if engine.offset < len(log):
            engine.apply([(n, log[n]) for n in range(engine.offset, len(log))])
            if self._dies(number):
                return True
            engine.commit()
            return True
        waiting = engine.transfers.ready()
        if not waiting:
            return False
        for entry in waiting.values():
            self.append(entry)
            self.handed_over += 1
        if self._dies(number):
            return True
        engine.transfers.discard(waiting)
        if self.rng.random() < 0.5:
            engine.commit()
        return True

    def _dies(self, number: int) -> bool:
        if self.rng.random() < 0.9:
            return False
        self.engines[number] = self._open(number)
        return True

    def _open(self, number: int) -> Engine:
        return new_engine(self.stores[number], partition=number, partition_of=self.route)


@given(st.integers(0, 2**32), st.integers(1, 100), st.integers(2, 4))
@settings(max_examples=6, deadline=None, phases=[Phase.generate])
def test_partitions_agree_though_owners_die(seed: int, count: int, partitions: int) -> None:
    check_many(random.Random(seed), count, partitions)


def check_many(rng: random.Random, count: int, partitions: int) -> int:
    entries = random_lives(rng, count)
    cluster = Cluster([MemoryState() for _ in range(partitions)], rng)
    cluster.feed(entries)
    return check(cluster.read, entries, NaiveIdentity(IDENTITY))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 5), (1, 3), (3, 1)])
def test_links_move_to_another_number_of_partitions(before: int, after: int) -> None:
    rng = random.Random(before)
    entries = random_lives(rng, 100)
    half = len(entries) // 2
    old = Cluster([MemoryState() for _ in range(before)], rng)
    old.feed(entries[:half])
    newest = max(e.timestamp for e in entries[:half] if isinstance(e, Event))
    old.feed([Tick(timestamp=newest)])
    for engine in old.engines:
        engine.commit()
    stores = [MemoryState() for _ in range(after)]
    rescale(old.stores, stores, Cluster(stores, rng).route)
    new = Cluster(stores, rng)
    new.feed(entries[half:])
    assert check(new.read, entries, NaiveIdentity(IDENTITY)) > 20


class OldCluster(Cluster):
    """A cluster that computes less."""

    def options(self, number: int) -> EngineOptions:
        where: dict[str, Any] = {"partition": number, "partition_of": self.route}
        return EngineOptions(identity=IDENTITY, allowed_lateness_ms=365 * DAY, **where)

    def _open(self, number: int) -> Engine:
        all_ = chosen()
        kept = tuple(it for it in all_.features if it.name in ("spend", "visit", "item_views"))
        less = Definitions(kept, all_.sequences, all_.joins)
        return Engine(less, self.stores[number], self.options(number))


class Partition:
    """A list as a log."""

    begin = 0

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self._payloads = payloads

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        return [*enumerate(self._payloads)][offset : offset + min(limit, 17)]


def test_partitions_with_transfers_backfill_together() -> None:
    partitions = 3
    rng = random.Random(partitions)
    entries = random_lives(rng, 90)
    cluster = OldCluster([MemoryState() for _ in range(partitions)], rng)
    cluster.feed(entries)
    cluster.logs[0].append(b'{"transfer": broken')
    cluster.engines[0].apply([(len(cluster.logs[0]) - 1, cluster.logs[0][-1])])
    for engine in cluster.engines:
        engine.commit()
    scratches = [MemoryState() for _ in range(partitions)]

    def computations(until: Sequence[int]) -> list[PartComputation]:
        parts = []
        for number, store in enumerate(cluster.stores):
            meta = adopt_definitions(store, chosen())
            assert meta is not None
            log: Any = Partition(cluster.logs[number])
            place = log, scratches[number], chosen(), meta.missing, until[number]
            parts.append(PartComputation(*place, cluster.options(number)))
        return parts

    ends = [len(log) for log in cluster.logs]
    # Ahead, while all go on; once it is given up in between, as by a kill.
    for share in (3, 2):
        compute_together(computations([end // share for end in ends]), cluster.route, final=False)
    killed = computations(ends)
    for _ in range(3):
        killed[0].advance(lambda transfer: None)
    compute_together(computations(ends), cluster.route)
    for store, scratch in zip(cluster.stores, scratches, strict=True):
        merge_computed(store, scratch, chosen())
    new = Cluster(cluster.stores, rng)
    new.logs = cluster.logs
    assert not any(engine.missing for engine in new.engines)
    assert check(new.read, entries, NaiveIdentity(IDENTITY)) > 20


def test_what_waits_for_other_partitions_prevents_rescaling() -> None:
    store = MemoryState()
    engine = new_engine(store, partition=0, partition_of=lambda key: int(key == "u"))
    feed(engine, [view(device="d", at=1), Link(device_id="d", timestamp=START + 2, user_id="u")])
    engine.commit()
    with pytest.raises(StateError, match="entries for other partitions"):
        rescale([store], [MemoryState()], lambda key: 0)


def split(key: str) -> int:
    """Devices live in partition 0, people in partition 1."""
    return int(not key.startswith("device:"))


HOME: dict[str, Any] = {"partition": 0, "partition_of": split}
PERSON: dict[str, Any] = {"partition": 1, "partition_of": split}


def linked(at: int) -> Link:
    return Link(device_id="d", timestamp=START + at, user_id="u")


def test_a_history_travels_once_however_often_it_is_sent() -> None:
    home = fed(view(device="d", at=1), linked(2), **HOME)
    feed(home, [view(device="d", at=3)])
    home.commit()
    transfer, forwarded = home.transfers.ready().values()
    assert isinstance(forwarded, Forwarded)
    assert isinstance(transfer, Transfer)
    assert views(home, "device:d") == 0
    store = MemoryState()
    person = new_engine(store, **PERSON)
    feed(person, [transfer, forwarded, transfer])
    person.commit()
    person = new_engine(store, **PERSON)
    feed(person, [forwarded, transfer])
    assert views(person, "u") == 2
    # Who refuses meanwhile gets neither history nor events.
    refusing = fed(refuse("u"), transfer, forwarded, **PERSON)
    assert views(refusing, "u") == 0


@pytest.mark.parametrize("erased", ["u", "device:d"])
def test_an_erased_user_gets_no_history(erased: str) -> None:
    """The history of a device is not added when its user or the device was erased."""
    home = fed(view(device="d", at=0), linked(1), **HOME)
    home.commit()
    (transfer,) = home.transfers.ready().values()
    assert views(fed(transfer, **PERSON), "u") == 1
    assert views(fed(transfer, suppressed={erased}, **PERSON), "u") == 0


def test_a_forwarded_order_is_no_login() -> None:
    home = fed(linked(0), **HOME)
    feed(home, [event("purchase", device="d", at=3)])
    home.commit()
    (forwarded,) = home.transfers.ready().values()
    person = fed(forwarded, **PERSON)
    person.commit()
    assert person.transfers.ready() == {}
    assert person.read("user", "u", START + MINUTE)["spend"] == 1


def test_a_whole_log_reader_skips_transfers() -> None:
    entries = [view(device="d", at=1), event("x.login", "u", "d", at=2), view(device="d", at=3)]
    home = fed(entries[0], linked(2), entries[2], **HOME)
    home.commit()
    whole = fed(*entries, *home.transfers.ready().values())
    assert views(whole, "u") == 2


def test_a_damaged_history_is_set_aside() -> None:
    letters: list[Any] = []
    engine = new_engine(on_dead_letter=letters.extend, **PERSON)
    keys = {"transfer_id": "t", "source": "device:d", "target": "u"}
    bad = Transfer(timestamp=START, state=b"\xc1 nonsense", **keys)
    feed(engine, [bad, view("u", at=1)])
    assert "damaged" in letters[0].reason
    assert views(engine, "u") == 1


def _ignore_logouts(self: DeviceMarks, at: int, ttl_ms: int) -> str | None:
    logins = [mark for mark in self.marks if not mark.ends]
    before = [mark for mark in logins if mark.timestamp <= at]
    return before[-1].user_id if before else logins[0].user_id if logins else None


def _newest_holder(self: DeviceMarks, at: int, ttl_ms: int) -> str | None:
    return next((mark.user_id for mark in reversed(self.marks) if not mark.ends), None)


def _always_claim(self: DeviceMarks, mark: Mark, **_: Any) -> str | None:
    self.marks = sorted([*self.marks, mark], key=lambda m: m.timestamp)
    return None if mark.ends else mark.user_id


def _again(self: Resolver, transfer: Transfer, newest: int) -> None:
    _receive(self, structs.replace(transfer, transfer_id=f"t{next(_numbers)}"), newest)


_receive = Resolver.receive


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _none(self: Outbox[Any]) -> Iterator[Any]:
    return iter(())


LINKING: list[Any] = [
    (DeviceMarks, "owner", _ignore_logouts),
    (DeviceMarks, "owner", _newest_holder),
    (DeviceMarks, "add", _always_claim),
    (DeviceMarks, "disown", _nothing),
    (ProfileMerger, "merge", _nothing),
    (Resolver, "_may_link", lambda self, user: True),
]
PARTITIONS: list[Any] = [  # with the events that are enough for the third seed to show it
    (ProfileMerger, "detach", _nothing, 30),
    (ProfileMerger, "attach", _nothing, 30),
    (Outbox, "changes", _none, 30),
    (Resolver, "receive", _again, 20),
    (Resolver, "_is_elsewhere", lambda self, key: False, 30),
]


@pytest.mark.parametrize(("owner", "name", "wrong"), LINKING)
def test_a_planted_mistake_in_linking_is_seen(
    owner: type, name: str, wrong: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError):
        test_a_late_login_claims_no_later_history()
        for seed in range(20):
            check_one(random.Random(seed), 150, IDENTITY, 365 * DAY)


@pytest.mark.parametrize(("owner", "name", "wrong", "count"), PARTITIONS)
def test_a_planted_mistake_between_partitions_is_seen(
    owner: type, name: str, wrong: Callable[..., Any], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError):
        for seed in range(3, 15):
            check_many(random.Random(seed), count, 3)

"""Erasure of users from a partition, found by the log or by the state itself."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tactful_streaming.contract.log_entries import (
    Entry,
    Event,
    Forwarded,
    Item,
    Link,
    Restricted,
    Tick,
    Transfer,
    User,
    encode_entry,
)
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import StateError
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.log.dead_letters import DeadLetter, DeadLetters
from tactful_streaming.log.segment import BLANK
from tactful_streaming.patterns.match import Match
from tactful_streaming.state.checkpoints import FolderCheckpoints
from tactful_streaming.state.partition_checkpoint import PartitionState
from tactful_streaming.state.store import MemoryState, RocksState, StateStore
from tactful_streaming.windows.triggers import WindowResult
from tactful_streaming.worker import erasure

DEFINITIONS = load_definitions("""
- {name: views, entity: user, event: view, aggregate: count, window: {size: 10m, slide: 1m}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: visit, entity: session, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: item_views, entity: item, event: view, aggregate: count, window: {size: 10m, slide: 1m}}
- {name: hot, entity: user, sequence: [view, add_to_cart], within: 5m, emit: coupon}
""")
MINUTE = 60_000
ADA = {"ada", "device:ada-phone"}
APART = {("bob", "ada-phone"), ("ada", "bob-phone")}


class Erasures:
    """A list of the erased in memory."""

    newest = 7

    def __init__(self, suppressed: Collection[str], known: SubjectIds | None = None) -> None:
        self.suppressed = frozenset(suppressed)
        self.known = known or SubjectIds()
        self.reported: dict[str, int] = {}

    def after(self, number: int) -> tuple[int, SubjectIds]:
        return self.newest, self.known if number < self.newest else SubjectIds()

    def purged(self, partition: str, number: int) -> None:
        self.reported[partition] = number


def engine(
    store: StateStore, suppressed: Collection[str] = (), definitions: Definitions = DEFINITIONS
) -> Engine:
    options = EngineOptions(
        allowed_lateness_ms=0,
        identity=Identity(),
        partition_of=lambda key: 0,
        suppressed=frozenset(suppressed),
    )
    return Engine(definitions, store, options)


events = st.lists(
    st.tuples(
        st.sampled_from(["ada", "bob", None]),
        st.sampled_from(["ada-phone", "bob-phone", "tablet", None]),
        st.sampled_from(["view", "add_to_cart", "x.login", "x.logout"]),
        st.integers(0, 20 * MINUTE),
        st.integers(0, 1),
    ).filter(lambda drawn: (drawn[0] or drawn[1]) and (drawn[0], drawn[1]) not in APART),
    max_size=40,
)


def entries(drawn: list[tuple[str | None, str | None, str, int, int]]) -> list[Entry]:
    items: list[Entry] = [Item(item_id="i0", timestamp=0), Item(item_id="i1", timestamp=0)]
    return items + [
        Event(
            event_id=f"e{number}",
            type=kind,
            timestamp=at,
            user_id=user,
            device_id=device,
            session_id=f"visit-{user or device}",
            item_id=f"i{number % 2}",
        )
        for number, (user, device, kind, at, _) in enumerate(drawn)
    ]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events)
def test_a_state_shows_by_itself_whose_it_is(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[str | None, str | None, str, int, int]],
) -> None:
    """Nothing is known from the log, as for a state found long after the erasure."""
    folder = tmp_path_factory.mktemp("partition")
    payloads = [encode_entry(entry) for entry in entries(drawn)]
    store = RocksState(folder / "state")
    one = engine(store)
    one.apply(list(enumerate(payloads)))
    one.commit()
    at = 20 * MINUTE
    before = {key: one.read("user", key, at) for key in ("bob", "device:bob-phone")}
    items = {key: one.read("item", key, at) for key in ("i0", "i1")}
    one.close()
    store = RocksState(folder / "state")
    assert erasure.purged_number(store) == 0
    for _ in range(2):  # as after a kill before it was noted
        number, _ = erasure.purge_partition(store, folder, DEFINITIONS, Erasures(ADA))
    erasure.note_purged(store, number)
    pairs = [b"\0".join(pair) for pair in store.scan(b"")]
    # A tablet that somebody else used, too, is not theirs; who held it is forgotten.
    assert [pair for pair in pairs if b"ada" in pair] == []
    assert erasure.purged_number(store) == 7
    left = engine(store, ADA)
    assert left.offset == len(payloads)
    assert {key: left.read("item", key, at) for key in items} == items
    if not any(device == "tablet" for _, device, *_ in drawn):
        assert {key: left.read("user", key, at) for key in before} == before
    left.close()


@settings(max_examples=40, deadline=None)
@given(events, st.booleans())
def test_what_the_log_holds_of_the_erased_leaves_no_trace(
    drawn: list[tuple[str | None, str | None, str, int, int]], apart: bool
) -> None:
    happened = entries(drawn)
    others: list[Entry] = [
        *happened,
        Link(device_id="tablet", timestamp=5, user_id="ada"),
        Link(device_id="ada-phone", timestamp=5),
        Transfer(
            transfer_id="t", timestamp=5, source="device:tablet", target="ada", state=b"broken"
        ),
        User(user_id="ada", timestamp=5, properties={"consent.identity": True}),
    ]

    def theirs(entry: Entry) -> bool:
        if isinstance(entry, Restricted):
            entry = entry.event
        return isinstance(entry, Event) and (
            entry.user_id == "ada" or entry.device_id == "ada-phone"
        )

    if apart:
        others = [
            Restricted(timestamp=e.timestamp, purposes=("measurement",), event=e)
            if theirs(e) and isinstance(e, Event)
            else e
            for e in others
        ]
    ticked = [
        Tick(timestamp=entry.timestamp)
        if theirs(entry)
        else Tick(timestamp=0)
        if isinstance(entry, Link | Transfer | User)
        else entry
        for entry in others
    ]
    stores = []
    for log, suppressed in ((others, ADA), (ticked, set[str]())):
        store = MemoryState()
        opened = engine(store, suppressed)
        applied = opened.apply(list(enumerate(map(encode_entry, log))))
        assert applied.invalid == 0
        opened.commit()
        stores.append(dict(store.scan(b"")))
    one, other = stores
    assert {k: v for k, v in one.items() if k != b"meta"} == {
        k: v for k, v in other.items() if k != b"meta"
    }
    assert not any(b"ada" in key + value for key, value in one.items())


def test_dead_letters_beside_a_state_become_blank(tmp_path: Path) -> None:
    letters = DeadLetters.open(tmp_path / "dead-letters")
    payloads = [
        encode_entry(Event(event_id="e0", type="view", timestamp=1, user_id="ada"), "json"),
        encode_entry(Event(event_id="e1", type="view", timestamp=1, user_id="bob"), "json"),
        b'{"torn": "ada',
    ]
    made = partial(DeadLetter, rule="r", reason="why", partition=0)
    letters.add([made(payload=payload, offset=n) for n, payload in enumerate(payloads)])
    letters.close()
    store = RocksState(tmp_path / "state")
    erasures = Erasures({"ada"}, SubjectIds(users=frozenset({"ada"})))
    erasure.purge_partition(store, tmp_path, DEFINITIONS, erasures)
    store.close()
    letters = DeadLetters.open(tmp_path / "dead-letters", read_only=True)
    assert [(letter.reason, letter.payload) for _, letter in letters.read()] == [
        ("erased", BLANK),
        ("why", payloads[1]),
        ("erased", BLANK),
    ]
    letters.close()


class Killed(RocksState):
    """A state whose process is killed before it purges what was deleted."""

    def purge(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("killed", [False, True])
def test_deleted_bytes_leave_the_disk(tmp_path: Path, killed: bool) -> None:
    """Deleted bytes leave the disk, also after few deletions or a kill."""
    definitions = DEFINITIONS
    if not killed:  # all there is of them is a mention
        mention = "[{name: bought, entity: item, sequence: [view, add_to_cart], within: 5m}]"
        definitions = load_definitions(mention)
    store = (Killed if killed else RocksState)(tmp_path / "state")
    opened = engine(store, definitions=definitions)
    event = Event(event_id="e0", type="view", timestamp=1, user_id="ada-zq", item_id="i")
    opened.apply([(0, encode_entry(event))])
    opened.commit()
    RocksState.purge(store)  # into files
    erasures = Erasures({"ada-zq"}, SubjectIds(users=frozenset({"ada-zq"})))
    if killed:
        with pytest.raises(KeyboardInterrupt):
            erasure.purge_partition(store, tmp_path, definitions, erasures)
    store.close()
    store = RocksState(tmp_path / "state")
    erasure.purge_partition(store, tmp_path, definitions, erasures)
    store.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files if b"ada-zq" in path.read_bytes()] == []


def test_one_checkpoint_takes_the_place_of_all(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    state = PartitionState(tmp_path / "own", checkpoints=FolderCheckpoints(checkpoints))
    state.replace_checkpoints()
    assert not checkpoints.exists()
    for number in range(2):
        opened = engine(state.store)
        event = Event(event_id=f"e{number}", type="view", timestamp=1, user_id="ada")
        opened.apply([(number, encode_entry(event))])
        opened.commit()
        state.checkpoint()
    assert len(list(checkpoints.iterdir())) == 2
    (checkpoints / "new").mkdir()  # of a process that was killed on the way
    erasure.purge_partition(state.store, tmp_path / "own", DEFINITIONS, Erasures({"ada"}))
    state.replace_checkpoints()
    state.close()
    (left,) = checkpoints.iterdir()
    assert left.name == f"{2:020}"
    store = RocksState(left)
    assert not any(b"ada" in key for key, _ in store.scan(b""))
    store.close()


def test_what_waits_is_screened() -> None:
    device = Event(event_id="e", type="view", timestamp=1, device_id="ada-phone")
    theirs: list[Entry] = [
        Event(event_id="e", type="view", timestamp=1, user_id="ada"),
        device,
        Restricted(timestamp=1, purposes=(), event=device),
        Forwarded(target="ada", timestamp=1, event=Event(event_id="e", type="v", timestamp=1)),
        Link(device_id="d", timestamp=1, user_id="ada"),
        Transfer(transfer_id="t", timestamp=1, source="d", target="ada", state=b""),
        User(user_id="ada", timestamp=1),
    ]
    assert all(erasure.is_erased(entry, ADA) for entry in theirs)
    assert not any(erasure.is_erased(entry, {"bob"}) for entry in theirs)
    assert not erasure.is_erased(Tick(timestamp=1), ADA)
    fired = [
        WindowResult("n", "user", 0, 1, ["ada", "bob", "ada"], ["x", "y", "z"], [1, 2, 3]),
        WindowResult("n", "item", 0, 1, ["ada"], None, [1]),
        WindowResult("n", "user", 0, 1, ["bob"], None, [1]),
    ]
    of_bob = WindowResult("n", "user", 0, 1, ["bob"], ["y"], [2])
    assert erasure.drop_erased_results(fired, ADA) == [of_bob, *fired[1:]]
    assert erasure.drop_erased_results(fired, ()) == fired
    matches = [
        Match("m", "user", key, None, 0, 1, 1, (), subject=subject)
        for key, subject in (("ada", None), ("bob", "bob"))
    ] + [Match("m", "item", "ada", None, 0, 1, 1, (), subject="ada")]
    assert erasure.drop_erased_matches(matches, ADA) == [matches[1]]


def test_a_damaged_number_is_told() -> None:
    store = MemoryState()
    store.write([(b"f", b"many")])
    with pytest.raises(StateError, match="last erasure"):
        erasure.purged_number(store)

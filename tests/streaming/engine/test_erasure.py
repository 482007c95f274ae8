"""Expiry of users from the state of a closed engine."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from tests.streaming.streams import engine_of, event_of

from tactful_streaming.contract.log_entries import Entry, Event, User, encode_entry, event_key
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.erasure import delete_subjects, expire_users
from tactful_streaming.state.key_layout import OWNER, USER, entity_prefix
from tactful_streaming.state.store import MemoryState, StateStore

FEATURES = load_definitions(
    "- {name: seen, entity: user, event: view, aggregate: last_time}\n"
    "- {name: visit, entity: session, event: view, aggregate: last_time}\n"
)

times = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9))


@given(times, times, times, st.integers(0, 10))
@example({"a": 3}, {"a": 2}, {"a": 7}, 5)  # a description stays of a user who goes
def test_expired_users(
    seen: dict[str, int], visits: dict[str, int], described: dict[str, int], before: int
) -> None:
    entries: list[Entry] = [event_of(f"u{key}", "view", at, key) for key, at in seen.items()]
    entries += [event_of(f"s{key}", "view", at, key, session_id=key) for key, at in visits.items()]
    entries += [User(user_id=key, timestamp=at) for key, at in described.items()]
    store = MemoryState()
    engine = engine_of(FEATURES, store)
    engine.apply([(offset, encode_entry(entry)) for offset, entry in enumerate(entries)])
    engine.commit()
    count = expire_users(store, before)
    last = visits | {key: max(at, visits.get(key, 0)) for key, at in seen.items()}
    users = {key for key, at in last.items() if at >= before}
    sessions = {key for key, at in visits.items() if at >= before}
    descriptions = {key for key, at in described.items() if key in users or at >= before}
    assert stored(store, entity_prefix("user")) == users
    assert stored(store, entity_prefix("session")) == sessions
    assert stored(store, USER) == descriptions
    assert stored(store, OWNER) <= sessions
    kept = len(users) + len(sessions) + len(descriptions)
    assert count == len(last) + len(visits) + len(described) - kept


def test_keys_of_events_go_with_their_sender() -> None:
    """Erased users leave no key of an event; others who sent the same ids keep theirs."""
    senders: list[dict[str, Any]] = [
        *(
            {"user_id": "ada"},
            {"device_id": "ada-phone"},
            {"user_id": "ada", "device_id": "tablet"},
        ),
        *({"user_id": "bob", "device_id": "tablet"}, {"user_id": "bob"}, {"device_id": "tablet"}),
    ]
    sent = [
        Event(event_id=id_, type="view", timestamp=9, sender="server", **sender)
        for sender in senders
        for id_ in ("e1", "e2")
    ]
    store = MemoryState()
    engine = engine_of(FEATURES, store)
    engine.apply([(offset, encode_entry(event)) for offset, event in enumerate(sent)])
    engine.commit()
    subjects = SubjectIds(
        users=frozenset({"ada"}),
        devices=frozenset({"ada-phone"}),
        shared=frozenset({"tablet"}),
        event_ids=frozenset({"e1"}),
    )
    delete_subjects(store, subjects, FEATURES, {})
    assert not [pair for pair in store.scan(b"") if b"ada" in b"".join(pair)]
    engine = engine_of(FEATURES, store)
    left = [event for event in sent if engine.seen(event_key(event))]
    assert left == [*sent[6:10], sent[11]], "of the shared device, e1 was ada's"


def stored(store: StateStore, prefix: bytes) -> set[str]:
    return {key[len(prefix) :].decode() for key, _ in store.scan(prefix)}

"""Expiry of users from the state of a closed engine."""

from hypothesis import example, given
from hypothesis import strategies as st
from tests.streaming.streams import engine_of, event_of

from tactful_streaming.contract.log_entries import Entry, User, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.erasure import expire_users
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


def stored(store: StateStore, prefix: bytes) -> set[str]:
    return {key[len(prefix) :].decode() for key, _ in store.scan(prefix)}

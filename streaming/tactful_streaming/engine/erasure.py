"""Removes people from the stored state of an engine, also of one at work (`Engine.forget`).

What is kept under the key of a person, of their devices and of their visits goes, and so do their
event ids, the links to their devices and the actions made for them, and what names them under the
keys of items (`mentions`). Counts of items and categories, to which many people contributed, name
nobody and stay; to have those as if the person had never been there, the state is rebuilt from the
log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from tactful_streaming.contract.log_entries import (
    APART,
    DEVICE_PREFIX,
    Entry,
    Event,
    Forwarded,
    Link,
    Restricted,
    Transfer,
    decode_entry,
)
from tactful_streaming.contract.log_entries import User as UserEntry
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.references import find_mentions, people_mentioned, without_mentions
from tactful_streaming.identity.device_links import holders_of
from tactful_streaming.state.key_layout import (
    CHANGED_APART,
    CLEANER,
    CONSENT,
    CONSUMER,
    DEVICE,
    DEVICES_OF,
    EVENT_ID,
    HANDOVER,
    ID_CHUNK,
    OPERATOR,
    OUTBOX,
    OWNER,
    USER,
    entity_prefix,
    operator_prefix,
    read_meta,
)
from tactful_streaming.state.store import Change, StateStore
from tactful_streaming.windows.packed_entity import newest_packed

_ids = msgspec.msgpack.Decoder(list[str])
_PIECE = 10_000


def devices_of(store: StateStore, user_id: str) -> Iterator[str]:
    """Devices that a stored state knows to be or to have been of a user."""
    for key, blob in store.scan(DEVICE):
        if user_id.encode() in blob:
            yield key[len(DEVICE) :].decode()


def user_keys_in(store: StateStore) -> Iterator[str]:
    """Keys of the people of whom a state holds anything under their own name."""
    for prefix, before in (
        (entity_prefix("user"), ""),
        (USER, ""),
        (CONSENT, ""),
        (DEVICES_OF, ""),
        (DEVICE, DEVICE_PREFIX),
    ):
        for key, _ in store.scan(prefix):
            # Beside what is of a device may lie what of it can never be joined to anybody.
            yield before + key[len(prefix) :].decode().split(APART)[0]
    for name in _operator_keys(store):
        yield name.split(APART)[0]


def _operator_keys(store: StateStore) -> Iterator[str]:
    """Keys of which sequences and joins know something, of whatever entity."""
    for key, _ in store.scan(OPERATOR):
        yield key.decode().partition(":")[2]


def sessions_of(store: StateStore, people: Container[str]) -> Iterator[str]:
    """Visits that a stored state knows to be of people, also ones that the log has forgotten."""
    for key, owner in store.scan(OWNER):
        if owner.decode().split(APART)[0] in people:
            yield key[len(OWNER) :].decode()


def expire_users(store: StateStore, before: int) -> int:
    """Remove what is kept of people and visits of whom nothing came since a time.

    A description is one of what came: one that came since stays, and a person of whom there is
    nothing else goes with an old one.

    Args:
        store: of an engine that is closed.
        before: event time, epoch milliseconds.

    Returns:
        How many of them there were: what is computed of people, visits, and descriptions.
    """
    gone: list[Change] = []
    count = 0

    def remove(*keys: bytes) -> None:
        nonlocal gone, count
        gone += [(key, None) for key in keys]
        count += 1
        if len(gone) >= _PIECE:
            store.write(gone)
            gone = []

    of_people = entity_prefix("user")
    for prefix, own in ((of_people, DEVICES_OF), (entity_prefix("session"), OWNER)):
        for key, blob in store.scan(prefix):
            if newest_packed(blob) < before:
                remove(key, own + key[len(prefix) :])
    store.write(gone)
    gone = []
    for key, payload in store.scan(USER):
        name = key[len(USER) :]
        if store.get(of_people + name) is None:
            entry = decode_entry(payload)
            if isinstance(entry, UserEntry) and entry.timestamp < before:
                remove(key, CONSENT + name)
    store.write(gone)
    return count


def drop_consumer(store: StateStore, name: str) -> None:
    """Forget what a passenger had counted: with the next engine on this state it begins anew."""
    store.write([(CONSUMER + name.encode(), None)])


def find_subject_ids(
    store: StateStore, people: Container[str], definitions: Definitions
) -> SubjectIds:
    """What a stored state shows by itself of people who are known by nothing but a yes or no.

    It reads the key of every entity. Of the ids of their events it knows those only that a sequence
    or join keeps with who caused them: nothing else in a state says whose they are.

    Args:
        store: of an engine that is closed.
        people: whether a key of :attr:`SubjectIds.people` is one of them.
        definitions: what the state was computed by.
    """
    users, devices, shared, sessions = set[str](), set[str](), set[str](), set[str]()

    def note(key: str) -> None:
        # Beside what is of a device may lie what of it can never be joined to anybody.
        if key.split(APART)[0] not in people:
            return
        if key.startswith(DEVICE_PREFIX):
            devices.add(key.removeprefix(DEVICE_PREFIX))
        else:
            users.add(key)

    for prefix in (entity_prefix("user"), USER, CONSENT, DEVICES_OF):
        for key, _ in store.scan(prefix):
            note(key[len(prefix) :].decode())
    for name in _operator_keys(store):
        note(name)
    for key, blob in store.scan(DEVICE):
        device = key[len(DEVICE) :].decode()
        holders = holders_of(blob)
        if DEVICE_PREFIX + device in people or (holders and all(h in people for h in holders)):
            devices.add(device)
        elif any(holder in people for holder in holders):
            shared.add(device)
        users.update(holder for holder in holders if holder in people)
    sessions.update(sessions_of(store, people))
    event_ids = set[str]()
    for event_id, subject in people_mentioned(store, definitions):
        if subject.split(APART)[0] in people:
            note(subject.split(APART)[0])
            event_ids |= {event_id} - {""}
    return SubjectIds(
        users=frozenset(users),
        devices=frozenset(devices),
        shared=frozenset(shared),
        sessions=frozenset(sessions),
        event_ids=frozenset(event_ids),
    )


def stored_entities(store: StateStore, traces: SubjectIds) -> Iterator[tuple[str, str, bytes]]:
    """Kind of entity, key and packed state of what is kept of people and their visits."""
    for entity, keys in (("user", traces.people), ("session", traces.sessions)):
        for key in sorted(keys):
            blob = store.get(entity_prefix(entity) + key.encode())
            if blob is not None:
                yield entity, key, blob


@dataclass(frozen=True)
class SubjectReferences:
    """Keys of a stored state under which something of people is, and that only a search finds.

    Attributes:
        cleaner: what the cleaner remembers of them.
        chunks: lists of event ids, some of which are theirs.
        mentions: what is kept of others, or of items, and names them, too.
    """

    cleaner: tuple[bytes, ...] = ()
    chunks: tuple[bytes, ...] = ()
    mentions: tuple[bytes, ...] = ()


def find_references(
    store: StateStore, traces: SubjectIds, definitions: Definitions
) -> SubjectReferences:
    """Search a stored state, also one that another process writes to; it may take long."""
    chunks: list[bytes] = []
    if traces.event_ids:
        for key, blob in store.scan(ID_CHUNK):
            if not traces.event_ids.isdisjoint(_ids.decode(blob)):
                chunks.append(key)
    mentions = find_mentions(store, definitions, traces)
    return SubjectReferences(tuple(_cleaner(store, traces)), tuple(chunks), tuple(mentions))


def history_keys(store: StateStore, traces: SubjectIds) -> frozenset[str]:
    """Keys of histories of people; beside that of a device lie some that nobody may claim."""
    prefix = entity_prefix("user")
    found = set(traces.people)
    for device in traces.devices:
        for key, _ in store.scan(prefix + f"{DEVICE_PREFIX}{device}{APART}".encode()):
            found.add(key[len(prefix) :].decode())
    return frozenset(found)


def delete_subjects(
    store: StateStore,
    traces: SubjectIds,
    definitions: Definitions,
    snapshots: Mapping[str, Callable[[bytes], bytes]],
    *,
    references: SubjectReferences | None = None,
) -> int:
    """Remove people from the state in `store`, in batches; again from the start after a crash.

    Args:
        store: nobody else writes to it meanwhile.
        traces: what to remove.
        definitions: what the state was computed by.
        snapshots: by name of a passenger, makes its snapshot without these people.
        references: what a search has found already, since when nothing of them was added.

    Returns:
        How many keys were removed.
    """
    references = find_references(store, traces, definitions) if references is None else references
    own = set(_keys(traces, history_keys(store, traces), definitions))
    waiting: list[Change] = [(key, None) for key in own if store.get(key) is not None]
    waiting += [(key, None) for key in _waiting_of(store, traces)]
    waiting += [(key, None) for key in references.cleaner]
    removed = len(waiting)
    waiting += _chunks(store, traces, references.chunks)
    others = [key for key in references.mentions if key not in own]
    changed = list(without_mentions(store, definitions, others, traces))
    meta = read_meta(store) if changed else None
    if meta is not None:
        # For an engine that copies what is stored, and was closed meanwhile. It comes first: what
        # was changed before a kill is not among what is to be changed after it.
        changed.insert(0, (CHANGED_APART, b"%d" % meta.offset))
    waiting += changed
    for name, without in snapshots.items():
        snapshot = store.get(CONSUMER + name.encode())
        if snapshot is not None and (left := without(snapshot)) != snapshot:
            waiting.append((CONSUMER + name.encode(), left))
    for start in range(0, len(waiting), _PIECE):
        store.write(waiting[start : start + _PIECE])
    return removed


def _keys(traces: SubjectIds, people: Collection[str], definitions: Definitions) -> Iterator[bytes]:
    for entity, keys in (("user", people), ("session", traces.sessions)):
        for key in keys:
            yield entity_prefix(entity) + key.encode()
    names = [sequence.name for sequence in definitions.sequences]
    names += [join.name for join in definitions.joins]
    for name in names:
        for key in (*people, *traces.sessions):
            yield operator_prefix(name) + key.encode()
    for session in traces.sessions:
        yield OWNER + session.encode()
    for user in traces.users:
        for prefix in (USER, CONSENT, DEVICES_OF):
            yield prefix + user.encode()
    for device in traces.devices | traces.shared:
        yield DEVICE + device.encode()
    for event_id in traces.event_ids:
        yield EVENT_ID + event_id.encode()


def _waiting_of(store: StateStore, traces: SubjectIds) -> Iterator[bytes]:
    for prefix in (OUTBOX, HANDOVER):
        for key, payload in store.scan(prefix):
            if names_subject(decode_entry(payload), traces):
                yield key


def names_subject(entry: Entry, traces: SubjectIds) -> bool:
    """Whether an entry names these people."""
    if isinstance(entry, Restricted):
        entry = entry.event
    if isinstance(entry, Event):
        return entry.user_id in traces.users or entry.device_id in traces.devices
    if isinstance(entry, UserEntry):
        return entry.user_id in traces.users
    if isinstance(entry, Link):
        return entry.user_id in traces.users or entry.device_id in traces.devices
    if isinstance(entry, Transfer):
        return entry.target in traces.users or entry.source in traces.people
    if isinstance(entry, Forwarded):
        return entry.target in traces.users or entry.event.device_id in traces.devices
    return False


def _cleaner(store: StateStore, traces: SubjectIds) -> Iterator[bytes]:
    needles = [name.encode() for name in traces.users | traces.devices | traces.event_ids]
    for key, _ in store.scan(CLEANER):
        if any(needle in key for needle in needles):
            yield key


def _chunks(store: StateStore, traces: SubjectIds, keys: Sequence[bytes]) -> Iterator[Change]:
    for key, blob in zip(keys, store.get_many(keys), strict=True):
        if blob is not None:  # else it was forgotten since
            kept = [id_ for id_ in _ids.decode(blob) if id_ not in traces.event_ids]
            yield key, msgspec.msgpack.encode(kept) if kept else None

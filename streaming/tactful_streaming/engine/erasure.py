"""Erasure of users from the stored state of an engine, and from a running engine.

Deleted are the entries under the keys of users, of their devices and sessions, their event ids, the
links to their devices and the actions for them, and mentions of them under the keys of items
(`references`). Counts of items and categories, to which many users contributed, name nobody and
stay; to remove the contributions too, rebuild the state from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from tactful_streaming.contract import log_entries
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.commits import EngineCommits
from tactful_streaming.engine.dedupe import MEASURED
from tactful_streaming.engine.engine_state import EngineState
from tactful_streaming.engine.references import (
    drops_of,
    find_mentions,
    people_mentioned,
    split_key,
    without_mentions,
)
from tactful_streaming.engine.schema_evolution import operators_of
from tactful_streaming.identity.device_links import holders_of
from tactful_streaming.identity.resolver import unclaimed_key
from tactful_streaming.state import key_layout as layout
from tactful_streaming.state.store import Change, StateStore
from tactful_streaming.windows.packed_entity import newest_packed

_ids = msgspec.msgpack.Decoder(list[str])
_PIECE = 10_000


def devices_of(store: StateStore, user_id: str) -> Iterator[str]:
    """Yield the devices that a user holds or has held, by a stored state."""
    for device, blob in layout.named(store, layout.DEVICE):
        if user_id.encode() in blob:
            yield device


def user_keys_in(store: StateStore) -> Iterator[str]:
    """Yield the keys of the users and devices of a stored state."""
    for key in _named_subjects(store):
        yield key.split(log_entries.APART)[0]
    for device, _ in layout.named(store, layout.DEVICE):
        yield log_entries.DEVICE_PREFIX + device.split(log_entries.APART)[0]


def _named_subjects(store: StateStore) -> Iterator[str]:
    """Yield the keys under which histories, descriptions and partial matches are stored.

    A device may have a second history, which is never merged with that of a user. Partial matches
    are of all kinds of entities.
    """
    for prefix in (layout.entity_prefix("user"), layout.USER, layout.CONSENT, layout.DEVICES_OF):
        for name, _ in layout.named(store, prefix):
            yield name
    for key, _ in store.scan(layout.OPERATOR):
        yield split_key(key)[2]


def sessions_of(store: StateStore, people: Container[str]) -> Iterator[str]:
    """Yield the sessions of users in a stored state, also ones that left the log."""
    for session, owner in layout.named(store, layout.OWNER):
        if owner.decode().split(log_entries.APART)[0] in people:
            yield session


def expire_users(store: StateStore, before: int) -> int:
    """Delete users and sessions of a closed engine's state without events since `before`.

    A newer description stays, and an old one is deleted if nothing else is stored of its user.
    Returns the number of deleted histories, sessions and descriptions.
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

    of_people = layout.entity_prefix("user")
    for prefix, own in (
        (of_people, layout.DEVICES_OF),
        (layout.entity_prefix("session"), layout.OWNER),
    ):
        for key, blob in store.scan(prefix):
            if newest_packed(blob) < before:
                remove(key, own + key[len(prefix) :])
    store.write(gone)
    gone = []
    for key, payload in store.scan(layout.USER):
        name = key[len(layout.USER) :]
        if store.get(of_people + name) is None:
            entry = log_entries.decode_entry(payload)
            if isinstance(entry, log_entries.User) and entry.timestamp < before:
                remove(key, layout.CONSENT + name)
    store.write(gone)
    return count


def drop_consumer(store: StateStore, name: str) -> None:
    """Delete the snapshot of a consumer, which begins anew with the next engine."""
    store.write([(layout.CONSUMER + name.encode(), None)])


def find_subject_ids(
    store: StateStore, people: Container[str], definitions: Definitions
) -> SubjectIds:
    """Find the ids of users in a closed engine's state, given only a membership test.

    It reads the key of every entity; `people` contains the keys (:attr:`SubjectIds.people`) of
    these users. It finds only the event ids that a sequence or join keeps with their user: no other
    part of a state says whose they are.
    """
    users, devices, shared, event_ids = set[str](), set[str](), set[str](), set[str]()

    def note(key: str) -> None:
        if key.split(log_entries.APART)[0] not in people:
            return
        if key.startswith(log_entries.DEVICE_PREFIX):
            devices.add(key.removeprefix(log_entries.DEVICE_PREFIX))
        else:
            users.add(key)

    for name in _named_subjects(store):
        note(name)
    for device, blob in layout.named(store, layout.DEVICE):
        holders = holders_of(blob)
        own = {holder for holder in holders if holder in people}
        if log_entries.DEVICE_PREFIX + device in people or (own and own == holders):
            devices.add(device)
        elif own:
            shared.add(device)
        users |= own
    sessions = sessions_of(store, people)
    for event_id, subject in people_mentioned(store, definitions):
        if subject.split(log_entries.APART)[0] in people:
            note(subject.split(log_entries.APART)[0])
            event_ids |= {event_id} - {""}
    return SubjectIds(*map(frozenset, (users, devices, shared, sessions, event_ids)))


def stored_entities(store: StateStore, subjects: SubjectIds) -> Iterator[tuple[str, str, bytes]]:
    """Yield kind, key and packed state of the histories of users and their sessions."""
    for entity, keys in (("user", subjects.people), ("session", subjects.sessions)):
        for key in sorted(keys):
            blob = store.get(layout.entity_prefix(entity) + key.encode())
            if blob is not None:
                yield entity, key, blob


@dataclass(frozen=True)
class SubjectReferences:
    """Keys of a stored state that refer to users, and that only a search finds."""

    cleaner: tuple[bytes, ...] = ()  # entries of the cleaner
    chunks: tuple[bytes, ...] = ()  # lists of event keys, some of which are theirs
    events: tuple[bytes, ...] = ()  # entries of these event keys
    mentions: tuple[bytes, ...] = ()  # entries of other users or of items that name them


def find_references(
    store: StateStore, subjects: SubjectIds, definitions: Definitions
) -> SubjectReferences:
    """Search a stored state, also while another process writes; may take long."""
    chunks: list[bytes] = []
    events: list[bytes] = []
    for chunk, keys in store.scan(layout.ID_CHUNK) if subjects != SubjectIds() else ():
        own = [key for key in _ids.decode(keys) if _is_of(key, subjects)]
        events += (layout.EVENT_ID + key.encode() for key in own)
        chunks += [chunk] if own else []
    needles = [name.encode() for name in subjects.users | subjects.devices | subjects.event_ids]
    cleaner = (key for key, _ in store.scan(layout.CLEANER) if any(n in key for n in needles))
    mentions = find_mentions(store, definitions, subjects)
    return SubjectReferences(tuple(cleaner), tuple(chunks), tuple(events), tuple(mentions))


def history_keys(store: StateStore, subjects: SubjectIds) -> frozenset[str]:
    """Return the keys of the histories of users, with the unclaimed ones of devices."""
    prefix = layout.entity_prefix("user")
    keys = set(subjects.people)
    for device in subjects.devices:
        unclaimed = prefix + unclaimed_key(device).encode()
        keys.update(key[len(prefix) :].decode() for key, _ in store.scan(unclaimed))
    return frozenset(keys)


def delete_subjects(
    store: StateStore,
    subjects: SubjectIds,
    definitions: Definitions,
    snapshots: Mapping[str, Callable[[bytes], bytes]],
    *,
    references: SubjectReferences | None = None,
) -> int:
    """Delete users from the state in `store`; after a crash, call it again.

    No other process writes to it meanwhile. `snapshots` make, by name of a consumer, its snapshot
    without these users. `references` is the result of a search since which nothing of them was
    added; None: search here.

    Returns:
        Number of deleted keys.
    """
    removed, changes = _deletions(store, subjects, definitions, snapshots, references)
    for start in range(0, len(changes), _PIECE):
        store.write(changes[start : start + _PIECE])
    return removed


def holds_subjects(
    store: StateStore,
    subjects: SubjectIds,
    definitions: Definitions,
    snapshots: Mapping[str, Callable[[bytes], bytes]],
) -> bool:
    """Return whether `delete_subjects` would change anything; another process may write."""
    return bool(_deletions(store, subjects, definitions, snapshots, None)[1])


def _deletions(
    store: StateStore,
    subjects: SubjectIds,
    definitions: Definitions,
    snapshots: Mapping[str, Callable[[bytes], bytes]],
    references: SubjectReferences | None,
) -> tuple[int, list[Change]]:
    """Return the number of deleted keys, and the changes that delete users."""
    references = find_references(store, subjects, definitions) if references is None else references
    own = {*_own_keys(subjects, history_keys(store, subjects), definitions), *references.events}
    changes: list[Change] = [(key, None) for key in own if store.get(key) is not None]
    for prefix in (layout.OUTBOX, layout.HANDOVER):
        for key, payload in store.scan(prefix):
            if names_subject(log_entries.decode_entry(payload), subjects):
                changes.append((key, None))
    changes += [(key, None) for key in references.cleaner]
    removed = len(changes)
    changes += _chunk_changes(store, subjects, references.chunks)
    others = [key for key in references.mentions if key not in own]
    changed = list(without_mentions(store, definitions, others, subjects))
    meta = layout.read_meta(store) if changed else None
    if meta is not None:
        # Tells a mirror of the state to copy it anew. It comes first: after a kill, the keys that
        # were changed before are no longer among those to change.
        changed.insert(0, (layout.CHANGED_APART, b"%d" % meta.offset))
    changes += changed
    for name, without in snapshots.items():
        snapshot = store.get(layout.CONSUMER + name.encode())
        if snapshot is not None and (left := without(snapshot)) != snapshot:
            changes.append((layout.CONSUMER + name.encode(), left))
    return removed, changes


def _own_keys(
    subjects: SubjectIds, people: Collection[str], definitions: Definitions
) -> Iterator[bytes]:
    for entity, keys in (("user", people), ("session", subjects.sessions)):
        for key in keys:
            yield layout.entity_prefix(entity) + key.encode()
    for operator in operators_of(definitions):
        for key in (*people, *subjects.sessions):
            yield layout.operator_prefix(operator.name) + key.encode()
    for session in subjects.sessions:
        yield layout.OWNER + session.encode()
    for user in subjects.users:
        for prefix in (layout.USER, layout.CONSENT, layout.DEVICES_OF):
            yield prefix + user.encode()
    for device in subjects.devices | subjects.shared:
        yield layout.DEVICE + device.encode()
    for event_id in subjects.event_ids:
        yield layout.EVENT_ID + event_id.encode()


def _is_of(key: str, subjects: SubjectIds) -> bool:
    """Whether the key of an event is of these users."""
    key = key.removesuffix(MEASURED)
    sender = log_entries.sender_of(key)
    if sender is None:
        return key in subjects.event_ids
    device, user, event_id = sender
    if user:
        return user in subjects.users
    return device in subjects.devices or (
        device in subjects.shared and event_id in subjects.event_ids
    )


def names_subject(entry: log_entries.Entry, subjects: SubjectIds) -> bool:
    """Whether an entry names these users."""
    return not subjects.people.isdisjoint(log_entries.named_keys(entry))


def _chunk_changes(
    store: StateStore, subjects: SubjectIds, keys: Sequence[bytes]
) -> Iterator[Change]:
    for key, blob in zip(keys, store.get_many(keys), strict=True):
        if blob is not None:  # else it was deleted since
            kept = [key_ for key_ in _ids.decode(blob) if not _is_of(key_, subjects)]
            yield key, msgspec.msgpack.encode(kept) if kept else None


@dataclass
class EngineErasure:
    """Deletes users from the state and the memory of an engine."""

    _state: EngineState
    _commits: EngineCommits

    def delete(
        self,
        subjects: SubjectIds,
        snapshots: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType({}),
        *,
        references: SubjectReferences | None = None,
        lock: AbstractContextManager[object] | None = None,
    ) -> int:
        """Delete users from the state and the memory of the engine; return the number of keys.

        They are suppressed already, so that nothing of them is added any more. Counts to which many
        users contributed stay. To remove the bytes from disk, too, purge the store afterwards. If
        the write failed (StateError), call it again.

        `snapshots` and `references` are those of :func:`delete_subjects`, `references` found since
        a commit after the users were suppressed. `lock` is held, briefly, while what readers see
        changes.
        """
        state = self._state
        self._commits.commit()
        keys = history_keys(state.store, subjects)
        if references is None:
            references = find_references(state.store, subjects, state.definitions)
        removed = delete_subjects(
            state.store, subjects, state.definitions, snapshots, references=references
        )
        with nullcontext() if lock is None else lock:
            self._delete_from_memory(subjects, keys, references.mentions)
        self._commits.restore_cleaner()
        if state.mirror is not None:
            state.mirror.put("user", dict.fromkeys(keys))
            state.mirror.put("session", dict.fromkeys(subjects.sessions))
            state.mirror.flush(state.offset)
        return removed

    def _delete_from_memory(
        self, subjects: SubjectIds, keys: Collection[str], mentions: Iterable[bytes]
    ) -> None:
        """Delete from memory what was deleted from the store."""
        state = self._state
        for entity, names in (("user", keys), ("session", subjects.sessions)):
            if entity in state.tables:
                state.tables[entity].forget(names)
        for operator in state.operators:
            for key in (*keys, *subjects.sessions):
                operator.detach(key)
        self._reload_mentions(subjects, mentions)
        for operator in state.operators:
            operator.pack_changes()  # nothing else has changed since the commit
        state.users.delete(subjects.users)
        state.outbox.delete(lambda action: names_subject(action, subjects))
        state.transfers.delete(lambda entry: names_subject(entry, subjects))
        if state.resolver is not None:
            state.resolver.links.drop(subjects.users, subjects.devices | subjects.shared)
        shared = {log_entries.DEVICE_PREFIX + device for device in subjects.shared}
        for consumer in state.options.consumers.values():
            consumer.delete_users({*keys, *shared})

    def _reload_mentions(self, subjects: SubjectIds, mentions: Iterable[bytes]) -> None:
        """Reload entities and partial matches of others that named the users."""
        state = self._state
        operators = {operator.name: operator for operator in state.operators}
        drops = drops_of(subjects)
        for stored in mentions:
            blob = state.store.get(stored)
            name, _, key = split_key(stored)
            if not stored.startswith(layout.OPERATOR):
                state.tables[name].drop_texts([key], drops)
                if state.mirror is not None:
                    state.mirror.put(name, {key: blob})
            elif name in operators:
                operators[name].detach(key)
                if blob is not None:
                    operators[name].unpack(key, blob)

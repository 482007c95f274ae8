"""Removal of users from entries under the keys of items and of other users.

The entry of an item or category may name many users: sequences and joins keep event ids with their
user, and a feature may count by user or session. The entry of a shared device holds event ids of
each user. The erased user is removed from it, the others stay.

Counts by the name of a user are removed exactly. A partial match of others that an event of the
user advanced is deleted: its state without that event is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from tactful_streaming.contract.log_entries import APART
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import ENTITIES, Definitions
from tactful_streaming.patterns import join_operator as joins
from tactful_streaming.patterns import partial_match as sequences
from tactful_streaming.state.key_layout import OPERATOR, entity_prefix, unpacked
from tactful_streaming.state.store import Change, StateStore
from tactful_streaming.windows.entity_table import EntityTable
from tactful_streaming.windows.shared_aggregate import SharedAggregate, make_shared_aggregates

Drops = Callable[[str, str], bool]  # whether a text is deleted, by its source and itself
_Causes = Callable[[bytes], Iterable[tuple[str, str]]]
_states: msgspec.msgpack.Decoder[dict[str, Any]] = msgspec.msgpack.Decoder(dict[str, Any])
_NOTHING: frozenset[str] = frozenset()


def drops_of(subjects: SubjectIds) -> Drops:
    """Return a test for texts that name users."""
    by_source = subjects.by_source

    def drops(source: str, text: str) -> bool:
        # A device may have a second history, which is never merged with that of a user.
        return text.split(APART)[0] in by_source.get(source, _NOTHING)

    return drops


def find_mentions(
    store: StateStore, definitions: Definitions, subjects: SubjectIds
) -> Iterator[bytes]:
    """Yield the keys of features, sequences and joins whose entries name users.

    Another process may write to `store` meanwhile.
    """
    if subjects == SubjectIds():
        return
    for key, blob in store.scan(OPERATOR):
        if _operator_left(key, blob, definitions, subjects) != blob:
            yield key
    drops = drops_of(subjects)
    for entity, stores in _naming_stores(definitions).items():
        for key, blob in store.scan(entity_prefix(entity)):
            if any(drops(source, text) for source, text in _texts_of(blob, stores)):
                yield key


def without_mentions(
    store: StateStore, definitions: Definitions, keys: Iterable[bytes], subjects: SubjectIds
) -> Iterator[Change]:
    """Yield the entries found by :func:`find_mentions` without these users."""
    keys = list(keys)
    drops = drops_of(subjects)
    for key, blob in zip(keys, store.get_many(keys), strict=True):
        if blob is None:
            continue
        if key.startswith(OPERATOR):
            left = _operator_left(key, blob, definitions, subjects)
        else:
            entity, _, name = split_key(key)
            table = EntityTable(definitions.of_entity(entity), capacity=2)
            table.unpack([(name, blob)])
            table.drop_texts([name], drops)
            left = table.detach(name)
        if left != blob:
            yield key, left


def people_mentioned(store: StateStore, definitions: Definitions) -> Iterator[tuple[str, str]]:
    """Yield event ids (or "") and keys of users in entries under other keys."""
    of: dict[str, _Causes] = {s.name: sequences.causes_in for s in definitions.sequences}
    of |= {join.name: joins.causes_in for join in definitions.joins}
    for key, blob in store.scan(OPERATOR):
        name, _, own = split_key(key)
        if name in of and not (of[name] is joins.causes_in and own == joins.SHARED_KEY):
            yield from of[name](blob)
    for entity, stores in _naming_stores(definitions).items():
        for _, blob in store.scan(entity_prefix(entity)):
            for source, text in _texts_of(blob, stores):
                if source == "user_id":
                    yield "", text


def split_key(key: bytes) -> tuple[str, str, str]:
    """Split a store key: kind of entity or name of a sequence or join, colon, entity's key."""
    return key[1:].decode().partition(":")


def _operator_left(
    key: bytes, blob: bytes, definitions: Definitions, subjects: SubjectIds
) -> bytes | None:
    """Return packed partial matches without users; None if nothing is left."""
    people, event_ids = subjects.people, subjects.event_ids

    def drops(ids: Iterable[str], subject: str | None) -> bool:
        if subject is not None and subject.split(APART)[0] in people:
            return True
        return not event_ids.isdisjoint(ids)

    name, _, own = split_key(key)
    for sequence in definitions.sequences:
        if sequence.name == name:
            common = subjects.by_source.get(sequence.same or "", _NOTHING)
            return sequences.without(blob, drops, common)
    if own != joins.SHARED_KEY and any(join.name == name for join in definitions.joins):
        return joins.without(blob, drops)
    return blob


def _naming_stores(definitions: Definitions) -> Mapping[str, list[SharedAggregate]]:
    """Return, by kind of entity, the aggregates whose packed state may name users."""
    stores: dict[str, list[SharedAggregate]] = {}
    for entity in ENTITIES:
        for store in make_shared_aggregates(definitions.of_entity(entity), emits=False):
            if store.source.texts in SubjectIds().by_source:
                stores.setdefault(entity, []).append(store)
    return stores


def _texts_of(blob: bytes, stores: Iterable[SharedAggregate]) -> Iterator[tuple[str, str]]:
    """Yield the texts in a packed entity that may name users, with their sources."""
    state = unpacked(_states, blob, "the packed state of an entity is damaged")
    for store in stores:
        assert store.source.texts is not None
        for key in (store.key, *store.columns):
            for text in _strings(state.get(key)):
                yield store.source.texts, text


def _strings(packed: Any) -> Iterator[str]:
    if isinstance(packed, str):
        yield packed
    elif isinstance(packed, list | dict):
        for element in packed:
            yield from _strings(element)
        if isinstance(packed, dict):
            yield from _strings(list(packed.values()))

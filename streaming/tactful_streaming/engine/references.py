"""Finds people under keys that are not theirs, and takes them out of what is kept there.

Under the key of an item or category a state may name many people: sequences and joins keep ids of
events and who caused them, and a feature may count by user or visit. Under that of a device that
several have used lie ids of events of each. A person is taken out of it, the others stay.

What a feature counts by somebody's name goes exactly. What a beginning of others had become by an
event of the person cannot be told without that event, so it ends: from what somebody did who was
erased, nothing follows any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from tactful_streaming.contract.log_entries import APART
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import ENTITIES, Definitions
from tactful_streaming.errors import StateError
from tactful_streaming.patterns import join_operator as joins
from tactful_streaming.patterns import sequence_state as sequences
from tactful_streaming.state.key_layout import OPERATOR, entity_prefix
from tactful_streaming.state.store import Change, StateStore
from tactful_streaming.windows.entity_table import EntityTable
from tactful_streaming.windows.store import Store, make_stores

Drops = Callable[[str, str], bool]
"""Whether something goes, by the source of a text and the text."""

_Causes = Callable[[bytes], Iterable[tuple[str, str]]]
_states: msgspec.msgpack.Decoder[dict[str, Any]] = msgspec.msgpack.Decoder(dict[str, Any])
_NOTHING: frozenset[str] = frozenset()


def drops_of(traces: SubjectIds) -> Drops:
    """Tells what names people."""
    by_source = traces.by_source

    def drops(source: str, text: str) -> bool:
        # Beside what is of a device may lie what of it can never be joined to anybody.
        return text.split(APART)[0] in by_source.get(source, _NOTHING)

    return drops


def find_mentions(
    store: StateStore, definitions: Definitions, traces: SubjectIds
) -> Iterator[bytes]:
    """Store keys under which people are named, of features, sequences and joins.

    Args:
        store: of an engine, also one that another process writes to.
        definitions: what the state is computed by.
        traces: of the people.
    """
    if traces == SubjectIds():
        return
    for key, blob in store.scan(OPERATOR):
        if _operator_left(key, blob, definitions, traces) != blob:
            yield key
    drops = drops_of(traces)
    for entity, stores in _naming_stores(definitions).items():
        for key, blob in store.scan(entity_prefix(entity)):
            if any(drops(source, text) for source, text in _texts_of(blob, stores)):
                yield key


def without_mentions(
    store: StateStore, definitions: Definitions, keys: Iterable[bytes], traces: SubjectIds
) -> Iterator[Change]:
    """What :func:`find_mentions` has found, without these people."""
    keys = list(keys)
    drops = drops_of(traces)
    for key, blob in zip(keys, store.get_many(keys), strict=True):
        if blob is None:
            continue
        if key.startswith(OPERATOR):
            left = _operator_left(key, blob, definitions, traces)
        else:
            entity, _, name = entity_key(key)
            features = [f for f in definitions.features if f.entity == entity]
            table = EntityTable(features, capacity=2)
            table.unpack([(name, blob)])
            table.drop_texts([name], drops)
            left = table.detach(name)
        if left != blob:
            yield key, left


def people_mentioned(store: StateStore, definitions: Definitions) -> Iterator[tuple[str, str]]:
    """Keys of people under keys that are not theirs, with the id of the event if it is known."""
    of: dict[str, _Causes] = {s.name: sequences.causes_in for s in definitions.sequences}
    of |= {join.name: joins.causes_in for join in definitions.joins}
    for key, blob in store.scan(OPERATOR):
        name, _, own = operator_key(key)
        if name in of and not (of[name] is joins.causes_in and own == joins.SHARED_KEY):
            yield from of[name](blob)
    for entity, stores in _naming_stores(definitions).items():
        for _, blob in store.scan(entity_prefix(entity)):
            for source, text in _texts_of(blob, stores):
                if source == "user_id":
                    yield "", text


def operator_key(key: bytes) -> tuple[str, str, str]:
    """Name of a sequence or join, a colon, and the key of the entity, of a store key."""
    return key[len(OPERATOR) :].decode().partition(":")


def entity_key(key: bytes) -> tuple[str, str, str]:
    """Kind of an entity, a colon, and its key, of a store key."""
    return key[len(entity_prefix("")) - 1 :].decode().partition(":")


def _operator_left(
    key: bytes, blob: bytes, definitions: Definitions, traces: SubjectIds
) -> bytes | None:
    """The packed state of a sequence or join without these people; None if nothing is left."""
    people, event_ids = traces.people, traces.event_ids

    def drops(ids: Iterable[str], subject: str | None) -> bool:
        if subject is not None and subject.split(APART)[0] in people:
            return True
        return not event_ids.isdisjoint(ids)

    name, _, own = operator_key(key)
    for sequence in definitions.sequences:
        if sequence.name == name:
            common = traces.by_source.get(sequence.same or "", _NOTHING)
            return sequences.without(blob, drops, common)
    if own != joins.SHARED_KEY and any(join.name == name for join in definitions.joins):
        return joins.without(blob, drops)
    return blob


def _naming_stores(definitions: Definitions) -> Mapping[str, list[Store]]:
    """By kind of entity, the stores in whose packed state there may be names of people."""
    stores = {
        entity: [
            store
            for store in make_stores(
                [f for f in definitions.features if f.entity == entity], emits=False
            )
            if store.source.texts in SubjectIds().by_source
        ]
        for entity in ENTITIES
    }
    return {entity: found for entity, found in stores.items() if found}


def _texts_of(blob: bytes, stores: Iterable[Store]) -> Iterator[tuple[str, str]]:
    """Texts in a packed entity that may be names, with their sources."""
    try:
        state = _states.decode(blob)
    except msgspec.MsgspecError as error:
        raise StateError(f"the packed state of an entity is damaged: {error}") from error
    for store in stores:
        assert store.source.texts is not None
        for key in (store.key, *store.columns):
            for text in _strings(state.get(key)):
                yield store.source.texts, text


def _strings(packed: Any) -> Iterator[str]:
    if isinstance(packed, str):
        yield packed
    elif isinstance(packed, list | dict):
        for one in packed:
            yield from _strings(one)
        if isinstance(packed, dict):
            yield from _strings(list(packed.values()))

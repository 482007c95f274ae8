"""Takes people out of what sequences and joins keep under keys that are not theirs.

Under the key of an item or category lie ids of events of many people, and who caused them; under
that of a device that several have used, events of each. A person is taken out of it, the others
stay. What a beginning of others had become by an event of the person cannot be told without
that event, so it ends: from what somebody did who was erased, nothing follows any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator

from tactful_streaming import joins, sequences
from tactful_streaming.definitions import Definitions
from tactful_streaming.entries import APART
from tactful_streaming.layout import OPERATOR
from tactful_streaming.state import Change, StateStore

_Causes = Callable[[bytes], Iterable[tuple[str, str]]]


def find_mentions(
    store: StateStore, definitions: Definitions, event_ids: Collection[str], names: Collection[str]
) -> Iterator[bytes]:
    """Store keys of sequences and joins under which there is something of people.

    Args:
        store: of an engine, also one that another process writes to.
        definitions: what the state is computed by.
        event_ids: of their events.
        names: their keys, and what else names them.
    """
    if event_ids or names:
        for key, blob in store.scan(OPERATOR):
            if _left(key, blob, definitions, event_ids, names) != blob:
                yield key


def without_mentions(
    store: StateStore,
    definitions: Definitions,
    keys: Iterable[bytes],
    event_ids: Collection[str],
    names: Collection[str],
) -> Iterator[Change]:
    """What :func:`find_mentions` has found, without these people."""
    keys = list(keys)
    for key, blob in zip(keys, store.get_many(keys), strict=True):
        if blob is not None and (left := _left(key, blob, definitions, event_ids, names)) != blob:
            yield key, left


def causes_in(store: StateStore, definitions: Definitions) -> Iterator[tuple[str, str]]:
    """Ids of events that sequences and joins keep, each with the key of who caused it."""
    of: dict[str, _Causes] = {s.name: sequences.causes_in for s in definitions.sequences}
    of |= {join.name: joins.causes_in for join in definitions.joins}
    for key, blob in store.scan(OPERATOR):
        name, _, entity_key = operator_key(key)
        if name in of and not (of[name] is joins.causes_in and entity_key == joins.SHARED_KEY):
            yield from of[name](blob)


def operator_key(key: bytes) -> tuple[str, str, str]:
    """Name of a sequence or join, a colon, and the key of the entity, of a store key."""
    return key[len(OPERATOR) :].decode().partition(":")


def _left(
    key: bytes,
    blob: bytes,
    definitions: Definitions,
    event_ids: Container[str],
    names: Container[str],
) -> bytes | None:
    """The packed state of a key without these people; None if nothing is left."""

    def drops(ids: Iterable[str], subject: str | None) -> bool:
        # Beside what is of a device may lie what of it can never be joined to anybody.
        if subject is not None and subject.split(APART)[0] in names:
            return True
        return any(event_id in event_ids for event_id in ids)

    name, _, entity_key = operator_key(key)
    if any(sequence.name == name for sequence in definitions.sequences):
        return sequences.without(blob, drops, names)
    if entity_key != joins.SHARED_KEY and any(join.name == name for join in definitions.joins):
        return joins.without(blob, drops)
    return blob

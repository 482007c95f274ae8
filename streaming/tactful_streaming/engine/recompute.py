"""Computes a state anew from a log in which records were replaced, and finds what it changes.

The computation has a state store of its own and may be killed at any moment: it goes on from its
last commit. A server applies the log meanwhile; at the end :meth:`Engine.adopt` writes the changes
at one offset and in one atomic write.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from itertools import count

import msgspec

from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import StateError
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.state import key_layout as layout
from tactful_streaming.state.store import Change, StateStore, scan_together

_BATCH = 2_000
_COMMIT_EVERY = 20
# What a state holds beside the result of its log: heads, marks, and entries on their way
_APART = (
    *(layout.META, layout.CONSUMER, layout.OUTBOX, layout.HANDOVER, layout.ERASED),
    *(layout.PURGING, layout.TOPIC, layout.PARTITIONS, layout.RESCALING, layout.CHANGED_APART),
)


def compute_state(
    log: EventLog,
    scratch: StateStore,
    definitions: Definitions,
    options: EngineOptions,
    *,
    until: int,
) -> None:
    """Apply a log that reaches back to its beginning up to offset `until`, and close `scratch`.

    A state of other definitions in `scratch` is deleted first.

    Raises:
        StateError: if the log ends earlier.
    """
    meta = layout.read_meta(scratch)
    if meta is not None and (meta.fingerprint != definitions.fingerprint or meta.offset > until):
        scratch.clear()
    with closing(Engine(definitions, scratch, options)) as engine:
        for batches in count(1):
            records = log.read(engine.offset, min(_BATCH, until - engine.offset))
            if not records:
                break
            engine.apply(records)
            if batches % _COMMIT_EVERY == 0:
                engine.commit()
        engine.commit()
        if engine.offset < until:
            raise StateError(f"the log ends at offset {engine.offset}, before the state ({until})")


def changes_to(
    store: StateStore, scratch: StateStore, consumers: Collection[str] = ()
) -> list[Change]:
    """Return what makes a state equal to one computed anew up to the same offset.

    Consumers go on, except for those named: they get the snapshots of the new state.

    Raises:
        StateError: if the offsets differ.
    """
    old, new = layout.read_meta(store), layout.read_meta(scratch)
    if old is None or new is None or old.offset != new.offset:
        raise StateError("a state was computed up to another offset: compute it again")
    changes: list[Change] = []
    for key, blobs in scan_together((store, scratch), b""):
        if not key.startswith(_APART):
            kept, computed = (dict(blobs).get(number) for number in range(2))
            if kept != computed:
                changes.append((key, computed))
    for name in consumers:
        key = layout.CONSUMER + name.encode()
        changes.append((key, scratch.get(key)))
    # Readers of items begin anew: the versions of the new state count fewer upserts.
    version = max(old.items_version, new.items_version) + 1
    head = msgspec.structs.replace(new, consumers=old.consumers, items_version=version)
    # The copy in an online store has the same offset, and lacks the changes.
    return [*changes, layout.write_meta(head), (layout.CHANGED_APART, b"%d" % old.offset)]

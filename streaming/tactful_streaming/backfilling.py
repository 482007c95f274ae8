"""Computes what is missing in a state from the log, beside the engine, and merges it in.

After a change of definitions the new features are missing. A second engine, with these features
alone and a state store of its own, applies the log up to the offset of the state. Then its packed
entities are merged into the state: the features are there as if they always had been.

Both steps may be killed at any moment: the first goes on from its last commit, the second is done
again. The first, long one leaves the state alone, so a server may compute the old features
meanwhile; the second needs the state for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from tactful_streaming.definitions import ENTITIES, Definitions
from tactful_streaming.engine import Engine
from tactful_streaming.entities import EntityTable, combine_packed
from tactful_streaming.errors import StateError
from tactful_streaming.evolution import adopt, required_features
from tactful_streaming.layout import (
    CHANGED_APART,
    CURE,
    VERSIONS,
    entity_prefix,
    read_meta,
    write_meta,
)
from tactful_streaming.log import EventLog
from tactful_streaming.state import Change, StateStore

_BATCH = 2000
_COMMIT_EVERY = 20
_PIECE = 500

_NOTHING = msgspec.msgpack.encode({"": 0})
"""Packed state of an entity without any."""

Progress = Callable[[int, int], None]
"""Called with the log offset reached and the one wanted."""


def backfill(
    log: EventLog,
    store: StateStore,
    scratch: StateStore,
    definitions: Definitions,
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress = lambda reached, wanted: None,
) -> tuple[str, ...]:
    """Compute the features that a state misses under `definitions`, and merge them in.

    Call it again after a crash, with the same `scratch`.

    Args:
        log: what the state was computed from. Of what retention has removed nothing is counted.
        store: the state; no engine may have it open.
        scratch: where the missing features are computed; empty at first, and afterwards.
        definitions: what shall be computed.
        options: arguments of :class:`~tactful_streaming.Engine` that the engine of the state has:
            `dedupe_days`, `watermark_delay_ms`, `allowed_lateness_ms`, and its `cleaner` as it was
            at the beginning of the log.
        progress: told how far it is.

    Returns:
        Names of the features that were missing.

    Raises:
        StateError: if one of the states is damaged, or `scratch` has seen more of the log than the
            state.
    """
    meta = read_meta(store)
    if meta is None:
        return ()
    adopted, gone = adopt(meta, definitions, store)
    if adopted is not meta:
        store.write([*gone, write_meta(adopted)])
    if adopted.missing:
        compute_missing(
            log, scratch, definitions, adopted.missing, adopted.offset, options, progress
        )
        for changes in _merged(store, scratch, definitions, adopted.missing):
            store.write(changes)
        done = write_meta(msgspec.structs.replace(adopted, missing=[]))
        # A copy in an online store is as old as the offset says, and lacks all this.
        store.write([done, (CHANGED_APART, b"%d" % adopted.offset)])
    scratch.clear()
    return tuple(adopted.missing)


def compute_missing(
    log: EventLog,
    scratch: StateStore,
    definitions: Definitions,
    missing: Collection[str],
    until: int,
    options: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress = lambda reached, wanted: None,
) -> None:
    """Compute missing features from the log up to offset `until`: the first step of a backfill.

    Raises:
        StateError: if `scratch` is damaged or has seen more of the log than that.
    """
    wanted = required_features(definitions, missing)
    meta = read_meta(scratch)
    other = meta is not None and meta.fingerprint != wanted.fingerprint
    engine = Engine(wanted, scratch, rebuild=other, also_reads=definitions.features, **options)
    if engine.offset > until:
        raise StateError(
            f"the backfill has read the log up to offset {engine.offset}, the state only up to "
            f"{until}: start the engine, so that it catches up, or empty the backfill's own state"
        )
    batches = 0
    position = max(engine.offset, log.begin)
    while position < until:
        records = log.read(position, min(_BATCH, until - position))
        if not records:
            raise StateError(
                f"the log ends at offset {position}, before the state does ({until}): restore it "
                f"from a backup, or {CURE}"
            )
        engine.apply(records)
        position = engine.offset
        batches += 1
        if batches % _COMMIT_EVERY == 0:
            engine.commit()
            progress(position, until)
    engine.commit()
    progress(until, until)


def _merged(
    store: StateStore, scratch: StateStore, definitions: Definitions, missing: Collection[str]
) -> Iterator[list[Change]]:
    """Changes that put what was computed into the state, in pieces; to repeat them is harmless.

    What the state holds under the same keys is replaced, also where nothing was computed: it may be
    left from before a feature was dropped.
    """
    for entity in ENTITIES:
        keys = _keys(definitions, entity, missing)
        if not keys:
            continue
        prefix = entity_prefix(entity)
        kept, computed = store.scan(prefix), scratch.scan(prefix)
        piece: list[Change] = []
        for key, blob, other in _side_by_side(kept, computed):
            piece.append((key, combine_packed(blob, other or _NOTHING, keys)))
            if len(piece) == _PIECE:
                yield piece
                piece = []
        yield piece
    yield list(scratch.scan(VERSIONS))


def _keys(definitions: Definitions, entity: str, missing: Collection[str]) -> set[str]:
    """Keys of all that is stored together with missing features of one kind of entity."""
    return {
        key
        for store in EntityTable(definitions.of_entity(entity)).stores
        if any(feature.name in missing for feature in store.features)
        for key in store.parts
    }


def _side_by_side(
    left: Iterator[tuple[bytes, bytes]], right: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """Each key of two sorted sequences, with its value in either."""
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            yield *one, None
            one = next(left, None)
        elif one is None or other[0] < one[0]:
            yield other[0], None, other[1]
            other = next(right, None)
        else:
            yield *one, other[1]
            one, other = next(left, None), next(right, None)

"""Moves the state of some partitions to another number of partitions.

The procedure, with the log's producers stopped:

1. Append a :class:`~tactful_streaming.Tick` of one and the same time, not before the newest event
   of any partition, to every partition; let every engine apply its partition to the end, append
   what waits in its outbox and what it has for other partitions, apply that, and commit. Now all
   have the same watermark, so no window is open in one partition that has fired in another.
2. Close the engines, and call :func:`rescale` on their states, with the routing of the new
   partitions.
3. Open an engine on each of the new states and partitions, and start the producers again.

The old states stay as they are. A person, and what only belongs to a person (sessions, the
beginnings of sequences), moves to the partition that the person's events go to. What is known of an
item or a category lies in several partitions in parts; these come together in the partition that
its own key is routed to. Who holds a device moves with the device. The catalogue, what people said
of being linked, and the ids of events and transfers that are remembered go everywhere, as a
repeated one may come anywhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import msgspec

from tactful_streaming.definitions import ENTITIES, Definitions
from tactful_streaming.entities import EntityTable
from tactful_streaming.entries import APART, DEVICE_PREFIX
from tactful_streaming.errors import StateError
from tactful_streaming.evolution import stored_definitions
from tactful_streaming.layout import (
    CLEANER,
    CONSENT,
    DEVICE,
    DEVICES_OF,
    EVENT_ID,
    HANDOVER,
    ID_CHUNK,
    ITEM,
    OUTBOX,
    OWNER,
    RECEIVED,
    USER,
    VERSIONS,
    Meta,
    entity_prefix,
    operator_prefix,
    read_meta,
    write_meta,
)
from tactful_streaming.links import decode_devices
from tactful_streaming.matches import Operator
from tactful_streaming.operators import make_operators
from tactful_streaming.state import Change, StateStore

Route = Callable[[str], int]
"""Number of the partition that events of a person, by key, go to; likewise for other entities."""

_PIECE = 1000


def rescale(
    sources: Sequence[StateStore],
    targets: Sequence[StateStore],
    route: Route,
    *,
    offsets: Sequence[int] | None = None,
) -> None:
    """Distribute the states of all old partitions over the new ones.

    Nothing can be opened before all of it is there. After a crash, call it again with the same
    targets.

    Args:
        sources: a state for each old partition, as the procedure above leaves them.
        targets: an empty store for each new partition.
        route: where the new log puts the events of a key: a number below ``len(targets)``.
        offsets: where each new partition is read on; by default its beginning.

    Raises:
        StateError: if a state is damaged, if the sources do not belong together, if something is
            still to be computed or appended, or if a target is in use.
    """
    metas = _check_sources(sources)
    for number, target in enumerate(targets):
        if read_meta(target) is not None:
            raise StateError(f"target {number} holds a state already: give empty stores")
        target.clear()
    definitions = stored_definitions(metas[0])
    writer = _Writer(targets)
    _move_entities(sources, writer, route, definitions)
    for operator in make_operators(definitions):
        _move_operator(sources, writer, route, operator)
    for prefix in (ITEM, VERSIONS, USER, CONSENT):
        for key, blob in sources[0].scan(prefix):
            writer.put_all(key, blob)
    for prefix in (CLEANER, RECEIVED):
        for key, blobs in _by_key(sources, prefix):
            writer.put_all(key, max(blob for _, blob in blobs))
    _move_links(sources, writer, route)
    _copy_ids(sources, writer)
    writer.flush()
    for target, offset in zip(targets, offsets or [0] * len(targets), strict=True):
        newest = max(meta.newest for meta in metas)
        version = max(meta.items_version for meta in metas)
        meta = msgspec.structs.replace(
            metas[0], offset=offset, newest=newest, items_version=version
        )
        target.write([write_meta(meta)])


class _Writer:
    """Gathers what goes to each target, and writes it in pieces."""

    def __init__(self, targets: Sequence[StateStore]) -> None:
        self._targets = targets
        self._waiting: list[list[Change]] = [[] for _ in targets]

    def put(self, target: int, key: bytes, blob: bytes) -> None:
        waiting = self._waiting[target]
        waiting.append((key, blob))
        if len(waiting) == _PIECE:
            self._targets[target].write(waiting)
            waiting.clear()

    def put_all(self, key: bytes, blob: bytes) -> None:
        for target in range(len(self._targets)):
            self.put(target, key, blob)

    def flush(self) -> None:
        for target, waiting in zip(self._targets, self._waiting, strict=True):
            target.write(waiting)
            waiting.clear()


def _check_sources(sources: Sequence[StateStore]) -> list[Meta]:
    metas: list[Meta] = []
    for number, source in enumerate(sources):
        meta = read_meta(source)
        if meta is None:
            raise StateError(f"source {number} holds no state")
        if meta.missing:
            raise StateError(
                f"source {number} misses {', '.join(meta.missing)}: run a backfill first"
            )
        if meta.consumers:
            raise StateError(
                f"source {number} holds the state of {', '.join(meta.consumers)}, which cannot be "
                "divided: open it without these consumers first"
            )
        for prefix, what in ((OUTBOX, "actions"), (HANDOVER, "entries for other partitions")):
            if next(source.scan(prefix), None) is not None:
                raise StateError(
                    f"source {number} has {what} that are not in the log yet: append and apply them"
                )
        metas.append(meta)
    if len({(meta.fingerprint, meta.watermark) for meta in metas}) != 1:
        raise StateError(
            "the sources have different definitions or watermarks: append a tick of one time to "
            "every old partition, and let the engines apply it"
        )
    return metas


def _move_entities(
    sources: Sequence[StateStore], writer: _Writer, route: Route, definitions: Definitions
) -> None:
    for entity in ENTITIES:
        features, prefix = definitions.of_entity(entity), entity_prefix(entity)
        for stored, blobs in _by_key(sources, prefix):
            key = stored[len(prefix) :].decode()
            owner = key.encode()
            if entity == "session":
                number = blobs[-1][0]
                owner = sources[number].get(OWNER + key.encode()) or owner
            target = route(owner.decode().removesuffix(APART))
            blob = blobs[0][1]
            if len(blobs) > 1:
                table = EntityTable(features, capacity=len(blobs) + 1)
                parts = [(f"{key}\0{number}", part) for number, part in blobs]
                table.unpack(parts)
                for alias, _ in parts:
                    table.merge(alias, key)
                packed = table.pack_changes(0)[key]
                assert packed is not None
                blob = packed
            writer.put(target, stored, blob)
            if entity == "session":
                writer.put(target, OWNER + key.encode(), owner)


def _move_operator(
    sources: Sequence[StateStore], writer: _Writer, route: Route, operator: Operator
) -> None:
    prefix = operator_prefix(operator.name)
    for stored, blobs in _by_key(sources, prefix):
        key = stored[len(prefix) :].decode()
        if not key:
            # What belongs to no entity is the same in every partition.
            writer.put_all(stored, blobs[0][1])
            continue
        owner = key
        if operator.entity == "session":
            owner = (sources[blobs[-1][0]].get(OWNER + key.encode()) or key.encode()).decode()
        blob: bytes | None = blobs[0][1]
        if len(blobs) > 1:
            for number, part in blobs:
                operator.unpack(f"{key}\0{number}", part)
                operator.merge(f"{key}\0{number}", key)
            blob = operator.pack_changes()[key]
        if blob is not None:
            writer.put(route(owner.removesuffix(APART)), stored, blob)


def _move_links(sources: Sequence[StateStore], writer: _Writer, route: Route) -> None:
    for key, blobs in _by_key(sources, DEVICE):
        # A device lives in one partition; should it not, what was written last is the longer list.
        blob = max((blob for _, blob in blobs), key=len)
        writer.put(route(DEVICE_PREFIX + key[len(DEVICE) :].decode()), key, blob)
    for key, blobs in _by_key(sources, DEVICES_OF):
        parts: dict[int, dict[str, int]] = {}
        for _, blob in blobs:
            for device, last in decode_devices(blob).items():
                part = parts.setdefault(route(DEVICE_PREFIX + device), {})
                part[device] = max(last, part.get(device, 0))
        for target, part in parts.items():
            writer.put(target, key, msgspec.msgpack.encode(part))


def _copy_ids(sources: Sequence[StateStore], writer: _Writer) -> None:
    for key, blobs in _by_key(sources, EVENT_ID):
        writer.put_all(key, max(blob for _, blob in blobs))
    for number, source in enumerate(sources):
        for key, blob in source.scan(ID_CHUNK):
            # Chunks of different partitions may have the same generation and offset.
            writer.put_all(key + number.to_bytes(4, "big"), blob)


def _by_key(
    sources: Sequence[StateStore], prefix: bytes
) -> Iterator[tuple[bytes, list[tuple[int, bytes]]]]:
    """Each key in any of the sources, with the number of each source that has it and its value."""
    scans = [_numbered(source, number, prefix) for number, source in enumerate(sources)]
    for key, group in groupby(heapq.merge(*scans), key=itemgetter(0)):
        yield key, [(number, blob) for _, number, blob in group]


def _numbered(source: StateStore, number: int, prefix: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    for key, blob in source.scan(prefix):
        yield key, number, blob

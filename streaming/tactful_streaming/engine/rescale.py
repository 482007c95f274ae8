"""Rescaling: moves the state of some partitions to another number of partitions.

The procedure, with the log's producers stopped:

1. Append a :class:`~tactful_streaming.Tick` of one and the same time, not before the newest event
   of any partition, to every partition; let every engine apply its partition to the end, append
   its outbox and its transfers to other partitions, apply those, and commit. Now all have the same
   watermark, so no window is open in one partition that was emitted in another.
2. Close the engines, and call :func:`rescale` on their states, with the routing of the new
   partitions.
3. Open an engine on each of the new states and partitions, and start the producers again.

For a log in Kafka, :meth:`~tactful_streaming.Worker.drain` does steps 1 and 2.

The old states are not changed, and the progress is stored in the first new one: after a crash the
move continues there. Users, with their sessions and partial matches, move to the partition of their
events. Aggregates of an item or a category lie in parts in several partitions; they are merged in
the partition that the item's own key is routed to. Device links move with the device. The
catalogue, consents, and the remembered ids of events and transfers go to all partitions, as a
repeated one may come in any.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter

import msgspec

from tactful_streaming.contract.log_entries import APART, DEVICE_PREFIX
from tactful_streaming.definitions.model import ENTITIES, Definitions
from tactful_streaming.engine.schema_evolution import stored_definitions
from tactful_streaming.errors import StateError
from tactful_streaming.identity.device_links import decode_devices
from tactful_streaming.patterns.factory import make_operators
from tactful_streaming.patterns.match import Operator
from tactful_streaming.state.key_layout import (
    CLEANER,
    CONSENT,
    DEVICE,
    DEVICES_OF,
    ERASED,
    EVENT_ID,
    HANDOVER,
    ID_CHUNK,
    ITEM,
    OUTBOX,
    OWNER,
    RECEIVED,
    RESCALING,
    USER,
    VERSIONS,
    Meta,
    entity_prefix,
    operator_prefix,
    read_meta,
    write_meta,
)
from tactful_streaming.state.store import Change, StateStore
from tactful_streaming.windows.entity_table import EntityTable

Route = Callable[[str], int]
"""Partition that the key of a user or another entity is routed to."""

Progress = Callable[[int, int], None]
"""Called with the numbers of moved keys and of all keys."""

_PIECE = 5_000

_Blobs = list[tuple[int, bytes]]
"""Values of a key, each with the number of its source."""


def rescale(
    sources: Sequence[StateStore],
    targets: Sequence[StateStore],
    route: Route,
    *,
    offsets: Sequence[int] | None = None,
    progress: Progress = lambda moved, total: None,
) -> None:
    """Distribute the states of all old partitions over the new ones.

    The new states cannot be opened before all is moved. After a crash, call it again with the same
    stores: it continues, or begins again if the sources have changed since.

    Args:
        sources: a state for each old partition, as the procedure above leaves them.
        targets: a store for each new partition, empty or left by an interrupted call.
        route: number of the new partition of a key, below ``len(targets)``.
        offsets: offset of each new partition to continue at; by default its beginning.
        progress: called with the numbers of moved keys and of all keys.

    Raises:
        StateError: if a state is damaged, if the sources do not belong together, if something is
            still to be computed or appended, or if a target is in use.
    """
    metas = _check_sources(sources)
    identity = _identity(sources, metas, len(targets))
    mark = _begin(targets, identity)
    writer = _Writer(targets)
    stages = _stages(sources, writer, route, stored_definitions(metas[0]))
    total = sum(1 for stage in stages for source in sources for _ in source.scan(stage.prefix))
    moved = mark.moved
    progress(moved, total)
    for number, stage in enumerate(stages[mark.stage :], mark.stage):
        after = mark.key if number == mark.stage else b""
        unmarked = 0
        for key, blobs in _by_key(sources, stage.prefix, after):
            if key == after:
                continue
            stage.move(key, blobs)
            moved += len(blobs)
            unmarked += len(blobs)
            if unmarked >= _PIECE:
                writer.flush(_Mark(identity, number, key, moved))
                unmarked = 0
                progress(moved, total)
    writer.flush(_Mark(identity, len(stages), b"", moved))
    newest = max(meta.newest for meta in metas)
    version = max(meta.items_version for meta in metas)
    meta = msgspec.structs.replace(metas[0], newest=newest, items_version=version)
    starts = list(offsets or [0] * len(targets))
    purged = [source.get(ERASED) for source in sources]
    erased = b"%d" % min(int(number or 0) for number in purged)
    # The first target, which has the mark, comes last: until then all of them are unfinished.
    for target, offset in reversed(list(zip(targets, starts, strict=True))):
        head = write_meta(msgspec.structs.replace(meta, offset=offset))
        target.write([head, (ERASED, erased), (RESCALING, None)])
    progress(total, total)


class _Mark(msgspec.Struct, frozen=True, array_like=True):
    """Progress of a rescaling: stage at work, last key moved, keys moved over all sources.

    `identity` identifies the sources and the number of targets.
    """

    identity: bytes
    stage: int = 0
    key: bytes = b""
    moved: int = 0


def _identity(sources: Sequence[StateStore], metas: Sequence[Meta], targets: int) -> bytes:
    """Return a value that is equal as long as the same would be moved."""
    heads = [
        (meta.fingerprint, meta.offset, source.get(ERASED))
        for source, meta in zip(sources, metas, strict=True)
    ]
    return msgspec.msgpack.encode((heads, targets))


def _begin(targets: Sequence[StateStore], identity: bytes) -> _Mark:
    """Return the stored progress; clear the targets if it is of another rescaling."""
    stored = targets[0].get(RESCALING)
    if stored is not None:
        try:
            mark = msgspec.msgpack.decode(stored, type=_Mark)
        except msgspec.MsgspecError as error:
            raise StateError(
                f"the mark of a rescaling is damaged: {error}; give empty stores"
            ) from error
        if mark.identity == identity:
            return mark
    else:
        for number, target in enumerate(targets):
            if read_meta(target) is not None:
                raise StateError(f"target {number} holds a state already: give empty stores")
    for target in reversed(targets):
        target.clear()
    mark = _Mark(identity)
    targets[0].write([(RESCALING, msgspec.msgpack.encode(mark))])
    return mark


class _Writer:
    """Collects the entries of each target, and writes them in pieces."""

    def __init__(self, targets: Sequence[StateStore]) -> None:
        self._targets = targets
        self._waiting: list[list[Change]] = [[] for _ in targets]

    def put(self, target: int, key: bytes, blob: bytes) -> None:
        self._waiting[target].append((key, blob))

    def put_all(self, key: bytes, blob: bytes) -> None:
        for waiting in self._waiting:
            waiting.append((key, blob))

    def flush(self, mark: _Mark) -> None:
        """Write the collected entries, then the mark; entries behind it are repeated."""
        self._waiting[0].append((RESCALING, msgspec.msgpack.encode(mark)))
        for target, waiting in reversed(list(zip(self._targets, self._waiting, strict=True))):
            target.write(waiting)
            waiting.clear()


@dataclass(frozen=True)
class _Stage:
    """A key prefix, and the function that moves the values of each key."""

    prefix: bytes
    move: Callable[[bytes, _Blobs], None]


def _stages(
    sources: Sequence[StateStore], writer: _Writer, route: Route, definitions: Definitions
) -> list[_Stage]:
    def newest(key: bytes, blobs: _Blobs) -> None:
        writer.put_all(key, max(blob for _, blob in blobs))

    def first(key: bytes, blobs: _Blobs) -> None:
        writer.put_all(key, blobs[0][1])

    def chunk(key: bytes, blobs: _Blobs) -> None:
        # Chunks of different partitions may have the same generation and offset.
        for number, blob in blobs:
            writer.put_all(key + number.to_bytes(4, "big"), blob)

    return [
        *(
            _Stage(
                entity_prefix(entity),
                partial(_move_entity, sources, writer, route, entity, definitions),
            )
            for entity in ENTITIES
        ),
        *(
            _Stage(
                operator_prefix(operator.name),
                partial(_move_operator, sources, writer, route, operator),
            )
            for operator in make_operators(definitions)
        ),
        *(_Stage(prefix, first) for prefix in (ITEM, VERSIONS, USER, CONSENT)),
        *(_Stage(prefix, newest) for prefix in (CLEANER, RECEIVED, EVENT_ID)),
        _Stage(DEVICE, partial(_move_device, writer, route)),
        _Stage(DEVICES_OF, partial(_move_devices_of, writer, route)),
        _Stage(ID_CHUNK, chunk),
    ]


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
        for prefix, kind in ((OUTBOX, "actions"), (HANDOVER, "entries for other partitions")):
            if next(source.scan(prefix), None) is not None:
                raise StateError(
                    f"source {number} has {kind} that are not in the log yet: append and apply them"
                )
        metas.append(meta)
    if len({(meta.fingerprint, meta.watermark) for meta in metas}) != 1:
        raise StateError(
            "the sources have different definitions or watermarks: append a tick of one time to "
            "every old partition, and let the engines apply it"
        )
    return metas


def _move_entity(
    sources: Sequence[StateStore],
    writer: _Writer,
    route: Route,
    entity: str,
    definitions: Definitions,
    stored: bytes,
    blobs: _Blobs,
) -> None:
    key = stored[len(entity_prefix(entity)) :].decode()
    owner = key.encode()
    if entity == "session":
        number = blobs[-1][0]
        owner = sources[number].get(OWNER + key.encode()) or owner
    target = route(owner.decode().removesuffix(APART))
    blob = blobs[0][1]
    if len(blobs) > 1:
        table = EntityTable(definitions.of_entity(entity), capacity=len(blobs) + 1)
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
    sources: Sequence[StateStore],
    writer: _Writer,
    route: Route,
    operator: Operator,
    stored: bytes,
    blobs: _Blobs,
) -> None:
    key = stored[len(operator_prefix(operator.name)) :].decode()
    if not key:
        # State of no entity is the same in every partition.
        writer.put_all(stored, blobs[0][1])
        return
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


def _move_device(writer: _Writer, route: Route, key: bytes, blobs: _Blobs) -> None:
    # A device is in one partition; if not, the longer list was written last.
    blob = max((blob for _, blob in blobs), key=len)
    writer.put(route(DEVICE_PREFIX + key[len(DEVICE) :].decode()), key, blob)


def _move_devices_of(writer: _Writer, route: Route, key: bytes, blobs: _Blobs) -> None:
    parts: dict[int, dict[str, int]] = {}
    for _, blob in blobs:
        for device, last in decode_devices(blob).items():
            part = parts.setdefault(route(DEVICE_PREFIX + device), {})
            part[device] = max(last, part.get(device, 0))
    for target, part in parts.items():
        writer.put(target, key, msgspec.msgpack.encode(part))


def _by_key(
    sources: Sequence[StateStore], prefix: bytes, start: bytes = b""
) -> Iterator[tuple[bytes, _Blobs]]:
    """Yield each key of any source, with its values by number of the source."""
    scans = [_numbered(source, number, prefix, start) for number, source in enumerate(sources)]
    for key, group in groupby(heapq.merge(*scans), key=itemgetter(0)):
        yield key, [(number, blob) for _, number, blob in group]


def _numbered(
    source: StateStore, number: int, prefix: bytes, start: bytes
) -> Iterator[tuple[bytes, int, bytes]]:
    for key, blob in source.scan(prefix, start):
        yield key, number, blob

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

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from tactful_streaming.contract.log_entries import APART, DEVICE_PREFIX
from tactful_streaming.definitions.model import ENTITIES, Definitions, Feature
from tactful_streaming.engine.schema_evolution import stored_definitions
from tactful_streaming.errors import StateError
from tactful_streaming.identity.device_links import decode_devices
from tactful_streaming.patterns.factory import make_operators
from tactful_streaming.patterns.match import Operator
from tactful_streaming.state import key_layout as layout
from tactful_streaming.state.store import Change, StateStore, scan_together
from tactful_streaming.windows.entity_table import EntityTable

Route = Callable[[str], int]  # partition that the key of a user or another entity is routed to
Progress = Callable[[int, int], None]  # called with the numbers of moved keys and of all keys
_PIECE = 5_000
_Blobs = list[tuple[int, bytes]]  # values of a key, each with the number of its source
_Move = Callable[[bytes, _Blobs], None]


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
    mover = _Mover(sources, targets, route)
    stages = mover.stages(stored_definitions(metas[0]))
    total = sum(1 for prefix, _ in stages for source in sources for _ in source.scan(prefix))
    moved = mark.moved
    progress(moved, total)
    for number, (prefix, move) in enumerate(stages[mark.stage :], mark.stage):
        after = mark.key if number == mark.stage else b""
        unmarked = 0
        for key, blobs in scan_together(sources, prefix, after):
            if key == after:
                continue
            move(key, blobs)
            moved += len(blobs)
            unmarked += len(blobs)
            if unmarked >= _PIECE:
                mover.flush(_Mark(identity, number, key, moved))
                unmarked = 0
                progress(moved, total)
    mover.flush(_Mark(identity, len(stages), b"", moved))
    newest = max(meta.newest for meta in metas)
    version = max(meta.items_version for meta in metas)
    meta = msgspec.structs.replace(metas[0], newest=newest, ahead=[], items_version=version)
    starts = list(offsets or [0] * len(targets))
    purged = [source.get(layout.ERASED) for source in sources]
    erased = b"%d" % min(int(number or 0) for number in purged)
    # The first target, which has the mark, comes last: until then all of them are unfinished.
    for target, offset in reversed(list(zip(targets, starts, strict=True))):
        head = layout.write_meta(msgspec.structs.replace(meta, offset=offset))
        target.write([head, (layout.ERASED, erased), (layout.RESCALING, None)])
    progress(total, total)


class _Mark(msgspec.Struct, frozen=True, array_like=True):
    """Progress of a rescaling: stage at work, last key moved, keys moved over all sources."""

    identity: bytes  # of the sources and the number of targets
    stage: int = 0
    key: bytes = b""
    moved: int = 0


_marks = msgspec.msgpack.Decoder(_Mark)


def _identity(sources: Sequence[StateStore], metas: Sequence[layout.Meta], targets: int) -> bytes:
    """Return a value that is equal as long as the same would be moved."""
    heads = [
        (meta.fingerprint, meta.offset, source.get(layout.ERASED))
        for source, meta in zip(sources, metas, strict=True)
    ]
    return msgspec.msgpack.encode((heads, targets))


def _begin(targets: Sequence[StateStore], identity: bytes) -> _Mark:
    """Return the stored progress; clear the targets if it is of another rescaling."""
    stored = targets[0].get(layout.RESCALING)
    if stored is not None:
        problem = "the mark of a rescaling is damaged"
        mark = layout.unpacked(_marks, stored, problem, "; give empty stores")
        if mark.identity == identity:
            return mark
    else:
        for number, target in enumerate(targets):
            if layout.read_meta(target) is not None:
                raise StateError(f"target {number} holds a state already: give empty stores")
    for target in reversed(targets):
        target.clear()
    mark = _Mark(identity)
    targets[0].write([(layout.RESCALING, msgspec.msgpack.encode(mark))])
    return mark


class _Mover:
    """Moves the values of each key; collects the entries of each target to write in pieces."""

    def __init__(
        self, sources: Sequence[StateStore], targets: Sequence[StateStore], route: Route
    ) -> None:
        self._sources = sources
        self._targets = targets
        self._route = route
        self._waiting: list[list[Change]] = [[] for _ in targets]

    def stages(self, definitions: Definitions) -> list[tuple[bytes, _Move]]:
        """Return key prefixes, each with the function that moves the values of a key."""
        stages: list[tuple[bytes, _Move]] = []
        for entity in ENTITIES:
            features = definitions.of_entity(entity)
            stages.append((layout.entity_prefix(entity), partial(self._entity, entity, features)))
        for operator in make_operators(definitions):
            prefix = layout.operator_prefix(operator.name)
            stages.append((prefix, partial(self._operator, operator)))
        for prefix in (layout.ITEM, layout.VERSIONS, layout.USER, layout.CONSENT):
            stages.append((prefix, lambda key, blobs: self._put_all(key, blobs[0][1])))
        for prefix in (layout.CLEANER, layout.RECEIVED, layout.EVENT_ID):
            stages.append((prefix, lambda key, blobs: self._put_all(key, max(b for _, b in blobs))))
        devices = (layout.DEVICE, self._device), (layout.DEVICES_OF, self._devices_of)
        return [*stages, *devices, (layout.ID_CHUNK, self._chunk)]

    def flush(self, mark: _Mark) -> None:
        """Write the collected entries, then the mark; entries behind it are repeated."""
        self._waiting[0].append((layout.RESCALING, msgspec.msgpack.encode(mark)))
        for target, waiting in reversed(list(zip(self._targets, self._waiting, strict=True))):
            target.write(waiting)
            waiting.clear()

    def _put(self, target: int, key: bytes, blob: bytes) -> None:
        self._waiting[target].append((key, blob))

    def _put_all(self, key: bytes, blob: bytes) -> None:
        for waiting in self._waiting:
            waiting.append((key, blob))

    def _owner(self, entity: str, key: str, blobs: _Blobs) -> str:
        """Return the key that routes an entity: a session moves with its user."""
        owner = None
        if entity == "session":
            owner = self._sources[blobs[-1][0]].get(layout.OWNER + key.encode())
        return key if owner is None else owner.decode()

    def _entity(
        self, entity: str, features: Sequence[Feature], stored: bytes, blobs: _Blobs
    ) -> None:
        key = stored[len(layout.entity_prefix(entity)) :].decode()
        owner = self._owner(entity, key, blobs)
        target = self._route(owner.removesuffix(APART))
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
        self._put(target, stored, blob)
        if entity == "session":
            self._put(target, layout.OWNER + key.encode(), owner.encode())

    def _operator(self, operator: Operator, stored: bytes, blobs: _Blobs) -> None:
        key = stored[len(layout.operator_prefix(operator.name)) :].decode()
        if not key:
            # State of no entity is the same in every partition.
            self._put_all(stored, blobs[0][1])
            return
        owner = self._owner(operator.entity, key, blobs)
        blob: bytes | None = blobs[0][1]
        if len(blobs) > 1:
            for number, part in blobs:
                operator.unpack(f"{key}\0{number}", part)
                operator.merge(f"{key}\0{number}", key)
            blob = operator.pack_changes()[key]
        if blob is not None:
            self._put(self._route(owner.removesuffix(APART)), stored, blob)

    def _device(self, key: bytes, blobs: _Blobs) -> None:
        # A device is in one partition; if not, the longer list was written last.
        blob = max((blob for _, blob in blobs), key=len)
        self._put(self._route(DEVICE_PREFIX + key[len(layout.DEVICE) :].decode()), key, blob)

    def _devices_of(self, key: bytes, blobs: _Blobs) -> None:
        parts: dict[int, dict[str, int]] = {}
        for _, blob in blobs:
            for device, last in decode_devices(blob).items():
                part = parts.setdefault(self._route(DEVICE_PREFIX + device), {})
                part[device] = max(last, part.get(device, 0))
        for target, part in parts.items():
            self._put(target, key, msgspec.msgpack.encode(part))

    def _chunk(self, key: bytes, blobs: _Blobs) -> None:
        # Chunks of different partitions may have the same generation and offset.
        for number, blob in blobs:
            self._put_all(key + number.to_bytes(4, "big"), blob)


def _check_sources(sources: Sequence[StateStore]) -> list[layout.Meta]:
    metas: list[layout.Meta] = []
    for number, source in enumerate(sources):
        meta = layout.read_meta(source)
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
        for prefix, kind in (
            (layout.OUTBOX, "actions"),
            (layout.HANDOVER, "entries for other partitions"),
        ):
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

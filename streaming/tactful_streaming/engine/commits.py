"""Commits of an engine: all changes and the log offset in one atomic write."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from itertools import islice

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import Item, encode_entry
from tactful_streaming.definitions.model import dump_definitions
from tactful_streaming.engine.engine_state import EngineState
from tactful_streaming.engine.options import CoCommittedConsumer
from tactful_streaming.engine.schema_evolution import adopt
from tactful_streaming.errors import StateError
from tactful_streaming.state import key_layout as layout
from tactful_streaming.state.store import Change
from tactful_streaming.windows.entity_table import EntityTable
from tactful_streaming.windows.packed_entity import newest_packed

_logger = logging.getLogger(__name__)

_SWEEP = 256
_LOADED = 1_024


class EngineCommits:
    """Writes the state of an engine to its store, and reads it at an opening.

    A failed write loses nothing: its changes stay in `_unwritten`, and the next commit writes them
    with its own.
    """

    def __init__(self, state: EngineState) -> None:
        """Commit `state`; :meth:`restore` reads the last commit."""
        self._state = state
        self._definitions = dump_definitions(state.definitions)
        self._unwritten: list[Change] = []
        self._sweep_from: dict[str, bytes] = {}

    @property
    def has_failed(self) -> bool:
        """Whether the changes of a failed commit wait to be written."""
        return bool(self._unwritten)

    def publish(self) -> None:
        """Copy the changes to the online store, before the next commit makes them durable."""
        self._state.check_usable()
        if self._state.mirror is not None:
            self._pack()
            self._state.mirror.publish(self._state.offset)

    def commit(self) -> None:
        """Write all changes since the last commit, with the offset, atomically."""
        state = self._state
        state.check_usable()
        for consumer in state.options.consumers.values():
            consumer.before_commit()
        self._pack()
        # Many failed changes are packed again below: each key is kept once.
        changes = self._unwritten = [*dict(self._unwritten).items()]
        if not changes:
            changes += self._sweep_expired()
        changes += self._entity_changes()
        changes += self._item_changes()
        changes += self._consumer_changes()
        changes += state.users.changes()
        changes += state.outbox.changes()
        changes += state.transfers.changes()
        if state.resolver is not None:
            changes += state.resolver.changes(state.admission.newest)
        changes += state.dedupe.changes(state.offset, state.admission.ids_reached)
        changes.append(self._meta())
        state.store.write(changes)
        self._unwritten = []
        state.packed.clear()  # until now, entities that left memory are read there
        for part in (state.users, state.outbox, state.transfers, state.resolver, state.dedupe):
            if part is not None:
                part.mark_committed()
        if state.mirror is not None:
            state.mirror.flush(state.offset)

    def restore(self, *, consumers: bool = True) -> None:
        """Read the committed state, if any, with `consumers`; StateError if it is damaged."""
        state = self._state
        meta = layout.read_meta(state.store)
        if meta is None:
            for table in state.tables.values():
                table.hold_all()
            return
        adopted = self._adopt(meta)
        state.offset = adopted.offset
        state.admission.time.resume(adopted.newest, adopted.watermark, adopted.ahead)
        state.items_version = adopted.items_version
        state.missing = tuple(adopted.missing)
        if state.missing:
            _logger.warning(
                "these features read as zero until a backfill computes them from the log: %s",
                ", ".join(state.missing),
            )
        for entity, table in state.tables.items():
            try:
                self._load(entity, table)
            except StateError as error:
                raise StateError(f"{error}; {layout.REBUILD}") from error
        for operator in state.operators:
            for key, blob in layout.named(state.store, layout.operator_prefix(operator.name)):
                operator.unpack(key, blob)
        self._restore_items()
        if consumers:
            self.restore_consumers(set(meta.consumers), state.options.consumers)
        self.restore_cleaner()
        if state.mirror is not None:
            state.mirror.resume(state.offset)

    def restore_cleaner(self) -> None:
        """Restore the cleaner from the store."""
        if self._state.options.cleaner is not None:
            self._state.options.cleaner.restore(layout.named(self._state.store, layout.CLEANER))

    def _adopt(self, meta: layout.Meta) -> layout.Meta:
        """Adapt the stored state to definitions and consumers; return its new head."""
        state = self._state
        adopted, removals = adopt(meta, state.definitions, state.store)
        absent = set(meta.consumers) - state.options.consumers.keys()
        # A consumer that is absent now would come back with a gap: it begins anew then.
        removals += [(layout.CONSUMER + name.encode(), None) for name in absent]
        if removals or adopted is not meta:
            consumers = sorted(set(meta.consumers) - absent)
            adopted = msgspec.structs.replace(adopted, consumers=consumers)
            state.store.write([*removals, layout.write_meta(adopted)])
        return adopted

    def _load(self, entity: str, table: EntityTable) -> None:
        """Load the stored entities of one kind, as many as fit."""
        state = self._state
        stored = layout.named(state.store, layout.entity_prefix(entity))
        if state.cap is None or not table.may_spill:
            table.unpack(stored)
            table.hold_all()
            return
        if state.options.on_results is not None:  # the others have no window that is not emitted
            memory_ms = table.memory_ms
            if memory_ms is not None:
                since = state.horizon - memory_ms
                stored = ((key, blob) for key, blob in stored if newest_packed(blob) > since)
            table.unpack(stored)
            if memory_ms is None:
                table.hold_all()
            return
        while chunk := list(islice(stored, _LOADED)):
            table.unpack(chunk)
            if state.cap.is_full(sum(table.nbytes for table in state.tables.values())):
                return
        table.hold_all()

    def _restore_items(self) -> None:
        admission = self._state.admission
        if admission.versions is not None:
            for item_id, blob in layout.named(self._state.store, layout.VERSIONS):
                admission.versions.unpack(item_id, blob)
        for _, payload in self._state.store.scan(layout.ITEM):
            entry = layout.stored_entry(payload, "item")
            if isinstance(entry, Item):
                admission.catalogue[entry.item_id] = entry

    def restore_consumers(
        self, known: Collection[str], consumers: Mapping[str, CoCommittedConsumer]
    ) -> None:
        """Restore consumers from their snapshots; those that are not `known` have none."""
        for name, consumer in consumers.items():
            if name not in known:
                message = "consumer %s has no stored state: it counts from offset %d on"
                _logger.warning(message, name, self._state.offset)
                continue
            snapshot = self._state.store.get(layout.CONSUMER + name.encode())
            if snapshot is not None:
                restore_consumer(name, consumer, snapshot)

    def _pack(self) -> None:
        """Pack the changed entities, to be written by the next commit."""
        state = self._state
        for entity, table in state.tables.items():
            packed = table.pack_changes(state.horizon)
            state.packed.setdefault(entity, {}).update(packed)
            if state.mirror is not None:
                state.mirror.put(entity, packed)

    def _entity_changes(self) -> Iterator[Change]:
        state = self._state
        for entity, packed in state.packed.items():
            prefix = layout.entity_prefix(entity)
            yield from [(prefix + key.encode(), blob) for key, blob in packed.items()]
            if entity == "session":
                gone = [key for key, blob in packed.items() if not blob]
                yield from [(layout.OWNER + key.encode(), None) for key in gone]
        owners = state.owners.items()
        yield from [(layout.OWNER + key.encode(), user.encode()) for key, user in owners]
        state.owners.clear()
        for operator in state.operators:
            prefix = layout.operator_prefix(operator.name)
            yield from [(prefix + k.encode(), b) for k, b in operator.pack_changes().items()]

    def _item_changes(self) -> Iterator[Change]:
        admission = self._state.admission
        for item_id in self._state.dirty_items:
            yield layout.ITEM + item_id.encode(), encode_entry(admission.catalogue[item_id])
            if admission.versions is not None:
                yield layout.VERSIONS + item_id.encode(), admission.versions.pack(item_id)
        self._state.dirty_items.clear()

    def _consumer_changes(self) -> Iterator[Change]:
        options = self._state.options
        for name, consumer in options.consumers.items():
            snapshot = consumer.snapshot()
            if snapshot is not None:
                yield layout.CONSUMER + name.encode(), snapshot
        if options.cleaner is not None:
            for key, blob in options.cleaner.pack_changes().items():
                yield layout.CLEANER + key.encode(), blob

    def _sweep_expired(self) -> Iterator[Change]:
        """Yield removals of expired entities, among the next few stored.

        Entities in memory expire there; the sweep is for those that left it.
        """
        state = self._state
        for entity, table in state.tables.items():
            memory_ms = table.memory_ms
            if state.options.memory_bytes is None or memory_ms is None:
                continue
            prefix, expired = layout.entity_prefix(entity), dict[str, bytes | None]()
            packed = state.packed.get(entity, {})  # newer than the stored entities of the same keys
            start = self._sweep_from.pop(entity, prefix)
            for number, (key, blob) in enumerate(state.store.scan(prefix, start)):
                if number == _SWEEP:
                    self._sweep_from[entity] = key
                    break
                name = key[len(prefix) :].decode()
                if name not in packed and newest_packed(blob) + memory_ms <= state.horizon:
                    expired[name] = None
            yield from [(prefix + key.encode(), None) for key in expired]
            if entity == "session":
                yield from [(layout.OWNER + key.encode(), None) for key in expired]
            if state.mirror is not None:
                state.mirror.put(entity, expired)

    def _meta(self) -> Change:
        state = self._state
        return layout.write_meta(
            layout.Meta(
                format=layout.FORMAT,
                definitions=self._definitions,
                fingerprint=state.definitions.fingerprint,
                offset=state.offset,
                newest=state.admission.newest,
                watermark=state.watermark,
                ahead=list(state.admission.time.ahead),
                items_version=state.items_version,
                consumers=sorted(state.options.consumers),
                missing=list(state.missing),
            )
        )


def restore_consumer(name: str, consumer: CoCommittedConsumer, snapshot: bytes) -> None:
    """Continue from a stored snapshot of a consumer; StateError if its form is damaged."""
    try:
        consumer.restore(snapshot)
    except (IndexError, *DECODE_ERRORS) as error:
        message = f"the stored state of the consumer {name} is damaged: {error}; {layout.REBUILD}"
        raise StateError(message) from error

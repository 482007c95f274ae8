"""The embedded engine: log records in, features out, state and log offset in one atomic write.

``apply`` counts a micro-batch in memory; ``commit`` writes every entity it touched, the catalogue,
the passengers' snapshots, the event ids and the log offset in one batch of the state store. After a
crash the engine opens at the offset last committed and applies the log again from there, so each
event is counted once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import msgspec

from tactful_streaming.aggregates import Value
from tactful_streaming.dedupe import Deduplicator
from tactful_streaming.definitions import ENTITIES, Definitions
from tactful_streaming.entities import EntityTable
from tactful_streaming.entries import (
    ENTRY_ERRORS,
    Entry,
    Event,
    Item,
    User,
    decode_entry,
    encode_entry,
    entry_decoder,
)
from tactful_streaming.errors import (
    EngineError,
    EntryError,
    FingerprintError,
    OnlineStoreError,
    StateError,
)
from tactful_streaming.online import OnlineStore
from tactful_streaming.panes import Floats
from tactful_streaming.selection import Batch, Columns, Plan
from tactful_streaming.state import Change, StateStore

_logger = logging.getLogger(__name__)

_FORMAT = 1
_META = b"meta"
_ENTITY = b"e"
_ITEM = b"i"
_USER = b"u"
_CONSUMER = b"c"
_CURE = "rebuild the state by replay from the log (rebuild=True)"


class Consumer(Protocol):
    """A stateful passenger: its state commits together with the offset of the log."""

    def apply(self, event: Event, item: Item | None) -> None:
        """Count an accepted event; `item` is what the catalogue says about it now."""

    def snapshot(self) -> bytes | None:
        """The state, or None if it has not changed since the last snapshot."""

    def restore(self, state: bytes) -> None:
        """Go back to a snapshot."""


@dataclass(frozen=True)
class Applied:
    """What became of a batch of records.

    Attributes:
        applied: events and upserts counted.
        duplicates: events whose id had been applied before.
        late: times an event was dropped from a feature because its last window had ended.
        invalid: records that are no entry, or an event of nobody other than an impression.
        evicted: groups dropped to keep an entity within ``max_groups``.
    """

    applied: int = 0
    duplicates: int = 0
    late: int = 0
    invalid: int = 0
    evicted: int = 0


class _Meta(msgspec.Struct, kw_only=True, frozen=True):
    format: int
    fingerprint: str
    offset: int
    newest: int
    items_version: int
    consumers: list[str]


class Engine:
    """Computes features from the log.

    One thread applies and commits; readers are kept away while it applies, by a lock of the caller.

    A window read at a time before the watermark may miss panes that no later window holds.
    """

    def __init__(
        self,
        definitions: Definitions,
        store: StateStore,
        *,
        dedupe_days: int = 7,
        allowed_lateness_ms: int = 300_000,
        consumers: Mapping[str, Consumer] = MappingProxyType({}),
        online: OnlineStore | None = None,
        rebuild: bool = False,
    ) -> None:
        """Open the state in `store`, or begin at offset 0.

        Args:
            definitions: what to compute.
            store: where the state lives; closed with the engine.
            dedupe_days: days of event time for which event ids are remembered, at least.
            allowed_lateness_ms: how far the watermark stays behind the newest event, so that one
                fast clock does not close everybody's windows.
            consumers: passengers by name.
            online: copy of each user's packed state for other processes, written after a commit.
            rebuild: throw the state away and begin at offset 0, to compute it again from the log.

        Raises:
            FingerprintError: if the state was computed by other definitions.
            StateError: if the state is damaged or of another version.
        """
        self._definitions = definitions
        self._store = store
        self._allowed_lateness_ms = allowed_lateness_ms
        self._consumers = dict(consumers)
        self._online = online
        self._dedupe = Deduplicator(store, dedupe_days)
        self._tables = {
            entity: EntityTable(features)
            for entity in ENTITIES
            if (features := definitions.of_entity(entity))
        }
        self._plan = Plan(definitions)
        self._items: dict[str, Item] = {}
        self._users: dict[str, User] = {}
        self._dirty_items: set[str] = set()
        self._dirty_users: set[str] = set()
        self._offset = 0
        self._newest = 0
        self._watermark = 0
        self._items_version = 0
        self._unmirrored: dict[str, bytes | None] = {}
        self._broken = False
        if rebuild:
            store.clear()
        self._open()

    @property
    def definitions(self) -> Definitions:
        """What is computed."""
        return self._definitions

    @property
    def offset(self) -> int:
        """Next offset of the log to apply."""
        return self._offset

    @property
    def watermark(self) -> int:
        """Newest event timestamp applied minus the allowed lateness, epoch milliseconds."""
        return self._watermark

    @property
    def items(self) -> Mapping[str, Item]:
        """The catalogue: latest upsert of each item."""
        return self._items

    @property
    def users(self) -> Mapping[str, User]:
        """Latest upsert of each user."""
        return self._users

    @property
    def items_version(self) -> int:
        """Number of item upserts applied."""
        return self._items_version

    def seen(self, event_id: str) -> bool:
        """Whether an event of this id was applied and is still remembered."""
        return self._dedupe.seen(event_id, self._watermark)

    def read(self, entity: str, key: str, at: int) -> dict[str, Value]:
        """All features of one entity at request time `at`.

        Args:
            entity: kind of entity, one of :data:`~tactful_streaming.ENTITIES`.
            key: its id; of a user known only by a device, ``device:<device_id>``.
            at: request time, epoch milliseconds.

        Returns:
            By feature name: a number; a number for each group; or (value, timestamp) pairs, newest
            first. Zeros and empties for an entity nobody has seen.
        """
        table = self._table(entity)
        return table.read(key, at) if table is not None else {}

    def read_columns(
        self, entity: str, keys: Sequence[str], names: Sequence[str], at: int
    ) -> Floats:
        """Features with one number for each entity, of many entities at once.

        Args:
            entity: kind of entity.
            keys: ids.
            names: features, without group_by.
            at: request time, epoch milliseconds.

        Returns:
            float64 of shape ``(len(keys), len(names))``.

        Raises:
            EngineError: if a name is no such feature.
        """
        table = self._table(entity)
        if table is None:
            raise EngineError(f"no feature describes entity {entity!r}")
        return table.read_columns(keys, names, at)

    def apply(self, records: Sequence[tuple[int, bytes]]) -> Applied:
        """Count log records, in memory only; those below :attr:`offset` are skipped.

        An error of a consumer leaves the memory half changed: the engine then refuses to go on, and
        opening it again continues from the last commit.
        """
        self._check_usable()
        self._broken = True
        entries, invalid = self._decode(records)
        stored = self._dedupe.lookup([e.event_id for e in entries if type(e) is Event])
        batch = Batch()
        duplicates = 0
        for entry in entries:
            if type(entry) is Event:
                if self._dedupe.is_new(entry.event_id, stored, self._watermark):
                    self._accept(entry, batch)
                else:
                    duplicates += 1
            elif type(entry) is Item:
                self._items[entry.item_id] = entry
                self._items_version += 1
                self._dirty_items.add(entry.item_id)
            elif type(entry) is User:
                self._users[entry.user_id] = entry
                self._dirty_users.add(entry.user_id)
        late, evicted = self._aggregate(batch)
        self._broken = False
        return Applied(
            applied=len(entries) - duplicates,
            duplicates=duplicates,
            late=late,
            invalid=invalid,
            evicted=evicted,
        )

    def commit(self) -> None:
        """Write all that changed since the last commit, with the offset, in one atomic batch.

        Changes nothing that a reader sees, so readers need not be kept away.

        Raises:
            StateError: if the store refused; the engine then has to be opened again.
        """
        self._check_usable()
        self._broken = True
        changes: list[Change] = []
        users: dict[str, bytes | None] = {}
        for entity, table in self._tables.items():
            packed = table.pack_changes(self._watermark)
            prefix = _entity_prefix(entity)
            changes += [(prefix + key.encode(), blob) for key, blob in packed.items()]
            if entity == "user":
                users = packed
        changes += [(_ITEM + i.encode(), encode_entry(self._items[i])) for i in self._dirty_items]
        changes += [(_USER + u.encode(), encode_entry(self._users[u])) for u in self._dirty_users]
        for name, consumer in self._consumers.items():
            snapshot = consumer.snapshot()
            if snapshot is not None:
                changes.append((_CONSUMER + name.encode(), snapshot))
        changes += self._dedupe.changes(self._offset, self._watermark)
        changes.append((_META, self._meta()))
        self._store.write(changes)
        self._dedupe.committed()
        self._dirty_items.clear()
        self._dirty_users.clear()
        self._broken = False
        self._mirror(users)

    def close(self) -> None:
        """Close the store. What was not committed is applied again after the next opening."""
        self._broken = True
        self._store.close()

    def _decode(self, records: Sequence[tuple[int, bytes]]) -> tuple[list[Entry], int]:
        entries: list[Entry] = []
        invalid = 0
        decode = entry_decoder.decode
        for offset, payload in records:
            if offset < self._offset:
                continue
            self._offset = offset + 1
            try:
                entry = decode(payload)
            except ENTRY_ERRORS:
                invalid += 1
                continue
            if type(entry) is Event and entry.user_id is None and entry.device_id is None:
                # A list shown to nobody in particular is logged for training, and no feature's.
                invalid += entry.type != "impression"
                continue
            entries.append(entry)
        if invalid:
            _logger.warning("skipped log records that are no entry, before offset %d", self._offset)
        return entries, invalid

    def _accept(self, event: Event, batch: Batch) -> None:
        if event.timestamp > self._newest:
            self._newest = event.timestamp
            self._watermark = max(event.timestamp - self._allowed_lateness_ms, 0)
        self._dedupe.remember(event.event_id, self._watermark)
        item = self._items.get(event.item_id) if event.item_id is not None else None
        category = event.properties.get("category")
        if type(category) is not str:
            category = item.category if item is not None else None
        batch.events.append(event)
        batch.categories.append(category)
        batch.watermarks.append(self._watermark)
        for consumer in self._consumers.values():
            consumer.apply(event, item)

    def _aggregate(self, batch: Batch) -> tuple[int, int]:
        if not batch.events:
            return 0, 0
        columns = Columns(self._plan, batch)
        late = evicted = 0
        for entity, table in self._tables.items():
            rows = table.touch(columns.keys(entity), columns.timestamps)
            for number, feature in enumerate(table.features):
                selection = columns.select(feature, rows)
                if selection is not None:
                    outcome = table.apply(number, selection)
                    late += outcome.late
                    evicted += outcome.evicted
            table.expire(self._watermark)
        return late, evicted

    def _open(self) -> None:
        stored = self._store.get(_META)
        if stored is None:
            return
        try:
            meta = msgspec.msgpack.decode(stored, type=_Meta)
        except msgspec.MsgspecError as error:
            raise StateError(f"the stored state cannot be read: {error}; {_CURE}") from error
        if meta.format != _FORMAT:
            raise StateError(
                f"the stored state has format {meta.format}, this version reads {_FORMAT}; {_CURE}"
            )
        if meta.fingerprint != self._definitions.fingerprint:
            raise FingerprintError(
                "the stored state was computed by other feature definitions: restore them, or "
                f"{_CURE}"
            )
        self._offset = meta.offset
        self._newest = meta.newest
        self._watermark = max(meta.newest - self._allowed_lateness_ms, 0)
        self._items_version = meta.items_version
        for entity, table in self._tables.items():
            try:
                table.unpack(self._stored_entities(entity))
            except StateError as error:
                raise StateError(f"{error}; {_CURE}") from error
        for prefix in (_ITEM, _USER):
            for _, payload in self._store.scan(prefix):
                self._restore_upsert(payload)
        self._restore_consumers(set(meta.consumers))
        if self._online is not None:
            self._mirror(dict(self._stored_entities("user")))

    def _restore_upsert(self, payload: bytes) -> None:
        try:
            entry = decode_entry(payload)
        except EntryError as error:
            raise StateError(f"a stored item or user is damaged: {error}; {_CURE}") from error
        if isinstance(entry, Item):
            self._items[entry.item_id] = entry
        elif isinstance(entry, User):
            self._users[entry.user_id] = entry

    def _restore_consumers(self, known: set[str]) -> None:
        for name, consumer in self._consumers.items():
            if name not in known:
                _logger.warning("%s is new here: it counts from offset %d on", name, self._offset)
                continue
            snapshot = self._store.get(_CONSUMER + name.encode())
            if snapshot is not None:
                consumer.restore(snapshot)
        # One that stays away would come back with a gap: it begins anew then.
        gone = known - self._consumers.keys()
        if gone:
            self._store.write(
                [(_META, self._meta()), *((_CONSUMER + n.encode(), None) for n in gone)]
            )

    def _stored_entities(self, entity: str) -> Iterator[tuple[str, bytes]]:
        prefix = _entity_prefix(entity)
        for key, blob in self._store.scan(prefix):
            yield key[len(prefix) :].decode(), blob

    def _meta(self) -> bytes:
        return msgspec.msgpack.encode(
            _Meta(
                format=_FORMAT,
                fingerprint=self._definitions.fingerprint,
                offset=self._offset,
                newest=self._newest,
                items_version=self._items_version,
                consumers=sorted(self._consumers),
            )
        )

    def _mirror(self, users: Mapping[str, bytes | None]) -> None:
        if self._online is None:
            return
        self._unmirrored.update(users)
        try:
            self._online.put_many(self._unmirrored)
        except OnlineStoreError as error:
            _logger.warning("online store is behind; trying again at the next commit: %s", error)
        else:
            self._unmirrored.clear()

    def _table(self, entity: str) -> EntityTable | None:
        if entity not in ENTITIES:
            raise EngineError(f"{entity!r} is not one of {', '.join(ENTITIES)}")
        return self._tables.get(entity)

    def _check_usable(self) -> None:
        if self._broken:
            raise EngineError("the engine is closed or has failed: open it again")


def _entity_prefix(entity: str) -> bytes:
    return _ENTITY + entity.encode() + b":"

"""The state of an engine in memory, shared by its reads, commits and erasures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from tactful_streaming.contract.log_entries import Entry, Event
from tactful_streaming.decode.projection import EVENT_KEY, Projection
from tactful_streaming.definitions.model import ENTITIES, Definitions, emitted_types
from tactful_streaming.engine.admission import Admission
from tactful_streaming.engine.dedupe import Deduplicator
from tactful_streaming.engine.descriptions import Users
from tactful_streaming.engine.memory_cap import MemoryCap
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.engine.outbox import Outbox
from tactful_streaming.engine.selection import Plan, sources_of
from tactful_streaming.errors import EngineError
from tactful_streaming.identity.history_merge import ProfileMerger
from tactful_streaming.identity.resolver import Resolver
from tactful_streaming.online.mirror import Mirror
from tactful_streaming.patterns.factory import make_operators
from tactful_streaming.state.key_layout import HANDOVER, OUTBOX, entity_prefix
from tactful_streaming.state.store import StateStore
from tactful_streaming.windows.entity_table import EntityTable

_LATEST_ITEMS = 65_536


class EngineState:
    """Everything that an engine holds between two batches.

    Shape::

        tables      {"user": EntityTable, "item": EntityTable}   aggregates, by entity
        operators   [sequence or join, …]                        partial matches
        admission   newest, watermark, catalogue, versions       set by admitted records
        users, dedupe, resolver, outbox, transfers               hold uncommitted changes each
        packed      {"user": {"u1": b"…", "u2": None}}           packed and not committed yet
        owners      {"session id": "user id"}                    of sessions, not committed yet
        offset, items_version, missing                           stored in the meta record
    """

    def __init__(self, definitions: Definitions, store: StateStore, options: EngineOptions) -> None:
        """Build empty tables and operators over `store`; StateError if it is damaged."""
        if options.rebuild:
            store.clear()
        self.definitions = definitions
        self.store = store
        self.options = options
        self.broken = False
        self.offset = 0
        self.items_version = 0
        self.latest_items: deque[str] = deque(maxlen=_LATEST_ITEMS)
        self.dirty_items: set[str] = set()
        self.missing: tuple[str, ...] = ()
        self.owners: dict[str, str] = {}
        self.packed: dict[str, dict[str, bytes | None]] = {}
        self.tables = {
            entity: EntityTable(
                features,
                self._loader(entity) if self._may_spill(entity) else None,
                emits=options.on_results is not None,
                allowed_lateness_ms=options.allowed_lateness_ms,
            )
            for entity in ENTITIES
            if (features := definitions.of_entity(entity))
        }
        limit = options.memory_bytes
        self.cap = None if limit is None else MemoryCap(limit, options.resident)
        self.operators = make_operators(definitions)
        self.emitted = emitted_types(definitions)
        self.plan = Plan(self.tables, self.operators, self.emitted.values())
        self.projection = Projection(self._sources())
        self.dedupe = Deduplicator(store, options.dedupe_days, options.most_ids)
        self.profiles = ProfileMerger(
            self.tables.get("user"), self.operators, definitions.fingerprint
        )
        self.resolver = self._resolver()
        reads_ids = bool(self.emitted)
        self.admission = Admission(
            self.plan, self.projection, self.dedupe, options, self.resolver, reads_ids=reads_ids
        )
        self.users = Users(store, in_memory=options.memory_bytes is None)
        self.outbox: Outbox[Event] = Outbox(store, OUTBOX)
        self.transfers: Outbox[Entry] = Outbox(store, HANDOVER)
        online = options.online
        self.mirror = Mirror(online, store, options.partition) if online is not None else None

    @property
    def watermark(self) -> int:
        """Newest event timestamp applied minus the delay, epoch milliseconds."""
        return self.admission.watermark

    @property
    def horizon(self) -> int:
        """Windows that ended up to here are closed for good, epoch milliseconds."""
        return max(self.watermark - self.options.allowed_lateness_ms, 0)

    def check_usable(self) -> None:
        """Raise EngineError if a batch has failed or the engine is closed."""
        if self.broken:
            raise EngineError("the engine is closed or has failed: open it again")

    def _sources(self) -> frozenset[str] | None:
        """Return the fields of events to decode; None: all of them."""
        sources = self.plan.sources | sources_of(self.options.also_reads)
        for consumer in self.options.consumers.values():
            if consumer.fields is None:
                return None
            sources |= consumer.fields
        if self.options.cleaner is not None:
            return None
        if self.options.dedupe_days or self.emitted:
            sources |= {EVENT_KEY}
        return sources

    def _resolver(self) -> Resolver | None:
        options = self.options
        if options.identity is None:
            return None
        return Resolver(
            options.identity,
            self.store,
            check=self.profiles.check,
            partition=options.partition,
            partition_of=options.partition_of,
        )

    def _may_spill(self, entity: str) -> bool:
        """Whether entities may leave memory; recommendations read items and categories always."""
        return self.options.memory_bytes is not None and entity in ("user", "session")

    def _loader(self, entity: str) -> Callable[[Sequence[str]], list[bytes | None]]:
        prefix = entity_prefix(entity)

        def load(keys: Sequence[str]) -> list[bytes | None]:
            stored = self.store.get_many([prefix + key.encode() for key in keys])
            packed = self.packed.get(entity)
            if not packed:
                return stored
            # A packed entity that is not committed yet is newer than the stored one.
            return [packed.get(key, blob) for key, blob in zip(keys, stored, strict=True)]

        return load

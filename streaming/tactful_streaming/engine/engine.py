"""The embedded engine: log records in, features out, state and log offset in one atomic write.

``apply`` counts a micro-batch in memory; ``commit`` writes every entity it touched, the catalogue,
the passengers' snapshots, the event ids and the log offset in one batch of the state store. After a
crash the engine opens at the offset last committed and applies the log again from there, so each
event is counted once.

What comes out follows from the log alone, never from how it is cut into batches.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType

import msgspec
import numpy as np

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.contract.log_entries import (
    Entry,
    Event,
    Item,
    Transfer,
    User,
    decode_entry,
    encode_entry,
)
from tactful_streaming.contract.record_batch import Record, from_offset, payloads_of
from tactful_streaming.contract.subject_ids import Traces
from tactful_streaming.decode.projection import Projection
from tactful_streaming.decode.row_cache import Placing
from tactful_streaming.definitions.model import (
    ENTITIES,
    Definitions,
    Feature,
    dump_definitions,
    emitted_types,
)
from tactful_streaming.engine.admission import Admitted, Intake
from tactful_streaming.engine.consumers import CoCommittedConsumer
from tactful_streaming.engine.dedupe import Deduplicator
from tactful_streaming.engine.erasure import Listed, find_listed, forget, is_of, owners_of
from tactful_streaming.engine.outbox import Outbox
from tactful_streaming.engine.references import drops_of, entity_key, operator_key
from tactful_streaming.engine.schema_evolution import adopt
from tactful_streaming.engine.selection import Batch, Columns, Plan, entity_source, sources_of
from tactful_streaming.engine.transfers import Handovers
from tactful_streaming.engine.users import Users
from tactful_streaming.errors import EngineError, EntryError, StateError
from tactful_streaming.identity.history_merge import Histories
from tactful_streaming.identity.resolver import Identity, Move, Resolver
from tactful_streaming.log.dead_letters import DeadLetter
from tactful_streaming.online.mirror import Mirror, stored_blobs
from tactful_streaming.online.store import OnlineStore
from tactful_streaming.patterns.actions import action_of
from tactful_streaming.patterns.factory import make_operators
from tactful_streaming.patterns.match import Match
from tactful_streaming.rules.rules import Cleaner
from tactful_streaming.state.key_layout import (
    CLEANER,
    CONSUMER,
    CURE,
    FORMAT,
    ITEM,
    OPERATOR,
    OWNER,
    VERSIONS,
    Meta,
    entity_prefix,
    operator_prefix,
    read_meta,
    write_meta,
)
from tactful_streaming.state.store import Change, StateStore
from tactful_streaming.windows.batch_split import BatchSplitter
from tactful_streaming.windows.entity_table import EntityTable, NonZero
from tactful_streaming.windows.packed_entity import newest_packed
from tactful_streaming.windows.store import Value
from tactful_streaming.windows.triggers import WindowResult

_logger = logging.getLogger(__name__)

_SWEEP = 256
_LATEST_ITEMS = 65_536


@dataclass(frozen=True)
class Applied:
    """What became of a batch of records.

    Attributes:
        applied: events, upserts and ticks counted.
        duplicates: events whose id had been applied before.
        late: times an event was dropped from a feature because its last window had ended, or from a
            sequence or join that could not wait for it.
        invalid: records that are no entry, or an event of nobody other than an impression.
        evicted: groups dropped to keep an entity within ``max_groups``, and beginnings of sequences
            dropped to keep their number bounded.
        dropped: events that the cleaner kept back.
    """

    applied: int = 0
    duplicates: int = 0
    late: int = 0
    invalid: int = 0
    evicted: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class LateEvent:
    """An event that came too late for some features.

    Attributes:
        payload: the record.
        features: those that it does not count for.
        partition: partition of the log it came from.
        offset: its offset there.
    """

    payload: bytes
    features: tuple[str, ...]
    partition: int
    offset: int


class Engine:
    """Computes features from the log.

    One thread applies and commits; readers are kept away while it applies, by a lock of the caller.

    A window read at a time before the horizon (the watermark less the allowed lateness) may miss
    panes that no later window holds.
    """

    def __init__(
        self,
        definitions: Definitions,
        store: StateStore,
        *,
        dedupe_days: int = 7,
        watermark_delay_ms: int = 0,
        allowed_lateness_ms: int = 300_000,
        consumers: Mapping[str, CoCommittedConsumer] = MappingProxyType({}),
        cleaner: Cleaner | None = None,
        online: OnlineStore | None = None,
        partition: int = 0,
        identity: Identity | None = None,
        suppressed: Container[str] = frozenset(),
        partition_of: Callable[[str], int] | None = None,
        rebuild: bool = False,
        memory_bytes: int | None = None,
        also_reads: Iterable[Feature] = (),
        on_fired: Callable[[list[WindowResult]], None] | None = None,
        on_late: Callable[[list[LateEvent]], None] | None = None,
        on_match: Callable[[list[Match]], None] | None = None,
        on_dead_letter: Callable[[list[DeadLetter]], None] | None = None,
    ) -> None:
        """Open the state in `store`, or begin at offset 0.

        A state computed by other definitions is taken over as far as they agree;
        :attr:`missing` names the features that are still to be computed from the log.

        Args:
            definitions: what to compute.
            store: where the state lives; closed with the engine.
            dedupe_days: days of event time for which event ids are remembered, at least; with 0
                every event counts as often as it is in the log.
            watermark_delay_ms: how far the watermark stays behind the newest event: how much later
                than newer ones an event may come before a window fires without it.
            allowed_lateness_ms: how long after a window has ended what comes for it still counts,
                so that one fast clock does not close everybody's windows.
            consumers: passengers by name.
            cleaner: judges each event before it counts.
            online: copy of each entity's packed state for other processes, written after a commit.
            partition: number of the partition of the log, for dead letters and marks in `online`.
            identity: how devices are joined to people; None: an event is of whom it names, and
                anonymous ones are of their device for ever.
            suppressed: keys of people who were erased: what comes of them is a passing of time. It
                may grow; an empty one is false and costs nothing.
            partition_of: which partition of the log a key is routed to, so that the histories of
                devices find people who live elsewhere (:meth:`handovers`). None: there is one
                partition.
            rebuild: throw the state away and begin at offset 0, to compute it again from the log.
            memory_bytes: about how much memory entities may take, after which those that were not
                touched for the longest time are left to the store; None keeps all in memory.
            also_reads: features of others: what they read of an event is decoded, and so checked,
                here, too.
            on_fired: told of windows that ended, while a batch is applied. Who makes them durable
                before :meth:`commit` gets every one; those after the last commit come again after
                a crash.
            on_late: told of events that came too late for some features, likewise.
            on_match: told of sequences and joins that came true, while a batch is applied.
            on_dead_letter: told of records that do not count, while a batch is applied.

        Raises:
            StateError: if the state is damaged or of another version.
        """
        self._definitions = definitions
        self._written_definitions = dump_definitions(definitions)
        self._store = store
        self._partition = partition
        self._allowed_lateness_ms = allowed_lateness_ms
        self._consumers = dict(consumers)
        self._cleaner = cleaner
        self._mirror = Mirror(online, store, partition) if online is not None else None
        self._on_fired = on_fired
        self._on_late = on_late
        self._on_match = on_match
        self._on_dead_letter = on_dead_letter
        self._memory_bytes = memory_bytes
        self._tables = {
            entity: EntityTable(
                features,
                self._loader(entity) if memory_bytes is not None else None,
                emits=on_fired is not None,
                allowed_lateness_ms=allowed_lateness_ms,
            )
            for entity in ENTITIES
            if (features := definitions.of_entity(entity))
        }
        self._splitter = BatchSplitter(
            definitions.features if on_fired else (), allowed_lateness_ms
        )
        self._operators = make_operators(definitions)
        self._operated = {operator.entity for operator in self._operators}
        self._emits = emitted_types(definitions)
        self._plan = Plan(self._tables, self._operators)
        self._dedupe = Deduplicator(store, dedupe_days)
        needs_all = bool(consumers) or cleaner is not None
        sources = self._plan.sources | sources_of(also_reads)
        if dedupe_days or self._emits:
            sources |= {"event_id"}
        self._projection = Projection(None if needs_all else sources)
        self._histories = Histories(
            self._tables.get("user"), self._operators, definitions.fingerprint
        )
        if rebuild:
            store.clear()
        self._resolver = (
            Resolver(
                identity,
                store,
                check=self._histories.check,
                partition=partition,
                partition_of=partition_of,
            )
            if identity is not None
            else None
        )
        self._handovers = Handovers(store)
        self._intake = Intake(
            self._plan,
            self._projection,
            self._dedupe,
            watermark_delay_ms=watermark_delay_ms,
            reads_ids=bool(self._emits),
            cleaner=cleaner,
            consumers=self._consumers,
            resolver=self._resolver,
            suppressed=suppressed,
        )
        self._offset = 0
        self._items_version = 0
        self._latest_items: deque[str] = deque(maxlen=_LATEST_ITEMS)
        self._dirty_items: set[str] = set()
        self._missing: tuple[str, ...] = ()
        self._owners: dict[str, str] = {}
        self._sweep_from: dict[str, bytes] = {}
        self._packed: dict[str, dict[str, bytes | None]] = {}
        self._unwritten: list[Change] = []
        self._broken = False
        self._users = Users(store, in_memory=memory_bytes is None)
        self._outbox = Outbox(store)
        self._open()

    @property
    def definitions(self) -> Definitions:
        """What is computed."""
        return self._definitions

    @property
    def missing(self) -> tuple[str, ...]:
        """Features still to be computed from the log; they read as nothing until then."""
        return self._missing

    @property
    def nbytes(self) -> int:
        """About how much memory the state of entities takes."""
        return sum(table.nbytes for table in self._tables.values())

    @property
    def offset(self) -> int:
        """Next offset of the log to apply."""
        return self._offset

    @property
    def watermark(self) -> int:
        """Newest event timestamp applied minus the delay, epoch milliseconds."""
        return self._intake.watermark

    @property
    def horizon(self) -> int:
        """Windows that ended up to here are closed for good, epoch milliseconds."""
        return max(self.watermark - self._allowed_lateness_ms, 0)

    @property
    def items(self) -> Mapping[str, Item]:
        """The catalogue: latest upsert of each item."""
        return self._intake.catalogue

    @property
    def users(self) -> Mapping[str, User]:
        """Latest upsert of each user."""
        return self._users

    @property
    def items_version(self) -> int:
        """Number of item upserts applied."""
        return self._items_version

    def items_since(self, version: int) -> list[Item]:
        """The items that changed since :attr:`items_version` was `version`, each once.

        At the cost of the changes, unless they are too many to be remembered: then all items.
        """
        changes = self._items_version - version
        if changes > len(self._latest_items):
            return [*self.items.values()]
        latest = dict.fromkeys(islice(reversed(self._latest_items), changes))
        return [self.items[item_id] for item_id in latest]

    def seen(self, event_id: str) -> bool:
        """Whether an event of this id was applied and is still remembered."""
        return self._dedupe.seen(event_id, self.watermark)

    def read(self, entity: str, key: str, at: int) -> dict[str, Value]:
        """All features of one entity at request time `at`.

        Args:
            entity: kind of entity, one of :data:`~tactful_streaming.ENTITIES`.
            key: its id; or ``device:<device_id>`` for whoever holds a device at that time: the
                features of a user, if it is known which, else those of the device.
            at: request time, epoch milliseconds.

        Returns:
            By name: a number; a number for each group; or (value, timestamp) pairs, newest first.
            Of a sequence the time of its last match, of a join its newest pairs of item and time.
            Zeros and empties for an entity nobody has seen.
        """
        table = self._table(entity)
        key = self.resolve(key, at) if entity == "user" else key
        values = table.read(key, at) if table is not None else {}
        for name in self._missing:
            if name in values:
                values[name] = type(values[name])()
        for operator in self._operators:
            if operator.entity == entity:
                values[operator.name] = operator.read(key, at)
        return values

    def read_late(self, entity: str, key: str, at: int) -> Mapping[str, Value]:
        """As :meth:`read`, each feature when it is asked for, where that can wait.

        For whoever needs one of them first of all. What it gives is to be used before anything
        else is applied.
        """
        table = self._table(entity)
        if table is None or self._missing or entity in self._operated:
            return self.read(entity, key, at)
        return table.read_late(self.resolve(key, at) if entity == "user" else key, at)

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
        if entity == "user":
            keys = [self.resolve(key, at) for key in keys]
        columns = table.read_columns(keys, names, at)
        for name in self._missing:
            if name in names:
                columns[:, list(names).index(name)] = 0
        return columns

    def read_placed(
        self, entity: str, placing: Placing, places: Rows, names: Sequence[str], at: int
    ) -> Floats:
        """As :meth:`read_columns`, of entities that the reader knows by a place of its own.

        It is several times as fast, once their keys have been looked up.

        Args:
            entity: kind of entity, not ``user``: devices change hands.
            placing: whose places they are; what was looked up is remembered as long as it lives.
            places: at least 0, shape ``(n,)``.
            names: features, without group_by.
            at: request time, epoch milliseconds.

        Returns:
            float64 of shape ``(n, len(names))``.

        Raises:
            EngineError: if a name is no such feature, or people are asked for.
        """
        table = self._table(entity)
        if table is None or entity == "user":
            raise EngineError(f"entities {entity!r} have no features that are read by place")
        columns = table.read_placed(placing, places, names, at)
        for name in self._missing:
            if name in names:
                columns[:, list(names).index(name)] = 0
        return columns

    def read_nonzero(self, entity: str, name: str, at: int, start: int = 0) -> NonZero | None:
        """The entities whose number is not 0, a part of them, at the cost of those that are known.

        Args:
            entity: kind of entity.
            name: a feature, without group_by.
            at: request time, epoch milliseconds.
            start: where to begin: 0, then what the part before says.

        Returns:
            None where not all entities are kept in memory: then they are to be asked for by key.

        Raises:
            EngineError: if the name is no such feature.
        """
        table = self._table(entity)
        if table is None:
            raise EngineError(f"no feature describes entity {entity!r}")
        found = table.read_nonzero(name, at, start)
        return NonZero([], np.zeros(0), None) if found and name in self._missing else found

    def resolve(self, key: str, at: int) -> str:
        """Key of the person whom ``device:<device_id>`` stands for at time `at`.

        Returns:
            The id of the user who holds the device, or `key` itself if nobody is known to.
        """
        if self._resolver is None:
            return key
        return self._resolver.resolve(key, at, self._intake.newest)

    def devices_of(self, user_id: str) -> tuple[str, ...]:
        """Devices on which a user has logged in, as far as they are remembered here."""
        if self._resolver is None:
            return ()
        return self._resolver.devices_of(user_id, self._intake.newest)

    def apply(self, records: Sequence[Record]) -> Applied:
        """Count log records, in memory only; those below :attr:`offset` are skipped.

        An error of a consumer leaves the memory half changed: the engine then refuses to go on, and
        opening it again continues from the last commit.
        """
        self._check_usable()
        self._broken = True
        self._make_room()
        before = self.watermark
        records = from_offset(records, self._offset)
        admitted = self._intake.admit(payloads_of(records))
        if records:
            self._offset = records[-1][0] + 1
        for item in admitted.items:
            self._dirty_items.add(item.item_id)
            self._latest_items.append(item.item_id)
        self._items_version += len(admitted.items)
        for user in admitted.users:
            self._users.update(user)
        self._report_refused(admitted, records)
        self._outbox.meet(admitted.ids)
        if self._resolver is not None:
            self._handovers.add(self._resolver.take_leaving())
        admitted.moves = self._needed_moves(admitted)
        late: dict[str, list[int]] = {}
        evicted = -sum(operator.evicted for operator in self._operators)
        missed = -sum(operator.late for operator in self._operators)
        for part, begin, items, moves in _parts(admitted):
            for move in moves:
                self._move(move)
            columns = Columns(self._plan, self._projection, part, before)
            late_here, evicted_here = self._aggregate(columns, before)
            evicted += evicted_here
            for name, positions in late_here.items():
                late.setdefault(name, []).extend(begin + position for position in positions)
            self._find(columns, admitted, items)
            if part.events:
                before = int(part.watermarks[-1])
        evicted += sum(operator.evicted for operator in self._operators)
        missed += sum(operator.late for operator in self._operators)
        self._report_late(late, admitted, records)
        self._broken = False
        return Applied(
            applied=len(admitted.batch.events) + len(admitted.items) + len(admitted.users),
            duplicates=admitted.duplicates,
            late=missed + sum(map(len, late.values())),
            invalid=admitted.invalid,
            evicted=evicted,
            dropped=admitted.dropped,
        )

    def publish(self) -> None:
        """Copy what changed to the online store, before the next commit makes it durable.

        What the copy then shows can never turn out to be wrong: after a crash the log gives the
        same values again. Until the state has caught up with the copy, its owner leaves the copy
        as it is (:class:`~tactful_streaming.PartitionView`). That needs a log that outlives this
        process, and a store that keeps what was put since the last commit, should it have to be
        filled again (:meth:`WriteBehind.committed`). Without an online store nothing happens.
        """
        self._check_usable()
        if self._mirror is not None:
            self._pack()
            self._mirror.publish(self._offset)

    def commit(self) -> None:
        """Write all that changed since the last commit, with the offset, in one atomic batch.

        Changes nothing that a reader sees, so readers need not be kept away.

        Raises:
            StateError: if the store refused, as with a full disk. Nothing is lost: the next commit
                writes it.
        """
        self._check_usable()
        for consumer in self._consumers.values():
            consumer.before_commit()
        self._pack()
        # Much of what was refused is packed again below, each time that it is: it is kept once.
        changes = self._unwritten = [*dict(self._unwritten).items()]
        if not changes:
            changes += self._sweep_silent()
        for entity, packed in self._packed.items():
            prefix = entity_prefix(entity)
            changes += [(prefix + key.encode(), blob) for key, blob in packed.items()]
            if entity == "session":
                changes += [(OWNER + k.encode(), None) for k, blob in packed.items() if not blob]
        changes += [(OWNER + k.encode(), owner.encode()) for k, owner in self._owners.items()]
        self._owners.clear()
        for operator in self._operators:
            prefix = operator_prefix(operator.name)
            changes += [(prefix + k.encode(), b) for k, b in operator.pack_changes().items()]
        catalogue = self._intake.catalogue
        versions = self._intake.versions
        for item_id in self._dirty_items:
            changes.append((ITEM + item_id.encode(), encode_entry(catalogue[item_id])))
            if versions is not None:
                changes.append((VERSIONS + item_id.encode(), versions.pack(item_id)))
        self._dirty_items.clear()
        for name, consumer in self._consumers.items():
            snapshot = consumer.snapshot()
            if snapshot is not None:
                changes.append((CONSUMER + name.encode(), snapshot))
        if self._cleaner is not None:
            remembered = self._cleaner.pack_changes()
            changes += [(CLEANER + key.encode(), blob) for key, blob in remembered.items()]
        changes += self._users.changes()
        changes += self._outbox.changes()
        changes += self._handovers.changes()
        if self._resolver is not None:
            changes += self._resolver.changes(self._intake.newest)
        changes += self._dedupe.changes(self._offset, self.watermark)
        changes.append(self._meta())
        self._store.write(changes)
        self._unwritten = []
        self._packed.clear()  # until now, what left memory is found there
        self._users.committed()
        self._outbox.committed()
        self._handovers.committed()
        if self._resolver is not None:
            self._resolver.committed()
        self._dedupe.committed()
        if self._mirror is not None:
            self._mirror.flush(self._offset)

    def forget(
        self,
        traces: Traces,
        snapshots: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType({}),
        *,
        listed: Listed | None = None,
        lock: AbstractContextManager[object] | None = None,
    ) -> int:
        """Remove people from the state and from memory, while the engine is at work.

        They are suppressed already, so nothing of them is added any more. What many people have
        contributed to stays. To have their bytes gone from disk, too, purge the store afterwards.

        Args:
            traces: what to remove.
            snapshots: by name of a passenger, makes its snapshot without these people.
            listed: what a search of the stored state has found, since a commit after they were
                suppressed; None: it is searched here.
            lock: held, briefly, while what readers see changes.

        Returns:
            How many keys were removed.

        Raises:
            StateError: if the store refused; it is to be done again.
        """
        self.commit()
        people = owners_of(self._store, traces)
        if listed is None:
            listed = find_listed(self._store, traces, self._definitions)
        removed = forget(self._store, traces, self._definitions, snapshots, listed=listed)
        with nullcontext() if lock is None else lock:
            self._drop(traces, people, listed.mentions)
        if self._cleaner is not None:
            self._cleaner.restore(self._stored(CLEANER))
        if self._mirror is not None:
            self._mirror.put("user", dict.fromkeys(people))
            self._mirror.put("session", dict.fromkeys(traces.sessions))
            self._mirror.flush(self._offset)
        return removed

    def _drop(self, traces: Traces, people: Collection[str], mentions: Iterable[bytes]) -> None:
        """Know nothing in memory of whom the store knows nothing any more."""
        for entity, keys in (("user", people), ("session", traces.sessions)):
            if entity in self._tables:
                self._tables[entity].forget(keys)
        for operator in self._operators:
            for key in (*people, *traces.sessions):
                operator.detach(key)
        operators = {operator.name: operator for operator in self._operators}
        drops = drops_of(traces)
        for stored in mentions:
            left = self._store.get(stored)
            if not stored.startswith(OPERATOR):
                entity, _, key = entity_key(stored)
                self._tables[entity].drop_texts([key], drops)
                if self._mirror is not None:
                    self._mirror.put(entity, {key: left})
                continue
            name, _, key = operator_key(stored)
            if name in operators:
                operators[name].detach(key)
                if left is not None:
                    operators[name].unpack(key, left)
        for operator in self._operators:
            operator.pack_changes()  # nothing else has changed since the commit
        self._users.forget(traces.users)
        self._outbox.forget(lambda action: is_of(action, traces))
        self._handovers.forget(lambda entry: is_of(entry, traces))
        if self._resolver is not None:
            self._resolver.drop(traces.users, traces.devices | traces.shared)
        for consumer in self._consumers.values():
            consumer.delete_users(people)

    def outbox(self) -> list[Event]:
        """Actions that are committed and, as far as is known, not in the log yet.

        Once the log has been applied to its end, whoever runs the engine appends them to the log
        and says so by :meth:`sent`; in the log the engine meets them. So each is there once,
        whatever crashes in between.
        """
        return self._outbox.ready()

    def sent(self, actions: Iterable[Event]) -> None:
        """Note that actions were appended to the log, so that :meth:`outbox` leaves them out."""
        self._outbox.sent(action.event_id for action in actions)

    def drop(self, actions: Iterable[Event]) -> None:
        """Give up actions of :meth:`outbox`: the next commit forgets them."""
        self._outbox.meet([action.event_id for action in actions])

    def handovers(self) -> dict[int, Entry]:
        """Entries for other partitions that are committed and not known to be there, by number.

        Whoever runs the engine appends each to the partition that ``partition_of`` gives for its
        :func:`~tactful_streaming.route_key`, in order, and says so by :meth:`handed_over`. To
        append one again is harmless: it counts once.
        """
        return self._handovers.ready()

    def handed_over(self, numbers: Iterable[int]) -> None:
        """Note that entries of :meth:`handovers` were appended."""
        self._handovers.sent(numbers)

    def next_timer(self) -> int | None:
        """The earliest watermark at which something happens by itself, if anything waits.

        When the log is idle and the clock has come that far (plus the watermark's delay), a
        :class:`~tactful_streaming.Tick` in the log makes it happen.
        """
        timers = [operator.next_timer() for operator in self._operators]
        timers += [table.next_pending(self.watermark) for table in self._tables.values()]
        return min((timer for timer in timers if timer is not None), default=None)

    def stored_blobs(self) -> Iterable[tuple[str, dict[str, bytes]]]:
        """All packed entities as committed, in pieces: kind of entity, and blobs by key."""
        return stored_blobs(self._store)

    def close(self) -> None:
        """Close the store. What was not committed is applied again after the next opening."""
        self._broken = True
        self._store.close()

    def _aggregate(self, columns: Columns, before: int) -> tuple[dict[str, list[int]], int]:
        """Count a batch, piece by piece, and fire the windows that end.

        Returns:
            By feature, the positions of events that came too late for it; and how many groups had
            to make room.
        """
        batch = columns.batch
        late: dict[str, list[int]] = {}
        evicted = 0
        if not batch.events:
            return late, evicted
        selected = []
        for entity, table in self._tables.items():
            rows = table.touch(columns.keys(entity), columns.timestamps)
            for number in range(len(table.stores)):
                chosen = columns.select(entity, number, rows)
                if len(chosen):
                    selected.append((table, entity, number, rows, chosen))
        if "session" in self._tables:
            self._note_owners(columns)
        pieces = [(0, len(batch.events))]
        if self._splitter.has_windows:
            pieces = self._splitter.split(columns.timestamps, batch.watermarks, before)
        fired: list[WindowResult] = []
        for begin, end in pieces:
            for table, entity, number, rows, chosen in selected:
                if len(pieces) > 1:
                    chosen = chosen[slice(*np.searchsorted(chosen, (begin, end)))]
                    if not len(chosen):
                        continue
                outcome = table.apply(number, columns.selection(entity, number, rows, chosen))
                evicted += outcome.evicted
                for name, positions in outcome.late_by.items():
                    late.setdefault(name, []).extend(chosen[positions].tolist())
            if self._splitter.has_windows:
                reached = int(batch.watermarks[end - 1])
                for table in self._tables.values():
                    fired += table.emit(before, reached)
                before = reached
        horizon = max(int(batch.watermarks[-1]) - self._allowed_lateness_ms, 0)
        for table in self._tables.values():
            table.expire(horizon)
        if fired and self._on_fired is not None:
            self._on_fired(fired)
        return late, evicted

    def _note_owners(self, columns: Columns) -> None:
        for session, user in zip(columns.texts("session_id"), columns.batch.users, strict=True):
            if session is not None and user is not None:
                self._owners[session] = user

    def _pack(self) -> None:
        """Pack what changed: the next commit writes it."""
        for entity, table in self._tables.items():
            packed = table.pack_changes(self.horizon)
            self._packed.setdefault(entity, {}).update(packed)
            if self._mirror is not None:
                self._mirror.put(entity, packed)

    def _make_room(self) -> None:
        """Let entities leave memory if they take too much; what left is in the store."""
        if self._memory_bytes is None or self._unwritten:
            return
        sizes = {entity: table.nbytes for entity, table in self._tables.items()}
        total = sum(sizes.values())
        if total > self._memory_bytes:
            for entity, table in self._tables.items():
                table.shrink(sizes[entity] * self._memory_bytes // total)

    def _sweep_silent(self) -> list[Change]:
        """Removals of entities of which nothing can be read any more, among the next few stored.

        Those in memory go by themselves; this is for those that left it.
        """
        changes: list[Change] = []
        for entity, table in self._tables.items():
            memory_ms = table.memory_ms
            if self._memory_bytes is None or memory_ms is None:
                continue
            prefix, silent = entity_prefix(entity), dict[str, bytes | None]()
            packed = self._packed.get(entity, {})  # what is stored of these is out of date
            start = self._sweep_from.pop(entity, prefix)
            for number, (key, blob) in enumerate(self._store.scan(prefix, start)):
                if number == _SWEEP:
                    self._sweep_from[entity] = key
                    break
                name = key[len(prefix) :].decode()
                if name not in packed and newest_packed(blob) + memory_ms <= self.horizon:
                    silent[name] = None
            changes += [(prefix + key.encode(), None) for key in silent]
            if entity == "session":
                changes += [(OWNER + key.encode(), None) for key in silent]
            if self._mirror is not None:
                self._mirror.put(entity, silent)
        return changes

    def _needed_moves(self, admitted: Admitted) -> list[tuple[int, int, Move]]:
        """The moves of histories that are there: each of them cuts the batch, and most are not."""
        if not admitted.moves:
            return []
        keys = set(admitted.batch.users)
        needed = []
        for place, items, move in admitted.moves:
            arrives = move.state is not None
            if arrives or move.source in keys or self._histories.may_hold(move.source):
                keys.add(move.target)  # may move on within the batch
                needed.append((place, items, move))
        return needed

    def _move(self, move: Move) -> None:
        """Let the history of one key be part of that of another, here or in its partition."""
        if move.transfer_id is not None:
            state = self._histories.detach(move.source)
            if state is not None:
                transfer = Transfer(
                    transfer_id=move.transfer_id,
                    timestamp=move.timestamp,
                    source=move.source,
                    target=move.target,
                    state=state,
                )
                self._handovers.add([transfer])
            return
        if move.state is not None:
            self._histories.attach(move.source, move.state)
        self._histories.merge(move.source, move.target)

    def _find(self, columns: Columns, admitted: Admitted, items: slice) -> None:
        """Show a batch to the sequences and joins, and let actions follow from what they find."""
        batch, found = columns.batch, []
        updates = admitted.items[items]
        watermarks = np.array(admitted.item_watermarks[items], np.int64)
        for operator in self._operators:
            if operator.wants_items and updates:
                operator.apply_items(updates, watermarks)
            if batch.events:
                keys = columns.texts(entity_source(operator.entity))
                operator.apply(batch.events, keys, batch.watermarks, columns.texts)
            found += operator.take()
        for match in found:
            if (type_ := self._emits.get(match.name)) and (action := action_of(match, type_)):
                self._outbox.add([action])
        if found and self._on_match is not None:
            self._on_match(found)

    def _report_late(
        self, late: Mapping[str, Sequence[int]], admitted: Admitted, records: Sequence[Record]
    ) -> None:
        if not late or self._on_late is None:
            return
        features: dict[int, list[str]] = {}
        for name, positions in late.items():
            for position in positions:
                if admitted.positions is not None:
                    position = admitted.positions[position]
                features.setdefault(position, []).append(name)
        self._on_late(
            [
                LateEvent(records[position][1], tuple(names), self._partition, records[position][0])
                for position, names in sorted(features.items())
            ]
        )

    def _report_refused(self, admitted: Admitted, records: Sequence[Record]) -> None:
        if admitted.invalid:
            _logger.warning("skipped log records that are no entry, before offset %d", self._offset)
        if admitted.refused and self._on_dead_letter is not None:
            self._on_dead_letter(
                [
                    DeadLetter(
                        payload=records[refused.position][1],
                        rule=refused.rule,
                        reason=refused.reason,
                        partition=self._partition,
                        offset=records[refused.position][0],
                    )
                    for refused in admitted.refused
                ]
            )

    def _open(self) -> None:
        meta = read_meta(self._store)
        if meta is None:
            return
        adopted, gone = adopt(meta, self._definitions, self._store)
        stay_away = set(meta.consumers) - self._consumers.keys()
        # One that stays away would come back with a gap: it begins anew then.
        gone += [(CONSUMER + name.encode(), None) for name in stay_away]
        if gone or adopted is not meta:
            adopted = msgspec.structs.replace(
                adopted, consumers=sorted(set(meta.consumers) - stay_away)
            )
            self._store.write([*gone, write_meta(adopted)])
        self._offset = adopted.offset
        self._intake.resume(adopted.newest, adopted.watermark)
        self._items_version = adopted.items_version
        self._missing = tuple(adopted.missing)
        if self._missing:
            _logger.warning(
                "to be computed from the log by a backfill, until which they read as nothing: %s",
                ", ".join(self._missing),
            )
        for entity, table in self._tables.items():
            try:
                table.unpack(self._needed(entity, table))
            except StateError as error:
                raise StateError(f"{error}; {CURE}") from error
        for operator in self._operators:
            for key, blob in self._stored(operator_prefix(operator.name)):
                operator.unpack(key, blob)
        if (versions := self._intake.versions) is not None:
            for item_id, blob in self._stored(VERSIONS):
                versions.unpack(item_id, blob)
        for _, payload in self._store.scan(ITEM):
            try:
                entry = decode_entry(payload)
            except EntryError as error:
                raise StateError(f"a stored item or user is damaged: {error}; {CURE}") from error
            if isinstance(entry, Item):
                self._intake.catalogue[entry.item_id] = entry
        self._restore_passengers(set(meta.consumers))
        if self._mirror is not None:
            self._mirror.resume(self._offset)

    def _needed(self, entity: str, table: EntityTable) -> Iterator[tuple[str, bytes]]:
        """The stored entities that have to be in memory from the start."""
        if self._memory_bytes is not None and self._on_fired is None:
            return
        memory_ms = table.memory_ms if self._memory_bytes is not None else None
        for key, blob in self._stored(entity_prefix(entity)):
            if memory_ms is None or newest_packed(blob) + memory_ms > self.horizon:
                yield key, blob

    def _loader(self, entity: str) -> Callable[[Sequence[str]], list[bytes | None]]:
        prefix = entity_prefix(entity)

        def load(keys: Sequence[str]) -> list[bytes | None]:
            stored = self._store.get_many([prefix + key.encode() for key in keys])
            packed = self._packed.get(entity)
            if not packed:
                return stored
            # What was packed and is not committed yet is newer than what is stored.
            return [packed.get(key, blob) for key, blob in zip(keys, stored, strict=True)]

        return load

    def _restore_passengers(self, known: set[str]) -> None:
        for name, consumer in self._consumers.items():
            if name not in known:
                _logger.warning("%s is new here: it counts from offset %d on", name, self._offset)
                continue
            snapshot = self._store.get(CONSUMER + name.encode())
            if snapshot is not None:
                consumer.restore(snapshot)
        if self._cleaner is not None:
            self._cleaner.restore(self._stored(CLEANER))

    def _stored(self, prefix: bytes) -> Iterator[tuple[str, bytes]]:
        for key, blob in self._store.scan(prefix):
            yield key[len(prefix) :].decode(), blob

    def _meta(self) -> Change:
        return write_meta(
            Meta(
                format=FORMAT,
                definitions=self._written_definitions,
                fingerprint=self._definitions.fingerprint,
                offset=self._offset,
                newest=self._intake.newest,
                watermark=self.watermark,
                items_version=self._items_version,
                consumers=sorted(self._consumers),
                missing=list(self._missing),
            )
        )

    def _table(self, entity: str) -> EntityTable | None:
        if entity not in ENTITIES:
            raise EngineError(f"{entity!r} is not one of {', '.join(ENTITIES)}")
        return self._tables.get(entity)

    def _check_usable(self) -> None:
        if self._broken:
            raise EngineError("the engine is closed or has failed: open it again")


def _parts(admitted: Admitted) -> Iterator[tuple[Batch, int, slice, list[Move]]]:
    """What was admitted, cut where histories move.

    Yields:
        Events; the position of the first; which items go with them; and what moves before them.
    """
    begin, first, moves = 0, 0, list[Move]()
    for place, items, move in admitted.moves:
        if (place, items) != (begin, first):
            yield admitted.batch.part(begin, place), begin, slice(first, items), moves
            begin, first, moves = place, items, []
        moves.append(move)
    yield (
        admitted.batch.part(begin, len(admitted.batch.events)),
        begin,
        slice(first, len(admitted.items)),
        moves,
    )

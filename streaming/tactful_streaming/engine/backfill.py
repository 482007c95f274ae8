"""Computes what is missing in a state from the log, beside the engine, and merges it in.

After a change of definitions the new features are missing. A second engine, with these features
alone and a state store of its own, applies the log up to the offset of the state. Then its packed
entities are merged into the state: the features are there as if they always had been.

Both steps may be killed at any moment: the first goes on from its last commit, the second is done
again. The first, long one leaves the state alone, so a server may compute the old features
meanwhile; the second needs the state for itself.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import msgspec

from tactful_streaming.contract.log_entries import Transfer, decode_entry, encode_entry
from tactful_streaming.contract.record_batch import Record
from tactful_streaming.definitions.model import ENTITIES, Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import DEFAULT_OPTIONS, EngineOptions
from tactful_streaming.engine.schema_evolution import adopt, required_features
from tactful_streaming.errors import EntryError, StateError
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.state.key_layout import (
    CHANGED_APART,
    CURE,
    VERSIONS,
    Meta,
    entity_prefix,
    read_meta,
    write_meta,
)
from tactful_streaming.state.store import Change, StateStore
from tactful_streaming.windows.entity_table import EntityTable
from tactful_streaming.windows.packed_entity import combine_packed

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
    options: EngineOptions = DEFAULT_OPTIONS,
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
    adopted = adopt_definitions(store, definitions)
    if adopted is None:
        return ()
    if adopted.missing:
        compute_missing(
            log, scratch, definitions, adopted.missing, adopted.offset, options, progress
        )
    merge_computed(store, scratch, definitions)
    return tuple(adopted.missing)


def adopt_definitions(store: StateStore, definitions: Definitions) -> Meta | None:
    """Take the state in `store`, if there is one, over to `definitions`; its head afterwards.

    Raises:
        StateError: if the state is damaged.
    """
    meta = read_meta(store)
    if meta is None:
        return None
    adopted, gone = adopt(meta, definitions, store)
    if adopted is not meta:
        store.write([*gone, write_meta(adopted)])
    return adopted


def merge_computed(store: StateStore, scratch: StateStore, definitions: Definitions) -> None:
    """Put what was computed of a state up to its offset into it, and empty `scratch`.

    Raises:
        StateError: if one of the states is damaged or the disk refused.
    """
    meta = read_meta(store)
    if meta is not None and meta.missing:
        for changes in _merged(store, scratch, definitions, meta.missing):
            store.write(changes)
        done = write_meta(msgspec.structs.replace(meta, missing=[]))
        # A copy in an online store is as old as the offset says, and lacks all this.
        store.write([done, (CHANGED_APART, b"%d" % meta.offset)])
    scratch.clear()


def compute_missing(
    log: EventLog,
    scratch: StateStore,
    definitions: Definitions,
    missing: Collection[str],
    until: int,
    options: EngineOptions = DEFAULT_OPTIONS,
    progress: Progress = lambda reached, wanted: None,
) -> None:
    """Compute missing features from the log up to offset `until`: the first step of a backfill.

    Raises:
        StateError: if `scratch` is damaged or has seen more of the log than that.
    """
    part = PartComputation(log, scratch, definitions, missing, until, options)
    compute_to_end(part, lambda: progress(part.position, until))


def compute_to_end(part: PartComputation, progress: Callable[[], None]) -> None:
    """Compute missing features of one partition.

    Args:
        part: the computation.
        progress: called now and then, and at the end.

    Raises:
        StateError: as :func:`compute_missing`.
    """
    batches = 0
    while part.advance():
        batches += 1
        if batches % _COMMIT_EVERY == 0:
            part.commit()
            progress()
    part.commit()
    progress()


def compute_together(
    parts: Sequence[PartComputation],
    partition_of: Callable[[str], int],
    *,
    final: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Compute missing features of all partitions of a log whose devices are joined to people.

    The history of a device moves to another partition by a transfer in the log of that, which holds
    what the features of then had to say. Here a partition that meets one waits until the partition
    of the device has computed it anew, and takes that.

    Args:
        parts: one for each partition, in order, whose options have `partition_of`.
        partition_of: which partition a key is routed to.
        final: whether the states have come to a rest. If not, what waits is left for another call;
            if so, the computations are further than the logs afterwards, and cannot be gone on
            with.
        progress: called now and then.

    Raises:
        StateError: as :func:`compute_missing`.
    """
    transfers = _Transfers(parts)
    for rounds in itertools.count(1):
        moved = [part.advance(transfers.find) for part in parts]
        if rounds % _COMMIT_EVERY == 0 or any(part.blocked for part in parts):
            transfers.gather()
            progress()
        if any(moved) or any(part.blocked and transfers.has(part.blocked) for part in parts):
            continue
        blocked = [part for part in parts if part.blocked]
        if not blocked or not final:
            break
        # Nobody computes it: what it rests on is not in the log any more, or does not count.
        transfers.give_up(min((part.blocked for part in blocked if part.blocked), key=_age))
    transfers.gather()
    if final:
        transfers.deliver(partition_of)
    progress()


class PartComputation:
    """Computes the missing features of one partition from its log, batch by batch.

    Attributes:
        position: next offset to read.
        blocked: the transfer that it waits for; None if there is none.
    """

    def __init__(
        self,
        log: EventLog,
        scratch: StateStore,
        definitions: Definitions,
        missing: Collection[str],
        until: int | None,
        options: EngineOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Begin, or go on with what `scratch` holds; arguments as of :func:`compute_missing`.

        Without `until` it reads until the log, which has to end by itself, has nothing more.

        Raises:
            StateError: if `scratch` is damaged or has seen more of the log than that.
        """
        wanted = required_features(definitions, missing)
        meta = read_meta(scratch)
        other = meta is not None and meta.fingerprint != wanted.fingerprint
        self.engine = Engine(
            wanted, scratch, replace(options, rebuild=other, also_reads=definitions.features)
        )
        if until is not None and self.engine.offset > until:
            raise StateError(
                f"the backfill has read the log up to offset {self.engine.offset}, the state only "
                f"up to {until}: start the engine, so that it catches up, or empty the backfill's "
                "own state"
            )
        self.blocked: Transfer | None = None
        self._log = log
        self._until = until
        self._committed = self.engine.offset
        self.position = max(self.engine.offset, log.begin)

    def advance(self, find: Callable[[Transfer], Transfer | None] | None = None) -> bool:
        """Apply some records; whether there were any.

        Args:
            find: gives a transfer as it is to be taken, or None if it has to be waited for; None:
                all are taken as they are.

        Raises:
            StateError: if the log ends too early.
        """
        self.blocked = None
        until = sys.maxsize if self._until is None else self._until
        if self.position >= until:
            return False
        records = self._log.read(self.position, min(_BATCH, until - self.position))
        if not records and self._until is None:
            self._until = self.position
            return False
        if not records:
            raise StateError(
                f"the log ends at offset {self.position}, before the state does ({until}): "
                f"restore it from a backup, or {CURE}"
            )
        # Offsets in Kafka have gaps, so there may be more than was wanted.
        chosen = [record for record in records if record[0] < until]
        if find is not None:
            chosen = self._replaced(chosen, find)
        if chosen:
            self.engine.apply(chosen)
            self.position = self.engine.offset
        elif self.blocked is None:
            self.position = until
        return bool(chosen)

    def take(self, transfer: Transfer) -> None:
        """Apply a transfer as if it were next in the log."""
        self.engine.apply([(self.position, encode_entry(transfer, "json"))])
        self.position += 1

    def commit(self) -> None:
        """Make what was computed durable."""
        if self.engine.offset != self._committed:
            self.engine.commit()
            self._committed = self.engine.offset

    def _replaced(
        self, records: list[Record], find: Callable[[Transfer], Transfer | None]
    ) -> list[Record]:
        """The records up to the first transfer that has to be waited for."""
        replaced: list[Record] = []
        for offset, payload in records:
            transfer = _transfer_in(payload)
            if transfer is not None:
                found = find(transfer)
                if found is None:
                    self.blocked = transfer
                    break
                payload = encode_entry(found, "json")
            replaced.append((offset, payload))
        return replaced


class _Transfers:
    """Histories of devices as the partitions of the devices have computed them anew."""

    def __init__(self, parts: Sequence[PartComputation]) -> None:
        self._parts = parts
        self._found: dict[str, tuple[PartComputation, bytes, Transfer]] = {}
        self._taken: set[str] = set()
        self._settled: set[str] = set()
        self.gather()

    def has(self, transfer: Transfer) -> bool:
        return transfer.transfer_id in self._found or transfer.transfer_id in self._settled

    def find(self, transfer: Transfer) -> Transfer | None:
        if transfer.transfer_id in self._settled:
            return transfer  # if it is one that was taken, it counts once
        found = self._found.get(transfer.transfer_id)
        if found is None:
            return None
        self._taken.add(transfer.transfer_id)
        return found[2]

    def give_up(self, transfer: Transfer) -> None:
        self._settled.add(transfer.transfer_id)

    def deliver(self, partition_of: Callable[[str], int]) -> None:
        """Take what no log has: the features of then had nothing to say of these devices."""
        for _, _, transfer in sorted(self._found.values(), key=lambda found: _age(found[2])):
            self._parts[partition_of(transfer.target)].take(transfer)
        for part in self._parts:
            part.commit()

    def gather(self) -> None:
        """Commit all, forget what was taken by a commit before, and see what there is."""
        for part in self._parts:
            part.commit()
        for transfer_id in self._taken:
            part, key, _ = self._found.pop(transfer_id)
            part.engine.transfers.discard([key])
        self._settled |= self._taken
        self._taken.clear()
        for part in self._parts:
            ready = part.engine.transfers.ready()
            for key, entry in ready.items():
                if isinstance(entry, Transfer) and entry.transfer_id not in self._settled:
                    self._found[entry.transfer_id] = (part, key, entry)
            # The rest is in the logs already.
            part.engine.transfers.discard(
                [key for key, entry in ready.items() if not isinstance(entry, Transfer)]
            )


def _transfer_in(payload: bytes) -> Transfer | None:
    if b"transfer" not in payload:
        return None
    try:
        entry = decode_entry(payload)
    except EntryError:
        return None
    return entry if isinstance(entry, Transfer) else None


def _age(transfer: Transfer) -> tuple[int, str]:
    return transfer.timestamp, transfer.transfer_id


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
        for key in store.columns
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

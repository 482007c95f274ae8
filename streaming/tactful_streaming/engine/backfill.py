"""Backfill: computes missing features from the log and merges them into a state.

After a change of definitions the new features are missing. A second engine, with these features
alone and a state store of its own, applies the log up to the offset of the state. Then its packed
entities are merged into the state.

The steps are :func:`adopt_definitions`, :func:`compute_to_end` or, with several partitions,
:func:`compute_together`, and :func:`merge_computed`. Each may be killed at any moment: the
computation goes on from its last commit, the others are repeated. The computation, which is long,
does not touch the state, so a server may compute the old features meanwhile; the others need the
state for themselves.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import msgspec

from tactful_streaming.contract.log_entries import Record, Transfer, decode_entry, encode_entry
from tactful_streaming.definitions.model import ENTITIES, Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import DEFAULT_OPTIONS, EngineOptions
from tactful_streaming.engine.schema_evolution import adopt, required_features
from tactful_streaming.errors import EntryError, StateError
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.state import key_layout as layout
from tactful_streaming.state.store import Change, StateStore, scan_together
from tactful_streaming.windows.entity_table import EntityTable
from tactful_streaming.windows.packed_entity import combine_packed

_BATCH = 2000
_COMMIT_EVERY = 20
_PIECE = 500
_NOTHING = msgspec.msgpack.encode({"": 0})  # packed state of an entity without aggregates


def adopt_definitions(store: StateStore, definitions: Definitions) -> layout.Meta | None:
    """Adapt the state in `store`, if any, to `definitions`; return its new head."""
    meta = layout.read_meta(store)
    if meta is None:
        return None
    adopted, gone = adopt(meta, definitions, store)
    if adopted is not meta:
        store.write([*gone, layout.write_meta(adopted)])
    return adopted


def merge_computed(store: StateStore, scratch: StateStore, definitions: Definitions) -> None:
    """Merge the features computed up to the offset of a state, and empty `scratch`."""
    meta = layout.read_meta(store)
    if meta is not None and meta.missing:
        for changes in _merged(store, scratch, definitions, meta.missing):
            store.write(changes)
        done = layout.write_meta(msgspec.structs.replace(meta, missing=[]))
        # The copy in an online store has the same offset, and lacks the new features.
        store.write([done, (layout.CHANGED_APART, b"%d" % meta.offset)])
    scratch.clear()


def compute_to_end(part: PartComputation, progress: Callable[[], None]) -> None:
    """Compute missing features of one partition; `progress` is called at times and at the end."""
    for batches in itertools.count(1):
        is_over = not part.advance()
        if is_over or batches % _COMMIT_EVERY == 0:
            part.commit()
            progress()
        if is_over:
            return


def compute_together(
    parts: Sequence[PartComputation],
    partition_of: Callable[[str], int],
    *,
    final: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Compute missing features of all partitions of a log whose devices are linked.

    The history of a device moves to another partition by a transfer in the log, which holds only
    the features of that time. A partition that reads one waits here until the partition of the
    device has computed the history anew, and uses that.

    There is one of `parts` for each partition, in order, whose options have `partition_of`. The
    logs are complete if `final`; the computations are then further than the logs afterwards, and
    cannot be continued. If not, waiting partitions are left for another call.
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
        # No partition computes it: its events are not in the log any more, or do not count.
        transfers.give_up(min((part.blocked for part in blocked if part.blocked), key=_age))
    transfers.gather()
    if final:
        transfers.deliver(partition_of)
    progress()


class PartComputation:
    """Computes the missing features of one partition from its log, batch by batch."""

    def __init__(
        self,
        log: EventLog,
        scratch: StateStore,
        definitions: Definitions,
        missing: Collection[str],
        until: int | None,
        options: EngineOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Begin, or continue `scratch`, up to offset `until`; None: the end of a finite log."""
        wanted = required_features(definitions, missing)
        meta = layout.read_meta(scratch)
        other = meta is not None and meta.fingerprint != wanted.fingerprint
        options = replace(options, rebuild=other, also_reads=definitions.features)
        self.engine = Engine(wanted, scratch, options)
        if until is not None and self.engine.offset > until:
            raise StateError(
                f"the backfill has read the log up to offset {self.engine.offset}, the state only "
                f"up to {until}: start the engine, so that it catches up, or empty the backfill's "
                "own state"
            )
        # The transfer that it waits for; None if there is none.
        self.blocked: Transfer | None = None
        self._log = log
        self._until = until
        self._committed = self.engine.offset
        self.position = max(self.engine.offset, log.begin)  # next offset to read

    def advance(self, find: Callable[[Transfer], Transfer | None] | None = None) -> bool:
        """Apply some records; return whether there were any; StateError if the log ends too early.

        `find` returns the new version of a transfer, or None if it is not computed yet; without it
        all are applied as they are.
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
                f"restore it from a backup, or {layout.REBUILD}"
            )
        # Offsets in Kafka have gaps, so there may be records beyond `until`.
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
        """Apply a transfer as if it were the next record of the log."""
        self.engine.apply([(self.position, encode_entry(transfer, "json"))])
        self.position += 1

    def commit(self) -> None:
        """Commit, if anything was applied since the last commit."""
        if self.engine.offset != self._committed:
            self.engine.commit()
            self._committed = self.engine.offset

    def _replaced(
        self, records: list[Record], find: Callable[[Transfer], Transfer | None]
    ) -> list[Record]:
        """Return the records up to the first transfer that is not computed yet."""
        replaced: list[Record] = []
        for offset, payload in records:
            transfer = _transfer_in(payload)
            if transfer is not None:
                computed = find(transfer)
                if computed is None:
                    self.blocked = transfer
                    break
                payload = encode_entry(computed, "json")
            replaced.append((offset, payload))
        return replaced


class _Transfers:
    """Histories of devices, computed anew by the partitions of the devices."""

    def __init__(self, parts: Sequence[PartComputation]) -> None:
        self._parts = parts
        self._computed: dict[str, tuple[PartComputation, bytes, Transfer]] = {}
        self._taken: set[str] = set()
        self._settled: set[str] = set()
        self.gather()

    def has(self, transfer: Transfer) -> bool:
        return transfer.transfer_id in self._computed or transfer.transfer_id in self._settled

    def find(self, transfer: Transfer) -> Transfer | None:
        if transfer.transfer_id in self._settled:
            return transfer  # a repeated one counts once
        computed = self._computed.get(transfer.transfer_id)
        if computed is None:
            return None
        self._taken.add(transfer.transfer_id)
        return computed[2]

    def give_up(self, transfer: Transfer) -> None:
        self._settled.add(transfer.transfer_id)

    def deliver(self, partition_of: Callable[[str], int]) -> None:
        """Apply the transfers that no log has, of devices without features at that time."""
        for transfer in sorted((transfer for _, _, transfer in self._computed.values()), key=_age):
            self._parts[partition_of(transfer.target)].take(transfer)
        for part in self._parts:
            part.commit()

    def gather(self) -> None:
        """Commit all partitions, discard used transfers, and collect new ones."""
        for part in self._parts:
            part.commit()
        for transfer_id in self._taken:
            part, key, _ = self._computed.pop(transfer_id)
            part.engine.transfers.discard([key])
        self._settled |= self._taken
        self._taken.clear()
        for part in self._parts:
            ready = part.engine.transfers.ready()
            for key, entry in ready.items():
                if isinstance(entry, Transfer) and entry.transfer_id not in self._settled:
                    self._computed[entry.transfer_id] = (part, key, entry)
            # The other entries are in the logs already.
            others = [key for key, entry in ready.items() if not isinstance(entry, Transfer)]
            part.engine.transfers.discard(others)


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
    """Yield, in pieces, the changes that merge the features; they may be repeated.

    Columns of the state under the same keys are replaced, also by nothing: they may be left from
    before a feature was dropped.
    """
    for entity in ENTITIES:
        keys = _keys(definitions, entity, missing)
        if not keys:
            continue
        piece: list[Change] = []
        for key, blobs in scan_together((store, scratch), layout.entity_prefix(entity)):
            kept, computed = (dict(blobs).get(number) for number in range(2))
            piece.append((key, combine_packed(kept, computed or _NOTHING, keys)))
            if len(piece) == _PIECE:
                yield piece
                piece = []
        yield piece
    yield list(scratch.scan(layout.VERSIONS))


def _keys(definitions: Definitions, entity: str, missing: Collection[str]) -> set[str]:
    """Return the column keys of the aggregates that missing features share."""
    return {
        key
        for store in EntityTable(definitions.of_entity(entity)).aggregates
        if any(feature.name in missing for feature in store.features)
        for key in store.columns
    }

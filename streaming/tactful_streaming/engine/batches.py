"""Application of a batch to the tables, operators and histories of an engine."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tactful_streaming.arrays import Rows
from tactful_streaming.contract.log_entries import Record, Transfer, payloads_of
from tactful_streaming.engine.admission import AdmittedBatch
from tactful_streaming.engine.engine_state import EngineState
from tactful_streaming.engine.options import LateEvent
from tactful_streaming.engine.selection import Batch, Columns, entity_source
from tactful_streaming.identity.resolver import Move
from tactful_streaming.kernels.pane_counts import load_count_panes
from tactful_streaming.log.dead_letters import DeadLetter
from tactful_streaming.patterns.match import action_of, former_id
from tactful_streaming.windows.entity_table import EntityTable
from tactful_streaming.windows.triggers import BatchSplitter, WindowResult

_logger = logging.getLogger(__name__)

_Selected = tuple[EntityTable, str, int, Rows, Rows]
"""A table, its entity, an aggregate's number, the rows of all events, and those that count."""


@dataclass(frozen=True)
class Applied:
    """Counts of a batch of records."""

    applied: int = 0  # events, upserts and ticks counted
    duplicates: int = 0  # events whose id had been applied before
    # Times an event was dropped from a feature because its last window had ended, or from a
    # sequence or join that could not wait for it.
    late: int = 0
    # Records that are no entry, or an event (but an impression) without user and device.
    invalid: int = 0
    # Groups dropped to keep an entity within ``max_groups``, and partial matches dropped to keep
    # their number bounded.
    evicted: int = 0
    dropped: int = 0  # events that the cleaner kept back


class BatchApplier:
    """Applies batches to a state, in memory.

    A batch is split twice, so that the result does not depend on its borders::

        events    e0 e1 e2 | e3 e4 | e5 …      where histories move (`_parts`)
        a part    e0 | e1 e2                   where windows end (`BatchSplitter`)
    """

    def __init__(self, state: EngineState) -> None:
        """Apply to `state`."""
        self._state = state
        load_count_panes()  # or the first batch would wait for it
        emits = state.options.on_results is not None
        self._splitter = BatchSplitter(
            state.definitions.features if emits else (), state.options.allowed_lateness_ms
        )

    def apply(self, records: Sequence[Record]) -> Generator[None, None, Applied]:
        """Count log records, none of which was applied before; return the counts.

        It yields after each portion of the results of windows. Until it has returned, the state is
        that of a part of the batch.
        """
        state = self._state
        before = state.watermark
        admitted = state.admission.admit(payloads_of(records))
        if records:
            state.offset = records[-1][0] + 1
        self._update_descriptions(admitted)
        self._report_rejected(admitted, records)
        if len(state.outbox):
            state.outbox.discard({event_id.encode() for event_id in admitted.ids})
        if state.resolver is not None:
            for entry in state.resolver.take_leaving():
                state.transfers.append(entry)
        admitted.moves = self._needed_moves(admitted)
        late: dict[str, list[int]] = {}
        evicted = -sum(operator.evicted for operator in state.operators)
        missed = -sum(operator.late for operator in state.operators)
        for part, begin, items, moves in _parts(admitted):
            for move in moves:
                self._move(move)
            columns = Columns(state.plan, state.projection, part, before)
            evicted += yield from self._aggregate(columns, before, begin, late)
            self._match(columns, admitted, items)
            if part.events:
                before = int(part.watermarks[-1])
        evicted += sum(operator.evicted for operator in state.operators)
        missed += sum(operator.late for operator in state.operators)
        self._report_late(late, admitted, records)
        return Applied(
            applied=len(admitted.batch.events) + len(admitted.items) + len(admitted.users),
            duplicates=admitted.duplicates,
            late=missed + sum(map(len, late.values())),
            invalid=admitted.invalid,
            evicted=evicted,
            dropped=admitted.dropped,
        )

    def _update_descriptions(self, admitted: AdmittedBatch) -> None:
        state = self._state
        item_ids = [item.item_id for item in admitted.items]
        state.dirty_items.update(item_ids)
        state.latest_items.extend(item_ids)
        state.items_version += len(item_ids)
        for user in admitted.users:
            state.users.update(user)

    def _aggregate(
        self, columns: Columns, before: int, begin: int, late: dict[str, list[int]]
    ) -> Generator[None, None, int]:
        """Count a part of a batch, and emit the windows that end; return the evicted groups.

        The part begins at position `begin` of the batch, with the watermark `before` it. `late`
        gets, by feature, the positions of events that came too late for it.
        """
        state, batch, evicted = self._state, columns.batch, 0
        if not batch.events:
            return evicted
        selected = self._select(columns)
        pieces = [(0, len(batch.events))]
        if self._splitter.has_windows:
            pieces = self._splitter.split(columns.timestamps, batch.watermarks, before)
        results: list[WindowResult] = []
        for first, end in pieces:
            for table, entity, number, rows, chosen in selected:
                if len(pieces) > 1:
                    chosen = chosen[slice(*np.searchsorted(chosen, (first, end)))]
                    if not len(chosen):
                        continue
                outcome = table.apply(number, columns.selection(entity, number, rows, chosen))
                evicted += outcome.evicted
                for name, positions in outcome.late_by.items():
                    late.setdefault(name, []).extend((begin + chosen[positions]).tolist())
            if self._splitter.has_windows:
                reached = int(batch.watermarks[end - 1])
                yield from self._emit(before, reached, results)
                before = reached
        horizon = max(int(batch.watermarks[-1]) - state.options.allowed_lateness_ms, 0)
        for table in state.tables.values():
            table.expire(horizon)
        if results and state.options.on_results is not None:
            state.options.on_results(results)
        return evicted

    def _select(self, columns: Columns) -> list[_Selected]:
        """Find the row of each event, and the events that count for each aggregate."""
        state, selected = self._state, list[_Selected]()
        for entity, table in state.tables.items():
            keys = columns.keys(entity)
            if (tracked := state.options.tracked.get(entity)) is not None:
                keys = [key if key in tracked else None for key in keys]
            rows = table.touch(keys, columns.timestamps)
            for number in range(len(table.aggregates)):
                chosen = columns.select(entity, number, rows)
                if len(chosen):
                    selected.append((table, entity, number, rows, chosen))
        if "session" in state.tables and "session" not in state.options.tracked:
            for session, user in zip(columns.texts("session_id"), columns.batch.users, strict=True):
                if session is not None and user is not None:
                    state.owners[session] = user
        return selected

    def _emit(
        self, before: int, reached: int, results: list[WindowResult]
    ) -> Generator[None, None, None]:
        """Add the results of the windows that end to `results`, and pass on whole portions."""
        options = self._state.options
        most, emit = options.portion_rows, options.on_results
        rows = sum(len(result.keys) for result in results)
        for table in self._state.tables.values():
            for result in table.emit(before, reached, most):
                results.append(result)
                rows += len(result.keys)
                if rows >= most and emit is not None:
                    emit([*results])
                    results.clear()
                    rows = 0
                    yield

    def _needed_moves(self, admitted: AdmittedBatch) -> list[tuple[int, int, Move]]:
        """Select the moves of existing histories: each of them splits the batch."""
        if not admitted.moves:
            return []
        keys = set(admitted.batch.users)
        needed = []
        for place, items, move in admitted.moves:
            arrives = move.state is not None
            if arrives or move.source in keys or self._state.profiles.may_hold(move.source):
                keys.add(move.target)  # may move on within the batch
                needed.append((place, items, move))
        return needed

    def _move(self, move: Move) -> None:
        """Merge the history of one key into that of another, here or in its partition."""
        profiles = self._state.profiles
        if move.transfer_id is not None:
            packed = profiles.detach(move.source)
            if packed is not None:
                transfer = Transfer(
                    transfer_id=move.transfer_id,
                    timestamp=move.timestamp,
                    source=move.source,
                    target=move.target,
                    state=packed,
                )
                self._state.transfers.append(transfer)
            return
        if move.state is not None:
            profiles.attach(move.source, move.state)
        profiles.merge(move.source, move.target)

    def _match(self, columns: Columns, admitted: AdmittedBatch, items: slice) -> None:
        """Advance the sequences and joins, and add their actions to the outbox."""
        state, batch, matches = self._state, columns.batch, []
        updates = admitted.items[items]
        watermarks = np.array(admitted.item_watermarks[items], np.int64)
        for operator in state.operators:
            if updates:
                operator.apply_items(updates, watermarks)
            if batch.events:
                keys = columns.texts(entity_source(operator.entity))
                operator.apply(batch.events, keys, batch.watermarks, columns.texts)
            matches += operator.take()
        for match in matches:
            if (type_ := state.emitted.get(match.name)) and (action := action_of(match, type_)):
                former = former_id(match)
                if not state.dedupe.seen(former, state.watermark):
                    state.outbox.add(action.event_id.encode(), action, former.encode())
        if matches and state.options.on_match is not None:
            state.options.on_match(matches)

    def _report_late(
        self, late: Mapping[str, Sequence[int]], admitted: AdmittedBatch, records: Sequence[Record]
    ) -> None:
        options = self._state.options
        if not late or options.on_late is None:
            return
        features: dict[int, list[str]] = {}
        for name, positions in late.items():
            for position in positions:
                if admitted.positions is not None:
                    position = admitted.positions[position]
                features.setdefault(position, []).append(name)
        events: list[LateEvent] = []
        for position, names in sorted(features.items()):
            offset, payload = records[position]
            events.append(LateEvent(payload, tuple(names), options.partition, offset))
        options.on_late(events)

    def _report_rejected(self, admitted: AdmittedBatch, records: Sequence[Record]) -> None:
        options = self._state.options
        if admitted.invalid:
            _logger.warning(
                "skipped log records that are no valid entry, before offset %d", self._state.offset
            )
        if admitted.rejected and options.on_dead_letter is not None:
            options.on_dead_letter(
                [
                    DeadLetter(
                        payload=records[rejected.position][1],
                        rule=rejected.rule,
                        reason=rejected.reason,
                        partition=options.partition,
                        offset=records[rejected.position][0],
                    )
                    for rejected in admitted.rejected
                ]
            )


def _parts(admitted: AdmittedBatch) -> Iterator[tuple[Batch, int, slice, list[Move]]]:
    """Split an admitted batch where histories move.

    Yields events, the position of the first, the items that go with them, and the moves before
    them.
    """
    begin, first, moves = 0, 0, list[Move]()
    for place, items, move in admitted.moves:
        if (place, items) != (begin, first):
            yield admitted.batch.part(begin, place), begin, slice(first, items), moves
            begin, first, moves = place, items, []
        moves.append(move)
    rest = admitted.batch.part(begin, len(admitted.batch.events))
    yield rest, begin, slice(first, len(admitted.items)), moves

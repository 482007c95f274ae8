"""The embedded engine, which computes features from a log and stores its state.

``apply`` counts a micro-batch in memory; ``commit`` writes every entity it touched, the catalogue,
the snapshots of co-committed consumers, the event ids and the log offset in one batch of the state
store. After a crash the engine opens at the offset last committed and applies the log again from
there, so each event is counted once.

The results follow from the log alone, never from its division into batches.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from tactful_streaming.contract.log_entries import Entry, Event, Record, from_offset
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.batches import Applied, BatchApplier
from tactful_streaming.engine.commits import EngineCommits
from tactful_streaming.engine.engine_state import EngineState
from tactful_streaming.engine.erasure import EngineErasure
from tactful_streaming.engine.options import DEFAULT_OPTIONS, EngineOptions
from tactful_streaming.engine.outbox import Outbox
from tactful_streaming.engine.reads import EngineReads
from tactful_streaming.state.key_layout import ENTITY
from tactful_streaming.state.store import Change, StateStore


class Engine(EngineReads):
    """Computes features from the log.

    One thread applies and commits; readers are kept away while it applies, by a lock of the caller.

    ::

        log → apply → EngineState (memory) → commit → state store
                          ↑ reads                ↓ outbox, transfers → log

    >>> from tactful_streaming import Event, MemoryState, encode_entry, load_definitions
    >>> definitions = load_definitions(
    ...     "- {name: views, entity: user, event: view, aggregate: count, window: {size: 5m}}"
    ... )
    >>> engine = Engine(definitions, MemoryState())
    >>> event = Event(event_id="e1", type="view", timestamp=60_000, user_id="ada", item_id="tea")
    >>> engine.apply([(0, encode_entry(event))]).applied
    1
    >>> engine.commit()
    >>> engine.read("user", "ada", at=60_000)
    {'views': 1.0}

    Attributes:
        erasure: deletes users from state and memory.
        transfers: committed entries for other partitions. The caller appends each to the partition
            that ``partition_of`` gives for its :func:`~tactful_streaming.route_key`, in order, and
            discards it. A repeated append is harmless: the entry counts once.
    """

    def __init__(
        self, definitions: Definitions, store: StateStore, options: EngineOptions = DEFAULT_OPTIONS
    ) -> None:
        """Open the state in `store`, or begin at offset 0.

        The state of other definitions is taken over as far as they agree; :attr:`missing` names the
        features that are still to be computed from the log. The store is closed with the engine.

        Raises:
            StateError: if the state is damaged or of another version.
        """
        state = EngineState(definitions, store, options)
        commits = EngineCommits(state)
        commits.restore()
        self._use(state, commits)

    def _use(self, state: EngineState, commits: EngineCommits) -> None:
        super().__init__(state)
        self._applier = BatchApplier(state)
        self._commits = commits
        self.erasure = EngineErasure(state, commits)
        self.transfers: Outbox[Entry] = state.transfers

    @property
    def nbytes(self) -> int:
        """Approximate memory of the state of entities."""
        return sum(table.nbytes for table in self._state.tables.values())

    @property
    def horizon(self) -> int:
        """Windows that ended up to here are closed for good, epoch milliseconds."""
        return self._state.horizon

    def seen(self, key: str, at: int | None = None, *, former: str | None = None) -> bool:
        """Whether an event of this :func:`event_key` was applied and is still remembered.

        `at` is the time of receipt of the event that asks, by default the watermark; `former` is
        its key in logs of earlier versions, which did not record the sender.
        """
        return key in self.seen_many([key], at, former=[] if former is None else [former])

    def seen_many(
        self, keys: Sequence[str], at: int | None = None, *, former: Sequence[str] = ()
    ) -> set[str]:
        """Return those of several events for which :meth:`seen` is true.

        `former` holds as many former keys, or none.
        """
        return self._state.admission.seen(keys, at, former)

    def apply(self, records: Sequence[Record]) -> Applied:
        """Count log records, in memory only; those below :attr:`offset` are skipped.

        An error of a consumer leaves the memory half changed: the engine then refuses to go on, and
        opening it again continues from the last commit.
        """
        portions = self.apply_in_portions(records)
        while True:
            try:
                next(portions)
            except StopIteration as end:
                applied: Applied = end.value
                return applied

    def apply_in_portions(self, records: Sequence[Record]) -> Generator[None, None, Applied]:
        """Like :meth:`apply`, but yield after each portion of the results of windows.

        Other work is possible between two portions. The engine refuses to commit or apply anything
        else until all of them were read: its state belongs to a part of the batch.
        """
        self._state.check_usable()
        self._state.broken = True
        self._limit_memory(len(records))
        applied = yield from self._applier.apply(from_offset(records, self.offset))
        self._state.broken = False
        return applied

    def publish(self) -> None:
        """Copy the changes to the online store, before the next commit makes them durable.

        The copy can never turn out to be wrong: after a crash the log gives the same values again.
        Until the state has caught up with the copy, its owner leaves the copy as it is
        (:class:`~tactful_streaming.PartitionView`). This needs a log that outlives the process, and
        a store that keeps the writes since the last commit, should it have to be filled again
        (:meth:`WriteBehind.committed`). Without an online store nothing happens.
        """
        self._commits.publish()

    def commit(self) -> None:
        """Write all changes since the last commit, with the offset, atomically.

        It changes nothing that a reader sees, so readers need not be kept away.

        Raises:
            StateError: if the write failed, as with a full disk. Nothing is lost: the next commit
                writes it.
        """
        self._commits.commit()

    def adopt(
        self,
        changes: Sequence[Change],
        *,
        consumers: Collection[str] = (),
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        """Commit, write changes that another computation found, and read the state again.

        They are those of :func:`~tactful_streaming.engine.recompute.changes_to`, up to the same
        offset; they are written at once. The new state is read while readers use the old one,
        which takes its memory twice; `lock` is held, briefly, for the exchange. `consumers` are
        restored from their stored snapshots, the others go on. After a StateError call it again.
        """
        old = self._state
        self._commits.commit()
        old.store.write(changes)
        state = EngineState(old.definitions, old.store, replace(old.options, rebuild=False))
        state.outbox, state.transfers = old.outbox, old.transfers  # some were sent, not read yet
        commits = EngineCommits(state)
        if state.mirror is not None:
            for key, blob in changes:
                if key.startswith(ENTITY):
                    kind, _, name = key[len(ENTITY) :].decode().partition(":")
                    state.mirror.put(kind, {name: blob})
        commits.restore(consumers=False)
        chosen = {name: state.options.consumers[name] for name in consumers}
        with nullcontext() if lock is None else lock:
            commits.restore_consumers(consumers, chosen)
            self._use(state, commits)

    def outbox(self) -> list[Event]:
        """Return actions that are committed and, as far as is known, not in the log yet.

        Once the log has been applied to its end, the caller appends them to the log and calls
        :meth:`sent`; the engine removes them when it reads them there. So each is in the log once,
        after any crash.
        """
        return list(self._state.outbox.ready().values())

    def sent(self, actions: Iterable[Event]) -> None:
        """Note that actions were appended to the log; :meth:`outbox` leaves them out."""
        self._state.outbox.mark_sent(action.event_id.encode() for action in actions)

    def drop(self, actions: Iterable[Event]) -> None:
        """Discard actions of :meth:`outbox`: the next commit deletes them."""
        self._state.outbox.discard({action.event_id.encode() for action in actions})

    def next_timer(self) -> int | None:
        """Return the earliest watermark at which a window, sequence or join is due.

        When the log is idle and the clock has come that far (plus the watermark's delay), a
        :class:`~tactful_streaming.Tick` in the log triggers it.
        """
        timers = [operator.next_timer() for operator in self._state.operators]
        timers += [table.next_pending(self.watermark) for table in self._state.tables.values()]
        return min((timer for timer in timers if timer is not None), default=None)

    def close(self) -> None:
        """Close the store. Uncommitted records are applied again after the next opening."""
        self._state.broken = True
        self._state.store.close()

    def _limit_memory(self, records: int) -> None:
        """Remove entities from memory if they take too much; the store has them."""
        cap, tables = self._state.cap, self._state.tables
        if cap is None or self._commits.has_failed or not cap.is_due(records):
            return
        sizes = {entity: table.nbytes for entity, table in tables.items()}
        spilling = {entity: size for entity, size in sizes.items() if tables[entity].may_spill}
        total = sum(spilling.values())
        limit = cap.allowance(total, sum(sizes.values()) - total)
        if limit is not None and total:
            for entity, size in spilling.items():
                tables[entity].shrink(size * limit // total)

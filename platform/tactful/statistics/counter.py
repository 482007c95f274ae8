"""Count events for private statistics inside the engine, and release closed panes at commits.

The bounded counts are a co-committed consumer of the engine, so a user's spent contributions commit
with the log offset and survive a crash. Before that commit, closed panes are noised and stored in
the ledger: if the process dies in between, the replayed panes meet their stored release and nothing
is drawn twice.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import msgspec

from tactful.statistics.definitions import StatisticDefinition
from tactful.statistics.ledger_view import day_of
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.heavy_hitters import BoundedKeys, KeysPublisher
from tactful_privacy.counting.publisher import Publisher, check_delta
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.errors import LedgerFencedError, StateError
from tactful_privacy.ledger.ledger import DayClaim, Ledger
from tactful_privacy.ledger.statistic import FOUND_KEYS, Statistic
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Event, Item
from tactful_streaming.engine.options import CoCommittedConsumer

logger = logging.getLogger(__name__)

CLOCK_EVENT = "x.clock"
"""Type of the events by which a replay sets the time of the statistics."""

DAY_MS = 86_400_000

ALLOWANCE_MS = 60_000
"""A pane stays open for so long after its end."""

_ON_THE_WAY_MS = 2_000
"""Longest time from the receipt of an event to its write, for which panes stay open longer."""

NOT_BEFORE = "statistics.not-before"
"""File that a restore leaves in the data directory: when counting may begin, epoch milliseconds."""

CONSUMER = "statistics"
"""Name of the counts among the consumers of the engine."""

CHANGES = f"{CONSUMER}.changes"
"""Name of their changes since the last snapshot."""

_FEW = 1_000
"""So many changed entries are never worth a whole snapshot."""

_LOOK_S = 1.0  # pause between two looks into the ledger at the releases of another server

_INCOMPLETE = (
    "the stored statistics are a snapshot without what changed since, so the day's caps are lost:"
    " restore the state as a whole, or compute it again with `tactful serve --rebuild`"
)

_Track = tuple[BoundedCounts, Publisher] | tuple[BoundedKeys, KeysPublisher]
"""The counts of a statistic, and their publisher."""


class StatisticsCounter(CoCommittedConsumer):
    """Counts events for the published statistics, and releases panes that are over.

    Panes are closed by a public clock, never by users' events. In service it is the wall clock,
    and panes close on time whether or not anything happened. A replay of old data has its own
    clock: `x.clock` events in the replayed log.

    A pane is over for an event by the logged time of its receipt: neither the commit that closes
    it, which may be due to another user's event, nor a queue of other users' events before it
    decides. A pane is closed once all events are applied that were received before it was over,
    see `applied_until`. An event without a time of receipt (an earlier version's) is judged by the
    clock when it is applied. Late events are not counted, but charge their user.

    ```text
    statistic   counts (by user and pane)   publisher (panes, periods, totals → ledger)
    views       BoundedCounts               Publisher
    searches    BoundedKeys                 KeysPublisher
    ```

    Several servers that count one log into one ledger (`shared`) release under a lease, see
    `share`. The others close a pane, and drop its counts, once it is in the ledger. Their counts of
    a user are the same, as they depend on the user's own events alone; where the descriptions of
    items decide, too, a UTC day belongs to the server that released its first pane
    (`tactful_privacy.ledger.fencing`).

    Unit of privacy, guarantee and assumptions: `tactful_privacy.Statistic`.
    """

    purpose = Purpose.MEASUREMENT
    independent = True

    def __init__(
        self,
        definitions: Sequence[StatisticDefinition],
        ledger: Ledger,
        *,
        secret: bytes,  # keys the hash of users; the same for as long as the state is kept
        # now in epoch milliseconds, or None to follow `x.clock` events
        clock: Callable[[], int] | None,
        allowance_ms: int = ALLOWANCE_MS,  # time for which a pane stays open after its end
        # nothing is counted of panes before this time, epoch milliseconds, where counting begins
        # anew: a restored ledger may lack releases of them. It holds for a replay as well, whose
        # days are mostly older.
        not_before: int = 0,
        # whether other servers count the same log into this ledger; `share` is called then
        shared: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Register the statistics; `PrivacyError` if the day's budget does not allow them."""
        self.means = [it for it in definitions if it.aggregate == "mean"]
        self.definitions = tuple(part for it in definitions for part in it.parts())
        self.ledger = ledger
        self._secret = secret
        self._clock = clock
        self.allowance = allowance_ms
        self._not_before = not_before
        self.shared = shared
        self._monotonic = monotonic
        self._looked: dict[str, tuple[float, int]] = {}  # by name: last look, end of the releases
        self.identity = hashlib.sha256(b"counter" + secret).hexdigest()[:32]
        self._claims = {
            it.name: DayClaim(it.name, self.identity) for it in self.definitions if it.reads_items
        }
        if shared:
            ledger.fence = lambda: None  # until `share`
        # Time before which all accepted events are applied, epoch milliseconds; None: now
        self.applied_until: Callable[[], int] | None = None
        self._replayed = 0
        self._tracks: dict[str, _Track] = {}
        self.changes: StatisticsChanges | None = None  # stores changes since the last snapshot
        self._packed: tuple[bytes | None, bytes | None] = None, None  # snapshot, changes
        self._whole = False  # whether there is a snapshot that changes can belong to
        self._awaits = False  # whether changes that belong to what was restored are missing
        self._written = 0  # entries that all changes since the last snapshot have written
        released = {definition.name: definition.statistics() for definition in self.definitions}
        # By name of the definition: the statistic of its panes; its longer periods and totals.
        self.bases = {name: statistics[0] for name, statistics in released.items()}
        self.further = {name: statistics[1:] for name, statistics in released.items()}
        # Queries about days that are over do not block a statistic that begins today.
        first_day = 0 if clock is None else day_of(clock())
        for statistic in (it for statistics in released.values() for it in statistics):
            if statistic.kind != FOUND_KEYS:
                check_delta(statistic)
        ledger.register_all(
            [statistic for statistics in released.values() for statistic in statistics],
            first_day=first_day,
        )

    def share(self, fence: Callable[[], int | None]) -> None:
        """Release while `fence` returns one: that of the lease, while this server holds it."""
        self.ledger.fence = fence

    @property
    def wall(self) -> bool:
        """Whether the wall clock closes panes, and not `x.clock` events."""
        return self._clock is not None

    @property
    def now(self) -> int:
        """The public clock that closes panes, epoch milliseconds; 0 before its first event."""
        return self._replayed if self._clock is None else self._clock()

    def consumers(self) -> dict[str, CoCommittedConsumer]:
        """Return the consumers for the engine by name: the counts, and the changes of them.

        A commit then writes the changes since the last snapshot, and a whole snapshot only now and
        then. Both are in the write of the offset. The engine calls them in this order.
        """
        self.changes = StatisticsChanges(self)
        return {CONSUMER: self, CHANGES: self.changes}

    def apply(self, event: Event, item: Item | None) -> None:
        """Count one event for every statistic it belongs to."""
        if self._awaits:
            raise StateError(_INCOMPLETE)
        self._packed = None, None
        if self._clock is None and event.type == CLOCK_EVENT:
            self._replayed = max(self._replayed, event.timestamp)
            return
        unit = _unit(event)
        if unit is None or not self._begun():
            return
        received = None if self._clock is None else event.received_at
        watermark = self._over_at(self.now if received is None else received)
        for definition in self.definitions:
            if (key := definition.key(event, item)) is None:
                continue
            counts, _ = self._tracks[definition.name]
            if (amounts := counts.statistic.amounts) is None:
                counts.add(unit, event.timestamp, key, watermark=watermark)
            elif isinstance(counts, BoundedCounts):
                number = definition.number(event, item) or 0.0
                steps = amounts.steps(number)
                counts.add(unit, event.timestamp, key, watermark=watermark, amount=steps)

    def delete_users(self, keys: Collection[str]) -> None:
        """Delete the found keys of users, by the keys of their histories."""
        units = _units(keys)
        for counts, _ in self._tracks.values():
            if isinstance(counts, BoundedKeys):
                counts.erase(units)

    def before_commit(self) -> None:
        """Release the panes that are due into the ledger, and pack the state for the commit.

        A whole snapshot is packed where changes would cost more, and where nothing stores them.
        """
        self._packed = None, None
        if self._awaits:
            raise StateError(_INCOMPLETE)
        if not self._begun():
            return
        for name in self._tracks:
            self._release(name, self._over_at(self._reached()))
        if not any(counts.changed for counts, _ in self._tracks.values()):
            return
        whole = None
        if self.changes is None or not self._is_little():
            whole, self._whole, self._written = self._pack(), True, 0
        self._packed = whole, None if self.changes is None else self._pack_changes()

    def _release(self, name: str, until: int) -> None:
        """Release the panes that are due, or drop them where another server releases them."""
        counts, publisher = self._tracks[name]
        if not self.shared:
            publisher.store(until)
            return
        claim, fence = self._claims.get(name), self.ledger.fence
        if fence is None or fence() is None:
            day = counts.open_from // DAY_MS
            if counts.open_from >= until:
                return
            if claim is None or not self.ledger.owns_day(claim, day):
                publisher.follow(min(until, self._followed(name)))
                return
            until = min(until, (day + 1) * DAY_MS)
        try:
            publisher.store(until, claim=claim)
        except LedgerFencedError:
            logger.warning("another server publishes the statistic %s now", name)
            publisher.drop_due()

    def _followed(self, name: str) -> int:
        """Return the end of the panes that another server has released, with longer periods."""
        looked, until = self._looked.get(name, (-_LOOK_S, 0))
        if (now := self._monotonic()) - looked < _LOOK_S:
            return until
        base, last = self.bases[name], self.ledger.last_pane(name)
        until = 0 if last is None else base.end_of(last)
        for longer in self.further[name]:
            newest = self.ledger.last_pane(longer.name)
            released = 0 if newest is None else longer.end_of(newest)
            if longer.start_of(until) > released:  # a period that is over waits for its release
                begun = max(released, longer.start_of(self._tracks[name][0].open_from))
                until = min(until, longer.end_of(begun) - base.pane_ms)
        self._looked[name] = now, until
        return until

    def snapshot(self) -> bytes | None:
        """Return the state that `before_commit` packed; None where it packed at most changes."""
        return self._packed[0]

    @property
    def packed_changes(self) -> bytes | None:
        """The changes that `before_commit` packed; None where there are none."""
        return self._packed[1]

    def restore(self, state: bytes) -> None:
        """Continue from a snapshot.

        One that is damaged, or of another definition or secret, raises StateError, as does a ledger
        that lacks releases that were made by then.
        """
        stored = msgspec.msgpack.decode(state, type=_State)
        self._replayed = stored.replayed
        self._awaits = stored.has_changes
        for name, snapshot in stored.counts.items():
            if name in self.bases:
                counts, publisher = self._begin(name, start=0)
                counts.restore(snapshot)
                self._refuse_older_ledger(counts)
                if name in stored.sums:
                    publisher.restore(stored.sums[name])

    def restore_changes(self, state: bytes) -> None:
        """Continue from packed changes, after `restore`; `StateError` for other changes."""
        stored = msgspec.msgpack.decode(state, type=_Changes)
        # The snapshot keeps a statistic that is not published any more without its later changes:
        # published again, it would hand out those contributions a second time.
        self._awaits, self._whole = False, stored.counts.keys() <= self.bases.keys()
        self._replayed = stored.replayed
        for name, changes in stored.counts.items():
            if name not in self.bases:
                continue
            if name not in self._tracks:
                raise StateError(_INCOMPLETE)
            counts, publisher = self._tracks[name]
            if isinstance(counts, BoundedCounts):
                counts.restore_changes(changes)
            else:
                counts.restore(changes)
            self._refuse_older_ledger(counts)
            publisher.restore(stored.sums[name])

    def _pack(self) -> bytes:
        counts = {name: counts.snapshot() for name, (counts, _) in self._tracks.items()}
        state = _State(self._replayed, counts, self._pack_sums(), self.changes is not None)
        return msgspec.msgpack.encode(state)

    def _pack_changes(self) -> bytes:
        changes = {
            name: counts.changes() if isinstance(counts, BoundedCounts) else counts.snapshot()
            for name, (counts, _) in self._tracks.items()
        }
        return msgspec.msgpack.encode(_Changes(self._replayed, changes, self._pack_sums()))

    def _pack_sums(self) -> dict[str, bytes]:
        return {name: publisher.snapshot() for name, (_, publisher) in self._tracks.items()}

    def _is_little(self) -> bool:
        """Return whether to write only the changes.

        Changes are written again with each commit, and each time there are more of them. They go on
        until they have cost as much as a snapshot: then neither wastes more than the other would.
        """
        if not self._whole or self._tracks.keys() != self.bases.keys():
            return False
        bounded = [it for it, _ in self._tracks.values() if isinstance(it, BoundedCounts)]
        changed = sum(counts.entries_changed for counts in bounded)
        if changed > _FEW and self._written + changed > sum(counts.entries for counts in bounded):
            return False
        self._written += changed
        return True

    def _over_at(self, time: int) -> int:
        """Return the time before which panes are over at a time of the public clock."""
        return max(0, time - self.allowance)

    def _reached(self) -> int:
        """Return the time of the public clock up to which all received events are applied."""
        if self._clock is None or self.applied_until is None:
            return self.now
        return min(self.now, self.applied_until() - _ON_THE_WAY_MS)

    def _begun(self) -> bool:
        """Return whether counting has begun; it begins with the first time of the clock."""
        if len(self._tracks) == len(self.bases):  # asked for each event
            return bool(self._tracks)
        missing = self.bases.keys() - self._tracks.keys()
        if missing and self.now:
            for name in missing:
                self._begin(name, start=self._first_pane(name))
            self._whole = False  # they are in no snapshot
        return bool(self._tracks)

    def _first_pane(self, name: str) -> int:
        """Return now, or the next UTC day if panes were released before and their caps are lost.

        The clock may have been set back: the day of the newest release counts, too.
        """
        now, last = self.now, self.ledger.last_pane(name)
        begins = now
        if last is not None:
            begins = (day_of(max(now, self.bases[name].end_of(last) - 1)) + 1) * DAY_MS
        if begins < self._not_before and self._clock is None:
            logger.warning(
                "the statistic %s counts nothing of days before the restore, which may have been"
                " released: a replay of them is not published. If the ledger is the latest one,"
                " remove %s from the data directory before the start",
                name,
                NOT_BEFORE,
            )
        return max(begins, self._not_before)

    def _refuse_older_ledger(self, counts: BoundedCounts | BoundedKeys) -> None:
        closed, statistic = counts.closed_until, counts.statistic
        if closed is None:
            return
        last = self.ledger.last_pane(statistic.name)
        if self.shared:
            # The rest of a day that belongs to a server which is gone is released by nobody.
            closed -= DAY_MS if statistic.period is None else closed
        if (last is None and closed > 0) or (last is not None and statistic.end_of(last) < closed):
            raise StateError(
                f"the ledger does not hold all releases of {statistic.name!r} that were made: it is"
                " an older copy or another one, and would draw them a second time. Put the latest"
                " ledger in its place"
            )

    def _begin(self, name: str, *, start: int) -> _Track:
        base = self.bases[name]
        if base.kind == FOUND_KEYS:
            keys = BoundedKeys(base, secret=self._secret, start=start)
            self._tracks[name] = keys, KeysPublisher(keys, self.ledger)
        else:
            counts = BoundedCounts(base, secret=self._secret, start=start)
            publisher = Publisher(counts, self.ledger, further=self.further[name])
            self._tracks[name] = counts, publisher
        return self._tracks[name]


class StatisticsChanges(CoCommittedConsumer):
    """Stores the changes of private statistics since their last snapshot."""

    purpose = Purpose.MEASUREMENT

    def __init__(self, counter: StatisticsCounter) -> None:
        """Store the changes of `counter`, which the engine calls before this."""
        self._counter = counter

    def apply(self, event: Event, item: Item | None) -> None:
        """Do nothing: the counter counts."""

    def snapshot(self) -> bytes | None:
        """Return the changes; None where there are none since the commit before."""
        return self._counter.packed_changes

    def restore(self, state: bytes) -> None:
        """Restore the changes, after the counter was restored."""
        self._counter.restore_changes(state)


def without_people(
    packed: bytes, keys: Collection[str], statistics: Iterable[Statistic], secret: bytes
) -> bytes:
    """Remove the found keys of users, by the keys of their histories, from a stored state.

    It is a snapshot, or the changes since one. Data of other than the present
    `statistics` are removed wholly: nothing will release them. StateError if it is damaged.
    """
    try:
        stored: list[Any] = msgspec.msgpack.decode(packed, type=list)
    except DECODE_ERRORS as error:
        raise StateError(f"the stored statistics are damaged: {error}") from error
    left: dict[str, bytes] = {}
    for statistic in statistics:
        if (counts := stored[1].get(statistic.name)) is None:
            continue
        left[statistic.name] = counts
        if statistic.kind == FOUND_KEYS:
            found = BoundedKeys(statistic, secret=secret, start=0)
            found.restore(counts)
            found.erase(_units(keys))
            left[statistic.name] = found.snapshot()
    stored[1] = left
    return msgspec.msgpack.encode(stored)


class _State(msgspec.Struct, array_like=True):
    """A snapshot, by name of the statistic."""

    replayed: int
    counts: dict[str, bytes]
    sums: dict[str, bytes] = {}
    has_changes: bool = False


class _Changes(msgspec.Struct, array_like=True):
    """Changes since a snapshot, by name of the statistic."""

    replayed: int
    counts: dict[str, bytes]
    sums: dict[str, bytes]


def _units(keys: Collection[str]) -> list[str]:
    """Return the units of users and devices, by the keys of their histories."""
    return [key if key.startswith(DEVICE_PREFIX) else f"user:{key}" for key in keys]


def _unit(event: Event) -> str | None:
    """Return the unit that is bounded; a user and a device of the same id are two."""
    if event.user_id is not None:
        return f"user:{event.user_id}"
    return None if event.device_id is None else f"{DEVICE_PREFIX}{event.device_id}"

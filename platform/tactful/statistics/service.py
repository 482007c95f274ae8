"""Private statistics of the platform: counted in the engine, released through the ledger.

The engine carries the bounded counts as a passenger, so a person's spent contributions commit with
the log offset and survive a crash. Closed panes are noised and stored in the ledger just before
that commit: if the process dies in between, the replayed panes meet their stored release and
nothing is drawn twice.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tactful.config.ledger_location import ledger_location
from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.recall.trending import Trends, TrendSource
from tactful.schemas.conclusion_query import CONCLUSIONS, ConclusionQuery
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.statistics import (
    Conclusion,
    StatisticCell,
    StatisticInfo,
    StatisticsIndex,
    StatisticsPage,
)
from tactful.statistics.conclusions import MAX_CELLS, MAX_PANES, conclude
from tactful.statistics.definitions import PANES, StatisticDefinition, load_statistics
from tactful.statistics.ledger_view import PrivacyLedger, day_of, report_month
from tactful.util.clock import now_ms
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.heavy_hitters import BoundedKeys, KeysPublisher
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import (
    CONFIDENCE,
    ReleasedPane,
    delta_of,
    method_of,
    read_released,
)
from tactful_privacy.durable_files import create_file
from tactful_privacy.errors import PrivacyError, StateError, UnknownStatisticError
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import FOUND_KEYS, UNIT, Statistic
from tactful_privacy.ledger.statistic import PANES as KIND_OF_PANES
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import Event, Item
from tactful_streaming.engine.consumers import CoCommittedConsumer

logger = logging.getLogger(__name__)

CLOCK_EVENT = "x.clock"
"""Event type by which a replay tells its time to the statistics."""

DAY_MS = 86_400_000

ALLOWANCE_MS = 60_000
"""How long a pane stays open after its end."""

NOT_BEFORE = "statistics.not-before"
"""File that a restore leaves in the data directory: when counting may begin, epoch milliseconds."""

PASSENGER = "statistics"
"""Name of the counts among what rides with the engine."""

_FEW = 1_000
"""So many changed entries are never worth a whole snapshot."""

_INCOMPLETE = (
    "the stored statistics are a snapshot without what changed since, so the day's caps are lost:"
    " restore the state as a whole, or compute it again with `tactful serve --rebuild`"
)

_SHOWN_AFTER_MS = 15_000
"""Longer than an idle server waits with a commit, so that who came does not decide when."""


_Track = tuple[BoundedCounts, Publisher] | tuple[BoundedKeys, KeysPublisher]
"""What counts for a statistic, and what publishes it."""


class PrivateStatistics(CoCommittedConsumer):
    """Counts events for the published statistics and answers what was released.

    A passenger of the engine (``apply``, ``snapshot``, ``restore``). What closes panes must be a
    public clock, never the events of people. In service it is the wall clock, and panes close on
    time whether or not anything happened. A replay of old data has a clock of its own: the events
    of type ``x.clock`` that whoever replays sends along.

    A pane is over for an event when the clock says so, not when the next commit closes it: the
    commit may be due to somebody else's event. After a crash the events that were accepted and not
    yet applied may find their pane over; they are then not counted, but charge their user. That
    costs accuracy, not privacy.

    Unit of privacy, guarantee and assumptions: `tactful_privacy.Statistic`.

    Attributes:
        purpose: only events count that may be used for it.
        changes: the passenger that carries what changed since the last snapshot, if there is one.
    """

    purpose = Purpose.MEASUREMENT

    def __init__(
        self,
        definitions: Sequence[StatisticDefinition],
        ledger: Ledger,
        *,
        secret: bytes,
        clock: Callable[[], int] | None,
        allowance_ms: int = ALLOWANCE_MS,
        not_before: int = 0,
    ) -> None:
        """Prepare to count.

        Args:
            definitions: what is published.
            ledger: where releases are kept.
            secret: keys the hash of users; the same for as long as the state is kept.
            clock: now in epoch milliseconds, or None to follow ``x.clock`` events.
            allowance_ms: how long a pane stays open after its end.
            not_before: nothing is counted of panes before, epoch milliseconds, where counting
                begins anew: of what was released of them a ledger that was restored may not know.
                That holds for a replay as well, whose days are mostly older.

        Raises:
            PrivacyError: if a statistic is not publishable or the day's budget does not allow it.
        """
        self._definitions = tuple(definitions)
        self._ledger = ledger
        self._secret = secret
        self._clock = clock
        self._allowance = allowance_ms
        self._not_before = not_before
        self._replayed = 0
        self._tracks: dict[str, _Track] = {}
        self.changes: StatisticsChanges | None = None
        self._whole = False  # whether there is a snapshot that changes can belong to
        self._due = False  # whether there are changes to be written with this commit
        self._awaits = False  # whether changes that belong to what was restored are missing
        self._written = 0  # entries that all changes since the last snapshot have written
        made = {d.name: d.statistics() for d in self._definitions}
        self._bases = {name: statistics[0] for name, statistics in made.items()}
        self._further = {name: statistics[1:] for name, statistics in made.items()}
        self._statistics = {it.name: it for statistics in made.values() for it in statistics}
        # Questions about days that are over do not stand in the way of what begins today.
        first_day = 0 if clock is None else day_of(clock())
        ledger.register_all(self._statistics.values(), first_day=first_day)

    def passengers(self) -> dict[str, CoCommittedConsumer]:
        """What rides with the engine, by name: these counts, and what changes of them.

        A commit then writes what changed since the last snapshot, and a whole snapshot only now and
        then. Both are in the write of the offset. The engine asks them in this order.
        """
        self.changes = StatisticsChanges(self)
        return {PASSENGER: self, f"{PASSENGER}.changes": self.changes}

    def apply(self, event: Event, item: Item | None) -> None:
        """Count one event for every statistic it belongs to."""
        if self._awaits:
            raise StateError(_INCOMPLETE)
        if self._clock is None and event.type == CLOCK_EVENT:
            self._replayed = max(self._replayed, event.timestamp)
            return
        unit = _unit(event)
        if unit is None or not self._begun():
            return
        watermark = self._watermark()
        for definition in self._definitions:
            if (key := definition.key(event, item)) is not None:
                counts, _ = self._tracks[definition.name]
                counts.add(unit, event.timestamp, key, watermark=watermark)

    def snapshot(self) -> bytes | None:
        """Release what is due, then return the state; None when nothing changed.

        Also None where what changed is little, and `changes` will carry it.
        """
        if self._awaits:
            raise StateError(_INCOMPLETE)
        if not self._begun():
            return None
        for _, publisher in self._tracks.values():
            publisher.store(self._watermark())
        if not any(counts.changed for counts, _ in self._tracks.values()):
            return None
        self._due = self.changes is not None
        if self._due and self._is_little():
            return None
        self._whole, self._written = True, 0
        return msgspec.msgpack.encode(
            _State(
                self._replayed,
                {name: counts.snapshot() for name, (counts, _) in self._tracks.items()},
                {name: publisher.snapshot() for name, (_, publisher) in self._tracks.items()},
                self.changes is not None,
            )
        )

    def _is_little(self) -> bool:
        """Whether to write what changed, and not a whole snapshot.

        Changes are written again with each commit, and each time there are more of them. They go on
        until they have cost as much as a snapshot: then neither wastes more than the other would.
        """
        if not self._whole or self._tracks.keys() != self._bases.keys():
            return False
        counts = [it for it, _ in self._tracks.values() if isinstance(it, BoundedCounts)]
        changed = sum(it.entries_changed for it in counts)
        if changed > _FEW and self._written + changed > sum(it.entries for it in counts):
            return False
        self._written += changed
        return True

    def pack_changes(self) -> bytes | None:
        """What changed since the last snapshot; None where nothing did since it was asked."""
        if not self._due:
            return None
        self._due = False
        return msgspec.msgpack.encode(
            _Changes(
                self._replayed,
                {
                    name: counts.changes()
                    if isinstance(counts, BoundedCounts)
                    else counts.snapshot()
                    for name, (counts, _) in self._tracks.items()
                },
                {name: publisher.snapshot() for name, (_, publisher) in self._tracks.items()},
            )
        )

    def restore_changes(self, state: bytes) -> None:
        """Go on from what `pack_changes` gave, after `restore`.

        Raises:
            StateError: if it is damaged, or belongs to another snapshot.
        """
        found = msgspec.msgpack.decode(state, type=_Changes)
        # What is not published any more would stay in the snapshot as it was, without what came
        # later: whoever publishes it again would hand out those contributions a second time.
        self._awaits, self._whole = False, found.counts.keys() <= self._bases.keys()
        self._replayed = found.replayed
        for name, changes in found.counts.items():
            if name not in self._bases:
                continue
            if name not in self._tracks:
                raise StateError(_INCOMPLETE)
            counts, publisher = self._tracks[name]
            if isinstance(counts, BoundedCounts):
                counts.restore_changes(changes)
            else:
                counts.restore(changes)
            self._refuse_older_ledger(counts)
            publisher.restore(found.sums[name])

    def restore(self, state: bytes) -> None:
        """Continue from a snapshot.

        Raises:
            StateError: if it is damaged, a definition or the secret changed, or the ledger does not
                hold what was released by then.
        """
        found = msgspec.msgpack.decode(state, type=_State)
        self._replayed = found.replayed
        self._awaits = found.has_changes
        for name, snapshot in found.counts.items():
            if name in self._bases:
                counts, publisher = self._begin(name, start=0)
                counts.restore(snapshot)
                self._refuse_older_ledger(counts)
                if name in found.sums:
                    publisher.restore(found.sums[name])

    def index(self) -> StatisticsIndex:
        """What is published."""
        return StatisticsIndex(
            statistics=[
                StatisticInfo(
                    name=statistic.name,
                    epsilon=float(statistic.epsilon),
                    cap=statistic.cap,
                    unit=UNIT,
                    title=d.title,
                    pane_ms=statistic.pane_ms,
                    kind=statistic.kind,
                    method=method_of(statistic),
                )
                for d in self._definitions
                for statistic in (self._bases[d.name], *self._further[d.name])
            ]
        )

    def page(
        self,
        name: str,
        cursor: str | None,
        limit: int,
        since: int | None,
        until: int | None,
    ) -> StatisticsPage:
        """One page of released panes that start in [since, until), oldest first.

        By the wall clock, a pane shows 15 s after it may be closed. It is closed by the next
        commit, which comes at once when somebody does something and later when nobody does.

        Raises:
            KeyError: if there is no such statistic.
            ValueError: if the cursor is not one of ours.
        """
        statistic = self._statistics.get(name)
        if statistic is None:
            raise KeyError(name)
        if self._clock is not None:
            shown = shown_before(statistic, self._now(), self._allowance)
            until = shown if until is None else min(until, shown)
        try:
            page = read_released(
                self._ledger,
                name,
                start=since,
                end=until,
                cursor=cursor,
                limit=max(1, limit // len(statistic.keys)) if statistic.keys else 1,
            )
        except UnknownStatisticError as error:
            raise KeyError(name) from error
        return StatisticsPage(
            name=name,
            epsilon=float(statistic.epsilon),
            cap=statistic.cap,
            unit=UNIT,
            delta=float(delta_of(statistic)),
            pane_ms=statistic.pane_ms,
            kind=statistic.kind,
            method=method_of(statistic),
            confidence=float(CONFIDENCE),
            cells=[
                StatisticCell(
                    pane_start=pane.start,
                    counted_from=pane.counted_from,
                    key=key,
                    value=value,
                    low=value - pane.half_width,
                    high=value + pane.half_width,
                )
                for pane in page.panes
                for key, value in pane.values.items()
            ],
            next_cursor=page.cursor,
        )

    def conclude(self, name: str, conclusion: str, query: ConclusionQuery) -> Conclusion:
        """Conclude something from what is released and shown of a span.

        Raises:
            KeyError: if there is no such statistic or conclusion.
            ValueError: if it cannot be drawn; the message says why.
        """
        if name not in self._statistics or conclusion not in CONCLUSIONS:
            raise KeyError(name)
        since, until = to_milliseconds(query.since), to_milliseconds(query.until)
        if conclusion != "consistent":
            return conclude(conclusion, [self._panes(name, since, until)], query)
        further = [it for it in self._further.get(name, ()) if it.kind == KIND_OF_PANES]
        levels = [name, *(it.name for it in sorted(further, key=lambda it: it.pane_ms))]
        tops = self._panes(levels[-1], since, until)
        span = (tops[0].start, tops[-1].end) if tops else (since, since)
        return conclude(conclusion, [self._panes(level, *span) for level in levels], query)

    def _panes(self, name: str, since: int, until: int) -> list[ReleasedPane]:
        """Released panes that start in [since, until) and are shown, oldest first."""
        statistic = self._statistics[name]
        if self._clock is not None:
            until = min(until, shown_before(statistic, self._now(), self._allowance))
        found: list[ReleasedPane] = []
        cursor: str | None = None
        # What is too much is noticed when little more than that was read.
        limit = max(1, min(100, MAX_CELLS // (len(statistic.keys) or 1)))
        while until > since:
            page = read_released(
                self._ledger, name, start=since, end=until, cursor=cursor, limit=limit
            )
            found += page.panes
            if len(found) > MAX_PANES or len(found) * len(statistic.keys) > MAX_CELLS:
                raise ValueError(
                    f"the span holds more than {MAX_PANES} panes or {MAX_CELLS} cells: ask about"
                    " less, or publish longer periods"
                )
            if (cursor := page.cursor) is None:
                break
        return found

    @property
    def now(self) -> int:
        """The public clock that closes panes, epoch milliseconds; 0 while it stands nowhere."""
        return self._now()

    def trends(self) -> Trends | None:
        """What reads the published panes for what rises; None where no statistic is for that."""
        followed = [
            TrendSource(d.name, "category" if d.by == "category" else "item_id", PANES[d.pane])
            for d in self._definitions
            if d.trending
        ]
        return Trends(self, followed) if followed else None

    def ledger(self) -> PrivacyLedger:
        """What published numbers have cost this month, by the statistics' own clock."""
        return report_month(self._ledger, day_of(self._now()))

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def _now(self) -> int:
        return self._replayed if self._clock is None else self._clock()

    def _watermark(self) -> int:
        return max(0, self._now() - self._allowance)

    def _begun(self) -> bool:
        """Whether counting has begun; begins as soon as the clock stands somewhere."""
        if len(self._tracks) == len(self._bases):  # asked for each event
            return bool(self._tracks)
        missing = self._bases.keys() - self._tracks.keys()
        if missing and self._now():
            for name in missing:
                self._begin(name, start=self._first_pane(name))
            self._whole = False  # they are in no snapshot
        return bool(self._tracks)

    def _first_pane(self, name: str) -> int:
        """Now, or the next UTC day where panes were released before and their caps are lost.

        The clock may have been set back: the day of the newest release counts, too.
        """
        now, last = self._now(), self._ledger.last_pane(name)
        begins = now if last is None else (day_of(max(now, last)) + 1) * DAY_MS
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
        last = self._ledger.last_pane(statistic.name)
        if last is None or last + statistic.pane_ms < closed:
            raise StateError(
                f"the ledger does not hold all releases of {statistic.name!r} that were made: it is"
                " an older copy or another one, and would draw them a second time. Put the latest"
                " ledger in its place"
            )

    def _begin(self, name: str, *, start: int) -> _Track:
        base = self._bases[name]
        if base.kind == FOUND_KEYS:
            keys = BoundedKeys(base, secret=self._secret, start=start)
            self._tracks[name] = keys, KeysPublisher(keys, self._ledger)
        else:
            counts = BoundedCounts(base, secret=self._secret, start=start)
            publisher = Publisher(counts, self._ledger, further=self._further[name])
            self._tracks[name] = counts, publisher
        return self._tracks[name]


def shown_before(statistic: Statistic, now: int, allowance_ms: int = ALLOWANCE_MS) -> int:
    """The start, epoch milliseconds, before which panes are shown: by the clock alone.

    Args:
        statistic: what is shown.
        now: the public clock, epoch milliseconds.
        allowance_ms: how long a pane stays open after its end.
    """
    return max(0, now - allowance_ms) - _SHOWN_AFTER_MS - statistic.pane_ms + 1


class StatisticsChanges(CoCommittedConsumer):
    """Carries what changed in private statistics since their last snapshot; a passenger."""

    purpose = Purpose.MEASUREMENT

    def __init__(self, statistics: PrivateStatistics) -> None:
        """Carry the changes of `statistics`, which rides before this."""
        self._statistics = statistics

    def apply(self, event: Event, item: Item | None) -> None:
        """Do nothing: the statistics count."""

    def snapshot(self) -> bytes | None:
        """The changes; None where they are as they were."""
        return self._statistics.pack_changes()

    def restore(self, state: bytes) -> None:
        """Go back to a snapshot, after the statistics did."""
        self._statistics.restore_changes(state)


class _State(msgspec.Struct, array_like=True):
    """What a snapshot holds, by name of the statistic."""

    replayed: int
    counts: dict[str, bytes]
    sums: dict[str, bytes] = {}
    has_changes: bool = False


class _Changes(msgspec.Struct, array_like=True):
    """What changed since a snapshot, by name of the statistic."""

    replayed: int
    counts: dict[str, bytes]
    sums: dict[str, bytes]


def open_statistics(settings: Settings) -> PrivateStatistics | None:
    """Open the statistics of an installation: its ledger and its secret.

    Args:
        settings: name the definitions, the clock and the data directory.

    Returns:
        The statistics, ready to ride with the engine; None when none are published.

    Raises:
        ConfigError: if the definitions are wrong, or do not agree with the ledger.
    """
    definitions = settings.statistics.definitions
    if definitions == Path():
        return None
    data = settings.storage.data
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = load_statistics(definitions)
    wall = settings.statistics.clock == "wall"
    try:
        return PrivateStatistics(
            wanted.statistics,
            Ledger(ledger_location(settings), budgets=wanted.all_budgets()),
            secret=_secret(data / "statistics.secret"),
            clock=now_ms if wall else None,
            not_before=_not_before(data / NOT_BEFORE),
        )
    except PrivacyError as error:
        raise ConfigError(f"{definitions}: {error}") from error


def _not_before(path: Path) -> int:
    """When counting may begin; a file that says nothing legible is refused, not passed over."""
    try:
        return int(path.read_text("ascii"))
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise ConfigError(
            f"{path}: holds no time: restore the backup again, or write the epoch milliseconds of "
            "a UTC day that is to come"
        ) from error


def _secret(path: Path) -> bytes:
    """The secret in a file, made on first use."""
    if not path.exists():
        create_file(path, secrets.token_bytes(32))
    return path.read_bytes()


def _unit(event: Event) -> str | None:
    """Who is bounded; a user and a device of the same id are two."""
    if event.user_id is not None:
        return f"user:{event.user_id}"
    return None if event.device_id is None else f"device:{event.device_id}"

"""Read what people did with items, visit by visit, from the log as columns."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.request_context import VISIT_PAUSE_MS
from tactful.event_log.batches import Record, read_batches
from tactful.recall.cohorts import Cohorts
from tactful.recall.common_pairs import CommonPairs
from tactful.recall.tables import Interactions
from tactful.schemas.interactions import is_interaction, rank_of
from tactful_streaming.contract.log_entries import (
    DEVICE_PREFIX,
    Item,
    User,
    event_key,
    subject_key,
    time_reached,
)
from tactful_streaming.decode.projection import EVENT_KEY, Projection
from tactful_streaming.log.event_log import EventLog

_CHUNK = 8_192
_DAY = 86_400_000
_KEYS = 100_000  # a repetition comes soon after the event: it is a retry
_ENOUGH = ((1_000, 200), (100, 20))  # events and visits of a type to learn from, if possible


@dataclass(frozen=True)
class History:
    """Interactions with items in log order, as columns of equal length."""

    item_ids: tuple[str, ...]  # the catalogue in the order its items first appeared
    updates: tuple[tuple[int, Item], ...]  # log offset and description of every item update
    item: NDArray[np.int64]  # row in `item_ids` of the item of each
    session: NDArray[np.int64]  # visit number of each
    timestamp: NDArray[np.int64]  # event time, epoch milliseconds
    offset: NDArray[np.int64]  # log offset
    kind: NDArray[np.int64]  # row in `types` of each
    types: tuple[str, ...]  # event types
    session_ids: tuple[str | None, ...]  # visit id by visit number, None for none
    subjects: tuple[str | None, ...]  # key of the user by visit number, None for none
    people: tuple[tuple[int, User], ...] = ()  # log offset and description of every user update
    # User and device of events that name both; None: not recorded.
    met: frozenset[tuple[str, str]] | None = None

    @classmethod
    def read(
        cls,
        log: EventLog,
        *,
        until: int | None = None,  # offset to stop at; None for the end
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> History:
        """Read the log. Entries that cannot be decoded are skipped, as the engine does."""
        columns = _Columns()
        end = log.end if until is None else min(log.end, until)
        for records in read_batches(log, log.begin, end, size=_CHUNK):
            columns.add(records)
            progress(records[-1][0] + 1, min(log.end, end))
        return columns.close()

    @property
    def until(self) -> int:
        """Time just after the last interaction, epoch milliseconds; 0 without any."""
        return int(self.timestamp.max(initial=-1)) + 1

    def label(self) -> str:
        """Return the strongest event type with enough data to learn from.

        Enough are 1,000 events in 200 visits, else 100 in 20; else the type of most visits.
        Without interactions it is a purchase.
        """
        events = np.bincount(self.kind, minlength=len(self.types))
        pairs = np.unique(self.kind * len(self.subjects) + self.session)
        visits = np.bincount(pairs // max(len(self.subjects), 1), minlength=len(self.types))
        kinds = sorted(range(len(self.types)), key=lambda kind: rank_of(self.types[kind]))
        for least_events, least_visits in _ENOUGH:
            for kind in kinds:
                if events[kind] >= least_events and visits[kind] >= least_visits:
                    return self.types[kind]
        return self.types[max(kinds, key=lambda kind: int(visits[kind]))] if kinds else "purchase"

    def kinds_of(self, types: Collection[str]) -> NDArray[np.int64]:
        """Return the rows of some event types in `types`."""
        return np.array([row for row, type_ in enumerate(self.types) if type_ in types], np.int64)

    @property
    def ordered(self) -> bool:
        """Whether the items of a visit mostly carry different times, so that they have an order."""
        order = np.argsort(self.session, kind="stable")
        same = self.session[order][1:] == self.session[order][:-1]
        tied = self.timestamp[order][1:] == self.timestamp[order][:-1]
        return bool((same & ~tied).sum() > (same & tied).sum())

    def interactions(self, *, before: int | None = None) -> Interactions:
        """Return the columns of a recall index before an offset.

        An item that was viewed, taken and bought in a visit counts once there, where it came first.
        It counts again where it came back later by an event of the first type.
        """
        end = len(self.offset) if before is None else int(np.searchsorted(self.offset, before))
        kept = self._visited[:end]
        session = self.session[:end][kept]
        return Interactions(
            session,
            self.item[:end][kept],
            self.timestamp[:end][kept],
            self.person_of_visit[session],
        )

    @cached_property
    def persons(self) -> dict[str, int]:
        """Numbers of the persons by their keys."""
        numbers: dict[str, int] = {}
        for subject in self.subjects:
            if subject is not None:
                numbers.setdefault(subject, len(numbers))
        return numbers

    @cached_property
    def person_of_visit(self) -> NDArray[np.int64]:
        """Number of the person of each visit, -1 for an unknown one."""
        numbers = self.persons
        found = [-1 if subject is None else numbers[subject] for subject in self.subjects]
        return np.array(found, np.int64)

    @cached_property
    def _visited(self) -> NDArray[np.bool_]:
        """Whether each event is a visit to an item rather than a further step with it."""
        order = np.argsort(self.session, kind="stable")
        session, item, kind = self.session[order], self.item[order], self.kind[order]
        same = np.zeros(len(order), np.bool_)
        same[1:] = (session[1:] == session[:-1]) & (item[1:] == item[:-1])
        pair = session * np.int64(max(len(self.item_ids), 1)) + item
        _, first, of = np.unique(pair, return_index=True, return_inverse=True)
        visited = ~same & (kind == kind[first][of])
        visited[first] = True
        found = np.zeros(len(order), np.bool_)
        found[order] = visited
        return found

    def cohorts(self, *, before: int | None = None) -> Cohorts:
        """Fit the items that users take by the properties of the users, before an offset."""
        seen = self.interactions(before=before)
        end = np.inf if before is None else before
        described = {user.user_id: user for offset, user in self.people if offset < end}
        numbers = {user_id: number for number, user_id in enumerate(described)}
        visitor = np.array([numbers.get(key or "", -1) for key in self.subjects], np.int64)
        person = visitor[seen.session]
        known = person >= 0
        return Cohorts.fit(
            [user.properties for user in described.values()],
            person[known],
            seen.item[known],
            len(self.item_ids),
        )

    def common_pairs(self, least: int) -> CommonPairs:
        """Count the pairs of items that at least `least` people took in one visit.

        A device counts as its user; one that several users share counts as nobody.
        """
        users: dict[str, set[str]] = {}
        for user_id, device in self.met or ():
            users.setdefault(device, set()).add(user_id)
        numbers: dict[str, int] = {}
        people = np.full(len(self.subjects), -1, np.int64)
        for visit, subject in enumerate(self.subjects):
            known = {subject} if subject is None else users.get(subject, {subject})
            if len(known) == 1 and (key := next(iter(known))) is not None:
                people[visit] = numbers.setdefault(key, len(numbers))
        seen = self.interactions()
        seen = replace(seen, person=people[seen.session])
        return CommonPairs.learn(seen, len(self.item_ids), least=least)

    def descriptions(self, *, before: int | None = None) -> list[Item | None]:
        """Return the description of each item of `item_ids` before an offset, None for none yet."""
        end = np.inf if before is None else before
        latest = {item.item_id: item for offset, item in self.updates if offset < end}
        return [latest.get(item_id) for item_id in self.item_ids]

    def undescribed(self) -> list[tuple[int, Item]]:
        """Return items that were dealt with before they were described, by first event's offset.

        They have the first description that came, without properties: an event before it shows that
        the item was there, and not what became of it.
        """
        described = {item.item_id: (offset, item) for offset, item in reversed(self.updates)}
        rows, first = np.unique(self.item, return_index=True)
        found = []
        for row, begin in zip(rows.tolist(), self.offset[first].tolist(), strict=True):
            offset, item = described[self.item_ids[row]]
            if begin < offset:
                found.append((begin, msgspec.structs.replace(item, properties={})))
        return sorted(found, key=itemgetter(0))

    def visits(self, since: int, after: int = 0) -> Iterator[NDArray[np.intp]]:
        """Yield the row numbers of each visit that began at `since` or later, in log order.

        Visits without an event at offset `after` or later are left out.
        """
        order, begins, first, last = self._spans()
        ends = np.append(begins[1:], len(order))
        for visit in np.flatnonzero((first >= since) & (last >= after)).tolist():
            yield order[begins[visit] : ends[visit]]

    def share_of_visits(self, since: int, after: int) -> float:
        """Return the share of the visits since a time that have an event at `after` or later."""
        _, _, first, last = self._spans()
        lasts = last[first >= since]
        return float((lasts >= after).mean()) if len(lasts) else 0.0

    def _spans(self) -> tuple[NDArray[np.int64], ...]:
        """Return the rows by visit; of each visit its begin there, first time and last offset."""
        order = np.argsort(self.session, kind="stable")
        begins = np.flatnonzero(np.diff(self.session[order], prepend=-1))
        if not len(order):
            return order, begins, begins, begins
        first = np.minimum.reduceat(self.timestamp[order], begins)
        return order, begins, first, np.maximum.reduceat(self.offset[order], begins)


class _Columns:
    """Columns of a `History` while it is read: 40 bytes an event and some hundred a visit."""

    def __init__(self) -> None:
        self._projection = Projection([EVENT_KEY, "item_id", "session_id"])
        self._updates: list[tuple[int, Item]] = []
        self._people: list[tuple[int, User]] = []
        self._types: dict[str, int] = {}
        self._named: dict[str, int] = {}  # number of each item that an event names
        self._visits = _Visits()
        self._met: set[tuple[str, str]] = set()
        self._counted: set[str] = set()
        self._counted_before: set[str] = set()
        # Item, visit, time, offset and type of each event.
        self._columns = tuple(array("q") for _ in range(5))

    def add(self, records: Sequence[Record]) -> None:
        """Add records; entries that cannot be decoded are skipped."""
        event_class = self._projection.event_class
        entries = self._projection.decode([payload for _, payload in records])
        for (offset, _), entry in zip(records, entries, strict=True):
            if type(entry) is event_class:
                if entry.user_id and entry.device_id:
                    self._met.add((entry.user_id, DEVICE_PREFIX + entry.device_id))
                if entry.item_id and is_interaction(entry.type) and self._is_first(entry):
                    self._add_event(offset, entry)
            elif isinstance(entry, Item):
                self._updates.append((offset, entry))
            elif isinstance(entry, User):
                self._people.append((offset, entry))

    def _is_first(self, event: Any) -> bool:
        """Return whether the event is not in the log twice, after a retry."""
        key = event_key(event)
        if key in self._counted or key in self._counted_before:
            return False
        self._counted.add(key)
        if len(self._counted) >= _KEYS:
            self._counted, self._counted_before = set(), self._counted
        return True

    def _add_event(self, offset: int, event: Any) -> None:
        named, types = self._named, self._types
        item, visit, at, offsets, kind = self._columns
        item.append(named.setdefault(event.item_id, len(named)))
        visit.append(self._visits.number_of(event))
        at.append(time_reached(event))
        offsets.append(offset)
        kind.append(types.setdefault(event.type, len(types)))

    def close(self) -> History:
        """Return the events about items of the catalogue."""
        rows: dict[str, int] = {}
        for _, update in self._updates:
            rows.setdefault(update.item_id, len(rows))
        item, *others = (np.frombuffer(column, np.int64) for column in self._columns)
        item = np.array([rows.get(name, -1) for name in self._named], np.int64)[item]
        columns = [column[item >= 0] for column in (item, *others)]
        plausible = columns[2] < _plausible_end(columns[2])
        if not plausible.all():
            columns = [column[plausible] for column in columns]
        of_item, session, timestamp, offset, kind = columns
        return History(
            item_ids=tuple(rows),
            updates=tuple(self._updates),
            item=of_item,
            session=session,
            timestamp=timestamp,
            offset=offset,
            kind=kind,
            types=tuple(self._types),
            session_ids=tuple(self._visits.session_ids),
            subjects=tuple(self._visits.subjects),
            people=tuple(self._people),
            met=frozenset(self._met),
        )


class _Visits:
    """Numbers of visits, by visit id together with device or user.

    Two people with the same visit id have two visits. Events of one visit may name its device, its
    user or both. Without a visit id, a pause of half an hour ends the visit of a user.
    """

    def __init__(self) -> None:
        self.session_ids: list[str | None] = []
        self.subjects: list[str | None] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self._without_id: dict[str | None, tuple[int, int]] = {}  # number and latest time
        self._names: dict[str | None, str | None] = {}  # each user once, who has many visits

    def number_of(self, event: Any) -> int:
        """Return the number of the event's visit."""
        subject, session_id = subject_key(event), event.session_id
        subject = self._names.setdefault(subject, subject)
        if not session_id:
            return self._since_pause(subject, event.timestamp)
        names = [event.user_id, event.device_id and DEVICE_PREFIX + event.device_id]
        keys = [(session_id, name) for name in names if name]
        number = next((held for key in keys if (held := self._numbers.get(key)) is not None), None)
        if number is None:
            number = self._begin(subject, session_id)
        for key in keys:
            self._numbers.setdefault(key, number)
        return number

    def _since_pause(self, subject: str | None, at: int) -> int:
        number, latest = self._without_id.get(subject, (-1, at))
        if number < 0 or abs(at - latest) > VISIT_PAUSE_MS:
            number, latest = self._begin(subject, None), at
        self._without_id[subject] = number, max(at, latest)
        return number

    def _begin(self, subject: str | None, session_id: str | None) -> int:
        self.subjects.append(subject)
        self.session_ids.append(session_id)
        return len(self.subjects) - 1


def _plausible_end(timestamps: NDArray[np.int64]) -> float:
    """Return a time that only stray dates in the future reach: one in a thousand at most.

    It lies a hundredth of the history behind the usual dates, in a short history its whole length.
    """
    if not len(timestamps):
        return 0.0
    usual = float(np.quantile(timestamps, 0.999, method="lower"))
    margin = 0.01 if len(timestamps) >= 1_000 else 1.0
    return usual + max(_DAY, margin * (usual - float(timestamps.min()))) + 1

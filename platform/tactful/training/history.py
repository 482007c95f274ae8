"""Read taken items, visit by visit, from the log as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.event_log.batches import decoded, read_batches
from tactful.recall.cohorts import Cohorts
from tactful.recall.index import Interactions
from tactful_streaming.contract.log_entries import Event, Item, User, event_key, subject_key
from tactful_streaming.log.event_log import EventLog

TAKEN = frozenset({"add_to_cart", "purchase"})  # event types by which an item counts as taken

_CHUNK = 8_192


@dataclass(frozen=True)
class History:
    """Taken items in log order, as columns of equal length."""

    item_ids: tuple[str, ...]  # the catalogue in the order its items first appeared
    updates: tuple[tuple[int, Item], ...]  # log offset and description of every item update
    item: NDArray[np.int64]  # row in `item_ids` of each taken item
    session: NDArray[np.int64]  # visit number of each
    timestamp: NDArray[np.int64]  # event time, epoch milliseconds
    offset: NDArray[np.int64]  # log offset
    session_ids: tuple[str, ...]  # visit id by visit number
    subjects: tuple[str | None, ...]  # key of the user by visit number, None for none
    people: tuple[tuple[int, User], ...] = ()  # log offset and description of every user update

    @classmethod
    def read(
        cls,
        log: EventLog,
        *,
        until: int | None = None,  # offset to stop at; None for the end
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> History:
        """Read the log. Entries that cannot be decoded are skipped, as the engine does."""
        rows: dict[str, int] = {}
        updates: list[tuple[int, Item]] = []
        people: list[tuple[int, User]] = []
        visits: dict[str, int] = {}
        subjects: list[str | None] = []
        counted: set[str] = set()
        taken: list[tuple[str, int, int, int]] = []
        end = log.end if until is None else min(log.end, until)
        for records in read_batches(log, log.begin, end, size=_CHUNK):
            for offset, entry in decoded(records):
                if isinstance(entry, Item):
                    rows.setdefault(entry.item_id, len(rows))
                    updates.append((offset, entry))
                elif isinstance(entry, User):
                    people.append((offset, entry))
                elif isinstance(entry, Event) and entry.type in TAKEN and entry.item_id:
                    if (key := event_key(entry)) in counted:
                        continue  # the log may hold an event twice, after a retry
                    counted.add(key)
                    subject = subject_key(entry)
                    # Without a visit id, one user's day stands for a visit.
                    visit = entry.session_id or f"{subject}@{entry.timestamp // 86_400_000}"
                    number = visits.setdefault(visit, len(visits))
                    if number == len(subjects):
                        subjects.append(subject)
                    taken.append((entry.item_id, number, entry.timestamp, offset))
            progress(records[-1][0] + 1, min(log.end, end))
        known = [(rows[item], *rest) for item, *rest in taken if item in rows]
        columns = np.array(known, np.int64).reshape(-1, 4).T
        return cls(
            item_ids=tuple(rows),
            updates=tuple(updates),
            people=tuple(people),
            item=columns[0],
            session=columns[1],
            timestamp=columns[2],
            offset=columns[3],
            session_ids=tuple(visits),
            subjects=tuple(subjects),
        )

    @property
    def ordered(self) -> bool:
        """Whether the items of a visit mostly carry different times, so that they have an order."""
        order = np.argsort(self.session, kind="stable")
        same = self.session[order][1:] == self.session[order][:-1]
        tied = self.timestamp[order][1:] == self.timestamp[order][:-1]
        return bool((same & ~tied).sum() > (same & tied).sum())

    def interactions(self, *, before: int | None = None) -> Interactions:
        """Return the columns of a recall index before an offset."""
        end = len(self.offset) if before is None else int(np.searchsorted(self.offset, before))
        return Interactions(self.session[:end], self.item[:end], self.timestamp[:end])

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

    def descriptions(self, *, before: int | None = None) -> list[Item | None]:
        """Return the description of each item of `item_ids` before an offset, None for none yet."""
        end = np.inf if before is None else before
        latest = {item.item_id: item for offset, item in self.updates if offset < end}
        return [latest.get(item_id) for item_id in self.item_ids]

    def visits(self, since: int) -> Iterator[NDArray[np.intp]]:
        """Yield the row numbers of each visit that began at `since` or later, in log order."""
        order = np.argsort(self.session, kind="stable")
        starts = np.flatnonzero(np.diff(self.session[order], prepend=-1))
        for rows in np.split(order, starts[1:]) if len(order) else []:
            if self.timestamp[rows].min() >= since:
                yield rows

"""The beginnings of a sequence in columns: each partition has a chain of them.

Most partitions have few beginnings, of which few events have been taken. These are here, and a
batch of events moves them in machine code (`sequence_kernel.py`). A partition with more than that,
or with something that time decides, is an object, which `sequences.py` keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Rows
from tactful_streaming.decode.event_time_sort import Arrivals
from tactful_streaming.kernels.partial_matches import (
    ASKS,
    BEGINNING,
    COMPLETES,
    ID_BYTES,
    ID_WORDS,
    load_kernel,
)
from tactful_streaming.patterns.automaton import Automaton
from tactful_streaming.patterns.partial_match import Beginning, Groups

MOST_SLOTS: Final = 4
"""Most events that a beginning here has taken."""

MOST_BEGINNINGS: Final = 64
"""Most beginnings of a partition here: an event looks at each, and objects move in groups."""

_FIRST_CAPACITY: Final = 256


Found = tuple[int, int, Beginning]
"""A match: which event completes it, as a place in their order; row of the partition; and it."""


class Chains:
    """Beginnings of partitions, by row.

    Attributes:
        heads: first beginning of each row; -1: none.
        apart: rows of which nothing is here, for they are objects.
    """

    def __init__(
        self, automaton: Automaton, within_ms: int, slots: int, most: int, past_last: bool
    ) -> None:
        """Begin without rows.

        Args:
            automaton: the compiled pattern.
            within_ms: how long after its first event a beginning takes others.
            slots: events of a match before the one that completes it; fewer are kept if these are
                many.
            most: beginnings of one partition that may wait.
            past_last: whether a match skips what begins up to its last event; else its own
                beginning.
        """
        self._move = load_kernel()
        self._within = within_ms
        self._slots = min(max(slots, 1), MOST_SLOTS)
        self._most = min(most, MOST_BEGINNINGS)
        self._asks = np.array(automaton.complete) | np.array(automaton.pending)
        first = np.array(automaton.first, np.int64)
        after = np.array(automaton.rows, np.int64).reshape(-1, len(first))
        self._begun = np.where((first >= 0) & self._asks[first >> 1], ASKS, first >> 1)
        self._after = np.where((after >= 0) & self._asks[after >> 1], ASKS, after)
        complete = np.array(automaton.complete)
        self._after[(after >= 0) & complete[after >> 1]] = COMPLETES
        self._past_last = past_last
        self.heads = np.zeros(0, np.int32)
        self.apart = np.zeros(0, np.bool_)
        self._pool: NDArray[Any] = np.zeros(0, BEGINNING)
        self._ids = np.zeros((0, self._slots * ID_WORDS), np.uint64)
        self._subjects = np.empty(0, np.object_)
        self._free = -1
        self._unused = 0

    def grow(self, rows: int) -> None:
        """Have room for so many rows."""
        more = rows - len(self.heads)
        self.heads = np.concatenate([self.heads, np.full(more, -1, np.int32)])
        self.apart = np.concatenate([self.apart, np.zeros(more, np.bool_)])

    def move(self, events: Arrivals, order: Rows) -> tuple[Rows, list[Found]]:
        """Show events to the partitions that are here.

        Args:
            events: of any partitions.
            order: of the events.

        Returns:
            Which events are left, as places in `order`: the beginnings of their partitions are as
            they were before the first of these, and the partitions are noted as apart. And what
            the others completed.
        """
        self._reserve(len(order))
        words, left = _words_of(events.ids)
        touched, matched = np.empty((2, len(self._pool)), np.int32)
        matched_at = np.empty(len(self._pool), np.int64)
        self._free, used, taken, matches = self._move(
            *(order, events.rows, events.times, events.places, events.codes, words),
            *(self._begun, self._after, self._within, self._most, self._past_last),
            *(self.heads, self.apart, self._pool, self._ids, self._free, left, touched),
            *(matched, matched_at),
        )
        self._unused -= used
        takers = touched[:taken]
        self._subjects[takers] = events.subjects[self._pool["event"][takers]]
        self._pool["event"][takers] = -1
        found = self._found(matched[:matches], matched_at[:matches], events, order)
        return np.flatnonzero(left[order]), found

    def _found(
        self, matched: NDArray[np.int32], at: Rows, events: Arrivals, order: Rows
    ) -> list[Found]:
        """What was completed; it is not in use any more."""
        if not len(matched):
            return []
        beginnings = [one for one, _ in self._listed(matched)]
        last = events.take(order[at]).listed()
        self._release(matched)
        return [
            (position, row, (*beginning[:2], time, place, (*beginning[4], event_id), subject))
            for position, beginning, (time, place, row, _, event_id, subject) in zip(
                at.tolist(), beginnings, last, strict=True
            )
        ]

    def groups_of(self, rows: Rows) -> list[Groups]:
        """The beginnings of `rows`, by state, each list in their order."""
        found: list[Groups] = [{} for _ in range(len(rows))]
        numbers, chain = np.arange(len(rows)), self.heads[rows]
        while True:
            there = np.flatnonzero(chain >= 0)
            if not len(there):
                return found
            numbers, chain = numbers[there], chain[there]
            for number, (beginning, state) in zip(
                numbers.tolist(), self._listed(chain), strict=True
            ):
                found[number].setdefault(state, []).append(beginning)
            chain = self._pool["next"][chain]

    def _listed(self, those: NDArray[np.int32]) -> Iterator[tuple[Beginning, int]]:
        """Beginnings, with the state of each."""
        pool = self._pool[those]
        listed = zip(
            *(pool[name].tolist() for name in BEGINNING.names[:6]),  # type: ignore[index]
            self._ids[those].view(f"S{ID_BYTES}").tolist(),
            self._subjects[those].tolist(),
            strict=True,
        )
        for first, first_place, last, last_place, state, count, ids, subject in listed:
            texts = tuple([one[:-1].decode() for one in ids[:count]])
            yield (first, first_place, last, last_place, texts, subject), state

    def put(self, row: int, groups: Groups) -> bool:
        """Let `groups` be all of a row, if they can; else it is apart.

        Returns:
            Whether they can.
        """
        self.clear(row)
        waiting = sorted(
            ((one, state) for state, those in groups.items() for one in those),
            key=lambda waiting: waiting[0][:2],
        )
        if len(waiting) > self._most or not all(self._fits(*one) for one in waiting):
            self.apart[row] = True
            return False
        self._reserve(len(waiting))
        before = -1
        for (first, first_place, last, last_place, ids, subject), state in waiting:
            one, self._free = self._free, self._pool["next"].item(self._free)
            self._pool[one] = (first, first_place, last, last_place, state, len(ids), -1, -1)
            slots = self._ids[one].view(f"S{ID_BYTES}")
            slots[: len(ids)] = [_quoted(text) for text in ids]
            self._subjects[one] = subject
            if before < 0:
                self.heads[row] = one
            else:
                self._pool["next"][before] = one
            before = one
        self._unused -= len(waiting)
        return True

    def clear(self, row: int) -> None:
        """Forget the beginnings of a row; it is not apart."""
        self.apart[row] = False
        one = self.heads.item(row)
        self.heads[row] = -1
        chain: list[int] = []
        while one >= 0:
            chain.append(one)
            one = self._pool["next"].item(one)
        self._release(np.array(chain, np.int32))

    def sweep(self, horizon: int) -> Rows:
        """Forget beginnings of up to `horizon`, and return the rows that had some."""
        changed = np.zeros(len(self.heads), np.bool_)
        rows = np.flatnonzero(self.heads >= 0)
        while len(rows):
            # The oldest is the first of its chain.
            rows = rows[self._pool["first"][self.heads[rows]] <= horizon]
            over = self.heads[rows]
            changed[rows] = True
            self.heads[rows] = self._pool["next"][over]
            self._release(over)
            rows = rows[self.heads[rows] >= 0]
        return np.flatnonzero(changed)

    def _fits(self, beginning: Beginning, state: int) -> bool:
        ids = beginning[4]
        return (
            not self._asks[state]
            and len(ids) <= self._slots
            and all(len(_quoted(text)) <= ID_BYTES for text in ids)
        )

    def _release(self, those: NDArray[np.int32]) -> None:
        if len(those):
            self._pool["next"][those[:-1]] = those[1:]
            self._pool["next"][those[-1]] = self._free
            self._free = int(those[0])
            self._unused += len(those)

    def _reserve(self, count: int) -> None:
        """Have so many beginnings that are not in use."""
        missing, used = count - self._unused, len(self._pool)
        if missing <= 0:
            return
        more = max(missing, used // 4, _FIRST_CAPACITY)
        new = np.zeros(more, BEGINNING)
        new["event"] = -1
        ids = np.zeros((more, self._ids.shape[1]), np.uint64)
        self._pool = np.concatenate([self._pool, new])
        self._ids = np.concatenate([self._ids, ids])
        self._subjects = np.concatenate([self._subjects, np.empty(more, np.object_)])
        self._release(np.arange(used, used + more, dtype=np.int32))


def _words_of(ids: NDArray[np.bytes_]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Ids as words, with zeros behind each, and which are too long for that."""
    if ids.dtype == np.object_:
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    elif ids.itemsize > ID_BYTES:
        lengths = np.char.str_len(ids)
    else:
        lengths = np.zeros(len(ids), np.int64)
    words = ids.astype(f"S{ID_BYTES}").view(np.uint64).reshape(len(ids), ID_WORDS)
    return words, lengths > ID_BYTES


def _quoted(text: str) -> bytes:
    return text.encode() + b'"'

"""Partitions of a sequence, with partial matches in columns or as objects.

Most partitions have few partial matches with few events. These are in columns, and the kernel
`kernels.partial_matches` moves them for a batch of events. A partition with more, or one that waits
for a time, is an object (`partial_match.Partition`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Rows
from tactful_streaming.decode.reorder_buffer import Arrivals
from tactful_streaming.kernels import partial_matches as kernel
from tactful_streaming.patterns.automaton import Automaton
from tactful_streaming.patterns.partial_match import (
    MatchesByState,
    PartialMatch,
    Partition,
    PartitionKey,
    key_of,
)

MAX_SLOTS: Final = 4  # most events taken by a partial match here
MAX_MATCHES: Final = 64
"""Most partial matches of a partition here: an event visits each, objects move in groups."""

CompletedMatch = tuple[int, int, PartialMatch]
"""A match: position of the event that completes it, row of its partition, the match."""

_FIRST_CAPACITY: Final = 256


class PartialMatchColumns:
    """Partial matches of partitions, by row.

    Row 0 with two partial matches, row 1 with none, row 2 an object elsewhere::

        heads  [5, -1, -1]    apart  [False, False, True]
        pool[5]  first=1000 state=2 count=1 next=8    ids[5]  "e1" ...
        pool[8]  first=1200 state=1 count=1 next=-1   ids[8]  "e4" ...
    """

    def __init__(
        self, automaton: Automaton, within_ms: int, slots: int, most: int, past_last: bool
    ) -> None:
        """Create columns without rows for at most `most` partial matches of one partition.

        A partial match takes events up to `within_ms` after its first one. `slots` is the number of
        events of a match before the one that completes it; at most :data:`MAX_SLOTS` are kept. If
        `past_last`, a match skips what begins up to its last event; else only itself.
        """
        self._move = kernel.load_kernel()
        self._slots = min(max(slots, 1), MAX_SLOTS)
        complete = np.array(automaton.complete)
        self._asks = complete | np.array(automaton.pending)
        first = np.array(automaton.first, np.int64)
        after = np.array(automaton.rows, np.int64).reshape(-1, len(first))
        begun = np.where((first >= 0) & self._asks[first >> 1], kernel.ASKS, first >> 1)
        moved = np.where((after >= 0) & self._asks[after >> 1], kernel.ASKS, after)
        moved[(after >= 0) & complete[after >> 1]] = kernel.COMPLETES
        self._pattern = kernel.PatternArrays(
            begun, moved, within_ms, min(most, MAX_MATCHES), past_last
        )
        self.heads = np.zeros(0, np.int32)
        self.apart = np.zeros(0, np.bool_)
        self._pool: NDArray[Any] = np.zeros(0, kernel.PARTIAL_MATCH)
        self._ids = np.zeros((0, self._slots * kernel.ID_WORDS), np.uint64)
        self._users = np.empty(0, np.object_)
        self._free = -1
        self._unused = 0

    def grow(self, rows: int) -> None:
        """Make room for rows below `rows`."""
        more = rows - len(self.heads)
        self.heads = np.concatenate([self.heads, np.full(more, -1, np.int32)])
        self.apart = np.concatenate([self.apart, np.zeros(more, np.bool_)])

    def move(self, events: Arrivals, order: Rows) -> tuple[Rows, list[CompletedMatch]]:
        """Apply events, in `order`, to the partitions in columns.

        Returns the positions in `order` of the events left, whose partitions are as before the
        first of these and now apart; and the matches that the other events completed.
        """
        self._reserve(len(order))
        words, left = _words_of(events.ids)
        touched, matched = np.empty((2, len(self._pool)), np.int32)
        matched_at = np.empty(len(self._pool), np.int64)
        self._free, used, taken, completed = self._move(
            order,
            kernel.EventArrays(events.rows, events.times, events.places, events.codes, words),
            self._pattern,
            kernel.MatchArrays(self.heads, self.apart, self._pool, self._ids),
            self._free,
            kernel.Outcome(left, touched, matched, matched_at),
        )
        self._unused -= used
        takers = touched[:taken]
        self._users[takers] = events.users[self._pool["event"][takers]]
        self._pool["event"][takers] = -1
        matches = self._take(matched[:completed], matched_at[:completed], events, order)
        return np.flatnonzero(left[order]), matches

    def by_state(self, rows: Rows) -> list[MatchesByState]:
        """Return the partial matches of each row by state, each list in order."""
        by_state: list[MatchesByState] = [{} for _ in range(len(rows))]
        numbers, current = np.arange(len(rows)), self.heads[rows]
        while True:
            present = np.flatnonzero(current >= 0)
            if not len(present):
                return by_state
            numbers, current = numbers[present], current[present]
            matches = self._as_tuples(current)
            for number, (match, state) in zip(numbers.tolist(), matches, strict=True):
                by_state[number].setdefault(state, []).append(match)
            current = self._pool["next"][current]

    def put(self, row: int, by_state: MatchesByState) -> bool:
        """Replace the partial matches of a row; return whether they fit, else it is apart."""
        self.clear(row)
        waiting = [(match, state) for state, matches in by_state.items() for match in matches]
        waiting.sort(key=lambda pair: pair[0][:2])
        if len(waiting) > self._pattern.most or not all(self._fits(*pair) for pair in waiting):
            self.apart[row] = True
            return False
        self._reserve(len(waiting))
        before = -1
        for (first, first_place, last, last_place, ids, user), state in waiting:
            place, self._free = self._free, self._pool["next"].item(self._free)
            self._pool[place] = (first, first_place, last, last_place, state, len(ids), -1, -1)
            slots = self._ids[place].view(f"S{kernel.ID_BYTES}")
            slots[: len(ids)] = [_quoted(text) for text in ids]
            self._users[place] = user
            if before < 0:
                self.heads[row] = place
            else:
                self._pool["next"][before] = place
            before = place
        self._unused -= len(waiting)
        return True

    def clear(self, row: int) -> None:
        """Delete the partial matches of a row; it is no longer apart."""
        self.apart[row] = False
        place = self.heads.item(row)
        self.heads[row] = -1
        places: list[int] = []
        while place >= 0:
            places.append(place)
            place = self._pool["next"].item(place)
        self._release(np.array(places, np.int32))

    def sweep(self, horizon: int) -> Rows:
        """Delete partial matches begun up to `horizon`; return the rows that had some."""
        changed = np.zeros(len(self.heads), np.bool_)
        rows = np.flatnonzero(self.heads >= 0)
        while len(rows):
            # The oldest is the first of its list.
            rows = rows[self._pool["first"][self.heads[rows]] <= horizon]
            over = self.heads[rows]
            changed[rows] = True
            self.heads[rows] = self._pool["next"][over]
            self._release(over)
            rows = rows[self.heads[rows] >= 0]
        return np.flatnonzero(changed)

    def _take(
        self, matched: NDArray[np.int32], at: Rows, events: Arrivals, order: Rows
    ) -> list[CompletedMatch]:
        """Remove and return matches, each with the event that completes it added."""
        if not len(matched):
            return []
        matches = [match for match, _ in self._as_tuples(matched)]
        last = events.take(order[at]).as_tuples()
        self._release(matched)
        return [
            (position, row, (*match[:2], time, place, (*match[4], event_id), user))
            for position, match, (time, place, row, _, event_id, user) in zip(
                at.tolist(), matches, last, strict=True
            )
        ]

    def _as_tuples(self, places: NDArray[np.int32]) -> Iterator[tuple[PartialMatch, int]]:
        """Yield partial matches, with the state of each."""
        pool = self._pool[places]
        columns = zip(
            *(pool[name].tolist() for name in kernel.PARTIAL_MATCH.names[:6]),  # type: ignore[index]
            self._ids[places].view(f"S{kernel.ID_BYTES}").tolist(),
            self._users[places].tolist(),
            strict=True,
        )
        for first, first_place, last, last_place, state, count, ids, user in columns:
            texts = tuple([text[:-1].decode() for text in ids[:count]])
            yield (first, first_place, last, last_place, texts, user), state

    def _fits(self, match: PartialMatch, state: int) -> bool:
        ids = match[4]
        short = all(len(_quoted(text)) <= kernel.ID_BYTES for text in ids)
        return short and not self._asks[state] and len(ids) <= self._slots

    def _release(self, places: NDArray[np.int32]) -> None:
        if len(places):
            self._pool["next"][places[:-1]] = places[1:]
            self._pool["next"][places[-1]] = self._free
            self._free = int(places[0])
            self._unused += len(places)

    def _reserve(self, count: int) -> None:
        """Make sure that `count` elements of the pool are free."""
        missing, used = count - self._unused, len(self._pool)
        if missing <= 0:
            return
        more = max(missing, used // 4, _FIRST_CAPACITY)
        new = np.zeros(more, kernel.PARTIAL_MATCH)
        new["event"] = -1
        ids = np.zeros((more, self._ids.shape[1]), np.uint64)
        self._pool = np.concatenate([self._pool, new])
        self._ids = np.concatenate([self._ids, ids])
        self._users = np.concatenate([self._users, np.empty(more, np.object_)])
        self._release(np.arange(used, used + more, dtype=np.int32))


class Partitions:
    """A row for each partition, used again once nothing needs it."""

    def __init__(self, columns: PartialMatchColumns) -> None:
        """Create an index without partitions on `columns` without rows."""
        self.columns = columns  # partial matches of rows that need no object
        columns.grow(_FIRST_CAPACITY)
        self.keys: list[PartitionKey | None] = []  # partition of each row; None of a free one
        self.held: dict[int, Partition] = {}  # partitions that are objects, by row
        # Changed rows, set and cleared by the caller.
        self.changed = np.zeros(_FIRST_CAPACITY, np.bool_)
        self._rows: dict[PartitionKey, int] = {}
        self._rows_of: dict[str, dict[str, int]] = {}
        self._free: list[int] = []

    def find(self, keys: Sequence[PartitionKey | None]) -> Rows:
        """Return the row of each partition, added if it has none; -1 for None."""
        find: Any = self._rows.get
        rows = np.fromiter(map(find, keys, repeat(-1)), np.int64, len(keys))
        for position in np.flatnonzero(rows < 0).tolist():
            key = keys[position]
            if key is not None:
                rows[position] = self.row_of(key)
        return rows

    def row_of(self, key: PartitionKey) -> int:
        """Return the row of a partition, added if it has none."""
        row = self._rows.get(key)
        if row is not None:
            return row
        if self._free:
            row = self._free.pop()
            self.keys[row] = key
        else:
            row = len(self.keys)
            self.keys.append(key)
            if row == len(self.changed):
                more = len(self.changed) // 2
                self.changed = np.concatenate([self.changed, np.zeros(more, np.bool_)])
                self.columns.grow(len(self.changed))
        self._rows[key] = row
        if isinstance(key, tuple):
            self._rows_of.setdefault(key[0], {})[key[1]] = row
        return row

    def known(self, key: PartitionKey) -> int:
        """Return the row of a partition; -1 if it has none."""
        return self._rows.get(key, -1)

    def key(self, row: int) -> PartitionKey:
        """Return the partition of a row in use."""
        key = self.keys[row]
        assert key is not None
        return key

    def rows_of(self, key: str) -> list[int]:
        """Return the rows of an entity, in the order of the other common value."""
        if key in self._rows:
            return [self._rows[key]]
        return [row for _, row in sorted(self._rows_of.get(key, {}).items())]

    def entities(self, rows: Iterable[int]) -> set[str]:
        """Return the entities of `rows`."""
        return {key_of(key) for row in rows if (key := self.keys[row]) is not None}

    def put_back(self, rows: Rows) -> None:
        """Move partitions that are objects back to the columns where they fit."""
        for row in np.unique(rows).tolist():
            held = self.held.get(row)
            if held is None:
                self.columns.clear(row)
            else:
                self.put(row, held)

    def partition(self, row: int) -> Partition:
        """Return a partition as an object, until :meth:`put` or :meth:`release`."""
        partition = self.held.get(row)
        if partition is None:
            partition = self.held[row] = Partition()
            (partition.waiting,) = self.columns.by_state(np.array([row]))
            self.columns.clear(row)
            self.columns.apart[row] = True
        return partition

    def contents(self, rows: Sequence[int]) -> list[tuple[MatchesByState, list[PartialMatch]]]:
        """Return waiting partial matches and matches of each row; to be read only."""
        contents: list[tuple[MatchesByState, list[PartialMatch]]] = [
            (waiting, []) for waiting in self.columns.by_state(np.array(rows, np.int64))
        ]
        for number in np.flatnonzero(self.columns.apart[rows]).tolist():
            partition = self.held[rows[number]]
            contents[number] = partition.waiting, partition.matched
        return contents

    def put(self, row: int, partition: Partition) -> None:
        """Keep a partition: in columns if it fits, else as an object."""
        if partition.matched or not self.columns.put(row, partition.waiting):
            self.columns.apart[row] = True
            self.held[row] = partition
        else:
            self.held.pop(row, None)

    def release(self, row: int) -> None:
        """Delete the partial matches of a row."""
        self.held.pop(row, None)
        self.columns.clear(row)

    def sweep(self, horizon: int, needed: Rows) -> None:
        """Delete partial matches begun up to `horizon`, and free unused rows.

        Rows of events that wait are `needed`.
        """
        self.changed[self.columns.sweep(horizon)] = True
        used = len(self.keys)
        spare = (self.columns.heads[:used] < 0) & ~self.columns.apart[:used] & ~self.changed[:used]
        spare[needed] = False
        for row in np.flatnonzero(spare).tolist():
            key = self.keys[row]
            if key is None:
                continue
            del self._rows[key]
            self.keys[row] = None
            self._free.append(row)
            if isinstance(key, tuple):
                of_entity = self._rows_of[key[0]]
                del of_entity[key[1]]
                if not of_entity:
                    del self._rows_of[key[0]]


def _words_of(ids: NDArray[np.bytes_]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return ids as words padded with zeros, and which are too long for that."""
    if ids.dtype == np.object_:
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    elif ids.itemsize > kernel.ID_BYTES:
        lengths = np.char.str_len(ids)
    else:
        lengths = np.zeros(len(ids), np.int64)
    words = ids.astype(f"S{kernel.ID_BYTES}").view(np.uint64).reshape(len(ids), kernel.ID_WORDS)
    return words, lengths > kernel.ID_BYTES


def _quoted(text: str) -> bytes:
    return text.encode() + b'"'

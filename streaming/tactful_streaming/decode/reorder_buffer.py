"""Sorts events by event time: they wait until the watermark has passed them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SHORT: Final = 256  # runs of fewer events are joined, to keep the number of runs low
_SHORT_SPAN_MS: Final = 1 << 16
_PLACE_BITS: Final = 22  # bits of a place; with it, times of many years fit one number
_LONGEST_MS: Final = 1 << 41

_WIDEST: Final = 1025
"""Bytes of the longest id that the server accepts, and a quote.

All elements of a bytes array are as wide as the widest: an id of a megabyte, written to the topic
by another program, would need gigabytes for a batch.
"""


def quoted(texts: Iterable[str]) -> NDArray[np.bytes_]:
    """Encode texts in UTF-8, each followed by a quote: arrays drop trailing zeros."""
    encoded = [text.encode() + b'"' for text in texts]
    if max(map(len, encoded), default=0) <= _WIDEST:
        return np.array(encoded, np.bytes_)
    objects: NDArray[Any] = np.array(encoded, np.object_)  # each with its own width
    return objects


def unquoted(texts: NDArray[np.bytes_]) -> list[str]:
    """Decode an array made by :func:`quoted`."""
    return [text[:-1].decode() for text in texts.tolist()]


class Arrivals(NamedTuple):
    """Events as columns of equal length."""

    times: NDArray[np.int64]  # time of each event, epoch milliseconds
    places: NDArray[np.int64]  # place in the log
    rows: NDArray[np.int64]  # row of the partition
    codes: NDArray[np.int64]  # code of the type
    ids: NDArray[np.bytes_]  # id, encoded by `quoted`
    users: NDArray[np.object_]  # key of the user, or None

    def take(self, index: Any) -> Arrivals:
        """Return the events at the positions, under the mask or in the slice `index`."""
        return Arrivals(*(column[index] for column in self))

    def as_tuples(self) -> Iterator[tuple[int, int, int, int, str, str | None]]:
        """Yield timestamp, place, row, code, id and user of each event."""
        columns = (column.tolist() for column in (*self[:4], self.users))
        times, places, rows, codes, users = columns
        return zip(times, places, rows, codes, unquoted(self.ids), users, strict=True)

    def ordered(self) -> Arrivals:
        """Return the events by timestamp, then by place in the log."""
        return self if len(self.times) < 2 else self.take(order_of(self.times, self.places))


def order_of(times: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions by timestamp, then by place in the log."""
    if not len(times):
        return np.zeros(0, np.int64)
    since = times - times.min()
    if (places[1:] > places[:-1]).all():
        # A stable sort keeps the order of places; with 16 bits it takes a seventh of the time.
        short = int(since.max()) < _SHORT_SPAN_MS
        return np.argsort(since.astype(np.uint16) if short else since, kind="stable")
    # A stable sort merges sorted runs in a twentieth of the time of `lexsort`.
    first = int(places.min())
    if int(places.max()) - first < 1 << _PLACE_BITS and int(since.max()) < _LONGEST_MS:
        return np.argsort((since << _PLACE_BITS) + (places - first), kind="stable")
    return np.lexsort((places, times))


def arrivals_of(events: Iterable[tuple[int, int, int, int, str, str | None]]) -> Arrivals:
    """Build columns from (timestamp, place, row, code, id, user)."""
    events = list(events)
    numbers = np.array([event[:4] for event in events], np.int64).reshape(-1, 4)
    users = np.empty(len(events), np.object_)
    users[:] = [event[5] for event in events]
    times, places, rows, codes = numbers.T
    ids = quoted(event[4] for event in events)
    return Arrivals(times, places, rows, codes, ids, users)


def joined(runs: Sequence[Arrivals]) -> Arrivals:
    """Return a copy of all `runs`, at least one, one after the other."""
    return Arrivals(*map(np.concatenate, zip(*runs, strict=True)))


class ReorderBuffer:
    """Queue ordered by timestamp, then by place in the log.

    Events that arrive together are sorted once and wait as a run, released from its front::

        runs   [10 12 15 19]  [11 13 14]      released before 14:  [10 12]  [11 13]
    """

    def __init__(self) -> None:
        """Create an empty buffer."""
        self._runs: list[Arrivals] = []

    def waiting(self) -> Arrivals:
        """Return all waiting events, unordered."""
        return joined(self._runs) if self._runs else arrivals_of(())

    def extend(self, events: Arrivals) -> None:
        """Add events."""
        if not len(events.times):
            return
        if self._runs and len(self._runs[-1].times) + len(events.times) <= _SHORT:
            events = joined([self._runs.pop(), events])
        self._runs.append(events.ordered())

    def release(self, watermark: int) -> tuple[Arrivals, NDArray[np.int64]] | None:
        """Remove the events before `watermark`; return them and their order, or None."""
        released: list[Arrivals] = []
        kept: list[Arrivals] = []
        short: list[Arrivals] = []
        for run in self._runs:
            if run.times[0] < watermark:
                cut = int(np.searchsorted(run.times, watermark))
                released.append(run.take(slice(cut)))
                run = run.take(slice(cut, None))
            (short if len(run.times) < _SHORT else kept).append(run)
        if not released:
            return None
        # Copied: a slice of a long run would hold all of it in memory.
        rest = joined(short).ordered() if short else None
        if rest is not None and len(rest.times):
            kept.append(rest)
        self._runs = kept
        if len(released) == 1:
            return released[0], np.arange(len(released[0].times))
        # Sorting the columns here would copy them, texts included, once more.
        events = joined(released)
        return events, order_of(events.times, events.places)

    def earliest(self) -> int | None:
        """Return the lowest waiting timestamp; None without any."""
        return min((int(run.times[0]) for run in self._runs), default=None)

    def remove(self, rows: Sequence[int]) -> Arrivals:
        """Remove and return the events of partitions, unordered."""
        waiting = self.waiting()
        leaves = np.isin(waiting.rows, rows)
        self._runs = []
        self.extend(waiting.take(~leaves))
        return waiting.take(leaves)

    def rename(self, rows: Sequence[int], others: Sequence[int]) -> None:
        """Move the events of each of `rows` to the same element of `others`."""
        for run in self._runs:
            before = run.rows.copy()
            for row, other in zip(rows, others, strict=True):
                run.rows[before == row] = other

"""Events wait here until the watermark has passed them, and leave in the order of event time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SHORT: Final = 256
"""Runs of fewer events are joined, so that few have to be looked at."""

_SHORT_SPAN_MS: Final = 1 << 16

_PLACE_BITS: Final = 22
"""Time of many years and a place of so many bits fit one number."""

_LONGEST_MS: Final = 1 << 41


_WIDEST: Final = 1025
"""Bytes of the longest id that the server accepts, and a quote.

All elements of a bytes array are as wide as the widest: one id of a megabyte, written to the topic
by another program, would make gigabytes of a batch.
"""


def quoted(texts: Iterable[str]) -> NDArray[np.bytes_]:
    """Encode texts in UTF-8, each with a quote behind it: arrays drop trailing zeros."""
    encoded = [text.encode() + b'"' for text in texts]
    if max(map(len, encoded), default=0) <= _WIDEST:
        return np.array(encoded, np.bytes_)
    objects: NDArray[Any] = np.array(encoded, np.object_)  # reads the same, and each has its width
    return objects


def unquoted(texts: NDArray[np.bytes_]) -> list[str]:
    """Decode an array made by :func:`quoted`."""
    return [text[:-1].decode() for text in texts.tolist()]


class Arrivals(NamedTuple):
    """Events as columns of equal length.

    Attributes:
        times: when each happened, epoch milliseconds.
        places: its place in the log.
        rows: row of its partition.
        codes: code of its type.
        ids: its id, as :func:`quoted` has it.
        subjects: key of the person behind it, or None.
    """

    times: NDArray[np.int64]
    places: NDArray[np.int64]
    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    ids: NDArray[np.bytes_]
    users: NDArray[np.object_]

    def take(self, index: Any) -> Arrivals:
        """Those at the positions, under the mask or in the slice `index`."""
        return Arrivals(*(column[index] for column in self))

    def as_tuples(self) -> Iterator[tuple[int, int, int, int, str, str | None]]:
        """Timestamp, place, row, code, id and subject of each."""
        columns = (column.tolist() for column in (*self[:4], self.users))
        times, places, rows, codes, users = columns
        return zip(times, places, rows, codes, unquoted(self.ids), users, strict=True)

    def ordered(self) -> Arrivals:
        """The same, in the order of timestamp, then of place in the log."""
        return self if len(self.times) < 2 else self.take(order_of(self.times, self.places))


def order_of(times: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order of timestamps, then of places in the log, as positions."""
    if not len(times):
        return np.zeros(0, np.int64)
    since = times - times.min()
    if (places[1:] > places[:-1]).all():
        # A stable sort keeps the places in order, and one of 16 bits takes a seventh of the time.
        short = int(since.max()) < _SHORT_SPAN_MS
        return np.argsort(since.astype(np.uint16) if short else since, kind="stable")
    # Runs one behind the other, each in order, are merged by a stable sort in a twentieth of it.
    first = int(places.min())
    if int(places.max()) - first < 1 << _PLACE_BITS and int(since.max()) < _LONGEST_MS:
        return np.argsort((since << _PLACE_BITS) + (places - first), kind="stable")
    return np.lexsort((places, times))


def arrivals_of(
    events: Iterable[tuple[int, int, int, int, str, str | None]],
) -> Arrivals:
    """Columns of (timestamp, place, row, code, id, subject)."""
    events = list(events)
    numbers = np.array([event[:4] for event in events], np.int64).reshape(-1, 4)
    subjects = np.empty(len(events), np.object_)
    subjects[:] = [event[5] for event in events]
    times, places, rows, codes = numbers.T
    ids = quoted(event[4] for event in events)
    return Arrivals(times, places, rows, codes, ids, subjects)


def joined(runs: Sequence[Arrivals]) -> Arrivals:
    """A copy of all of `runs`, at least one, after each other."""
    return Arrivals(*map(np.concatenate, zip(*runs, strict=True)))


class ReorderBuffer:
    """A queue ordered by timestamp, then by place in the log.

    What arrives together is sorted once and waits as a run; of each run the beginning leaves.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._runs: list[Arrivals] = []

    def waiting(self) -> Arrivals:
        """All that wait, in no order."""
        return joined(self._runs) if self._runs else arrivals_of(())

    def extend(self, events: Arrivals) -> None:
        """Let `events` wait."""
        if not len(events.times):
            return
        if self._runs and len(self._runs[-1].times) + len(events.times) <= _SHORT:
            events = joined([self._runs.pop(), events])
        self._runs.append(events.ordered())

    def release(self, watermark: int) -> tuple[Arrivals, NDArray[np.int64]] | None:
        """Remove the events before `watermark`; return them and their order, None if none are."""
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
        # Copied, for what is left of a long run would keep all of it in memory.
        rest = joined(short).ordered() if short else None
        if rest is not None and len(rest.times):
            kept.append(rest)
        self._runs = kept
        if len(released) == 1:
            return released[0], np.arange(len(released[0].times))
        # What is sorted by it, text and all, would be copied once more.
        events = joined(released)
        return events, order_of(events.times, events.places)

    def earliest(self) -> int | None:
        """The lowest timestamp that waits."""
        return min((int(run.times[0]) for run in self._runs), default=None)

    def remove(self, rows: Sequence[int]) -> Arrivals:
        """Remove and return what waits for partitions, in no order."""
        waiting = self.waiting()
        leaves = np.isin(waiting.rows, rows)
        self._runs = []
        self.extend(waiting.take(~leaves))
        return waiting.take(leaves)

    def rename(self, rows: Sequence[int], others: Sequence[int]) -> None:
        """Give what waits for each of `rows` to the one of `others` in its place."""
        for run in self._runs:
            before = run.rows.copy()
            for row, other in zip(rows, others, strict=True):
                run.rows[before == row] = other

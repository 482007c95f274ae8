"""Limits that keys have of their own: requests a second, and requests and events a day.

All processes of one server count in one memory, under a lock of the operating system that a killed
process loses. So the limit holds exactly for a server, whatever process a request meets::

    ids int64 [4,096] | next times float64 | days int64 | requests int64 | events int64

A key finds its row by linear probing from its id, which is random. Rates follow GCRA: a row holds
the time by which all that was counted would have come at the allowed rate. Counts of a day are
stored by `tactful.metadata.api_keys` every few seconds; the servers of one database add up there.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Self

from tactful.http.limits.rate_limits import shared_memory
from tactful.metadata.key_cache import DAY_MS, ApiKey, KeyUse
from tactful.schemas.problems import ProblemError
from tactful.util.clock import now_ms

_ROWS = 4_096
_ATTEMPTS = 2_000  # a process that is stopped while it counts must not stop the others


class KeyCounters:
    """Counts requests and events of keys with limits; refuses those beyond a limit.

    Attributes:
        memory: file descriptor of the shared memory, for the other processes.
    """

    def __init__(
        self,
        *,
        memory: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = now_ms,
    ) -> None:
        """Count in `memory` of another process, else in new memory.

        `clock` is the monotonic one that all processes share, in seconds; `wall` is in epoch
        milliseconds.
        """
        self.memory = shared_memory("tactful-keys", 5 * 8 * _ROWS) if memory is None else memory
        weakref.finalize(self, os.close, self.memory)
        mapped = memoryview(mmap.mmap(self.memory, 0))
        columns = [mapped[8 * _ROWS * n : 8 * _ROWS * (n + 1)] for n in range(5)]
        self._ids, self._days, self._requests, self._events = (
            columns[n].cast("q") for n in (0, 2, 3, 4)
        )
        self._times = columns[1].cast("d")
        self._clock = clock
        self._wall = wall
        self._stored: dict[int, KeyUse] = {}  # by row: what the metadata contain of its counts

    def request(self, key: ApiKey) -> None:
        """Count a request of a key.

        Raises:
            ProblemError: if its rate or the requests of its day are used up; nothing was counted.
        """
        limits = key.limits
        if limits is None:
            return
        self._lock()
        try:
            row, now = self._row(key.id), self._clock()
            if limits.rate is not None:
                wait = self._times[row] - now - (limits.most_at_once - 1) / limits.rate
                if wait > 1e-9:
                    raise ProblemError(
                        "too_many_requests",
                        f"this key may send {limits.rate:g} requests a second, and "
                        f"{limits.most_at_once} at once",
                        retry_after=max(1, math.ceil(wait)),
                    )
            most = limits.requests_per_day
            if most is not None and self._requests[row] >= most:
                raise self._used_up(f"this key may send {most} requests a day, which are used up")
            if limits.rate is not None:
                self._times[row] = max(self._times[row], now) + 1 / limits.rate
            self._requests[row] += 1
        finally:
            self._unlock()

    def events(self, key: ApiKey, number: int) -> None:
        """Count the events of one request of a key.

        Raises:
            ProblemError: if they are more than the day has left; none of them was counted.
        """
        most = None if key.limits is None else key.limits.events_per_day
        if most is None:
            return
        if number > most:
            raise ProblemError(
                "too_large", f"this key may send {most} events a day: send smaller batches"
            )
        self._lock()
        try:
            row = self._row(key.id)
            if (left := most - self._events[row]) < number:
                raise self._used_up(
                    f"this key may send {most} events a day, of which {max(left, 0)} are left"
                )
            self._events[row] += number
        finally:
            self._unlock()

    def give_back(self, key: ApiKey, number: int) -> None:
        """Take back events that were counted and then not accepted."""
        if key.limits is None or key.limits.events_per_day is None:
            return
        self._lock()
        try:
            row = self._row(key.id)
            self._events[row] = max(0, self._events[row] - number)
        finally:
            self._unlock()

    def unsaved(self) -> list[KeyUse]:
        """Return what was counted today since it was saved; for the process that saves it."""
        today, found = self._wall() // DAY_MS, []
        for row, identity in enumerate(self._ids):
            if not identity or self._days[row] != today:
                continue
            stored = self._stored.get(row)
            if stored is None or stored.day != today:
                stored = KeyUse("", today, 0, 0)
            requests, events = self._requests[row], self._events[row]
            if (requests, events) != (stored.requests, stored.events):
                name = f"{identity - 1:08x}"
                missing = requests - stored.requests, events - stored.events
                found.append(KeyUse(name, today, *missing))
        return found

    def saved(self, sent: Iterable[KeyUse], totals: Iterable[KeyUse]) -> None:
        """Take over the stored `totals` of keys, after `sent` of `unsaved` was stored.

        Totals are larger where other servers count, or this one did before it was started again.
        """
        by_key = {use.key_id: use for use in sent}
        today = self._wall() // DAY_MS
        self._lock()
        try:
            for total in totals:
                if total.day != today:
                    continue
                row = self._row(total.key_id)
                before = self._stored.get(row)
                if before is None or before.day != today:
                    before = KeyUse("", today, 0, 0)
                ours = by_key.get(total.key_id, KeyUse("", today, 0, 0))
                self._requests[row] += total.requests - before.requests - ours.requests
                self._events[row] += total.events - before.events - ours.events
                self._stored[row] = total
        finally:
            self._unlock()

    def _row(self, identifier: str) -> int:
        """Return the row of a key, with the counts of this day."""
        identity = int(identifier, 16) + 1
        row = first = identity % _ROWS
        while self._ids[row] not in (0, identity):
            row = (row + 1) % _ROWS
            if row == first:
                break  # with thousands of limited keys some share a row
        self._ids[row] = identity
        today, day = self._wall() // DAY_MS, self._days[row]
        # A clock that is set back over midnight does not begin the day again.
        if today != day and today != day - 1:
            self._days[row], self._requests[row], self._events[row] = today, 0, 0
        return row

    def _used_up(self, detail: str) -> ProblemError:
        left = DAY_MS - self._wall() % DAY_MS
        text = f"{detail}; a day ends at 0:00 UTC"
        return ProblemError("quota_used_up", text, retry_after=math.ceil(left / 1000))

    def _lock(self) -> None:
        for _ in range(_ATTEMPTS):
            try:
                fcntl.lockf(self.memory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            return

    def _unlock(self) -> None:
        fcntl.lockf(self.memory, fcntl.LOCK_UN)


class EventQuota:
    """Counts the events of one request, and takes the count back if they are refused."""

    def __init__(self, counters: KeyCounters, key: ApiKey) -> None:
        """Count for `key`."""
        self._counters = counters
        self._key = key
        self._counted = 0

    def count(self, number: int) -> None:
        """Count events before any is accepted; raises as `KeyCounters.events`."""
        self._counters.events(self._key, number)
        self._counted += number

    def __enter__(self) -> Self:
        """Begin a request."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End it; a problem means that nothing was accepted."""
        if kind is not None and issubclass(kind, ProblemError) and self._counted:
            self._counters.give_back(self._key, self._counted)

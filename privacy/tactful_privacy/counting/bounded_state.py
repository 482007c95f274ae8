"""The state of `BoundedCounts`: counts, the counters of people, and its stored form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_privacy.counting.snapshot_seal import SnapshotSeal
from tactful_privacy.errors import StateError
from tactful_privacy.ledger.statistic import DAY_MS, HOUR_MS, Statistic


class Contribution(msgspec.Struct, array_like=True):
    """A contribution of a user, here under a hash; in snapshots if its day's cap is undecided."""

    user: bytes
    timestamp: int
    index: int  # of the key
    late: bool
    amount: int = 1
    in_period: bytes = b""  # the user under the hash of a week or month, where users count once


class CountState(msgspec.Struct, array_like=True):
    """Content of a snapshot. Users are 16 bytes of a keyed hash.

    Example with hourly panes, one user of two contributions on day 20454, one of them late:

        open_from 1767229200000
        counts    {1767229200000: {3: 1}}
        spent     {20454: {b"…": 2}}
    """

    open_from: int
    counts: dict[int, dict[int, int]] = {}  # pane start -> key index -> count
    spent: dict[int, dict[bytes, int]] = {}  # day -> user -> contributions
    spent_in_cell: dict[int, dict[int, dict[bytes, int]]] = {}  # pane start -> key index -> user
    spent_in_hour: dict[int, dict[bytes, int]] = {}  # hour -> user -> contributions
    caps: dict[int, int] = {}  # day -> its cap, where caps are chosen
    waiting: dict[int, list[Contribution]] = {}  # day -> contributions in their order
    closed_any: bool = False
    began: int = 0  # first millisecond that was counted
    # start of a week or month -> key index -> its users
    seen: dict[int, dict[int, dict[bytes, int]]] = {}

    def pop_pane(self, start: int, keys: int) -> NDArray[np.int64]:
        """Remove a pane and return its counts, ``[keys]``."""
        counts = np.zeros(keys, dtype=np.int64)
        for index, count in self.counts.pop(start, {}).items():
            counts[index] = count
        self.spent_in_cell.pop(start, None)
        return counts

    def forget(self, statistic: Statistic) -> None:
        """Delete closed panes, past days and past periods; for hours see `forget_hours`."""
        for panes in (self.counts, self.spent_in_cell):
            for past in [start for start in panes if start < self.open_from]:
                del panes[past]
        for past in [at for at in self.seen if at < statistic.start_of(self.open_from)]:
            del self.seen[past]
        today = self.open_from // DAY_MS
        chosen = statistic.cap_choice is not None
        if chosen and today not in self.caps:  # the cap of today follows from yesterday
            today -= 1
        for days in (self.spent, self.caps, self.waiting):
            for past in [day for day in days if day < today]:
                del days[past]

    def forget_hours(self) -> None:
        """Delete past hours; a late contribution may begin one again."""
        for past in [h for h in self.spent_in_hour if (h + 1) * HOUR_MS <= self.open_from]:
            del self.spent_in_hour[past]

    def overlay(self, later: CountState, statistic: Statistic) -> None:
        """Apply later changes and deletions."""
        moved = later.open_from != self.open_from
        self.open_from, self.closed_any = later.open_from, later.closed_any
        if moved:
            self.forget_hours()
        _overlay(self.counts, later.counts)
        _overlay(self.spent, later.spent)
        _overlay(self.spent_in_hour, later.spent_in_hour)
        for mine, new in ((self.spent_in_cell, later.spent_in_cell), (self.seen, later.seen)):
            for pane, cells in new.items():
                _overlay(mine.setdefault(pane, {}), cells)
        self.caps, self.waiting = later.caps, later.waiting
        self.forget(statistic)


def _overlay(counts: dict[int, dict[Any, int]], changes: dict[int, dict[Any, int]]) -> None:
    for key, values in changes.items():
        counts.setdefault(key, {}).update(values)


def hmac_sha256(key: bytes) -> Callable[[bytes], bytes]:
    """Return a function that computes HMAC-SHA256 (RFC 2104) under a key of at most 64 bytes.

    It costs less than half of `hmac.digest`, because the key blocks are hashed once, here.
    """
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key.ljust(64, b"\0")))
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key.ljust(64, b"\0")))

    def digest(message: bytes) -> bytes:
        first, second = inner.copy(), outer.copy()
        first.update(message)
        second.update(first.digest())
        return second.digest()

    return digest


def open_snapshot(snapshot: bytes, seal: SnapshotSeal, statistic: Statistic) -> CountState:
    """Return the state in a sealed snapshot.

    Raises:
        StateError: The snapshot is damaged, or was made for another definition, or with another
            secret (the users' counters would restart and the cap be exceeded).
    """
    body = seal.open(snapshot)
    if body is None:
        raise StateError(
            f"the snapshot of {statistic.name!r} is damaged or was made with another"
            " secret: give its own secret; without the snapshot the day's caps are lost"
        )
    fingerprint, state = msgspec.msgpack.decode(body, type=tuple[str, CountState])
    if fingerprint != statistic.fingerprint:
        raise StateError(
            f"the snapshot belongs to another definition of {statistic.name!r}:"
            " a changed statistic needs a new name"
        )
    return state


def open_changes(
    changes: bytes, seal: SnapshotSeal, statistic: Statistic, base: bytes
) -> CountState:
    """Return the sealed changes to the snapshot with the tag `base`.

    Raises:
        StateError: The changes are damaged or belong to another snapshot: counters would be lost.
    """
    body = seal.open(changes)
    if body is None:
        raise StateError(
            f"the changes to the snapshot of {statistic.name!r} are damaged, or were made"
            " with another secret; without them the day's caps are lost"
        )
    named, later = msgspec.msgpack.decode(body, type=tuple[bytes, CountState])
    if named != base:
        raise StateError(
            f"the changes of {statistic.name!r} belong to another snapshot than the"
            " restored one: the two were not stored together"
        )
    return later

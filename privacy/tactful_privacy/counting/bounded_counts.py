"""Counts per pane with a bound on the contributions of each user and day.

Example:
    >>> views = Statistic("views.daily", ("bread", "milk"), DAY_MS, cap=2, epsilon=1)
    >>> counts = BoundedCounts(views, secret=b"sixteen bytes or more", start=0)
    >>> [counts.add("user 1", 0, "milk") for _ in range(3)]
    [True, True, False]
    >>> counts.closed(DAY_MS)[0].counts
    array([0, 2])
"""

import hmac
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_privacy.counting.bounded_state import (
    Contribution,
    CountState,
    hmac_sha256,
    open_changes,
    open_snapshot,
)
from tactful_privacy.counting.snapshot_seal import TAG, SnapshotSeal
from tactful_privacy.errors import ParameterError, StateError
from tactful_privacy.ledger.statistic import DAY_MS, FOUND_KEYS, HOUR_MS, Statistic

MAX_PANES_AT_ONCE = 100_000

_SHORTEST_SECRET = 16
_UNIT = 16


@dataclass(frozen=True, eq=False)
class Pane:
    """Exact counts of one closed pane. Secret: only its noisy release may be shown."""

    start: int  # first millisecond of the pane (epoch)
    end: int  # first millisecond after it
    # one count for every key of the catalogue in its order, zeros included, ``[keys]``
    counts: NDArray[np.int64]


class BoundedCounts:
    """Counts contributions per (pane, key), each user at most `cap` times per UTC day.

    Bound: add or remove one user's contributions of one UTC day. Then the counts of that day change
    by at most `cap` in L1 (sums by `cap` times the largest amount), all panes and keys together,
    and the counts of no other day change. For a contribution is counted only while the counter of
    its own user and day is below the cap, and decisions about one user depend on no other user.

    Late contributions: a contribution to a closed pane is not counted, but it charges its user. (In
    the current pane it could fall on another day than its own.) Hence every counted contribution is
    among the first `cap` of its user and day in the order of the input, for any times of closing.
    This matters after a crash: the input is replayed against a later clock, and contributions that
    were released already may be late the second time. Contributions to open panes count in any
    order of arrival.

    Assumed of the caller:

    * The watermark does not depend on any single user's contributions: it is a clock (or a
      replay's clock) minus an allowance, not the largest timestamp seen. Otherwise one user decides
      which contributions of the others are late, and the bound above is void.
    * Each event is added once (de-duplicated upstream), and the snapshot is stored in the same
      atomic write as the position in the input.
    * `unit` is a person as far as known; two ids of one person are two units.

    Hour cap: contributions of a user beyond it count nowhere and charge nothing else. It is checked
    before the clock, so that a replay against a later clock decides alike.

    Chosen caps (`Statistic.cap_choice`): the cap of a day is fixed when the day before is over, see
    `undecided` and `decide`. Earlier contributions wait, in their order, and are counted then. A
    user's counter continues up to the largest candidate, so that the next cap can be larger; only
    contributions within the day's own cap count. So the bound holds with the cap of each day.

    Weeks and months (`Statistic.period`): a user who counts once counts for the union of the keys
    that each day's cap admits. The admission of a day depends on that day alone, so a day still
    changes at most `cap` keys by one.

    Users are kept under a keyed hash that differs from day to day (where users of a week or month
    count once, also under one that differs between these); raw ids are not stored. A day's counters
    are deleted when its last pane closes, those of a period at its end.
    """

    def __init__(self, statistic: Statistic, *, secret: bytes, start: int) -> None:
        """Begin with no counts.

        Args:
            statistic: Definition with catalogue, pane and caps.
            secret: Key of the hash of users, 16 bytes or more; snapshots can be restored only with
                the same secret.
            start: First time to count, epoch milliseconds, rounded down to a pane; public. If an
                earlier state was lost, begin with the next UTC day: the counters of the current day
                are gone, so its cap could be exceeded.

        Raises:
            ParameterError: The secret is too short, `start` is negative, or the statistic has no
                catalogue.
        """
        _check(statistic, secret, start)
        self.statistic = statistic
        self._hash_unit = hmac_sha256(hmac.digest(secret, b"unit", "sha256"))
        self._snapshot_seal = SnapshotSeal(secret, b"snapshot")
        self._changes_seal = SnapshotSeal(secret, b"changes")
        self._fixed_cap = None if statistic.cap_choice else statistic.cap
        self._index = {key: index for index, key in enumerate(statistic.keys)}
        open_from = start - start % statistic.pane_ms
        self._state = CountState(open_from=open_from, began=open_from)
        if statistic.cap_choice is not None:  # contributions of the day before are not known
            self._state.caps[start // DAY_MS] = statistic.cap
        self._changed = True
        self._later = CountState(open_from=0)  # changes since the snapshot
        self._entries = 0  # upper bound of the entries of people in these changes
        self._base = b""  # tag of the snapshot

    @property
    def open_from(self) -> int:
        """Start of the oldest pane that is still open, epoch milliseconds."""
        return self._state.open_from

    @property
    def changed(self) -> bool:
        """Whether anything changed since the last `snapshot`, `changes` or `restore`."""
        return self._changed

    @property
    def entries_changed(self) -> int:
        """Approximate number of entries in `changes`."""
        return self._entries

    @property
    def entries(self) -> int:
        """Number of entries of people in a `snapshot`."""
        return sum(map(len, self._state.spent.values()))

    @property
    def closed_until(self) -> int | None:
        """End of the newest closed pane that is released, None if there is none."""
        state, statistic = self._state, self.statistic
        if not state.closed_any or statistic.period is None:
            return state.open_from if state.closed_any else None
        boundary = statistic.start_of(state.open_from)
        return boundary if statistic.start_of(boundary - 1) >= state.began else None

    def cap_on(self, day: int) -> int | None:
        """Return the cap of a UTC day that is open; None while it is undecided."""
        return self._fixed_cap or self._state.caps.get(day)

    def add(
        self, unit: str, timestamp: int, key: str, *, watermark: int = 0, amount: int = 1
    ) -> bool:
        """Count one contribution if the caps allow it and its pane is not over.

        Args:
            unit: Identifier of the user.
            timestamp: Event time in epoch milliseconds.
            key: Key to count; keys outside the catalogue are ignored and charge nobody.
            watermark: Epoch milliseconds, see `closed`: a contribution to a pane that ends at or
                before it is late, even if that pane was not closed yet.
            amount: Amount to add, in steps; it is clamped to the statistic's `amounts`. Without
                these each contribution counts 1.

        Returns:
            Whether it was counted; as secret as the counts, so do not publish totals of it.

        Raises:
            ParameterError: `unit` is empty, so the contribution could not be bounded.
        """
        if not unit:
            raise ParameterError("the unit is empty: give the id of the user to bound")
        index = self._index.get(key)
        state = self._state
        day = timestamp // DAY_MS
        if index is None or (day + 1) * DAY_MS <= state.open_from:
            return False
        pane_ms = self.statistic.pane_ms
        pane = timestamp - timestamp % pane_ms
        late = pane < max(state.open_from, watermark - watermark % pane_ms)
        user = self._hash_unit(b"%d:%s" % (day, unit.encode()))[:_UNIT]
        amounts = self.statistic.amounts
        amount = 1 if amounts is None else amounts.clamped(amount)
        contribution = Contribution(user, timestamp, index, late, amount)
        if self.statistic.period is not None and self.statistic.cell_cap is not None:
            start = self.statistic.start_of(pane)
            named = b"%s:%d:%s" % (self.statistic.period.encode(), start, unit.encode())
            contribution.in_period = self._hash_unit(named)[:_UNIT]

        cap = self._fixed_cap or state.caps.get(day)
        if cap is None:
            state.waiting.setdefault(day, []).append(contribution)
            self._changed = True
            return False
        return self._count(contribution, cap)

    def _count(self, contribution: Contribution, cap: int) -> bool:
        state, statistic = self._state, self.statistic
        user, timestamp = contribution.user, contribution.timestamp
        index, late = contribution.index, contribution.late
        spent = state.spent.setdefault(timestamp // DAY_MS, {})
        before = spent.get(user, 0)
        if before >= statistic.cap:
            return False
        later = self._later
        if before >= cap:  # counted only for the choice of the next cap
            spent[user] = before + 1
            later.spent.setdefault(timestamp // DAY_MS, {})[user] = before + 1
            self._entries += 1
            self._changed = True
            return False
        # The hour cap ignores `late`, so that a replay against a later clock decides alike.
        pane = timestamp - timestamp % statistic.pane_ms
        in_hour: dict[bytes, int] | None = None
        if statistic.hour_cap is not None:
            in_hour = state.spent_in_hour.setdefault(timestamp // HOUR_MS, {})
            if in_hour.get(user, 0) >= statistic.hour_cap:
                return False
        if statistic.cell_cap is not None and not late:
            in_cell = state.spent_in_cell.setdefault(pane, {}).setdefault(index, {})
            if in_cell.get(user, 0) >= statistic.cell_cap:
                return False
            in_cell[user] = in_cell.get(user, 0) + 1
            changed = later.spent_in_cell.setdefault(pane, {}).setdefault(index, {})
            changed[user] = in_cell[user]
        if in_hour is not None:
            in_hour[user] = in_hour.get(user, 0) + 1
            later.spent_in_hour.setdefault(timestamp // HOUR_MS, {})[user] = in_hour[user]
        spent[user] = before + 1
        later.spent.setdefault(timestamp // DAY_MS, {})[user] = before + 1
        self._entries += 1
        self._changed = True
        if late:  # charged, but its pane is closed
            return False
        if contribution.in_period and not self._is_first(contribution, statistic.start_of(pane)):
            return False
        counts = state.counts.setdefault(pane, {})
        counts[index] = counts.get(index, 0) + contribution.amount
        later.counts.setdefault(pane, {})[index] = counts[index]
        return True

    def _is_first(self, contribution: Contribution, start: int) -> bool:
        """Note a user of a week or month; return whether it is the first time for this key.

        It is asked after every cap of the day was charged: these depend on no other day.
        """
        user, index = contribution.in_period, contribution.index
        if user in self._state.seen.setdefault(start, {}).setdefault(index, {}):
            return False
        for state in (self._state, self._later):
            state.seen.setdefault(start, {}).setdefault(index, {})[user] = 1
        return True

    def closed(self, watermark: int) -> list[Pane]:
        """Close every pane that ends at or before the watermark; return each once, in time order.

        Empty panes are returned as well: absence is information, and noise must cover it. A
        watermark before an earlier one closes nothing. With chosen caps, no pane of a day closes
        before its cap is decided: call `undecided`, `decide`, and this again. More than 100,000
        panes at once, as after a clock set wrongly, raise `StateError`.

        Args:
            watermark: Public clock, epoch milliseconds; see the assumption in the class.
        """
        state, pane_ms = self._state, self.statistic.pane_ms
        until = watermark - watermark % pane_ms
        if (until - state.open_from) // pane_ms > MAX_PANES_AT_ONCE:
            raise StateError(
                f"watermark {watermark} would close {(until - state.open_from) // pane_ms} panes of"
                f" {self.statistic.name!r} at once (at most {MAX_PANES_AT_ONCE}): check the clock."
                " If it is right, nothing was published for that long: remove the statistic,"
                " retire it, and continue under a new name"
            )
        if self.statistic.cap_choice is not None:
            today = state.open_from // DAY_MS
            until = min(until, (today + (today in state.caps)) * DAY_MS)
        starts = range(state.open_from, until, pane_ms)
        if not starts:
            return []
        panes = [
            Pane(start, start + pane_ms, state.pop_pane(start, len(self.statistic.keys)))
            for start in starts
        ]
        state.open_from, state.closed_any = until, True
        self._forget(hours=True)
        self._changed = True
        return panes

    def undecided(self, watermark: int) -> int | None:
        """Return the UTC day whose cap has to be decided before its panes close; or None.

        It has begun by the watermark, that of the preceding call of `closed`, and the day before is
        closed.
        """
        open_from = self._state.open_from
        day = open_from // DAY_MS
        begun = open_from % DAY_MS == 0 and watermark >= open_from
        return day if begun and self.cap_on(day) is None else None

    def contributions(self, day: int) -> NDArray[np.int64]:
        """Return contributions of people on the day before an undecided day. Secret.

        Each of the people has one or more, counted up to the largest candidate, ``[people]``.
        """
        return np.fromiter(self._state.spent.get(day - 1, {}).values(), dtype=np.int64)

    def decide(self, day: int, cap: int) -> None:
        """Fix the cap of an undecided day, and count the waiting contributions.

        The cap is one of the candidates, computed from published numbers; else `ParameterError`.
        """
        choice = self.statistic.cap_choice
        if choice is None or cap not in choice.candidates:
            raise ParameterError(f"{cap} is no candidate for the cap of {self.statistic.name!r}")
        if self.undecided(day * DAY_MS) != day:
            raise ParameterError(f"the cap of day {day} cannot be decided now")
        state = self._state
        state.caps[day] = cap
        for contribution in state.waiting.pop(day, []):
            self._count(contribution, cap)
        self._forget(hours=False)
        self._changed = True

    def _forget(self, *, hours: bool) -> None:
        self._later.open_from = self._state.open_from
        self._later.caps = self._state.caps
        for state in (self._state, self._later):
            if hours:
                state.forget_hours()
            state.forget(self.statistic)

    def snapshot(self) -> bytes:
        """Return the whole state, sealed with a key derived from the secret.

        Store it in the same atomic write as the position in the input. It holds exact counts, so
        keep it secret.
        """
        body = msgspec.msgpack.encode((self.statistic.fingerprint, self._state))
        self._changed = False
        sealed = self._snapshot_seal.seal(body)
        self._reset_changes(sealed[:TAG])
        return sealed

    def changes(self) -> bytes:
        """Return the sealed changes since the last `snapshot`, which must exist.

        They replace earlier changes; store them beside their snapshot, in one write with the
        position in the input. Their size depends on the changes, not on the number of people.
        """
        if not self._base:
            raise StateError(f"{self.statistic.name!r} has no snapshot to change: take one before")
        state, later = self._state, self._later
        later.open_from, later.closed_any = state.open_from, state.closed_any
        later.caps, later.waiting = state.caps, state.waiting
        body = msgspec.msgpack.encode((self._base, later))
        self._changed = False
        return self._changes_seal.seal(body)

    def restore(self, snapshot: bytes) -> None:
        """Continue from a snapshot, wholly or not at all.

        Raises:
            StateError: The snapshot is damaged, or was made for another definition, or with
                another secret (the users' counters would restart and the cap be exceeded).
        """
        self._state = open_snapshot(snapshot, self._snapshot_seal, self.statistic)
        self._changed = False
        self._reset_changes(snapshot[:TAG])

    def restore_changes(self, changes: bytes) -> None:
        """Apply the result of `changes`, after `restore` of its snapshot.

        Changes that are damaged or belong to another snapshot raise `StateError`: counters would be
        lost.
        """
        later = open_changes(changes, self._changes_seal, self.statistic, self._base)
        self._state.overlay(later, self.statistic)
        self._later = later
        # Both states are updated from now on, so they must not share objects.
        later.caps, later.waiting = {}, {}
        self._entries = sum(map(len, later.spent.values()))
        self._changed = False

    def _reset_changes(self, base: bytes) -> None:
        """Begin the changes to a snapshot with this tag."""
        self._base = base
        self._later, self._entries = CountState(open_from=self._state.open_from), 0


def _check(statistic: Statistic, secret: bytes, start: int) -> None:
    if statistic.kind == FOUND_KEYS:
        raise ParameterError(f"{statistic.name!r} has no catalogue: BoundedKeys counts it")
    if len(secret) < _SHORTEST_SECRET:
        raise ParameterError(
            f"the secret has {len(secret)} bytes: give at least {_SHORTEST_SECRET} random ones"
        )
    if start < 0:
        raise ParameterError(f"start is {start}: give epoch milliseconds, 0 or later")

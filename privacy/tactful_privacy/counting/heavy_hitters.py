"""Frequent keys outside any catalogue, such as search terms, from a threshold on."""

from __future__ import annotations

import hmac
import os
from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_privacy.counting.released import ReleasedPane, read_released
from tactful_privacy.counting.snapshot_seal import SnapshotSeal
from tactful_privacy.errors import ParameterError, StateError
from tactful_privacy.ledger.ledger import DayClaim, Draw, Ledger
from tactful_privacy.ledger.rows import stored_keys
from tactful_privacy.ledger.statistic import DAY_MS, FOUND_KEYS, Statistic
from tactful_privacy.mechanisms._table import Entropy
from tactful_privacy.mechanisms.threshold import ThresholdRelease

MAX_KEY = 128

_MAX_DAYS_AT_ONCE = 4_000
_SHORTEST_SECRET = 16


class _State(msgspec.Struct, array_like=True):
    """Snapshot content, such as ``[20454, {20454: {hash: ["tea"]}}, false]``."""

    open_from: int  # day
    keys: dict[int, dict[bytes, list[str]]] = {}  # day -> user -> first keys
    closed_any: bool = False


class BoundedKeys:
    """Counts users of arbitrary keys, each user for the first `cap` keys of a UTC day.

    The rules of `BoundedCounts` apply: decisions about a user depend on no other user,
    contributions to a day that is over by the clock are dropped, the snapshot is stored with the
    position in the input, and users are kept under a keyed hash that differs from day to day.
    Memory grows with users times `cap`.
    """

    def __init__(self, statistic: Statistic, *, secret: bytes, start: int) -> None:
        """Begin with no counts.

        Args:
            statistic: A statistic of the kind `FOUND_KEYS`.
            secret: Key of the hash of users, 16 bytes or more.
            start: Epoch milliseconds; counting begins with this UTC day. If an earlier state was
                lost, begin with the next day.

        Raises:
            ParameterError: The secret is too short, `start` is negative, or the statistic has a
                catalogue.
        """
        if len(secret) < _SHORTEST_SECRET or start < 0:
            raise ParameterError(
                f"the secret has {len(secret)} bytes and start is {start}: give at least"
                f" {_SHORTEST_SECRET} random bytes, and epoch milliseconds"
            )
        if statistic.kind != FOUND_KEYS:
            raise ParameterError(f"{statistic.name!r} has a catalogue: BoundedCounts counts it")
        self.statistic = statistic
        self._unit_key = hmac.digest(secret, b"key users", "sha256")
        self._seal = SnapshotSeal(secret, b"key snapshot")
        self._state = _State(start // DAY_MS)
        self._changed = True

    @property
    def changed(self) -> bool:
        """Whether anything changed since the last `snapshot` or `restore`."""
        return self._changed

    @property
    def closed_until(self) -> int | None:
        """End of the newest released day, epoch milliseconds; None if there is none."""
        return self._state.open_from * DAY_MS if self._state.closed_any else None

    def add(self, unit: str, timestamp: int, key: str, *, watermark: int = 0) -> bool:
        """Count one user of a key, if it is new for the user and the cap allows it.

        Args:
            unit: Identifier of the user.
            timestamp: Event time in epoch milliseconds.
            key: 1 to 128 characters; other keys are ignored and charge nobody.
            watermark: A public clock, epoch milliseconds: contributions to days before are late.

        Returns:
            Whether the contribution was counted; as secret as the counts.

        Raises:
            ParameterError: `unit` is empty, so the contribution could not be bounded.
        """
        if not unit:
            raise ParameterError("the unit is empty: give the id of the user to bound")
        day = timestamp // DAY_MS
        if not 1 <= len(key) <= MAX_KEY or day < max(self._state.open_from, watermark // DAY_MS):
            return False
        counted = self._state.keys.setdefault(day, {}).setdefault(self._user(day, unit), [])
        if key in counted or len(counted) >= self.statistic.cap:
            return False
        counted.append(key)
        self._changed = True
        return True

    def erase(self, units: Collection[str]) -> None:
        """Delete the keys of some users on days that are not released.

        A user who contributes again that day has the whole cap again, as nothing of the earlier
        contributions is left to release.
        """
        for day, users in self._state.keys.items():
            for unit in units:
                if users.pop(self._user(day, unit), None) is not None:
                    self._changed = True

    def _user(self, day: int, unit: str) -> bytes:
        return hmac.digest(self._unit_key, b"%d:%s" % (day, unit.encode()), "sha256")[:16]

    @property
    def open_from(self) -> int:
        """Start of the oldest day that is still open, epoch milliseconds."""
        return self._state.open_from * DAY_MS

    def due(self, watermark: int) -> dict[int, Counter[str]]:
        """Return the exact users of each key on each day that is over. Secret.

        More than 4,000 days at once, as after a public clock set wrongly, raise `StateError`.
        """
        today, open_from = watermark // DAY_MS, self._state.open_from
        if today - open_from > _MAX_DAYS_AT_ONCE:
            raise StateError(
                f"watermark {watermark} would release {today - open_from} days of"
                f" {self.statistic.name!r} at once (at most {_MAX_DAYS_AT_ONCE}): check the clock"
            )
        return {
            day: Counter(key for keys in self._state.keys.get(day, {}).values() for key in keys)
            for day in range(open_from, today)
        }

    def forget(self, day: int) -> None:
        """Delete the counts of a released day and of earlier days."""
        for past in [past for past in self._state.keys if past <= day]:
            del self._state.keys[past]
        self._state.open_from, self._state.closed_any = day + 1, True
        self._changed = True

    def snapshot(self) -> bytes:
        """Return the whole state, sealed; it holds exact counts, so keep it secret."""
        body = msgspec.msgpack.encode((self.statistic.fingerprint, self._state))
        self._changed = False
        return self._seal.seal(body)

    def restore(self, snapshot: bytes) -> None:
        """Continue from a snapshot, wholly or not at all.

        One that is damaged, or of another definition or secret, raises `StateError`.
        """
        body = self._seal.open(snapshot)
        fingerprint, state = (
            ("", None) if body is None else msgspec.msgpack.decode(body, type=tuple[str, _State])
        )
        if state is None or fingerprint != self.statistic.fingerprint:
            raise StateError(
                f"the snapshot of {self.statistic.name!r} is damaged, or was made for another"
                " definition or with another secret: without the snapshot the day's caps are lost"
            )
        self._state = state
        self._changed = False


class KeysPublisher:
    """Publishes the keys of each day that is over, empty days too, once.

    Guarantee: (epsilon, delta) of the statistic for one user and one UTC day, see
    `ThresholdRelease`, under the assumptions of `BoundedKeys` and `Ledger`. A day in the ledger is
    not drawn again.
    """

    def __init__(self, keys: BoundedKeys, ledger: Ledger, *, entropy: Entropy = os.urandom) -> None:
        """Register the statistic.

        Args:
            keys: Counter of users by key.
            ledger: Ledger of the releases.
            entropy: See `DiscreteLaplace`; other than the default in tests only.

        Raises:
            BudgetError: The day's budget does not allow it.
        """
        ledger.register(keys.statistic)
        self._keys = keys
        self._ledger = ledger
        self._mechanism = keys.statistic.threshold_release(entropy)

    def publish(self, watermark: int) -> list[ReleasedPane]:
        """Store each day that is over by a public clock, epoch milliseconds; return releases."""
        published: list[ReleasedPane] = []
        for name, starts in self.store(watermark).items():
            for start in starts:
                published += read_released(self._ledger, name, start=start, end=start + 1).panes
        return published

    def store(self, watermark: int, *, claim: DayClaim | None = None) -> dict[str, list[int]]:
        """Store as `publish` does; return only the starts of days, by statistic.

        With `claim`, days that belong to another counter are dropped.

        If the ledger refuses or fails, the day is kept and tried again at the next call.
        """
        statistic, starts = self._keys.statistic, []
        for day, counts in self._keys.due(watermark).items():
            draw: Draw = partial(_draw, self._mechanism, counts)
            self._ledger.release_many(statistic, {day * DAY_MS: draw}, claim=claim)
            self._keys.forget(day)
            starts.append(day * DAY_MS)
        return {statistic.name: starts} if starts else {}

    def follow(self, watermark: int) -> None:
        """Drop the days that another process releases from the same input; nothing is drawn."""
        for day in list(self._keys.due(watermark)):
            self._keys.forget(day)

    def drop_due(self) -> None:
        """Do nothing: days that are not stored are due again."""

    def snapshot(self) -> bytes:
        """Return nothing: the snapshot of the counts holds all unreleased days."""
        return b""

    def restore(self, snapshot: bytes) -> None:
        """Do nothing, see `snapshot`."""


def _draw(mechanism: ThresholdRelease, counts: Mapping[str, int]) -> NDArray[np.int64]:
    return stored_keys(mechanism.release(counts))

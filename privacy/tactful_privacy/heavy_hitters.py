"""Frequent keys that nobody listed beforehand, such as search terms, from a threshold on."""

from __future__ import annotations

import hmac
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial

import msgspec
import numpy as np

from tactful_privacy._exact import fraction
from tactful_privacy._table import Entropy
from tactful_privacy.budget import DEFAULT_PURPOSE, DEFAULT_TENANT, UNIT
from tactful_privacy.errors import ParameterError, StateError
from tactful_privacy.ledger import Ledger
from tactful_privacy.query import Answer, Query
from tactful_privacy.released import CONFIDENCE, half_width
from tactful_privacy.statistic import DAY_MS
from tactful_privacy.threshold import ThresholdRelease

MAX_KEY = 128

_SHORTEST_SECRET = 16
_TAG = 32


@dataclass(frozen=True)
class Discovery:
    """What is looked for: public.

    Unit of privacy: one user, one UTC day. A user counts once for a key, and for the first `cap`
    keys of a day. Keys are shown whose noisy number of users reaches the threshold of
    `ThresholdRelease`, which computes what that a key is shown at all may tell: (epsilon, delta).

    Attributes:
        name: Of the releases, 1 to 128 characters.
        cap: Most keys of one user and UTC day.
        epsilon: Privacy loss of one user and UTC day; a Fraction (int and text are converted).
        delta: The same of delta, well below one in the number of people.
        tenant: Whose people.
        purpose: What for.
    """

    name: str
    cap: int
    epsilon: Fraction
    delta: Fraction
    tenant: str = DEFAULT_TENANT
    purpose: str = DEFAULT_PURPOSE

    def __post_init__(self) -> None:
        """Check and normalise.

        Raises:
            ParameterError: One of the attributes is outside its range.
        """
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= 128:
            raise ParameterError(f"discovery {self.name!r}: a name has 1 to 128 characters")
        object.__setattr__(self, "epsilon", fraction(self.epsilon, "epsilon"))
        object.__setattr__(self, "delta", fraction(self.delta, "delta"))
        _ = self.threshold

    @cached_property
    def threshold(self) -> int:
        """Least noisy number of users of a key that is shown."""
        return self.mechanism().threshold

    def mechanism(self, entropy: Entropy = os.urandom) -> ThresholdRelease:
        """Return what draws."""
        return ThresholdRelease(self.cap, self.epsilon, self.delta, cell_cap=1, entropy=entropy)

    def query(self, day: int) -> Query:
        """Return what the ledger is asked for a UTC day, days since 1970-01-01."""
        return Query(
            f"{self.name}/{day}",
            day,
            day,
            self.epsilon,
            self.delta,
            tenant=self.tenant,
            purpose=self.purpose,
            mechanism=f"threshold {self.threshold} on noisy counts of users, cap {self.cap}",
        )


@dataclass(frozen=True)
class DiscoveredKeys:
    """What was found on one UTC day, free to be shown.

    Attributes:
        name: Of the discovery.
        day: Days since 1970-01-01.
        values: Noisy number of users of every key that is shown.
        threshold: From which on keys are shown. What is not here may have had as many.
        half_width: A true bounded number lies within value ± half_width with at least 95 %,
            before it is known whether the key is shown; of keys near the threshold those are shown
            whose noise was positive.
        epsilon: Privacy loss of one user and one UTC day.
        delta: The same of delta, as declared.
        cap: Most keys of one user and day.
        unit: The unit of privacy.
    """

    name: str
    day: int
    values: dict[str, int]
    threshold: int
    half_width: int
    epsilon: Fraction
    delta: Fraction
    cap: int
    unit: str = UNIT


class _State(msgspec.Struct, array_like=True):
    open_from: int  # day
    keys: dict[int, dict[bytes, list[str]]] = {}  # day -> user -> first keys


class BoundedKeys:
    """Counts users of arbitrary keys, each user for the first `cap` keys of a UTC day.

    As `BoundedCounts`: no decision about a user looks at another, a contribution whose day is over
    by the clock is dropped, the snapshot is stored with the position in the input, and users are
    kept under a keyed hash that differs from day to day. Memory grows with users times `cap`.
    """

    def __init__(self, discovery: Discovery, *, secret: bytes, start: int) -> None:
        """Begin with no counts.

        Args:
            discovery: What is looked for.
            secret: Key of the hash of users, 16 bytes or more.
            start: Epoch milliseconds; the UTC day it lies in is the first one. Where a former state
                was lost, begin with the next day.

        Raises:
            ParameterError: The secret is too short or `start` is negative.
        """
        if len(secret) < _SHORTEST_SECRET or start < 0:
            raise ParameterError(
                f"the secret has {len(secret)} bytes and start is {start}: give at least"
                f" {_SHORTEST_SECRET} random bytes, and epoch milliseconds"
            )
        self.discovery = discovery
        self._unit_key = hmac.digest(secret, b"key users", "sha256")
        self._seal_key = hmac.digest(secret, b"key snapshot", "sha256")
        self._state = _State(start // DAY_MS)

    def add(self, unit: str, timestamp: int, key: str, *, watermark: int = 0) -> bool:
        """Count one user of a key, if it is new for the user and the cap allows it.

        Args:
            unit: Identifier of the user.
            timestamp: Event time in epoch milliseconds.
            key: 1 to 128 characters; others are ignored and charge nobody.
            watermark: A public clock, epoch milliseconds: a day that is over by it is late.

        Returns:
            Whether it was counted; as secret as the counts.

        Raises:
            ParameterError: `unit` is empty, so the contribution could not be bounded.
        """
        if not unit:
            raise ParameterError("the unit is empty: a contribution of nobody cannot be bounded")
        day = timestamp // DAY_MS
        if not 1 <= len(key) <= MAX_KEY or day < max(self._state.open_from, watermark // DAY_MS):
            return False
        who = hmac.digest(self._unit_key, b"%d:%s" % (day, unit.encode()), "sha256")[:16]
        mine = self._state.keys.setdefault(day, {}).setdefault(who, [])
        if key in mine or len(mine) >= self.discovery.cap:
            return False
        mine.append(key)
        return True

    def release(
        self, ledger: Ledger, watermark: int, *, entropy: Entropy = os.urandom
    ) -> list[DiscoveredKeys]:
        """Release each day that is over by the watermark, empty ones too, once.

        A day that the ledger holds already is returned as stored. When the ledger refuses or fails,
        the day stays, and is tried again at the next call.

        Args:
            ledger: Where releases are charged and kept.
            watermark: A public clock, epoch milliseconds.
            entropy: See `DiscreteLaplace`; other than the default in tests only.

        Raises:
            BudgetError: The budget of one of the days does not allow it.
        """
        mechanism = self.discovery.mechanism(entropy)
        released = []
        while self._state.open_from < watermark // DAY_MS:
            day = self._state.open_from
            counts = Counter(key for keys in self._state.keys.get(day, {}).values() for key in keys)
            draw = partial(_draw, mechanism, counts)
            answer = ledger.answer_once(self.discovery.query(day), draw)
            released.append(_unpacked(self.discovery, day, answer))
            self._state.keys.pop(day, None)
            self._state.open_from = day + 1
        return released

    def snapshot(self) -> bytes:
        """Return the whole state, sealed; exact, so it stays inside."""
        body = msgspec.msgpack.encode((self._identity, self._state))
        return hmac.digest(self._seal_key, body, "sha256") + body

    def restore(self, snapshot: bytes) -> None:
        """Continue from a snapshot: wholly or not at all.

        Raises:
            StateError: It is damaged, or was made for another discovery or with another secret.
        """
        tag, body = snapshot[:_TAG], snapshot[_TAG:]
        whole = hmac.compare_digest(tag, hmac.digest(self._seal_key, body, "sha256"))
        identity, state = (
            msgspec.msgpack.decode(body, type=tuple[str, _State]) if whole else ("", None)
        )
        if state is None or identity != self._identity:
            raise StateError(
                f"the snapshot of {self.discovery.name!r} is damaged, or was made for another"
                " definition or with another secret: without it the day's caps are lost"
            )
        self._state = state

    @property
    def _identity(self) -> str:
        return repr(self.discovery)


def read_discovered(ledger: Ledger, discovery: Discovery, day: int) -> DiscoveredKeys | None:
    """Return what was found on a UTC day; None if it is not released."""
    name = discovery.query(day).name
    for answer in ledger.answers(day, day):
        if answer.query.name == name and answer.values is not None:
            return _unpacked(discovery, day, answer)
    return None


def _draw(
    mechanism: ThresholdRelease, counts: Mapping[str, int]
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return _packed(mechanism.release(counts))


def _packed(values: Mapping[str, int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Text as the integers that a ledger keeps: one for each byte."""
    return np.frombuffer(json.dumps(values).encode(), dtype=np.uint8).astype(np.int64)


def _unpacked(discovery: Discovery, day: int, answer: Answer) -> DiscoveredKeys:
    if answer.values is None:
        raise StateError(f"day {day} of {discovery.name!r} was charged and is not answered yet")
    values = json.loads(answer.values.astype(np.uint8).tobytes())
    return DiscoveredKeys(
        name=discovery.name,
        day=day,
        values=dict(sorted(values.items(), key=lambda item: (-item[1], item[0]))),
        threshold=discovery.threshold,
        half_width=half_width(discovery.cap, discovery.epsilon, 1, CONFIDENCE),
        epsilon=discovery.epsilon,
        delta=discovery.delta,
        cap=discovery.cap,
    )

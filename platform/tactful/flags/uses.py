"""Uses of flags by this server, to find those that nobody needs any more."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tactful.flags.store import FlagStore, FlagUse

PAYLOAD = "$payload"
"""Key of the use that stands for payloads: clients evaluate flags without being seen."""

STALE_MS = 30 * 86_400_000
"""Time after which an unused flag, or one with one value, is stale."""

_STEP_MS = 60_000
_ABSENT = object()


class FlagUses:
    """Notes evaluations in memory; `store` writes them now and then.

    ```text
    _uses    "checkout-form" → FlagUse(first_at, last_at, varied_at, digest of the value)
    _values  "checkout-form" → last value
    ```
    """

    def __init__(self, store: FlagStore, *, clock: Callable[[], int]) -> None:
        """Read the uses so far; `clock` is in epoch milliseconds."""
        self._store = store
        self._clock = clock
        self._uses = store.uses()
        self._values: dict[str, Any] = {}
        self._changed: set[str] = set()

    def note(self, flag: str, value: Any) -> None:
        """Note that a flag had a value for a unit."""
        now = self._clock()
        if value == self._values.get(flag, _ABSENT) and now - self._uses[flag].last_at < _STEP_MS:
            return
        self._values[flag] = value
        digest = hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:32]
        use = self._uses.get(flag, FlagUse(now, now, now, digest))
        varied = use.varied_at if use.value == digest else now
        self._uses[flag] = FlagUse(use.first_at, now, varied, digest)
        self._changed.add(flag)

    def of(self, flag: str) -> FlagUse | None:
        """Return the uses of a flag, of other servers as of the last `store`; None for none."""
        return self._uses.get(flag)

    def store(self) -> None:
        """Write what is new, and read what other servers have written; called in a thread.

        StorageError keeps it for the next call.
        """
        changed = self._changed
        self._changed = set()
        try:
            self._store.note_uses({flag: self._uses[flag] for flag in changed})
        except BaseException:
            self._changed |= changed
            raise
        for flag, use in self._store.uses().items():
            if flag not in self._changed:
                self._uses[flag] = use


def stale_reasons(
    feature: Mapping[str, Any],
    *,
    expires: str | None,
    changed_at: int,
    use: FlagUse | None,
    payload_at: int | None,
    today: str,
    now: int,
) -> list[str]:
    """Return the reasons to remove a flag: `expired`, `not evaluated`, `one value`.

    Args:
        feature: compiled feature.
        expires: last day by its definition, YYYY-MM-DD; None for none.
        changed_at: time of its latest change, epoch milliseconds.
        use: its evaluations by servers; None for none.
        payload_at: latest time at which a client read the payload, epoch milliseconds; None: never.
        today: day by UTC, YYYY-MM-DD.
        now: time, epoch milliseconds.
    """
    reasons = ["expired"] if expires is not None and expires < today else []
    since = now - STALE_MS
    if changed_at > since:
        return reasons
    used = use is not None and use.last_at > since
    if not used and (payload_at is None or payload_at <= since):
        reasons.append("not evaluated")
    settled = use is not None and used and max(use.first_at, use.varied_at) <= since
    if settled or _has_one_value(feature):
        reasons.append("one value")
    return reasons


def _has_one_value(feature: Mapping[str, Any]) -> bool:
    """Return whether the definition gives the same value to every unit."""
    rules = feature.get("rules") or ()
    if not rules:
        return True
    limits = ("condition", "parentConditions", "filters", "coverage", "range")
    first = rules[0]
    return "force" in first and not any(first.get(name) for name in limits)

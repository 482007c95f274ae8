"""Purposes for which an event or a request may be used."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from tactful.schemas.experiments.flags import AssignRequest
from tactful.schemas.recommendations import RecommendRequest
from tactful_privacy.people.consent import EVERYTHING, NOTHING, Consents, Purpose
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Entry, Event, Restricted

CLAIM = "consent"
"""Field in the context of events and requests that claims consent."""

_WHOLE = frozenset({Purpose.PERSONALISATION, Purpose.MEASUREMENT})


@dataclass(frozen=True)
class Permissions:
    """Checks events and requests of one installation; takes a microsecond."""

    consents: Consents
    # returns the key of the user of ``device:<device_id>`` at a time, epoch milliseconds; the same
    # key if there is none
    holder: Callable[[str, int], str] = lambda key, at: key
    suppressed: Container[str] = ()  # erased users, for whom nothing is allowed

    def of(
        self,
        user_id: str | None,
        device_id: str | None,
        at: int,
        claimed: frozenset[Purpose] | None = None,
    ) -> frozenset[Purpose]:
        """Return the allowed purposes of an event or a request; the default without ids.

        On a device that is linked to a user, refusals of that user apply, too. The time `at` is in
        epoch milliseconds; the event or request claims the purposes `claimed`.
        """
        return self._of_keys(*self.keys_of(user_id, device_id, at), claimed=claimed)

    def keys_of(self, user_id: str | None, device_id: str | None, at: int) -> list[str]:
        """Return the keys under which a user may have decided, the user before the device."""
        keys = [] if user_id is None else [user_id]
        if device_id is not None:
            device = DEVICE_PREFIX + device_id
            if user_id is None and (holder := self.holder(device, at)) != device:
                keys.append(holder)
            keys.append(device)
        return keys

    def crosses(
        self, pair: str, keys: Sequence[str], claimed: frozenset[Purpose] | None = None
    ) -> bool:
        """Return whether the profile of a user may cross, see `Consents.crosses`."""
        if any(key in self.suppressed for key in keys):
            return False
        return self.consents.crosses(pair, *keys, claimed=claimed)

    def of_key(self, key: str) -> frozenset[Purpose]:
        """Return the allowed purposes of the history under a key."""
        return self._of_keys(key)

    def held(self, key: str, crossings: Collection[str]) -> list[str]:
        """Return what a user allows now, see `Consents.held`; nothing of an erased user."""
        return [] if self.is_erased(key) else self.consents.held(key, crossings)

    def is_erased(self, key: str) -> bool:
        """Return whether a user was erased, or an erasure is in progress."""
        return key in self.suppressed

    def _of_keys(self, *keys: str, claimed: frozenset[Purpose] | None = None) -> frozenset[Purpose]:
        suppressed = self.suppressed
        for key in keys:
            if key in suppressed:
                return NOTHING
        return self.consents.allowed(*keys, claimed=claimed)

    def restricted(self, event: Event) -> Entry | None:
        """Return the entry to keep of an event; None if nothing may be kept."""
        claim = claimed(event.context.get(CLAIM)) if event.context else None
        allowed = self.of(event.user_id, event.device_id, event.timestamp, claim)
        if allowed >= _WHOLE:
            return event
        if Purpose.SERVICE not in allowed:
            return None
        return Restricted(
            timestamp=event.timestamp, purposes=tuple(sorted(map(str, allowed))), event=event
        )

    def personalises(self, request: RecommendRequest, at: int) -> bool:
        """Return whether the user's history may be read; True without a user."""
        if request.subject is None:
            return True
        claim = claimed(request.context.get(CLAIM))
        return Purpose.PERSONALISATION in self.of(request.user_id, request.device_id, at, claim)

    def reads_history(
        self, key: str, device_id: str | None, at: int, claim: str | None = None
    ) -> bool:
        """Return whether the history under a key may be read for a request from a device.

        The time `at` is in epoch milliseconds; the request may claim consent, see `claimed`.
        """
        keys = self.keys_of_history(key, device_id, at)
        return Purpose.PERSONALISATION in self._of_keys(*keys, claimed=claimed(claim))

    def keys_of_history(self, key: str, device_id: str | None, at: int) -> list[str]:
        """Return the keys that count for the history under a key, see `keys_of`.

        The device is that of the request, unless the key names one itself.
        """
        if key.startswith(DEVICE_PREFIX):
            return self.keys_of(None, key.removeprefix(DEVICE_PREFIX), at)
        return self.keys_of(key, device_id, at)


Claiming = TypeVar("Claiming", Event, RecommendRequest, AssignRequest)


def without_claim(message: Claiming) -> Claiming:
    """Replace the claim of an event or a request by none; recorded decisions still hold."""
    return msgspec.structs.replace(message, context={**(message.context or {}), CLAIM: ""})


@functools.lru_cache(maxsize=256)
def claimed(claim: object) -> frozenset[Purpose] | None:
    """Parse the field ``consent`` of a context: purposes, separated by blanks.

    None, so that the default applies, if it is no text.
    """
    if not isinstance(claim, str):
        return None
    return frozenset(Purpose(name) for name in claim.split() if name in EVERYTHING)

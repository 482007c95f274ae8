"""What an event or a request may be used for, by all that is known of whom it is of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container

from tactful.schemas.recommendations import RecommendRequest
from tactful.subjects.consent import keys_of
from tactful_privacy.people.consent import EVERYTHING, NOTHING, Consents, Purpose
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Entry, Event, Restricted

CLAIM = "consent"
"""Field of the context of an event or a request in which it says what the person agrees to."""

_WHOLE = frozenset({Purpose.PERSONALISATION, Purpose.MEASUREMENT})


class Permissions:
    """Answers for events and requests of one installation; costs a microsecond."""

    def __init__(
        self,
        consents: Consents,
        holder: Callable[[str, int], str] = lambda key, at: key,
        suppressed: Container[str] = (),
    ) -> None:
        """Answer by what people said.

        Args:
            consents: their decisions.
            suppressed: those who were erased: nothing may be done with what comes of them.
            holder: key of the person whom ``device:<device_id>`` stands for at a time, epoch
                milliseconds; the same key where none is known.
        """
        self._consents = consents
        self._holder = holder
        self._suppressed = suppressed

    def of(
        self,
        user_id: str | None,
        device_id: str | None,
        at: int,
        claimed: frozenset[Purpose] | None = None,
    ) -> frozenset[Purpose]:
        """What may be done with what somebody does; the default for nobody in particular.

        A device that is known to be somebody's counts as that person, too: what they refused is
        refused on it.

        Args:
            user_id: whom an event or a request names.
            device_id: the device that it names.
            at: when, epoch milliseconds.
            claimed: what came along with it, see `claimed`.
        """
        keys = keys_of(user_id, device_id)
        if user_id is None and device_id is not None:
            holder = self._holder(keys[0], at)
            if holder != keys[0]:
                keys = (holder, *keys)
        return self._of_keys(*keys, claimed=claimed)

    def of_key(self, key: str) -> frozenset[Purpose]:
        """What somebody may be used for, by the key of their history."""
        return self._of_keys(key)

    def is_erased(self, key: str) -> bool:
        """Whether somebody was erased, or is being."""
        return key in self._suppressed

    def _of_keys(self, *keys: str, claimed: frozenset[Purpose] | None = None) -> frozenset[Purpose]:
        if any(key in self._suppressed for key in keys):
            return NOTHING
        return self._consents.allowed(*keys, claimed=claimed)

    def restricted(self, event: Event) -> Entry | None:
        """The entry to keep of an event; None if nothing of it may be kept."""
        said = claimed(event.context.get(CLAIM)) if event.context else None
        allowed = self.of(event.user_id, event.device_id, event.timestamp, said)
        if allowed >= _WHOLE:
            return event
        if Purpose.SERVICE not in allowed:
            return None
        return Restricted(
            timestamp=event.timestamp, purposes=tuple(sorted(map(str, allowed))), event=event
        )

    def personalises(self, request: RecommendRequest, at: int) -> bool:
        """Whether the history of whoever asks may be read; for nobody there is none to read."""
        if request.subject is None:
            return True
        said = claimed(request.context.get(CLAIM))
        return Purpose.PERSONALISATION in self.of(request.user_id, request.device_id, at, said)

    def reads_history(
        self, key: str, device_id: str | None, at: int, claim: str | None = None
    ) -> bool:
        """Whether the history under `key` may be read for somebody who asks on a device.

        Args:
            key: of the history.
            device_id: of the device.
            at: when, epoch milliseconds.
            claim: what came along with the request, see `claimed`.
        """
        user = None if key.startswith(DEVICE_PREFIX) else key
        device = key.removeprefix(DEVICE_PREFIX) if user is None else device_id
        return Purpose.PERSONALISATION in self.of(user, device, at, claimed(claim))


@functools.lru_cache(maxsize=256)
def claimed(claim: object) -> frozenset[Purpose] | None:
    """What the field ``consent`` of a context says: names of purposes, with blanks between them.

    Returns:
        The purposes; None where it is no text, so that the default holds.
    """
    if not isinstance(claim, str):
        return None
    return frozenset(Purpose(name) for name in claim.split() if name in EVERYTHING)

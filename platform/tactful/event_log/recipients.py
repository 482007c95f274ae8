"""Recipients of recommendations: signed ids, and events of the user who was given one.

An id is ``<random>.<40 characters>``, the latter 30 bytes in base64url::

    time, epoch ms (6) | seal of random, time, user and arms (12) | seal of all before (12)

The seals are HMAC-SHA256 under a key of the installation's keyring. A client can neither make an id
nor use its own for another user, time or arm.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.event_log.impressions import IMPRESSION_ID, is_served
from tactful.util.clock import now_ms
from tactful_privacy.errors import KeyringError
from tactful_privacy.people.pseudonyms import Keyring
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Event, subject_key
from tactful_streaming.contract.subject_ids import SubjectIds

LIFETIME_MS = 86_400_000
"""Time for which an impression with a signed id is accepted from a server key."""

LOGINS = (b"x.login", b"x.link")
"""Bytes in the records of events that make a device a user's, apart from purchases."""

_MEASURED = frozenset(
    {
        *("failed", "propensity", "scores", "took_ms"),
        *("tuner_drawn", "tuner_log_density", "tuner_state"),
        *("bandit", "bandit_arm", "bandit_propensity", "bandit_probability", "bandit_floor"),
        *("bandit_live", "bandit_choice", "bandit_features", "bandit_layout"),
    }
)
_TIME, _SEAL = 6, 12
_CONTENT, _WHOLE = "recommendation content", "recommendation id"


class RecommendationIds:
    """Makes and checks the ids of recommendations; seals are compared in constant time."""

    def __init__(self, keyring: Keyring) -> None:
        """Sign with the current key of a keyring, and accept ids under each of its keys."""
        self.keyring = keyring

    def sign(self, random: str, at: int, subject: str | None, properties: Mapping[str, Any]) -> str:
        """Return the id of a recommendation.

        Args:
            random: unique text without a dot.
            at: time of the recommendation, epoch milliseconds.
            subject: key of its user; None without one.
            properties: properties of its impression, with the arms.
        """
        with contextlib.suppress(KeyringError):  # the keys in memory sign as well
            self.keyring.follow()
        key_id, at = self.keyring.current, max(at, 0)
        content = _content(random, at, subject, properties)
        body = at.to_bytes(_TIME) + self._seal(_CONTENT, content, key_id)
        return _joined(random, body, self._seal(_WHOLE, random + body.hex(), key_id))

    def time_of(self, identity: str) -> int | None:
        """Return the time in an id that this installation has signed; None for another id."""
        random, body, seal = _parts(identity)
        if _joined(random, body, seal) != identity:  # base64 has several texts for the same bytes
            return None
        signed = self._is_sealed(seal, _WHOLE, random + body.hex())
        return int.from_bytes(body[:_TIME]) if signed else None

    def as_given(self, event: Event, now: int) -> Event | None:
        """Return a client's impression as the server's own, with its event id and time.

        Measurements in it, which the id does not prove, are removed. None if the id is not signed
        or older than `LIFETIME_MS`, or its user or arms are others.
        """
        with contextlib.suppress(KeyringError):
            self.keyring.follow()
        identity = event.recommendation_id or ""
        at = self.time_of(identity)
        if at is None or abs(now - at) > LIFETIME_MS:
            return None
        random, body, _ = _parts(identity)
        content = _content(random, at, subject_key(event), event.properties)
        if not self._is_sealed(body[_TIME:], _CONTENT, content):
            return None
        kept = {k: value for k, value in event.properties.items() if k not in _MEASURED}
        own: dict[str, Any] = {"event_id": IMPRESSION_ID + identity, "sender": None}
        return msgspec.structs.replace(event, **own, timestamp=at, properties=kept)

    def _is_sealed(self, seal: bytes, purpose: str, text: str) -> bool:
        keys = self.keyring.key_ids
        return any(hmac.compare_digest(seal, self._seal(purpose, text, key_id)) for key_id in keys)

    def _seal(self, purpose: str, text: str, key_id: int) -> bytes:
        return self.keyring.pseudonym(text, tenant=purpose, key_id=key_id).digest[:_SEAL]


def open_ids(settings: Settings, *, clock: Callable[[], int] = now_ms) -> RecommendationIds:
    """Open the ids of an installation; StorageError if its keyring cannot be used."""
    try:
        return RecommendationIds(Keyring(settings.keyring, clock=clock))
    except KeyringError as error:
        raise StorageError(str(error)) from error


class Recipients:
    """Decides whether an event is of the user or device that was given a recommendation.

    A login makes a device the user's: `holder` returns the user of ``device:<device_id>`` at a
    time, and the users in events that name both are kept.

    ```text
    _users    "phone-1" → {"ada"}
    ```
    """

    def __init__(
        self,
        holder: Callable[[str, int], str] = lambda key, at: key,
        ids: RecommendationIds | None = None,
    ) -> None:
        """Begin without logins; with `ids`, ids that were not signed are known as such."""
        self._holder = holder
        self._ids = ids
        self._users: dict[str, set[str]] = {}

    def note(self, event: Event) -> None:
        """Keep the user of a device. Browser keys cannot send events that name a user."""
        if event.user_id is not None and event.device_id is not None:
            self._users.setdefault(event.device_id, set()).add(event.user_id)

    def forget(self, traces: SubjectIds) -> None:
        """Remove the logins of erased users."""
        for device in traces.devices:
            self._users.pop(device, None)
        for users in self._users.values():
            users -= traces.users

    def includes(self, user_id: str | None, device_id: str | None, event: Event) -> bool:
        """Return whether an event is of the user or device; True without either."""
        if user_id is not None and event.user_id is not None:
            return user_id == event.user_id
        if device_id is not None and device_id == event.device_id:
            return True
        user, device = user_id or event.user_id, device_id if user_id is None else event.device_id
        if user is None or device is None:
            return user_id is None and device_id is None
        holder = self._holder(DEVICE_PREFIX + device, event.timestamp)
        return user == holder or user in self._users.get(device, ())

    def is_signed(self, identity: str) -> bool:
        """Return whether an id was signed here; True if that cannot be checked."""
        return self._ids is None or self._ids.time_of(identity) is not None


def is_of_earlier_version(event: Event) -> bool:
    """Return whether the server logged an impression before ids were signed."""
    return is_served(event) and not _parts(event.recommendation_id or "")[1]


def _content(random: str, at: int, subject: str | None, properties: Mapping[str, Any]) -> str:
    drawn = properties.get("rollouts")
    arms = {str(rollout) for rollout in drawn} if isinstance(drawn, list) else set()
    experiment, arm = properties.get("experiment"), properties.get("arm")
    if arm is not None and not properties.get("forced"):
        arms.add(f"{experiment}:{arm}")
    return msgspec.json.encode([random, at, subject, *sorted(arms)]).decode()


def _joined(random: str, body: bytes, seal: bytes) -> str:
    return f"{random}.{base64.urlsafe_b64encode(body + seal).decode()}"


def _parts(identity: str) -> tuple[str, bytes, bytes]:
    """Split an id; all parts are empty if it has another form."""
    random, _, text = identity.rpartition(".")
    try:
        sealed = base64.urlsafe_b64decode(text)
    except ValueError:
        sealed = b""
    if len(sealed) != _TIME + 2 * _SEAL:
        return "", b"", b""
    return random, sealed[:-_SEAL], sealed[-_SEAL:]

"""Exposures: units that an arm of an experiment was applied to, as events of the log.

An exposure is an event of the type ``exposure``. A client may claim one; only those that the server
logged or proved itself are verified and count in a decision::

    {"event_id": "exposure:9c1f…", "type": "exposure", "user_id": "ada",
     "properties": {"experiment": "checkout", "arm": "short", "flag": "form", "version": 7}}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b

import msgspec

from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import Event, decode_entry, event_for, subject_key
from tactful_streaming.errors import StreamingError

EXPOSURE = "exposure"
"""Type of the events."""

EXPOSURE_ID = "exposure:"
"""Prefix of the event ids of verified exposures; clients must not send such ids."""

_MARK = EXPOSURE.encode()
_BETWEEN = "\x1f"  # no id of a request contains it


class Exposure(msgspec.Struct, frozen=True):
    """An arm of an experiment that was applied to a unit.

    Attributes:
        experiment: key of the experiment.
        arm: key of the arm.
        unit: key of the user: the id, or ``device:<device_id>``.
        timestamp_ms: time of the evaluation, epoch milliseconds.
        verified: whether the server computed or recomputed the arm for a unit that it knows;
            others decide nothing.
        version: version of the flags that gave the arm; 0 if unknown.
    """

    experiment: str
    arm: str
    unit: str
    timestamp_ms: int
    verified: bool
    version: int


class Applied(msgspec.Struct, frozen=True):
    """An arm that the server has computed, to be logged.

    Attributes:
        experiment: key of the experiment.
        arm: key of the arm.
        flag: key of the flag that was evaluated.
        version: version of the flags.
    """

    experiment: str
    arm: str
    flag: str
    version: int


def verified_exposure(
    applied: Applied, *, user_id: str | None, device_id: str | None, at: int, key: bytes
) -> Event:
    """Return the event of a verified exposure.

    Its id is a keyed hash of unit, experiment and arm, so the engine counts repetitions once.

    Args:
        applied: experiment, arm, flag and version.
        user_id: user, where known.
        device_id: device, where known; one of both is needed.
        at: time of the evaluation, epoch milliseconds.
        key: secret of the installation, 16 to 64 bytes.
    """
    event = Event(
        event_id="",
        type=EXPOSURE,
        timestamp=at,
        user_id=user_id,
        device_id=device_id,
        properties={
            "experiment": applied.experiment,
            "arm": applied.arm,
            "flag": applied.flag,
            "version": applied.version,
        },
    )
    parts = (subject_key(event) or "", applied.experiment, applied.arm)
    digest = blake2b(_BETWEEN.join(parts).encode(), digest_size=16, key=key)
    return msgspec.structs.replace(event, event_id=EXPOSURE_ID + digest.hexdigest())


def is_verified(event: Event) -> bool:
    """Return whether the server itself logged an exposure: a client can claim anything."""
    own = event.sender is None and event.event_id.startswith(EXPOSURE_ID)
    return own and event.type == EXPOSURE


def as_exposure(event: Event) -> Exposure | None:
    """Convert an event to an exposure; None if it is none, or lacks a unit, experiment or arm."""
    if event.type != EXPOSURE or (unit := subject_key(event)) is None:
        return None
    experiment, arm = event.properties.get("experiment"), event.properties.get("arm")
    if not (isinstance(experiment, str) and experiment and isinstance(arm, str) and arm):
        return None
    version = event.properties.get("version")
    return Exposure(
        experiment=experiment,
        arm=arm,
        unit=unit,
        timestamp_ms=event.timestamp,
        verified=is_verified(event),
        version=version if type(version) is int else 0,
    )


def read_exposures(
    batches: Iterable[Sequence[tuple[int, bytes]]],
    *,
    allows: Callable[[Event], bool] = lambda event: True,
) -> Iterator[Exposure]:
    """Yield the exposures in batches of log records, in the order of the log.

    A unit may occur several times with one arm: its first exposure is the time of its entry.
    Events that may not be used to measure are left out.

    Args:
        batches: offset and payload of each record; see `tactful.event_log.batches.read_batches`.
        allows: whether an event may be used, by the present consent of its user.
    """
    for records in batches:
        for _, payload in records:
            if _MARK not in payload:
                continue  # decoding everything would take most of the time
            try:
                event = event_for(decode_entry(payload), Purpose.MEASUREMENT)
            except StreamingError:
                continue
            if event is None or not allows(event):
                continue
            if (exposure := as_exposure(event)) is not None:
                yield exposure

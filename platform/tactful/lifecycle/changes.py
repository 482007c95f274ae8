"""Changes of stage, as events of the log.

A change is an event of the type ``x.stage_lapsing`` and so on. A sequence of this one step makes an
action of it, which campaigns and the webhook take. It is exported and erased with its user::

    {"event_id": "stage:4be1…", "type": "x.stage_lapsing", "user_id": "ada",
     "timestamp": 1796131843000, "properties": {"stage": "lapsing", "before": "active"}}

The latest one is a feature of the user, :data:`STAGE`: it is the memory of what was announced. The
first stage of a user who was known before is :data:`KNOWN`, an event that triggers nothing, so the
first fit of a shop does not send a message to everybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from tactful.config.privacy import DAY_MS
from tactful.lifecycle.profile import day_number
from tactful.schemas.users import LifeCycle
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Event

STAGE: Final = "stage_last"
"""Feature with the latest announced stage of a user: a list with one text and its time."""

STAGE_ID: Final = "stage:"
"""Prefix of the ids of these events; clients must not send such ids."""

KNOWN: Final = "x.stage_known"
"""Type of the event for the first known stage of a user."""

_PREFIX = "x.stage_"
_RECENT_DAYS = 1


def change_of(person: str, features: Mapping[str, Any], now: LifeCycle, at: int) -> Event | None:
    """Return the event of a change of stage; None if there is none, or it is unknown.

    Args:
        person: user id, or ``device:`` and a device id.
        features: stored features of the user.
        now: life cycle of the user at the time `at`.
        at: time of the event, epoch milliseconds.
    """
    if now.stage is None or STAGE not in features:
        return None
    before, since = features[STAGE][0] if features[STAGE] else (None, 0)
    if now.stage == before or at <= since:
        return None
    is_device = person.startswith(DEVICE_PREFIX)
    change = f"{person}\x1f{before}\x1f{since}\x1f{now.stage}".encode()
    return Event(
        event_id=STAGE_ID + hashlib.blake2b(change, digest_size=16).hexdigest(),
        type=KNOWN if before is None and not _began_now(now, at) else _PREFIX + now.stage,
        timestamp=at,
        user_id=None if is_device else person,
        device_id=person.removeprefix(DEVICE_PREFIX) if is_device else None,
        properties={"stage": now.stage, "before": before},
    )


def _began_now(now: LifeCycle, at: int) -> bool:
    """Return whether the first visit is of today or yesterday."""
    return now.first_day is not None and at // DAY_MS - day_number(now.first_day) <= _RECENT_DAYS

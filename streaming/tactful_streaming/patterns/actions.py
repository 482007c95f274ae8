"""Actions: a match adds an event of type ``x.<emit>`` to the log, once.

The id of the event depends on the match alone. A match found again, after a crash or in a replay,
gives the same id, and readers of the log count an id once.
"""

from __future__ import annotations

import hashlib

import msgspec

from tactful_streaming.contract.log_entries import APART, DEVICE_PREFIX, Event, Property
from tactful_streaming.patterns.match import Match

_MAX_EVENT_IDS = 64
"""Most event ids in an action: the first ones of a longer match."""


def action_of(match: Match, type_: str) -> Event | None:
    """Return the event that a match causes.

    Args:
        match: the match.
        type_: type of the event, from `definitions.model.emitted_types`.

    Returns:
        An event of the user of the match, at the event time at which it was certain; None if no
        user is known.
    """
    if match.subject is None:
        return None
    device = match.subject.startswith(DEVICE_PREFIX)
    device_id = match.subject.removeprefix(DEVICE_PREFIX).removesuffix(APART) if device else None
    properties: dict[str, Property] = {
        "sequence": match.name,
        "start": match.start,
        "end": match.end,
        "events": list(_own_events(match)[:_MAX_EVENT_IDS]),
    }
    if match.same is not None:
        properties["same"] = match.same
    if match.item_timestamp is not None:
        properties["item_timestamp"] = match.item_timestamp
    return Event(
        event_id=_action_id(match),
        type=type_,
        timestamp=match.decided,
        user_id=None if device else match.subject,
        device_id=device_id,
        item_id=match.key if match.entity == "item" else None,
        session_id=match.key if match.entity == "session" else None,
        properties=properties,
    )


def _own_events(match: Match) -> tuple[str, ...]:
    """Return the ids of events known to come from the user of a match.

    Matches of an item include events of other users, whose ids must not stay in this user's record
    after the others are erased.
    """
    return match.events if match.entity in ("user", "session") else match.events[-1:]


def _action_id(match: Match) -> str:
    """Return 32 hex digits that identify the match."""
    identity = [match.name, match.key, match.same, match.item_timestamp, match.events]
    return hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:32]

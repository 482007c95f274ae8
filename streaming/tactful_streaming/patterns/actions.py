"""What follows from a match: an event of type ``x.<emit>`` in the log, once however often computed.

The id of the event is made from the match alone. A match that is found again, after a crash or in a
replay, gives the same id, and whoever reads the log counts an id once.
"""

from __future__ import annotations

import hashlib

import msgspec

from tactful_streaming.contract.log_entries import APART, DEVICE_PREFIX, Event, Property
from tactful_streaming.patterns.match import Match

_MAX_EVENT_IDS = 64
"""Event ids that an action lists; of a longer match, the first ones. Of an item's, the last one."""


def action_of(match: Match, type_: str) -> Event | None:
    """The event that a match causes.

    Args:
        match: what was found.
        type_: type of the event, as `definitions.model.emitted_types` gives it.

    Returns:
        An event of the person who caused the match, at the event time at which it was certain. None
        if nobody is known.
    """
    if match.subject is None:
        return None
    device = match.subject.startswith(DEVICE_PREFIX)
    device_id = match.subject.removeprefix(DEVICE_PREFIX).removesuffix(APART) if device else None
    properties: dict[str, Property] = {
        "sequence": match.name,
        "start": match.start,
        "end": match.end,
        "events": list(_theirs(match)[:_MAX_EVENT_IDS]),
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


def _theirs(match: Match) -> tuple[str, ...]:
    """Ids of the events that whoever caused a match is known to have sent.

    The others that had a part in what became of an item would be named in somebody's record, and
    stay there when they are erased.
    """
    return match.events if match.entity in ("user", "session") else match.events[-1:]


def _action_id(match: Match) -> str:
    """32 hex digits that only this match has."""
    identity = [match.name, match.key, match.same, match.item_timestamp, match.events]
    return hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:32]

"""Requests of the measurement protocol of Google Analytics 4.

Up to 25 events with what they have in common::

    {"client_id": "555.1", "user_id": "ada", "timestamp_micros": 1772366400000000,
     "events": [{"name": "view_item", "params": {"items": [{"item_id": "tea"}]}}]}
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tactful.sources.decode import decode_json
from tactful.sources.mapping import OTHER
from tactful.sources.translate import Message, content_id
from tactful.sources.values import as_moment

OF_USER, OF_REQUEST = -1, -2
"""Indexes of what is no event: the properties of the user, and a request without events."""

_TIME = "timestamp_micros"


def read_request(body: bytes) -> list[Message]:
    """Return the messages of a request: one for its user properties, one for each event.

    Raises:
        ValueError: if the body is no request; the message says why.
    """
    request = decode_json(body)
    if not isinstance(request, dict):
        raise ValueError("not a JSON object")
    events = request.get("events")
    shared = {name: value for name, value in request.items() if name != "events"}
    messages = []
    if shared.get("user_properties"):
        messages.append(_message(OF_USER, shared, "user_properties", Counter()))
    if not isinstance(events, list):
        problem = ("missing_field", "the list `events` is missing")
        return [*messages, Message(OF_REQUEST, OTHER, {}, problem=problem)]
    repeated: Counter[str] = Counter()
    for index, event in enumerate(events):
        if isinstance(event, dict):
            messages.append(_message(index, {**shared, **event}, "event", repeated))
        else:
            problem = ("wrong_type", "an event is an object")
            messages.append(Message(index, OTHER, {}, problem=problem))
    return messages


def _message(index: int, body: dict[str, Any], kind: str, repeated: Counter[str]) -> Message:
    stamped = body.get(_TIME)
    time, problem, identity = as_moment(stamped), None, None
    if stamped is not None and time is None:
        problem = ("bad_timestamp", f"{_TIME} is no time")
    if time is not None and (first := content_id(body, 0)) is not None:
        identity = content_id(body, repeated[first])
        repeated[first] += 1
    return Message(index, kind, body, time=time, fallback_id=identity, problem=problem)

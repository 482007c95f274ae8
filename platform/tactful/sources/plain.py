"""Plain events under the names that programs commonly give to their fields.

``{"event_type": "click", "userId": "ada", "itemId": "tea", "ts": 1772366400}``: one object, an
array, or one object a line. Names are compared without case, spaces and punctuation.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tactful.sources.decode import decode_json
from tactful.sources.mapping import OTHER, SourceMapping
from tactful.sources.places import is_blank, plain_name, read_value
from tactful.sources.translate import Message, content_id
from tactful.sources.values import as_moment
from tactful_streaming.contract.decode_requests import split_elements
from tactful_streaming.errors import PayloadError

_LEVELS = 3


def read_events(
    body: bytes, content_type: str | None, mapping: SourceMapping, *, most: int
) -> list[Message]:
    """Return the messages of a body; of more than `most` elements one more at least is returned.

    Raises:
        ValueError: if the body has no elements; the message says why.
    """
    try:
        elements = split_elements(body, content_type, most)
    except PayloadError as error:
        raise ValueError(error.message) from error
    repeated: Counter[str] = Counter()
    return [_message(index, text, mapping, repeated) for index, text in enumerate(elements)]


def _message(index: int, text: bytes, mapping: SourceMapping, repeated: Counter[str]) -> Message:
    try:
        element = decode_json(text)
    except ValueError as error:
        return Message(index, OTHER, {}, problem=("not_json", f"an element is {error}"))
    if not isinstance(element, dict):
        return Message(index, OTHER, {}, problem=("wrong_type", "an event is an object"))
    body = _plainly_named(element, _LEVELS)
    stamped = read_value(mapping.timestamp, body)
    time, problem, identity = as_moment(stamped), None, None
    if stamped is not None and time is None:
        problem = ("bad_timestamp", "the time is no number since 1970 and no ISO 8601")
    if time is not None and (first := content_id(body, 0)) is not None:
        identity = content_id(body, repeated[first])
        repeated[first] += 1
    return Message(index, "event", body, time=time, fallback_id=identity, problem=problem)


def _plainly_named(value: dict[str, Any], levels: int) -> dict[str, Any]:
    """Return an object with plain names; of two equal ones the first with a value counts."""
    named: dict[str, Any] = {}
    for name, part in value.items():
        plain = plain_name(name)
        if isinstance(part, dict) and levels > 1:
            part = _plainly_named(part, levels - 1)
        if plain not in named or is_blank(named[plain]):
            named[plain] = part
    return named

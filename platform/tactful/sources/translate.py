"""Translation of one message to the events and the user that it describes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tactful.sources.mapping import AS_NAMED, IDS, Fields, Rule, SourceMapping
from tactful.sources.places import Place, is_blank, read_value
from tactful.sources.values import as_context, as_id, as_property
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.decode_requests import CUSTOM_TYPE, EVENT_TYPES

MOST_EVENTS = 250
"""Events of one message."""

CLAIM = "consent"
"""Field of the context of an event with the purposes that its user agreed to."""

_LONGEST_ID = 256
_CUSTOM = re.compile(CUSTOM_TYPE)


@dataclass(frozen=True)
class Message:
    """One message of a source.

    Attributes:
        index: place in the request, from 0.
        kind: one of `KINDS` of its source, or `OTHER`.
        body: the message, as the places of the mapping read it.
        time: when it happened, epoch milliseconds; None for the time of receipt.
        fallback_id: id of the event, where the message has none; None to let the server make one.
        problem: code and reason of its refusal; None if it can be translated.
    """

    index: int
    kind: str
    body: Mapping[str, Any]
    time: int | None = None
    fallback_id: str | None = None
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class Described:
    """A part of the description of a user."""

    user_id: str
    timestamp: int
    properties: Mapping[str, Any]  # None removes a property
    claim: str | None  # purposes that the message claims, separated by blanks; None: none stated


@dataclass(frozen=True)
class Translation:
    """Result of one message.

    Attributes:
        message: the message.
        rule: the rule that fits; None: the message is ignored.
        events: the events, as `POST /v1/events` takes them, each with the place of its element.
        user: the description of its user.
        problem: code and reason of its refusal.
    """

    message: Message
    rule: Rule | None = None
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    user: Described | None = None
    problem: tuple[str, str] | None = None


def translate(message: Message, mapping: SourceMapping, *, now: int) -> Translation:
    """Apply the first rule that fits; `now` is the time of receipt, epoch milliseconds."""
    if message.problem is not None:
        return Translation(message, problem=message.problem)
    rule = mapping.rule_for(message.kind, message.body)
    type_ = None if rule is None else _type_of(rule, mapping, message)
    if rule is None or (rule.send is not None and type_ is None):
        return Translation(message)
    body, problem = message.body, None
    claim = None if mapping.consent is None else mapping.consent.claim(body)
    time = now if message.time is None else message.time
    user = _described(rule, body, time, claim)
    events: list[tuple[str, dict[str, Any]]] = []
    if type_ is not None:
        elements, problem = _elements(rule, body)
        identity = _identity(rule, mapping, message)
        for number, (place, element) in enumerate(elements):
            event = {"type": type_, "timestamp": time, **_filled(rule.fields, body, element)}
            if (missing := _missing(rule, event)) is not None:
                problem = problem or (missing[0], f"{place}: {missing[1]}" if place else missing[1])
                continue
            if claim is not None:
                event["context"] = {**event.get("context", {}), CLAIM: claim}
            if identity is not None:
                event["event_id"] = event_id(identity, None if rule.each is None else number)
            events.append((place, event))
    return Translation(message, rule, events, user, problem)


def event_id(identity: str, number: int | None) -> str:
    """Return the id of an event of a message, the same in every repetition.

    >>> event_id("m-1", None), event_id("m-1", 2)
    ('m-1', 'm-1#2')
    """
    suffix = "" if number is None else f"#{number}"
    if len(identity) + len(suffix) > _LONGEST_ID:
        identity = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
    return identity + suffix


def content_id(body: Mapping[str, Any], repetition: int) -> str | None:
    """Return an id made from the content of a message; None if it cannot be written as JSON.

    Equal messages of one request differ by their `repetition`, so that each counts, and a request
    that is sent again has the same ids.
    """
    try:
        content = msgspec.json.encode(body, order="deterministic")
    except (OverflowError, UnicodeEncodeError, *DECODE_ERRORS):  # such as 2**64
        return None
    digest = hashlib.sha256(content).hexdigest()[:32]
    return digest if repetition == 0 else f"{digest}+{repetition}"


def _identity(rule: Rule, mapping: SourceMapping, message: Message) -> str | None:
    """Return the id of a message; one that a rule names is unique within that rule."""
    if (own := as_id(read_value(rule.event_id, message.body))) is not None:
        return f"{rule.name}:{own}"
    return as_id(read_value(mapping.event_id, message.body)) or message.fallback_id


def _type_of(rule: Rule, mapping: SourceMapping, message: Message) -> str | None:
    """Return the type of the events of a rule; None if its message is named like no type."""
    if rule.send != AS_NAMED:
        return rule.send
    name = mapping.name_of(message.body)
    return name if name in EVENT_TYPES or _CUSTOM.fullmatch(name) else None


def _elements(
    rule: Rule, body: Mapping[str, Any]
) -> tuple[list[tuple[str, Any]], tuple[str, str] | None]:
    """Return the elements that events are made of, each with its place, and a problem of them.

    Without `each` there is one: the message itself.
    """
    if rule.each is None:
        return [("", None)], None
    place, found = rule.each.text, rule.each.read(body)
    if is_blank(found):
        return [], ("missing_field", f"{place} is empty: rule {rule.name} reads a list there")
    elements = found if isinstance(found, list) else [found]
    placed = [(f"{place}[{number}]", it) for number, it in enumerate(elements[:MOST_EVENTS])]
    if len(elements) <= MOST_EVENTS:
        return placed, None
    return placed, ("too_long", f"{place} has more than {MOST_EVENTS} elements: send less at once")


def _missing(rule: Rule, event: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what an event lacks, and where its rule looks for it; None if nothing."""
    if rule.item_needed and "item_id" not in event:
        return (
            "missing_field",
            f"no item: rule {rule.name} reads it from {_places(rule, 'item_id')}",
        )
    if "user_id" in event or "device_id" in event:
        return None
    users, devices = _places(rule, "user_id"), _places(rule, "device_id")
    text = f"no user: rule {rule.name} reads one from {users}" if users else "no user"
    return "no_subject", f"{text}; a device from {devices}" if devices else text


def _places(rule: Rule, field: str) -> str:
    return ", ".join(it.text for it in rule.fields.ids.get(field, ()) if isinstance(it, Place))


def _filled(fields: Fields, body: Any, element: Any) -> dict[str, Any]:
    """Return the fields of an event that are not blank."""
    event: dict[str, Any] = {}
    for name in IDS:
        if name in fields.ids and (value := as_id(read_value(fields.ids[name], body, element))):
            event[name] = value
    for part, values in (("properties", fields.properties), ("context", fields.context)):
        filled: dict[str, Any] = {}
        for name, places in values.items():
            found = read_value(places, body, element)
            kept = as_property(name, found) if part == "properties" else as_context(found)
            if kept is not None:
                filled[name] = kept
        if filled:
            event[part] = filled
    return event


def _described(rule: Rule, body: Any, time: int, claim: str | None) -> Described | None:
    """Return the description of a user, with the properties that the rule names."""
    user_id = as_id(read_value(rule.fields.ids.get("user_id", ()), body))
    if not rule.user or user_id is None:
        return None
    properties: dict[str, Any] = {}
    for name, places in rule.user.items():
        found = read_value(places, body)
        if (value := as_property(name, found)) is not None:
            properties[name] = value
        elif any(isinstance(it, Place) and it.is_null(body) for it in places):
            properties[name] = None
    return Described(user_id, time, properties, claim) if properties else None

"""Fields of an event that rules read and change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from tactful_streaming.contract.log_entries import Event, Item, Property, subject_key

EVENT_TEXTS: Final = (
    *("event_id", "type", "user_id", "device_id", "session_id"),
    *("item_id", "recommendation_id"),
)
ITEM_TEXTS: Final = ("item.item_id", "item.title", "item.category")
TEXT_FIELDS: Final = (*EVENT_TEXTS, "subject", *ITEM_TEXTS)
"""Fields that hold text or None."""

NUMBER_FIELDS: Final = ("timestamp", "age", "item.price")
"""Fields that hold a number or None; `age` is receipt minus timestamp, milliseconds."""

FLAG_FIELDS: Final = ("item.available",)

MAPPINGS: Final = ("properties", "context", "item.properties")
"""Fields with parts of any name and type: ``properties.price``."""

CHANGEABLE: Final = ("timestamp", "session_id", "item_id", "recommendation_id")
"""Fields that a rule may change, besides parts of properties and context."""

TRANSPORT: Final = ("sent_at", "received_at")
"""Parts of the context that describe the transport, not the event."""

Read = Callable[[Event, Item | None, int | None], Property]
"""From an event, its item and its time of receipt to the value of a field, or None."""


def split_field(name: str) -> tuple[str, str]:
    """Split ``properties.price`` into mapping and part; ``("", name)`` for a plain field."""
    for mapping in MAPPINGS:
        if name.startswith(mapping + "."):
            return mapping, name[len(mapping) + 1 :]
    return "", name


def reader(name: str) -> Read:
    """Return a function that reads field `name`."""
    mapping, part = split_field(name)
    if mapping == "properties":
        return lambda event, item, received: event.properties.get(part)
    if name == "context.received_at":  # events of earlier versions have it there
        return lambda event, item, received: received_at(event, received)
    if mapping == "context":
        return lambda event, item, received: event.context.get(part)
    if mapping == "item.properties":
        return lambda event, item, received: None if item is None else item.properties.get(part)
    if name == "subject":
        return lambda event, item, received: subject_key(event)
    if name == "age":
        return _age
    if name.startswith("item."):
        attribute = name.removeprefix("item.")
        return lambda event, item, received: None if item is None else getattr(item, attribute)
    return lambda event, item, received: getattr(event, name)


def received_at(event: Event, received: int | None) -> int | None:
    """Return the time of receipt of an event, epoch milliseconds, or None."""
    if received is None:
        received = event.received_at
    if received is not None:
        return received
    stamp = event.context.get("received_at")
    return int(stamp) if type(stamp) is int or type(stamp) is float else None


def write(event: Event, name: str, value: Property) -> Event:
    """Copy an event with `value` in field `name`; None removes a part."""
    mapping, part = split_field(name)
    if not mapping:
        return msgspec.structs.replace(event, **{name: value})
    old = event.properties if mapping == "properties" else event.context
    new: dict[str, Property] = {**old, part: value}
    if value is None:
        del new[part]
    return msgspec.structs.replace(event, **{mapping: new})


def content(event: Event) -> list[object]:
    """Return an event without its id and transport, as plain data."""
    context = {key: value for key, value in event.context.items() if key not in TRANSPORT}
    visitor = event.user_id, event.device_id, event.session_id
    shown = event.item_id, event.recommendation_id
    return [event.type, event.timestamp, *visitor, *shown, event.properties, context]


def _age(event: Event, item: Item | None, received: int | None) -> int | None:
    receipt = received_at(event, received)
    return None if receipt is None else receipt - event.timestamp

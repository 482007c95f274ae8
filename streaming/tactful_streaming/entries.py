"""What the log holds: events, item upserts and user upserts, as msgpack."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tactful_streaming.errors import EntryError

Scalar = str | int | float | bool | None
Property = Scalar | list[Scalar]

LATEST_TIMESTAMP = 32_503_680_000_000
"""Start of the year 3000 in epoch milliseconds: no entry is later."""

DEVICE_PREFIX = "device:"
"""What the key of a user known only by a device begins with."""

Timestamp = Annotated[int, Meta(ge=0, le=LATEST_TIMESTAMP)]


class Event(Struct, kw_only=True, frozen=True, gc=False, tag="event", tag_field="kind"):
    """Something that happened; at least one of `user_id` and `device_id` is set.

    Attributes:
        event_id: identity of the event: an event is counted once however often it is sent.
        type: one of :data:`~tactful_streaming.EVENT_TYPES`, or ``x.<custom>``.
        timestamp: when it happened, epoch milliseconds.
        user_id: who did it, where known.
        device_id: first-party id of the device it happened on.
        session_id: the visit it belongs to.
        item_id: the item it is about.
        recommendation_id: the recommendation it follows from.
        properties: price, currency, quantity, category, dwell_ms…
        context: where it happened: page, locale, app…
    """

    event_id: str
    type: str
    timestamp: Timestamp
    user_id: str | None = None
    device_id: str | None = None
    session_id: str | None = None
    item_id: str | None = None
    recommendation_id: str | None = None
    properties: dict[str, Property] = {}
    context: dict[str, Scalar] = {}


class Item(Struct, kw_only=True, frozen=True, gc=False, tag="item", tag_field="kind"):
    """The latest description of an item.

    Attributes:
        item_id: identity of the item.
        timestamp: when the description was updated or received, epoch milliseconds.
        title: its name for people.
        category: what it is a kind of.
        price: in the currency of the shop, not negative.
        available: whether it can be bought now.
        properties: anything else.
    """

    item_id: str
    timestamp: Timestamp
    title: str | None = None
    category: str | None = None
    price: float | None = None
    available: bool = True
    properties: dict[str, Property] = {}


class User(Struct, kw_only=True, frozen=True, gc=False, tag="user", tag_field="kind"):
    """The latest description of a user.

    Attributes:
        user_id: identity of the user.
        timestamp: when the description was updated or received, epoch milliseconds.
        properties: what the shop knows: demographics, membership…
    """

    user_id: str
    timestamp: Timestamp
    properties: dict[str, Property] = {}


Entry = Event | Item | User

_encoder = msgspec.msgpack.Encoder()

entry_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)
"""Decodes log entries; raises one of :data:`ENTRY_ERRORS`."""

ENTRY_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding something else than a log entry raises."""


def encode_entry(entry: Entry) -> bytes:
    """Encode an entry for the log."""
    return _encoder.encode(entry)


def decode_entry(payload: bytes) -> Entry:
    """Decode what :func:`encode_entry` made.

    Raises:
        EntryError: if `payload` is anything else.
    """
    try:
        return entry_decoder.decode(payload)
    except ENTRY_ERRORS as error:
        raise EntryError(f"not a log entry: {error}") from error


def subject_key(event: Event) -> str | None:
    """Key of the person behind an event: the user id, else ``device:<device_id>``."""
    if event.user_id is not None:
        return event.user_id
    if event.device_id is not None:
        return DEVICE_PREFIX + event.device_id
    return None

"""What the log holds: events, item and user upserts, ticks of the clock, and who holds a device.

Events that may not be used for everything are wrapped, so that who does not ask passes them over.

A payload is one entry, in msgpack (compact, for the embedded log) or in JSON (for topics that other
programs read, too). Both carry the same fields; JSON is told by its opening brace, which no msgpack
map begins with.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from tactful_streaming.errors import EntryError

Scalar = str | int | float | bool | None
Property = Scalar | list[Scalar]

LATEST_TIMESTAMP = 32_503_680_000_000
"""Start of the year 3000 in epoch milliseconds: no entry is later."""

DEVICE_PREFIX = "device:"
"""What the key of a user known only by a device begins with."""

APART = "\x1f"
"""What the key of those events of a device ends with that can never be joined to a person."""

PERSONALISATION = "personalisation"
"""The purpose that features, sequences and joins serve, and consumers that name no other."""

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


class Tick(Struct, kw_only=True, frozen=True, gc=False, tag="tick", tag_field="kind"):
    """The clock has come this far, though no event said so.

    Written to a partition that is idle while something waits for time to pass. Because it is in the
    log, what the clock set off is set off again by a replay.

    Attributes:
        timestamp: the clock, epoch milliseconds.
    """

    timestamp: Timestamp


class Link(Struct, kw_only=True, frozen=True, gc=False, tag="link", tag_field="kind"):
    """A login or logout, told to the partition of the device by that of the user.

    Attributes:
        device_id: the device.
        timestamp: when it happened, epoch milliseconds.
        user_id: who logged in or out; None if whoever it was has left.
        ends: whether it is a logout.
    """

    device_id: str
    timestamp: Timestamp
    user_id: str | None = None
    ends: bool = False


class Transfer(Struct, kw_only=True, frozen=True, gc=False, tag="transfer", tag_field="kind"):
    """The history of a device, handed over to the partition of the person who holds it.

    Attributes:
        transfer_id: identity of the transfer: it is taken over once however often it is sent.
        timestamp: when the person logged in, epoch milliseconds.
        source: key under which the history was, ``device:<device_id>``.
        target: id of the user whose history it joins.
        state: the packed history.
    """

    transfer_id: str
    timestamp: Timestamp
    source: str
    target: str
    state: bytes


class Forwarded(Struct, kw_only=True, frozen=True, tag="forwarded", tag_field="kind"):
    """An anonymous event, sent on by the partition of its device to that of the person it is of.

    Attributes:
        target: id of the user.
        timestamp: when it happened, epoch milliseconds.
        event: the event as it was sent; it names nobody.
    """

    target: str
    timestamp: Timestamp
    event: Event


class Restricted(Struct, kw_only=True, frozen=True, tag="restricted", tag_field="kind"):
    """An event that may not be used for every purpose.

    It is an entry of its own, so that a reader that knows nothing of purposes passes it over.

    Attributes:
        timestamp: when it happened, epoch milliseconds.
        purposes: what it may be used for.
        event: the event as it was sent.
    """

    timestamp: Timestamp
    purposes: tuple[str, ...]
    event: Event


Entry = Event | Item | User | Tick | Link | Transfer | Forwarded | Restricted
"""One entry of the log."""

EntryFormat = Literal["msgpack", "json"]
"""How an entry is written in a log."""

_encoders: dict[EntryFormat, msgspec.msgpack.Encoder | msgspec.json.Encoder] = {
    "msgpack": msgspec.msgpack.Encoder(),
    "json": msgspec.json.Encoder(),
}

entry_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)
"""Decodes entries in msgpack; raises one of :data:`ENTRY_ERRORS`."""

json_entry_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
"""Decodes entries in JSON; raises one of :data:`ENTRY_ERRORS`."""

ENTRY_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding something else than a log entry raises."""


def encode_entry(entry: Entry, format: EntryFormat = "msgpack") -> bytes:
    """Encode an entry for the log.

    Args:
        entry: what to encode.
        format: ``msgpack`` or ``json``; JSON has no way to write a number that is not finite.
    """
    return _encoders[format].encode(entry)


def decode_entry(payload: bytes) -> Entry:
    """Decode what :func:`encode_entry` made, in either format.

    Raises:
        EntryError: if `payload` is anything else.
    """
    try:
        if is_json(payload):
            return json_entry_decoder.decode(payload)
        return entry_decoder.decode(payload)
    except ENTRY_ERRORS as error:
        raise EntryError(f"not a log entry: {error}") from error


def is_json(payload: bytes) -> bool:
    """Whether a payload is an entry in JSON rather than in msgpack."""
    return payload[:1] == b"{"


def event_for(entry: Entry, purpose: str) -> Event | None:
    """The event of an entry, if it is one and may be used for `purpose`."""
    if type(entry) is Event:
        return entry
    if type(entry) is Restricted and purpose in entry.purposes:
        return entry.event
    return None


def subject_key(event: Event) -> str | None:
    """Key of the person behind an event: the user id, else ``device:<device_id>``."""
    if event.user_id is not None:
        return event.user_id
    if event.device_id is not None:
        return DEVICE_PREFIX + event.device_id
    return None


def route_key(entry: Entry) -> str | None:
    """What decides the partition of an entry; None for one that every partition gets a copy of.

    All events of a person lie in one partition. The event of nobody goes by its own id. A link goes
    to its device, a transfer and what was forwarded to its user. Item and user upserts and ticks go
    everywhere, so that each partition is complete in itself.
    """
    if type(entry) is Event:
        return subject_key(entry) or entry.event_id
    if type(entry) is Restricted:
        return subject_key(entry.event) or entry.event.event_id
    if type(entry) is Link:
        return DEVICE_PREFIX + entry.device_id
    return entry.target if isinstance(entry, Transfer | Forwarded) else None

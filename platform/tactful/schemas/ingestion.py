"""Events, items and users in requests, and the responses."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Identifier, Moment, Scalar
from tactful.schemas.positions import Position


class NewEvent(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An event in a request; at least one of `user_id` and `device_id` is needed.

    Attributes:
        type: view, click, search, add_to_cart, remove_from_cart, purchase, payment, refund,
            return, leave, impression, rating, or ``x.`` and a name of your own.
        timestamp: time of the event.
        event_id: identity of the event: repeated with the same id, it counts once. Without one
            the server makes one, and a repeated request counts twice.
        user_id: user, where known.
        device_id: first-party id of the device.
        session_id: visit.
        item_id: item that the event is about.
        recommendation_id: recommendation that it follows from.
        properties: price, currency, quantity, category, dwell_ms and others.
        context: page, locale, app and others.
    """

    type: str
    timestamp: Moment
    event_id: Identifier | None = None
    user_id: Identifier | None = None
    device_id: Identifier | None = None
    session_id: Identifier | None = None
    item_id: Identifier | None = None
    recommendation_id: Identifier | None = None
    properties: dict[str, Scalar | list[Scalar]] = {}
    context: dict[str, Scalar] = {}


class NewItem(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An item in a request: the whole description, which replaces an earlier one.

    Attributes:
        item_id: identity of the item.
        timestamp: time of the description; the time of receipt, if not given.
        title: name to show.
        category: kind of item.
        price: in the currency of the shop, not negative.
        available: whether it can be bought now.
        properties: further properties.
    """

    item_id: Identifier
    timestamp: Moment | None = None
    title: str | None = None
    category: Identifier | None = None
    price: Annotated[float, Meta(ge=0)] | None = None
    available: bool = True
    properties: dict[str, Scalar | list[Scalar]] = {}


class NewUser(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A user in a request: the whole description, which replaces an earlier one.

    Attributes:
        user_id: identity of the user.
        timestamp: time of the description; the time of receipt, if not given.
        properties: demographics, membership and others.
    """

    user_id: Identifier
    timestamp: Moment | None = None
    properties: dict[str, Scalar | list[Scalar]] = {}


class Rejection(msgspec.Struct, kw_only=True, frozen=True):
    """Rejected element of a batch.

    Attributes:
        index: position in the batch, from 0.
        code: short stable name of the reason.
        message: reason, and correction.
    """

    index: int
    code: str
    message: str


class EventsAccepted(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to events: they are durable.

    Attributes:
        accepted: events that are new and now in the log.
        duplicates: events whose ``event_id`` was accepted before; they change nothing.
        rejected: rejected events, each with its index.
        position: log position behind these events; send it as ``after`` to read your own writes.
    """

    accepted: int
    duplicates: int
    rejected: list[Rejection]
    position: Position


class Upserted(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to item and user upserts: they are durable.

    Attributes:
        accepted: upserts now in the log.
        rejected: rejected upserts, each with its index.
        position: log position behind these upserts.
    """

    accepted: int
    rejected: list[Rejection]
    position: Position

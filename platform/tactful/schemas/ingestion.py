"""Events, items and users as they are sent, and the verdict on each."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Identifier, Moment, Scalar
from tactful.schemas.positions import Position


class NewEvent(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An event as it is sent; at least one of `user_id` and `device_id` is needed.

    Attributes:
        type: view, click, search, add_to_cart, remove_from_cart, purchase, payment, refund,
            return, leave, impression, rating, or ``x.`` and a name of your own.
        timestamp: when it happened.
        event_id: identity of the event; sent again with the same id, it counts once. Without one
            the server makes one, and a repeated request counts twice.
        user_id: who did it, where known.
        device_id: first-party id of the device it happened on.
        session_id: the visit it belongs to.
        item_id: the item it is about.
        recommendation_id: the recommendation it follows from.
        properties: price, currency, quantity, category, dwell_ms and others.
        context: where it happened: page, locale, app and others.
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
    """An item as it is sent: the whole description, which replaces an earlier one.

    Attributes:
        item_id: identity of the item.
        timestamp: when the description was updated; when it arrives, if not given.
        title: its name for people.
        category: what it is a kind of.
        price: in the currency of the shop, not negative.
        available: whether it can be bought now.
        properties: anything else.
    """

    item_id: Identifier
    timestamp: Moment | None = None
    title: str | None = None
    category: Identifier | None = None
    price: Annotated[float, Meta(ge=0)] | None = None
    available: bool = True
    properties: dict[str, Scalar | list[Scalar]] = {}


class NewUser(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A user as it is sent: the whole description, which replaces an earlier one.

    Attributes:
        user_id: identity of the user.
        timestamp: when the description was updated; when it arrives, if not given.
        properties: what the shop knows: demographics, membership and others.
    """

    user_id: Identifier
    timestamp: Moment | None = None
    properties: dict[str, Scalar | list[Scalar]] = {}


class Rejection(msgspec.Struct, kw_only=True, frozen=True):
    """Why one element of a batch was not accepted.

    Attributes:
        index: position in the batch as sent, from 0.
        code: short stable name of the reason.
        message: what was wrong and what to do.
    """

    index: int
    code: str
    message: str


class EventsAccepted(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to events: they are durable.

    Attributes:
        accepted: events that are new and now in the log.
        duplicates: events whose ``event_id`` was accepted before; they change nothing.
        rejected: events that were refused, each with its index.
        position: where in the log these events end; give it back as ``after`` to read your own
            writes.
    """

    accepted: int
    duplicates: int
    rejected: list[Rejection]
    position: Position


class Upserted(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to item and user upserts: they are durable.

    Attributes:
        accepted: upserts now in the log.
        rejected: upserts that were refused, each with its index.
        position: where in the log these upserts end.
    """

    accepted: int
    rejected: list[Rejection]
    position: Position

"""Events, items and users as requests send them, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Identifier, Moment
from tactful_streaming.contract.decode_requests import (
    CUSTOM_TYPE,
    EVENT_TYPES,
    Context,
    Properties,
    Text,
)

_Id = Annotated[
    Identifier, Meta(extra_json_schema={"pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"})
]
EVENT_TYPE_PATTERN = f"^({'|'.join(sorted(EVENT_TYPES))}|{CUSTOM_TYPE})$"
"""Types of events."""


class NewEvent(
    msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """An event in a request; at least one of `user_id` and `device_id` is needed.

    Attributes:
        type: view, click, search, add_to_cart, remove_from_cart, purchase, payment, refund,
            return, leave, impression, exposure, rating, dislike, hide, or ``x.`` and a name of
            your own.
        timestamp: time of the event.
        event_id: identity of the event within its sender (kind of key, device and user): repeated
            with the same id, it counts once. Without one the server makes one, and a repeated
            request counts twice.
        user_id: user, where known.
        device_id: first-party id of the device.
        session_id: visit.
        item_id: item that the event is about.
        recommendation_id: recommendation that it follows from.
        properties: price, currency, quantity, category, dwell_ms and others.
        context: page, locale, app and others.
    """

    type: Annotated[str, Meta(extra_json_schema={"pattern": EVENT_TYPE_PATTERN})]
    timestamp: Moment
    event_id: _Id | None = None
    user_id: _Id | None = None
    device_id: _Id | None = None
    session_id: _Id | None = None
    item_id: _Id | None = None
    recommendation_id: _Id | None = None
    properties: Properties = {}
    context: Context = {}


_SUBJECTS = [
    {"required": [name], "properties": {name: {"type": "string"}}}
    for name in ("user_id", "device_id")
]
IdentifiedEvent = Annotated[NewEvent, Meta(extra_json_schema={"anyOf": _SUBJECTS})]
"""A new event, as the OpenAPI document describes it: with a user or a device."""


class NewItem(
    msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """An item in a request: the whole description, which replaces an earlier one.

    Attributes:
        item_id: identity of the item.
        timestamp: time of the description; the time of receipt, if not given.
        title: name to show.
        category: kind of item.
        price: in the currency of the shop, not negative.
        available: whether it can be bought now.
        properties: further properties.
        image: picture: a ``data:`` URL in base64 of a JPEG, PNG, WebP or GIF file; its address, if
            the settings allow fetching; or ``sha256:`` and the hash of one that was sent before.
    """

    item_id: _Id
    timestamp: Moment | None = None
    title: Text | None = None
    category: _Id | None = None
    price: Annotated[float, Meta(ge=0)] | None = None
    available: bool = True
    properties: Properties = {}
    image: str | None = None


class NewUser(
    msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A user in a request: the whole description, which replaces an earlier one.

    Attributes:
        user_id: identity of the user.
        timestamp: time of the description; the time of receipt, if not given.
        properties: demographics, membership and others.
    """

    user_id: _Id
    timestamp: Moment | None = None
    properties: Properties = {}

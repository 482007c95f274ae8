"""History of one user, for operators: timeline, devices, recommendations seen."""

from __future__ import annotations

from typing import Any

import msgspec


class TimelineEvent(msgspec.Struct, kw_only=True, frozen=True):
    """An event of a user.

    Attributes:
        event_id: as it was sent.
        type: of the event.
        at: epoch milliseconds.
        item_id: of the item; null for none.
        device_id: of the device; null for none.
        session_id: of the visit; null for none.
        recommendation_id: the recommendation that led to it; null for none.
        properties: as they were sent.
    """

    event_id: str
    type: str
    at: int
    item_id: str | None = None
    device_id: str | None = None
    session_id: str | None = None
    recommendation_id: str | None = None
    properties: dict[str, Any] = {}


class Timeline(msgspec.Struct, kw_only=True, frozen=True):
    """A page of the events of a user, newest first.

    Attributes:
        events: without recommendations.
        next_cursor: cursor of the next page; null on the last one.
    """

    events: list[TimelineEvent]
    next_cursor: str | None = None


class PersonDevice(msgspec.Struct, kw_only=True, frozen=True):
    """A device of a user.

    Attributes:
        device_id: as the page or app sent it.
        shared: whether others have used it, too.
        events: number of events of the user on it.
        first_at: time of the first of them, epoch milliseconds; null for none.
        last_at: time of the last.
    """

    device_id: str
    shared: bool
    events: int
    first_at: int | None = None
    last_at: int | None = None


class PersonDevices(msgspec.Struct, kw_only=True, frozen=True):
    """The devices of a user, the latest first.

    Attributes:
        devices: own and shared ones.
    """

    devices: list[PersonDevice]


class SeenRecommendation(msgspec.Struct, kw_only=True, frozen=True):
    """A recommendation that a user has seen.

    Attributes:
        recommendation_id: its id, for `GET /v1/explain/{recommendation_id}` while it is recent.
        at: epoch milliseconds.
        items: item ids, best first.
        model_version: of the ranking; empty if it is not known.
        arm: of the experiment; empty for none.
        answered: types of the events that named it later, each once.
    """

    recommendation_id: str
    at: int
    items: list[str]
    model_version: str = ""
    arm: str = ""
    answered: list[str] = []


class SeenRecommendations(msgspec.Struct, kw_only=True, frozen=True):
    """A page of the recommendations that a user has seen, newest first.

    Attributes:
        recommendations: as they were shown.
        next_cursor: cursor of the next page; null on the last one.
    """

    recommendations: list[SeenRecommendation]
    next_cursor: str | None = None

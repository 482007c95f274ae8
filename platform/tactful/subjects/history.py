"""History of one user, for operators: timeline, devices, recommendations seen.

It is collected from the export, which has everything that an erasure removes, so nothing is shown
here that would survive one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from tactful.schemas.subjects.people import (
    PersonDevice,
    PersonDevices,
    SeenRecommendation,
    SeenRecommendations,
    Timeline,
    TimelineEvent,
)
from tactful.schemas.users import FeatureMeaning, PersonExport
from tactful_streaming.definitions.model import Definitions

T = TypeVar("T")

_SHOWN = "impression"


def timeline(export: PersonExport, *, cursor: str = "", limit: int = 100) -> Timeline:
    """Return a page of the events of a user, newest first; a foreign cursor raises ValueError."""
    events = [
        TimelineEvent(
            event_id=event["event_id"],
            type=event["type"],
            at=event["timestamp"],
            item_id=event.get("item_id"),
            device_id=event.get("device_id"),
            session_id=event.get("session_id"),
            recommendation_id=event.get("recommendation_id"),
            properties=event.get("properties") or {},
        )
        for event in _events(export)
        if event["type"] != _SHOWN
    ]
    page, following = _page(events, lambda event: (event.at, event.event_id), cursor, limit)
    return Timeline(events=page, next_cursor=following)


def devices(export: PersonExport) -> PersonDevices:
    """Return the devices of a user, the latest first."""
    shared = {*export.shared_devices}
    times: dict[str, list[int]] = {name: [] for name in (*export.devices, *shared)}
    for event in _events(export):
        if event.get("device_id") in times and event["type"] != _SHOWN:
            times[event["device_id"]].append(event["timestamp"])
    found = [
        PersonDevice(
            device_id=name,
            shared=name in shared,
            events=len(seen),
            first_at=min(seen, default=None),
            last_at=max(seen, default=None),
        )
        for name, seen in times.items()
    ]
    return PersonDevices(devices=sorted(found, key=lambda it: (-(it.last_at or 0), it.device_id)))


def recommendations(
    export: PersonExport, *, cursor: str = "", limit: int = 100
) -> SeenRecommendations:
    """Return a page of the recommendations that a user has seen, newest first.

    A foreign cursor raises ValueError.
    """
    answered: dict[str, set[str]] = {}
    shown: dict[str, dict[str, Any]] = {}
    for event in _events(export):
        name = event.get("recommendation_id")
        if event["type"] == _SHOWN:
            shown[name or event["event_id"]] = event
        elif name is not None:
            answered.setdefault(name, set()).add(event["type"])
    seen = [
        SeenRecommendation(
            recommendation_id=name,
            at=event["timestamp"],
            items=[str(item) for item in _listed(event, "items")],
            model_version=str(event["properties"].get("model_version") or ""),
            arm=str(event["properties"].get("arm") or ""),
            answered=sorted(answered.get(name, ())),
        )
        for name, event in shown.items()
    ]
    page, following = _page(seen, lambda it: (it.at, it.recommendation_id), cursor, limit)
    return SeenRecommendations(recommendations=page, next_cursor=following)


def meanings(definitions: Definitions) -> list[FeatureMeaning]:
    """Return what the features of users compute."""
    return [
        FeatureMeaning(
            name=feature.name,
            aggregate=feature.aggregate,
            events=list(feature.events),
            of=feature.of,
            group_by=feature.group_by,
            window_ms=getattr(feature.window, "size_ms", None),
        )
        for feature in definitions.of_entity("user")
    ]


def _events(export: PersonExport) -> Iterator[dict[str, Any]]:
    """Yield the events of a user in the form they were sent, each once."""
    known: set[tuple[str, int]] = set()
    for record in export.records:
        event = record.get("event", record)
        if event["kind"] != "event":
            continue
        name = event["event_id"], event["timestamp"]
        if name not in known:  # a record on its way to another partition is stored in both
            known.add(name)
            yield event


def _listed(event: dict[str, Any], name: str) -> Sequence[Any]:
    value = event["properties"].get(name)
    return value if isinstance(value, list) else []


def _page(
    rows: Sequence[T], place: Callable[[T], tuple[int, str]], cursor: str, limit: int
) -> tuple[list[T], str | None]:
    """Return the rows after a cursor, newest first, and the cursor of the next page.

    A cursor is a time, and how many rows of that time were shown: ids stay out of addresses.
    """
    ordered = sorted(rows, key=place, reverse=True)
    if cursor:
        at, shown = _decoded(cursor)
        older = [row for row in ordered if place(row)[0] < at]
        ordered = [row for row in ordered if place(row)[0] == at][shown:] + older
    page = ordered[:limit]
    if len(ordered) <= limit:
        return page, None
    last = place(page[-1])[0]
    same = sum(place(row)[0] == last for row in page)
    if cursor and at == last:
        same += shown
    return page, f"{last}.{same}"


def _decoded(cursor: str) -> tuple[int, int]:
    at, _, shown = cursor.partition(".")
    number = msgspec.json.Decoder(int)
    try:
        place = number.decode(at), number.decode(shown)
    except msgspec.DecodeError:
        raise ValueError("the cursor was not returned here") from None
    if min(place) < 0:
        raise ValueError("the cursor was not returned here")
    return place

"""History of a person: pages of the timeline, devices, recommendations that were seen."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.config.settings import PACKAGED_FEATURES
from tactful.schemas.users import PersonExport
from tactful.subjects.history import devices, meanings, recommendations, timeline
from tactful_streaming.definitions.reader import load_definitions


def event(number: int, at: int, kind: str = "view", **fields: Any) -> dict[str, Any]:
    entry = {"kind": "event", "event_id": f"e-{number:03}", "type": kind, "timestamp": at}
    return {"offset": number, "properties": {}, **entry, **fields}


def export_of(*records: dict[str, Any], **fields: Any) -> PersonExport:
    empty: dict[str, Any] = {
        "person": "zoe",
        "made_at": 0,
        "consent": [],
        "description": None,
        "devices": [],
        "shared_devices": [],
        "sessions": [],
        "features": {},
        "dead_letters": [],
        "waiting_actions": [],
        "notes": [],
    }
    return PersonExport(**{**empty, "records": list(records), **fields})


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 7))
def test_pages_of_any_size_are_the_whole_timeline(times: list[int], limit: int) -> None:
    export = export_of(*(event(number, at) for number, at in enumerate(times)))
    whole = timeline(export, limit=1_000).events
    assert [it.at for it in whole] == sorted(times, reverse=True)
    collected, cursor = [], ""
    for _ in range(40):
        page = timeline(export, cursor=cursor, limit=limit)
        collected += page.events
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    assert collected == whole


def test_a_record_that_is_stored_twice_happened_once() -> None:
    once = event(1, 10, item_id="i-1")
    forwarded = {"offset": 7, "kind": "forwarded", "target": "zoe", "event": once}
    described = {"offset": 8, "kind": "user", "user_id": "zoe", "properties": {}}
    found = timeline(export_of(once, forwarded, described))
    assert [(it.event_id, it.item_id) for it in found.events] == [("e-001", "i-1")]


def test_devices_come_with_their_times_and_say_whether_others_use_them() -> None:
    export = export_of(
        event(1, 10, device_id="phone"),
        event(2, 30, device_id="phone"),
        event(3, 20, device_id="kiosk"),
        event(4, 99, "impression", device_id="phone"),
        devices=["phone", "unused"],
        shared_devices=["kiosk"],
    )
    found = [
        (it.device_id, it.shared, it.events, it.first_at, it.last_at)
        for it in devices(export).devices
    ]
    assert found == [
        ("phone", False, 2, 10, 30),
        ("kiosk", True, 1, 20, 20),
        ("unused", False, 0, None, None),
    ]


def test_recommendations_say_what_followed_from_them() -> None:
    shown = {"items": ["a", "b"], "model_version": "3", "arm": "learned"}
    export = export_of(
        event(1, 10, "impression", recommendation_id="r-1", properties=shown),
        event(2, 11, "click", recommendation_id="r-1"),
        event(3, 12, "click", recommendation_id="r-1"),
        event(4, 13, "purchase", recommendation_id="r-1"),
        event(5, 14, "impression", recommendation_id="r-2", properties={"items": "odd"}),
        event(6, 15, "click", recommendation_id="r-9"),
    )
    latest, first = recommendations(export).recommendations
    assert (first.items, first.model_version, first.arm) == (["a", "b"], "3", "learned")
    assert first.answered == ["click", "purchase"]
    assert (latest.recommendation_id, latest.items, latest.answered) == ("r-2", [], [])
    page = recommendations(export, limit=1)
    assert page.next_cursor == "14.1"
    rest = recommendations(export, cursor="14.1", limit=1)
    assert [it.recommendation_id for it in rest.recommendations] == ["r-1"]


@pytest.mark.parametrize(
    "cursor", ["x", "1", "1.", ".1", "1.x", "1.1.1", "\u0661.1", "NaN.1", "-", "-5.1", "5.-1"]
)
def test_foreign_cursors_are_refused(cursor: str) -> None:
    with pytest.raises(ValueError):
        timeline(export_of(event(1, 10)), cursor=cursor)


def test_no_cursor_holds_an_id() -> None:
    draw = random.Random(7)
    export = export_of(*(event(number, draw.randrange(5)) for number in range(20)))
    cursor = timeline(export, limit=3).next_cursor
    assert cursor is not None and set(cursor) <= set("0123456789.")


def test_every_feature_of_a_user_has_a_meaning() -> None:
    definitions = load_definitions(PACKAGED_FEATURES)
    found = {meaning.name: meaning for meaning in meanings(definitions)}
    assert {*found} == {feature.name for feature in definitions.of_entity("user")}
    assert found["taken_28d"].window_ms == 28 * 86_400_000
    assert (found["spend_28d"].aggregate, found["spend_28d"].of) == ("sum", "properties.price")
    assert found["recent_items"].window_ms is None

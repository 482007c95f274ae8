"""The page "People": what an operator sees of one person, and what nobody else sees."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui.conftest import Open
from tests.ui.reading import words
from tests.ui.server import FakePlatform

NOON = 1_772_366_400_000
PERSON = "/v1/users/zoe"
LIFE_CYCLE = {
    "stage": "lapsing",
    "return_probability": 0.142,
    "horizon_days": 30,
    "visits": 3,
    "first_day": "2026-01-02",
    "last_day": "2026-02-03",
    "value": 61.5,
    "value_unit": "money",
    "calibrated": True,
    "brier": 0.1712,
    "base_brier": 0.2431,
    "reason": "",
}


@pytest.fixture
def known(fake: FakePlatform) -> FakePlatform:
    """A server that knows one person, to an operator."""
    fake.sign_in_as("admin")
    history = [
        {"version": 1, "purposes": {"marketing": False, "service": True}, "at": NOON, "source": "x"}
    ]
    consent = {"person": "zoe", "allowed": ["service"], "said": {"marketing": False}}
    fake.answer(f"{PERSON}/consent", {**consent, "default": ["measurement"], "history": history})
    view = {"aggregate": "count", "events": ["view", "x.*"], "window_ms": 28 * 86_400_000}
    meanings = [
        {**view, "name": "seen_28d", "group_by": "category"},
        {"name": "last", "aggregate": "last_time", "events": ["purchase"]},
        {"name": "none", "aggregate": "sum", "events": ["purchase"], "of": "properties.price"},
    ]
    values = {"seen_28d": {"tea": 3.0, "cups": 1.5}, "last": float(NOON), "none": 0.0}
    about = {"user_id": "zoe", "at": NOON, "position": 7}
    about |= {"features": values, "lifecycle": LIFE_CYCLE}
    fake.answer(f"{PERSON}/features", {**about, "meanings": meanings})
    event = {"event_id": "e-1", "type": "view", "at": NOON, "item_id": "sku-42"}
    fake.answer(f"{PERSON}/timeline", {"events": [event], "next_cursor": f"{NOON}.1"})
    fake.answer(f"{PERSON}/devices", {"devices": []})
    fake.answer(f"{PERSON}/accesses", {"accesses": [], "next_cursor": None})
    seen = {"recommendation_id": "r-1", "at": NOON, "items": ["a", "b"], "answered": ["click"]}
    fake.answer(f"{PERSON}/recommendations", {"recommendations": [seen], "next_cursor": None})
    return fake


def find(page: AppTest, value: str, by: str | None = None) -> None:
    if by is not None:
        page.selectbox[0].set_value(by)
    page.text_input[0].set_value(value)
    press(page, "Find")


def press(page: AppTest, label: str) -> None:
    next(button for button in page.button if button.label == label).click().run()
    assert not page.exception


def look_at(page: AppTest, part: str) -> None:
    page.segmented_control[0].set_value(part).run()
    assert not page.exception


@pytest.mark.slow
def test_consent_comes_first_and_features_are_sentences(
    open_page: Open, known: FakePlatform
) -> None:
    page = open_page("people")
    find(page, "zoe")
    said = words(page)
    assert "May be used for: service" in said.replace("**", "")
    assert "By default, without a decision: measurement" in said
    asked = [path for path in known.asked if path.startswith(PERSON)]
    assert asked == [f"{PERSON}/consent"], "a look that was not asked for is not taken"
    look_at(page, "Features")
    said = words(page)
    assert (
        "Views, own events of the shop in the last 28 days by category: tea (3), cups (1.5)" in said
    )
    assert "Last time of purchases: 2026-03-01 12:00 UTC" in said
    assert "seen_28d" not in said and "1 features have no value yet" in said
    look_at(page, "Timeline")
    assert list(page.dataframe[-1].value["Item"]) == ["sku-42"]
    assert "The latest 1; the export has all of them" in words(page)
    look_at(page, "Features")
    asked = [path for path in known.asked if path.startswith(PERSON)]
    assert len(asked) == 3, "each look is recorded, so it is taken once"
    look_at(page, "Life cycle")
    metrics = {it.label: it.value for it in page.metric}
    assert metrics["Stage"] == "lapsing"
    assert metrics["Returns within 30 days"] == "14.2 %"
    assert metrics["Spent so far"] == "61.50"
    assert "Days with an event: 3" in words(page)
    assert "0.171; of one for everybody: 0.243" in words(page)
    asked = [path for path in known.asked if path.startswith(PERSON)]
    assert len(asked) == 3, "it comes with the features"
    look_at(page, "Other domains")
    assert "No profile crossed" in words(page)
    look_at(page, "Devices")
    assert "There is nothing" in words(page)
    look_at(page, "Recommendations")
    assert list(page.dataframe[-1].value["Items"]) == ["a, b"]
    assert not page.query_params


def test_a_person_is_found_by_another_value(open_page: Open, known: FakePlatform) -> None:
    match = {"person": "zoe", "records": 12, "last_at": NOON}
    known.answer("/v1/users", {"people": [match], "more": True})
    page = open_page("people")
    find(page, "zoe@shop.example", "properties.email")
    assert "zoe, 12 records" in words(page).replace("**", "") and "There may be more" in words(page)
    press(page, "Open")
    assert "May be used for" in words(page)
    known.answer("/v1/users", {"people": [], "more": False})
    find(page, "nobody@shop.example", "properties.email")
    assert "Nobody is stored with this value" in words(page)


def test_an_erasure_needs_the_id_once_more_and_gives_a_receipt(
    open_page: Open, known: FakePlatform
) -> None:
    page = open_page("people")
    find(page, "zoe")
    button = next(it for it in page.button if it.label == "Erase this person")
    assert button.disabled
    confirmation = page.text_input[-1]
    confirmation.set_value("Zoe").run()
    assert next(it for it in page.button if it.label == "Erase this person").disabled
    page.text_input[-1].set_value("zoe").run()
    receipt: dict[str, Any] = {"receipt": "3f0c", "state": "requested", "requested_at": NOON}
    known.answer(PERSON, {**receipt, "due_at": NOON, "done_at": None, "steps": []}, 202)
    press(page, "Erase this person")
    said = words(page)
    assert "The person is erased" in said and "3f0c" in said
    assert "May be used for" not in said
    assert known.asked[-1] != PERSON or known.asked.count(PERSON) == 1


def test_an_export_is_collected_when_asked_for(open_page: Open, known: FakePlatform) -> None:
    page = open_page("people")
    find(page, "zoe")
    assert f"{PERSON}/export" not in known.asked
    known.answer(f"{PERSON}/export", b"<!doctype html><title>zoe</title>")
    press(page, "Collect the export")
    assert [it.proto.label for it in page.get("download_button")][-1] == "Save as a page"


@pytest.mark.slow
def test_an_erased_person_is_explained(open_page: Open, known: FakePlatform) -> None:
    missing = {"title": "x", "status": 404, "detail": "this user was erased", "code": "not_found"}
    known.answer(f"{PERSON}/features", missing, 404)
    page = open_page("people")
    find(page, "zoe")
    look_at(page, "Features")
    assert not page.exception and "was erased" in words(page)


@pytest.mark.parametrize(
    "scopes",
    [
        ("analyst", "monitor"),
        pytest.param(("analyst",), marks=pytest.mark.slow),
        pytest.param(("monitor",), marks=pytest.mark.slow),
    ],
)
def test_others_see_no_person_and_no_button(
    open_page: Open, known: FakePlatform, scopes: tuple[str, ...]
) -> None:
    known.sign_in_as(*scopes)
    page = open_page("people")
    assert "operators only" in words(page)
    assert not page.button and not page.text_input
    assert not [path for path in known.asked if path.startswith("/v1/users")]


def test_a_server_that_is_down_is_explained(
    open_page: Open, fake: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.url = "http://127.0.0.1:9"
    assert "The server does not answer" in words(open_page("people"))


def test_a_life_cycle_that_is_not_known_has_a_reason(open_page: Open, known: FakePlatform) -> None:
    unknown = {"stage": None, "return_probability": None, "reason": "the shop is 3 days old"}
    features = {"user_id": "zoe", "at": NOON, "position": 7, "features": {}}
    known.answer(f"{PERSON}/features", {**features, "lifecycle": {**LIFE_CYCLE, **unknown}})
    page = open_page("people")
    find(page, "zoe")
    look_at(page, "Life cycle")
    assert "Not known yet: the shop is 3 days old" in words(page)
    refused = {"horizon_days": 30, "reason": "consent does not allow to personalise"}
    known.answer(f"{PERSON}/features", {**features, "lifecycle": refused})
    press(page, "Read again")
    assert "did not agree to personalisation" in words(page)
    assert not page.metric


def test_a_profile_of_another_domain_is_shown(open_page: Open, known: FakePlatform) -> None:
    crossed = [
        {"releasing": name, "embedding": "1", "crossed_at": NOON, "used": name == "shop"}
        for name in ("shop", "论坛")
    ]
    features = {"user_id": "zoe", "at": NOON, "position": 1, "features": {}, "crossed": crossed}
    known.answer(f"{PERSON}/features", features)
    page = open_page("people")
    find(page, "zoe")
    look_at(page, "Other domains")
    table = page.dataframe[-1].value
    assert list(table["Crossed from"]) == ["shop", "论坛"]
    assert list(table["Recommendations follow it"]) == ["yes", "not yet"]

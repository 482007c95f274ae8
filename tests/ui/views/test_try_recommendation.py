"""The page that tries recommendations out, in every state."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui.conftest import Open
from tests.ui.reading import descriptions, words
from tests.ui.server import FakePlatform

TEA = {"item_id": "tea", "timestamp": 0, "title": "Green tea", "category": "drinks", "price": 4.5}


def variant(arm: str, *, contributions: dict[str, float] | None = None) -> dict[str, Any]:
    explanation = {
        "recommendation_id": "r",
        "at": 0,
        "ranking": "learned",
        "model_version": "7",
        "items": [{"item_id": "tea", "contributions": contributions}],
    }
    return {
        "recommendation": {
            "recommendation_id": "r",
            "items": [{"item_id": "tea", "score": 1.25, "channel": "next"}],
            "model_version": "7",
            "variant": {"ranking": arm},
            "explanation": explanation,
        },
        "channels": [
            {"channel": "popular", "item_ids": ["tea", "mug"]},
            {"channel": arm, "item_ids": ["mug"]},
        ],
    }


@pytest.fixture
def shop(fake: FakePlatform) -> FakePlatform:
    """A server with two arms, read by an administrator."""
    fake.sign_in_as("admin")
    fake.answer("/v1/models", {"experiment": {"key": "ranking", "arms": {"a": 0.5, "b": 0.5}}})
    many = {f"feature_{number}": (-1) ** number / (1 + number) for number in range(9)}
    answers = [variant("a", contributions=many), variant("b")]
    fake.answer(
        "/v1/recommend/try",
        {"at": 1_772_366_400_000, "variants": answers, "items": {"tea": TEA}},
    )
    return fake


def press(page: AppTest) -> AppTest:
    (button,) = [it for it in page.button if it.label == "Recommend"]
    return button.click().run()


@pytest.mark.slow
def test_two_arms_stand_side_by_side_with_their_channels(
    open_page: Open, shop: FakePlatform
) -> None:
    page = open_page("try_recommendation")
    page.selectbox(key="way 0").select("arm a")
    page.selectbox(key="way 1").select("arm b").run()
    page.text_input(key="user").input("ada")
    page.text_input(key="page").input("home")
    page = press(page)
    assert not page.exception
    ((path, sent),) = shop.posted
    assert path == "/v1/recommend/try"
    assert sent["request"]["user_id"] == "ada"
    assert sent["request"]["context"] == {"page": "home"}
    assert [it["force"] for it in sent["variants"]] == [{"ranking": "a"}, {"ranking": "b"}]
    said = words(page)
    assert "7 (ranking: a)" in said and "7 (ranking: b)" in said
    assert said.count("Green tea") == 2 and "score 1.250" in said and "next" in said
    (described,) = descriptions(page)
    assert "feature_0 +1.00" in described and "3 others" in described, "six features by name"
    tables = [frame.value.to_string() for frame in page.dataframe]
    assert len(tables) == 2 and "popular" in tables[0]
    assert "mug" in tables[0], "an item without a description has its id"


def test_a_made_up_person_is_sent_with_events_and_properties(
    open_page: Open, shop: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page("try_recommendation")
    page.segmented_control(key="who").set_value("made_up").run()
    page.session_state["made_up_events"] = {
        "item_id": ["tea", "", None],
        "type": ["purchase", "view", "view"],
        "minutes_ago": [90, 0, 0],
    }
    page.run()
    page.text_input(key="properties").input("country=DE, age=35, score=0.5, nothing")
    page = press(page)
    assert not page.exception
    ((_, sent),) = shop.posted
    assert sent["person"] == {
        "events": [{"item_id": "tea", "type": "purchase", "seconds_ago": 5400.0, "properties": {}}],
        "properties": {"country": "DE", "age": 35, "score": 0.5},
    }
    assert sent["request"]["user_id"] is None


def test_a_version_another_time_and_filters_are_sent(open_page: Open, shop: FakePlatform) -> None:
    page = open_page("try_recommendation")
    page.segmented_control(key="who").set_value("nobody").run()
    page.selectbox(key="way 0").set_value("a model").run()
    assert not page.date_input, "only another time has a day"
    assert page.selectbox(key="time").set_value("at").run().date_input
    page.selectbox(key="time").set_value("last").run()
    page.text_input(key="version 0").input("12")
    page.number_input(key="low").set_value(2.5)
    page = press(page)
    ((_, sent),) = shop.posted
    assert [it["model"] for it in sent["variants"]] == ["12"]
    assert sent["request"]["as_of"] == "last" and sent["request"]["min_price"] == 2.5


def test_a_person_needs_an_id(open_page: Open, shop: FakePlatform) -> None:
    page = press(open_page("try_recommendation"))
    assert "Give the id" in words(page) and shop.posted == []


def test_an_analyst_finds_no_form(open_page: Open, fake: FakePlatform) -> None:
    page = open_page("try_recommendation")
    assert "scope `admin`" in words(page)
    assert not page.button and not page.text_input


@pytest.mark.slow
def test_refusals_and_a_server_that_is_down_are_explained(
    open_page: Open, shop: FakePlatform
) -> None:
    problem = {"title": "Invalid", "status": 422, "detail": "the arms are a, b"}
    shop.answer("/v1/recommend/try", problem, 422)
    page = open_page("try_recommendation")
    page.text_input(key="user").input("ada")
    page = press(page)
    assert "the arms are a, b" in words(page) and not page.exception
    shop.url = "http://127.0.0.1:9"
    assert "does not answer" in words(open_page("try_recommendation"))

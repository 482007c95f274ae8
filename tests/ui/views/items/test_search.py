"""The page that tries searches, in every state."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui.conftest import Open
from tests.ui.reading import words
from tests.ui.server import FakePlatform

MUG = {"item_id": "mug", "timestamp": 0, "title": "Blue <mug>", "category": "kitchen", "price": 4.0}
FOUND: dict[str, Any] = {
    "items": [
        {
            "item_id": "mug",
            "score": 1.0,
            "text_match": 4.21,
            "vector_match": 0.62,
            "title": "Blue <mug>",
            "matched": [
                {"word": "bleu", "found": "blue", "fields": ["title", "labels"], "edits": 1}
            ],
        },
        {"item_id": "gone", "score": 0.5, "vector_match": 0.5, "title": None, "matched": []},
    ],
    "total": 2,
    "facets": {
        "values": {"category": [{"value": "kitchen", "items": 1}, {"value": "", "items": 1}]},
        "prices": [{"low": 1.0, "high": 5.0, "items": 1}, {"low": 5.0, "high": 9.0, "items": 1}],
    },
    "note": "no item has all words: these have some",
    "took_ms": 3.25,
}


@pytest.fixture
def shop(fake: FakePlatform) -> FakePlatform:
    """A server that finds two items, one of which is gone, read by an administrator."""
    fake.sign_in_as("admin")
    fake.answer("/v1/search", FOUND)
    fake.answer("/v1/items/mug", MUG)
    return fake


def press(page: AppTest) -> AppTest:
    (button,) = page.button
    return button.click().run()


def test_words_find_items_with_reasons_and_facets(open_page: Open, shop: FakePlatform) -> None:
    page = open_page("items.search")
    assert not shop.posted, "nothing is asked before the button is pressed"
    page.text_input(key="query").input("bleu mug")
    page = press(page)
    assert not page.exception
    ((path, sent),) = shop.posted
    assert (path, sent["query"], sent["trial"], sent["explain"]) == (
        *("/v1/search", "bleu mug"),
        *(True, True),
    )
    assert "user_id" not in sent, "a trial for a user needs the scope admin"
    said = words(page)
    assert "2 items match" in said and "these have some" in said
    assert "Blue <mug>" in said and "blue (title, labels), for bleu" in said
    assert "words 4.21" in said and "cosine 0.62" in said
    assert "gone" in said, "an item without a description has its id"
    page.button_group(key="search category").set_value("kitchen").run()
    assert shop.posted[-1][1]["category"] == "kitchen"
    page.button_group(key="search price").set_value((1.0, 5.0)).run()
    assert (shop.posted[-1][1]["min_price"], shop.posted[-1][1]["max_price"]) == (1.0, 5.0)


def test_choices_are_within_one_question_and_stay_visible(
    open_page: Open, shop: FakePlatform
) -> None:
    page = open_page("items.search")
    page.text_input(key="query").input("mug")
    page = press(page)
    page.button_group(key="search price").set_value((1.0, 5.0)).run()
    other = {
        "values": {"category": [{"value": "Home *new*", "items": 1}]},
        "prices": [{"low": 2.0, "high": 3.0, "items": 1}],
    }
    shop.answer("/v1/search", {**FOUND, "facets": other})
    page.button_group(key="search category").set_value("kitchen").run()
    assert page.button_group(key="search category").value == "kitchen"
    assert page.button_group(key="search price").value == (1.0, 5.0), "it still filters"
    options = [*page.button_group(key="search category").options]
    assert options == ["Home \\*new\\* (1)", "kitchen (0)"]
    page.text_input(key="query").input("shoes")
    page = press(page)
    sent = shop.posted[-1][1]
    assert sent["query"] == "shoes" and not sent.keys() & {"category", "min_price", "max_price"}


@pytest.mark.slow
def test_pictures_and_phrases_are_sent(open_page: Open, shop: FakePlatform) -> None:
    page = open_page("items.search")
    page.file_uploader(key="picture").set_value(("red.png", b"a picture", "image/png"))
    page = press(page)
    assert not page.exception
    assert shop.posted[-1][1]["picture"] == b64encode(b"a picture").decode()
    heard = {"text": "blue mug", "confidence": 0.5, "language": "en", "alternatives": ["blew mug"]}
    shop.answer("/v1/search", {**FOUND, "heard": heard})
    page = open_page("items.search")
    page.file_uploader(key="audio").set_value(("said.wav", b"a phrase", "audio/wav"))
    page = press(page)
    assert shop.posted[-1][1]["audio"] == b64encode(b"a phrase").decode()
    assert "blue mug" in words(page) and "blew mug" in words(page)
    page.text_input(key="query").input("mug")
    count = len(shop.posted)
    assert "neither words nor a picture" in words(press(page))
    assert len(shop.posted) <= count + 1


def test_an_empty_question_and_refusals_are_explained(open_page: Open, shop: FakePlatform) -> None:
    assert "Give words" in words(press(open_page("items.search")))
    assert not shop.posted
    problem = {"status": 422, "title": "Invalid", "detail": "the picture is animated: send one"}
    shop.answer("/v1/search", problem, status=422)
    page = open_page("items.search")
    page.text_input(key="query").input("mug")
    assert "animated" in words(press(page))
    shop.answer("/v1/search", {"items": [], "total": 0, "note": "no item has any of the words"})
    assert "no item has any" in words(press(page))


def test_who_may_not_search_sees_no_button(open_page: Open, fake: FakePlatform) -> None:
    page = open_page("items.search")
    assert not page.button and "`recommend`" in words(page)


def test_the_page_is_in_chinese(open_page: Open, shop: FakePlatform) -> None:
    page = open_page("items.search", language="zh")
    page.text_input(key="query").input("杯子")
    assert "共有 2 件商品匹配" in words(press(page))

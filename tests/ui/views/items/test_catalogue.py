"""The page of items in every state: found, empty, linked to, with either key."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui.conftest import Open
from tests.ui.reading import descriptions, words
from tests.ui.server import FakePlatform

TEA = {
    "item_id": "tea",
    "timestamp": 1_772_366_400_000,
    "title": "Green <tea>",
    "category": "drinks",
    "price": 4.5,
    "available": True,
    "properties": {"image": "https://shop.example/tea.png", "origin": "Fujian"},
}
MUG = {**TEA, "item_id": "mug", "title": "Blue mug", "category": "kitchen", "properties": {}}
FACETS = {
    "total": 2,
    "categories": [{"value": "drinks", "items": 1}, {"value": "kitchen", "items": 1}],
    "prices": [{"low": 1.0, "high": 5.0, "items": 1}, {"low": 5.0, "high": 9.0, "items": 1}],
    "available": [{"value": "true", "items": 2}, {"value": "false", "items": 0}],
}
CELLS = [
    {"pane_start": 1_772_366_400_000 + hour * 3_600_000, "key": "drinks", "value": 40.0 + hour}
    | {"low": 30.0 + hour, "high": 50.0 + hour}
    for hour in range(5)
]
LISTS = ("similar", "together", "next")


@pytest.fixture
def shop(fake: FakePlatform) -> FakePlatform:
    """A server with two items, one of which has a trend and neighbours."""

    def search(query: dict[str, str]) -> dict[str, Any]:
        found = [it for it in (MUG, TEA) if query.get("category") in (None, it["category"])]
        asked.append(query)
        facets = {**FACETS, "total": len(found)}
        return {"items": found, "next_cursor": None, "facets": facets}

    asked: list[dict[str, str]] = []
    fake.answer("/v1/items", search)
    for item in (TEA, MUG):
        fake.answer(f"/v1/items/{item['item_id']}", item)
    trend = {
        "statistic": "views",
        "title": "Views by category",
        "by": "category",
        "key": "drinks",
        "epsilon": 1.0,
        "pane_ms": 3_600_000,
        "growth": 1.5,
        "cells": CELLS,
    }
    fake.answer("/v1/items/tea/trend", {"item_id": "tea", "trends": [trend]})
    fake.answer("/v1/items/mug/trend", {"item_id": "mug", "trends": []})
    listed = {"items": [{"item_id": "mug", "score": 1.0}], "fallback": "1 of 10 items: few people"}
    for name in LISTS:
        fake.answer(f"/v1/items/tea/{name}", listed)
    for name in ("popular", "trending", "latest"):
        fake.answer(f"/v1/{name}", {"items": [{"item_id": "tea"}], "fallback": None})
    near = {"item_id": "mug", "title": "Blue mug", "score": 0.8}
    fake.answer(
        "/v1/items/tea/neighbours",
        {
            "item_id": "tea",
            "people": 42,
            "minimum_people": 10,
            "vectors": [near],
            "together": [{**near, "people": 17}],
            "following": [],
            "described": [{**near, "words": ["green"]}],
        },
    )
    return fake


def frames(page: AppTest) -> str:
    return "\n".join(frame.value.to_string() for frame in page.dataframe)


def open_item(open_page: Open, item_id: str) -> AppTest:
    page = open_page("items.catalogue")
    return page.selectbox(key="chosen item").set_value(item_id).run()


@pytest.mark.slow
def test_an_analyst_sees_the_card_the_trend_and_public_lists(
    open_page: Open, shop: FakePlatform
) -> None:
    page = open_item(open_page, "tea")
    assert not page.exception
    said = words(page)
    assert "Green <tea>" in said and "drinks" in said and "4.50" in said
    assert "Views by category: drinks" in said and "grew at least 1.5-fold" in said
    assert "ε = 1.00" in said and "1 of 10 items: few people" in said
    (described,) = descriptions(page)
    assert "5 privately released counts of drinks" in described
    assert "Origin" not in said and "Fujian" in frames(page)
    assert "/v1/items/tea/neighbours" not in shop.asked, "exact numbers are for administrators"
    assert "Blue mug" in frames(page)
    assert page.query_params["item"] in ("tea", ["tea"])


@pytest.mark.slow
def test_an_administrator_sees_neighbours_with_scores_and_reasons(
    open_page: Open, shop: FakePlatform
) -> None:
    shop.sign_in_as("admin")
    page = open_item(open_page, "tea")
    assert not page.exception
    assert "42 people took it" in words(page)
    shown = frames(page)
    assert "17 people took both" in shown and "green" in shown and "0.8" in shown
    assert not {f"/v1/items/tea/{name}" for name in LISTS} & {*shop.asked}
    assert [tab.label for tab in page.tabs] == [
        "From the same visits",
        "Came next",
        "By vectors",
    ]
    assert "By picture" not in words(page)
    assert "by meaning need the encoder" in words(page)


@pytest.mark.slow
@pytest.mark.parametrize(("language", "title"), [("en", "By picture"), ("zh", "按图片")])
def test_neighbours_by_words_meaning_and_picture_are_side_by_side(
    open_page: Open, shop: FakePlatform, language: str, title: str
) -> None:
    shop.sign_in_as("admin")
    like = [{"item_id": f"{kind}-1", "title": kind, "score": 0.5} for kind in ("kettle", "cup")]
    shop.answer(
        "/v1/items/tea/neighbours",
        {
            "item_id": "tea",
            "minimum_people": 10,
            **{kind: [] for kind in ("vectors", "together", "following", "described")},
            "meaning": like[:1],
            "pictures": like[1:],
        },
    )
    page = open_page("items.catalogue", language=language, item="tea")
    assert not page.exception
    assert title in words(page) and "need the encoder" not in words(page)
    columns = [column for column in page.columns if len(column.dataframe)]
    near = [column.dataframe[0].value.to_string() for column in columns]
    assert sum("kettle" in text for text in near) == sum("cup" in text for text in near) == 1


def test_facets_name_their_numbers_and_filter(open_page: Open, shop: FakePlatform) -> None:
    page = open_page("items.catalogue")
    category = page.selectbox(key="facet category")
    assert category.options == ["all", "drinks (1)", "kitchen (1)"]
    page = category.set_value("kitchen").run()
    assert "1 items match" in words(page)
    assert "Green" not in page.dataframe[0].value.to_string()
    assert page.selectbox(key="facet available").options == ["all", "yes (2)"]


@pytest.mark.slow
def test_an_address_of_an_item_opens_it_and_an_unknown_one_is_said(
    fake: FakePlatform, shop: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.ui import conftest

    monkeypatch.delenv("TACTFUL_API_KEY", raising=False)
    monkeypatch.setenv("TACTFUL_URL", fake.url)
    for item, text in (("tea", "Green <tea>"), ("gone", "There is no item gone.")):
        page = AppTest.from_function(conftest._page, args=("items.catalogue",), default_timeout=30)
        page.query_params["item"] = item
        assert text in words(page.run())
        assert not page.exception


@pytest.mark.slow
def test_an_empty_catalogue_and_a_server_without_these_routes(
    open_page: Open, fake: FakePlatform
) -> None:
    page = open_page("items.catalogue")
    assert page.error or page.info, "an older server"
    fake.answer("/v1/items", {"items": [], "next_cursor": None, "facets": {**FACETS, "total": 0}})
    for name in ("popular", "trending", "latest"):
        fake.answer(f"/v1/{name}", {"items": [], "fallback": "the catalogue is empty"})
    page = open_page("items.catalogue")
    assert "No item matches" in words(page) and "the catalogue is empty" in words(page)
    fake.key = "sesame"
    assert "does not accept the key" in words(open_page("items.catalogue"))
    fake.url = "http://127.0.0.1:9"
    assert "does not answer" in words(open_page("items.catalogue"))

"""``tactful items`` against a running server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.platform.support import Live, wait_until

from tactful.cli.main import main

pytestmark = pytest.mark.usefixtures("elsewhere")

ITEMS = [
    {"item_id": "tea/1 ü", "title": "Green tea", "category": "tea", "price": 4.5},
    {"item_id": "tea/2", "title": "Black tea \x1b[31m", "category": "tea", "available": False},
    {"item_id": "mug", "title": "Blue mug", "category": "mugs", "price": 9.0},
    {"item_id": "mug-2", "title": "Blue mug, large", "category": "mugs"},
]


@pytest.fixture
def shop(live: Live) -> Live:
    live.http.put("/v1/items", json=ITEMS).raise_for_status()
    wait_until(lambda: len(live.http.get("/v1/items").json()["items"]) == len(ITEMS))
    # Lists and the search of alike items follow new items, each by a refresh of its own.
    wait_until(lambda: len(live.http.get("/v1/popular").json()["items"]) == len(ITEMS) - 1)
    wait_until(lambda: live.http.get("/v1/items/mug/similar").json()["items"])
    return live


def run(shop: Live, *words: str) -> Result:
    return CliRunner().invoke(main, ["items", *words, "--url", shop.url])


def as_json(shop: Live, *words: str) -> Any:
    answer = run(shop, *words, "--json")
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def test_pages_are_listed(shop: Live) -> None:
    first = run(shop, "list", "--search", "te", "--limit", "1")
    assert first.stdout == "tea/1 ü  Green tea  tea  4.5\n"
    assert first.stderr == "More with --cursor 'tea/1 ü'\n"
    rest = run(shop, "list", "--search", "te", "--cursor", "tea/1 ü")
    assert rest.stdout == "tea/2  Black tea \ufffd[31m  tea  not available\n"
    assert rest.stderr == ""
    assert run(shop, "list", "--unavailable", "--category", "mugs").stderr == "No item matches.\n"
    page = as_json(shop, "list", "--available")
    assert [item["item_id"] for item in page["items"]] == ["mug", "mug-2", "tea/1 ü"]
    assert page["next_cursor"] is None


def test_an_item_is_shown(shop: Live) -> None:
    assert json.loads(run(shop, "show", "tea/1 ü").stdout)["price"] == 4.5
    assert as_json(shop, "show", "tea/1 ü")["title"] == "Green tea"
    missing = run(shop, "show", "nothing")
    assert missing.exit_code == 4
    assert "no item has this id" in missing.stderr


def test_lists_are_printed(shop: Live) -> None:
    assert run(shop, "similar", "mug", "--count", "1").stdout == "  1  mug-2  1.00\n"
    assert as_json(shop, "similar", "mug")["items"] == [{"item_id": "mug-2", "score": 1.0}]
    latest = as_json(shop, "latest", "--category", "mugs", "--count", "1")
    assert [item["item_id"] for item in latest["items"]] == ["mug-2"]
    for words in (["together", "mug"], ["next", "tea/1 ü"], ["trending"]):
        answer = run(shop, *words)
        assert answer.exit_code == 0
        assert answer.stdout == ""
        assert answer.stderr.startswith("0 of 10 items: ")
    assert len(as_json(shop, "popular")["items"]) == 3

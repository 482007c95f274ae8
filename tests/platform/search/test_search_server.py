"""Search over HTTP with the served ranking: pages, filters, facets, hostile queries, the log."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.support import SHOP, Live, logged, now_ms, small_settings, wait_until

from tactful.cli.main import main
from tactful.client.aio import AsyncClient
from tactful.client.sync import Client
from tactful.recommend.build import build
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event

pytest.importorskip("tantivy")

COLOURS, KINDS = ("Blue", "Grün", "Crème"), ("mug", "teapot", "红色皮鞋", "lantern")
BEGIN = 1_700_000_000_000
HOSTILE = [
    *(
        "",
        " ",
        "?!… — ()",
        "\x00",
        "\x00\x01\x02",
        "title:mug",
        "*",
        '"mug',
        "mug AND (",
        "+-mug~2",
    ),
    *("🫖🫖", "\u202eשלום", "مرحبا", "a" * 1_000, "茶" * 1_000, "ab " * 333, "' OR 1=1 --"),
    *("{{7*7}}", "number:[0 TO 9]", "\\", "\ud7ff", "\U0010ffff", "e\u0301" * 500, "[a TO z}"),
]


@pytest.fixture(scope="module")
def items() -> list[dict[str, Any]]:
    """Two hundred and forty items, some of which cannot be bought."""
    return [
        {
            "item_id": f"sku-{number:03d}",
            "title": f"{COLOURS[number % 3]} {KINDS[number % 4]}",
            "category": ("kitchen", "table")[number % 2],
            "price": float(number),
            "available": number % 10 != 9,
            "timestamp": BEGIN,
            "properties": {
                "brand": ("Brown & Sons", "Acme")[number % 5 == 0],
                "sizes": ["small", "large"] if number % 7 == 0 else ["small"],
                "description": "A gift for everybody" if number % 3 else "A sturdy present",
            },
        }
        for number in range(240)
    ]


@pytest.fixture(scope="module")
def shop(items: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that checks keys, with the catalogue; its client has a key for servers."""
    directory = tmp_path_factory.mktemp("search")
    base = small_settings(directory)
    server = replace(base.server, dev=False, cors_origins=SHOP)
    engine = replace(base.engine, features=type(base)().features)
    platform = Platform.open(replace(base, server=server, engine=engine), build)
    with Live(platform) as live:
        ingest = {"authorization": f"Bearer {live.create_key('ingest')}"}
        sent = live.http.put("/v1/items", json=items, headers=ingest).json()
        assert sent["accepted"] == len(items)
        live.http.headers["authorization"] = f"Bearer {live.create_key('recommend')}"
        assert search(live, "mug", after=sent["position"])["total"] > 0
        yield live


def search(live: Live, query: str, **fields: Any) -> Any:
    answer = live.http.post("/v1/search", json={"query": query, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: Any) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def having(items: list[dict[str, Any]], *words: str, **fields: Any) -> set[str]:
    """Ids of available items whose title has all words and whose fields have these values."""
    return {
        item["item_id"]
        for item in items
        if item["available"]
        and all(word in item["title"] for word in words)
        and all(item[name] == value for name, value in fields.items())
    }


@pytest.mark.parametrize(
    ("query", "words"),
    [
        *(("mug", ["mug"]), ("MUGS", ["mug"]), ("creme teapot", ["Crème", "teapot"])),
        *(
            ("ｔｅａｐｏｔ", ["teapot"]),
            ("teapto", ["teapot"]),
            ("lantenr grun", ["Grün", "lantern"]),
        ),
        *(("皮鞋", ["皮鞋"]), ("红皮鞋", ["红色皮鞋"]), ("blue 皮鞋", ["Blue", "皮鞋"])),
        *(("blue lan", ["Blue", "lantern"]), ("teapot blue", ["Blue", "teapot"])),
    ],
)
def test_words_find_items(
    shop: Live, items: list[dict[str, Any]], query: str, words: list[str]
) -> None:
    answer = search(shop, query, limit=100)
    assert {*ids(answer)} == having(items, *words)
    assert answer["total"] == len(answer["items"])


@pytest.mark.parametrize("limit", [1, 7, 100])
@pytest.mark.parametrize("device", [None, "d-1"])
def test_pages_hold_every_match_once(
    shop: Live, items: list[dict[str, Any]], limit: int, device: str | None
) -> None:
    fields: dict[str, Any] = {"limit": limit, "device_id": device}
    found, cursor = list[str](), ""
    while cursor is not None:
        answer = search(shop, "mug", cursor=cursor, **fields)
        found += ids(answer)
        cursor = answer["next_cursor"]
        assert cursor is None or len(answer["items"]) == limit
    assert len(found) == len({*found})
    assert {*found} == having(items, "mug")


def test_filters_are_those_of_recommendations(shop: Live, items: list[dict[str, Any]]) -> None:
    limited = search(shop, "mug", limit=100, category="kitchen", min_price=50, max_price=99.5)
    assert {*ids(limited)} == {
        it["item_id"]
        for it in items
        if it["item_id"] in having(items, "mug", category="kitchen") and 50 <= it["price"] <= 99.5
    }
    acme = {"field": "brand", "in": ["Acme"]}
    assert {*ids(search(shop, "teapot", limit=100, filter=acme))} == {
        it["item_id"]
        for it in items
        if it["item_id"] in having(items, "teapot") and it["properties"]["brand"] == "Acme"
    }
    hidden = search(shop, "teapot", limit=100, unavailable=True)["total"]
    assert hidden > search(shop, "teapot", limit=100)["total"]
    wrong = shop.http.post("/v1/search", json={"query": "a", "min_price": 2, "max_price": 1})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "$.min_price")


def test_facets_are_those_of_plain_counting(shop: Live, items: list[dict[str, Any]]) -> None:
    asked = {"category": "table", "min_price": 100, "facets": ["category", "price", "sizes"]}
    facets = search(shop, "lantern", **asked)["facets"]
    matches = [it for it in items if it["item_id"] in having(items, "lantern")]
    dear = [it for it in matches if it["price"] >= 100]
    assert counts(facets, "category") == Counter(it["category"] for it in dear)
    both = [it for it in dear if it["category"] == "table"]
    sizes = Counter(size for it in both for size in it["properties"]["sizes"])
    assert counts(facets, "sizes") == sizes
    own = [it["price"] for it in matches if it["category"] == "table"]
    assert sum(part["items"] for part in facets["prices"]) == len(own)
    assert (facets["prices"][0]["low"], facets["prices"][-1]["high"]) == (min(own), max(own))


def counts(facets: Any, name: str) -> dict[str, int]:
    return {part["value"]: part["items"] for part in facets["values"][name]}


def test_a_match_is_explained(shop: Live) -> None:
    (item,) = search(shop, "blue teapto brown", limit=1, explain=True)["items"]
    assert {"word": "teapto", "found": "teapot", "fields": ["title"], "edits": 1} in item["matched"]
    assert {"word": "brown", "found": "brown", "fields": ["labels"], "edits": 0} in item["matched"]
    assert item["title"] == "Blue teapot"
    assert search(shop, "zeppelin 飞艇") | {"took_ms": 0, "position": 0} == {
        **{"items": [], "total": 0, "recommendation_id": None, "next_cursor": None},
        **{"facets": None, "heard": None},
        **{"note": "no item has any of the words, nor one like them"},
        **{"model_version": "", "variant": {}, "position": 0, "fallback": None, "took_ms": 0},
    }
    assert search(shop, "zeppelin mug")["note"] == "no item has all words: these have some"


def test_a_changed_item_is_found_at_once(shop: Live) -> None:
    new = {"item_id": "new", "title": "Zither", "timestamp": BEGIN, "price": 1.0}
    ingest = {"authorization": f"Bearer {shop.create_key('ingest')}"}
    for word, available in (("Zither", True), ("Banjo", True), ("Banjo", False)):
        changes = {"title": word, "available": available}
        sent = shop.http.put("/v1/items", json=new | changes, headers=ingest).json()
        found = search(shop, word, after=sent["position"], unavailable=not available)
        assert ids(found) == ["new"]
    wait_until(lambda: search(shop, "Banjo")["total"] == 0)
    assert search(shop, "Zither", unavailable=True)["total"] == 0


@pytest.mark.parametrize("query", HOSTILE)
def test_hostile_queries_are_answered(shop: Live, query: str) -> None:
    answer = search(shop, query, explain=True, facets=["category", "nothing"])
    assert answer["items"] or answer["note"]


@pytest.mark.parametrize("query", ["x" * 1_001, "word " * 10_000, "x" * 10_000_000])
def test_a_long_query_is_refused(shop: Live, query: str) -> None:
    answer = shop.http.post("/v1/search", json={"query": query})
    assert answer.status_code in (413, 422)
    assert answer.json()["detail"]


@settings(max_examples=60, deadline=None)
@given(query=st.text(max_size=40), cursor=st.text(max_size=20) | st.none())
def test_any_query_has_an_answer(shop: Live, query: str, cursor: str | None) -> None:
    asked = {"query": query, "cursor": cursor or "", "limit": 2}
    answer = shop.http.post("/v1/search", content=json.dumps(asked).encode())
    assert answer.status_code == 200 or answer.json()["field"] in ("$.cursor", None)


def test_a_cursor_belongs_to_its_search(shop: Live) -> None:
    cursor = search(shop, "mug", limit=2)["next_cursor"]
    for fields in (
        {"query": "teapot", "cursor": cursor},
        {"query": "mug", "category": "table", "cursor": cursor},
        {"query": "mug", "cursor": cursor[:-3]},
        {"query": "mug", "cursor": "A" * 8_000},
        {"query": "mug", "cursor": "A" + cursor[1:]},
    ):
        answer = shop.http.post("/v1/search", json=fields)
        assert (answer.status_code, answer.json().get("field")) == (422, "$.cursor"), answer.text


def test_a_browser_key_names_no_user(shop: Live) -> None:
    page = {"authorization": f"Bearer {shop.create_key('browser')}", "origin": SHOP}
    asked = {"query": "mug", "device_id": "d-2", "limit": 3}
    answer = shop.http.post("/v1/search", json=asked, headers=page)
    assert len(answer.json()["items"]) == 3
    assert answer.json()["position"] == 0
    refused = shop.http.post("/v1/search", json=asked | {"user_id": "u"}, headers=page)
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
    none = shop.http.post("/v1/search", json=asked, headers={"authorization": "Bearer x"})
    assert none.status_code == 401


def test_a_search_is_logged_with_its_list(shop: Live) -> None:
    """The query is an event of the user, a page an impression; a refused user has no query."""
    fields = {"user_id": "u-logged", "session_id": "s", "limit": 3}
    answer = search(shop, "mug lamp", **fields)
    search(shop, "mug lamp", **fields, cursor=answer["next_cursor"])
    search(shop, "silent", **fields, record=False)
    refused = {"user_id": "u-refused", "context": {"consent": ""}, "limit": 3}
    fallback = search(shop, "secret mug", **refused)["fallback"]
    assert "not agreed" in fallback
    search(shop, "last", user_id="u-last")

    def entries(type_: str, user: str | None) -> list[Event]:
        found = [it for it in logged_all(shop) if isinstance(it, Event)]
        return [it for it in found if it.type == type_ and it.user_id == user]

    wait_until(lambda: len(entries("search", "u-last")) == 1)  # after all entries of the others
    assert len(entries("impression", "u-logged")) == 2
    first = entries("impression", "u-logged")[0]
    assert first.properties["items"] == ids(answer)
    assert first.recommendation_id == answer["recommendation_id"]
    (query,) = entries("search", "u-logged")
    assert (query.properties, query.session_id) == ({"query": "mug lamp"}, "s")
    assert not entries("search", "u-refused")
    assert "secret mug" not in json.dumps([str(it) for it in logged_all(shop)])


def test_a_trial_leaves_no_trace(shop: Live) -> None:
    """Nothing is logged or counted, and only an administrator may try for a user."""
    admin = {"authorization": f"Bearer {shop.create_key('admin')}"}

    def counts() -> dict[str, float]:
        rows = shop.platform.metrics.all_samples()
        counted = ("tactful_recommend", "tactful_steps")
        return {f"{name}{labels}": n for name, labels, n in rows if name.startswith(counted)}

    search(shop, "mug", user_id="u-before")
    wait_until(lambda: any("u-before" in str(it) for it in logged_all(shop)))
    count = counts()
    tried = search(shop, "mug", trial=True, limit=3)
    assert len(tried["items"]) == 3 and tried["recommendation_id"] is None
    refused = shop.http.post("/v1/search", json={"query": "mug", "trial": True, "user_id": "u"})
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
    named = {"query": "mug", "trial": True, "user_id": "u-tried"}
    assert shop.http.post("/v1/search", json=named, headers=admin).json()["items"]
    looked = shop.http.get("/v1/users/u-tried/accesses", headers=admin).json()
    assert [it["action"] for it in looked["accesses"]] == ["try"]
    page = {"authorization": f"Bearer {shop.create_key('browser')}", "origin": SHOP}
    public = shop.http.post("/v1/search", json={"query": "mug", "trial": True}, headers=page)
    assert (public.status_code, public.json()["code"]) == (403, "missing_scope")
    assert counts() == count
    search(shop, "mug", user_id="u-after")
    wait_until(lambda: any("u-after" in str(it) for it in logged_all(shop)))
    entries = [str(it) for it in logged_all(shop)]
    first = next(at for at, entry in enumerate(entries) if "u-before" in entry)
    assert all("u-before" in entry or "u-after" in entry for entry in entries[first:])


def test_only_the_first_page_is_counted(shop: Live) -> None:
    """A last page is no short list, and fused ranks are no scores of recommendations."""

    def counts() -> dict[str, float]:
        rows = shop.platform.metrics.all_samples()
        return {f"{it}{labels}": n for it, labels, n in rows if it.startswith("tactful_recommend")}

    before = counts()
    first = search(shop, "mug", limit=40)
    search(shop, "mug", limit=40, cursor=first["next_cursor"])
    lists = {name: n - before.get(name, 0) for name, n in counts().items() if "lists" in name}
    assert [(n, "whole" in name) for name, n in lists.items() if n] == [(1.0, True)]
    assert not any(n for name, n in counts().items() if "score_count" in name)


def logged_all(shop: Live) -> list[Any]:
    return [*logged(shop.platform.settings.storage.data)]


def test_both_clients_search(shop: Live) -> None:
    key = shop.create_key("recommend")
    with Client(shop.url, key) as client:
        answer = client.search("mug", limit=2, facets=["category"])
    assert len(answer.items) == 2
    assert answer.facets is not None

    async def asked() -> int:
        async with AsyncClient(shop.url, key) as other:
            return (await other.search("mug", limit=2)).total

    assert asyncio.run(asked()) == answer.total


def test_the_command_prints_what_matched(shop: Live) -> None:
    environment = {"TACTFUL_API_KEY": shop.create_key("recommend")}
    asked = ["items", "search", "blue teapto", "--limit", "1", "--url", shop.url]
    printed = CliRunner().invoke(main, asked, env=environment)
    assert printed.exit_code == 0, printed.output
    assert "Blue teapot  blue (title), teapot (title)" in printed.stdout
    assert "More with --cursor" in printed.stderr
    none = CliRunner().invoke(main, ["items", "search", "?!", "--url", shop.url], env=environment)
    assert (none.exit_code, none.stdout) == (0, "")
    assert "no letter" in none.stderr


def test_a_query_is_exported_with_its_user(shop: Live) -> None:
    search(shop, "private wish", user_id="u-export")
    admin = {"authorization": f"Bearer {shop.create_key('admin')}"}

    def exported() -> str:
        return shop.http.get("/v1/users/u-export/export", headers=admin).text

    wait_until(lambda: "private wish" in exported())
    shop.http.request("DELETE", "/v1/users/u-export", headers=admin)
    search(shop, "after the erasure", user_id="u-export")
    search(shop, "later", user_id="u-later")
    wait_until(lambda: any("later" in str(entry) for entry in logged_all(shop)))
    everything = [str(entry) for entry in logged_all(shop)]
    assert not [entry for entry in everything if "after the erasure" in entry]


def test_a_history_moves_equal_matches_and_not_others(shop: Live) -> None:
    ingest = {"authorization": f"Bearer {shop.create_key('ingest')}"}
    plain = ids(search(shop, "crème lantern", limit=100))
    liked = plain[-1]
    fond_of = {"type": "purchase", "user_id": "u-fond", "item_id": liked}
    events = [fond_of | {"timestamp": now_ms() - days * 86_400_000} for days in (9, 6, 3)]
    sent = shop.http.post("/v1/events", json=events, headers=ingest).json()
    fond = {"user_id": "u-fond", "after": sent["position"], "record": False}
    personal = search(shop, "crème lantern", limit=100, **fond)
    assert ids(personal)[0] == liked
    assert {*ids(personal)} == {*plain}
    assert "no user is named" not in (personal["fallback"] or "")
    assert liked not in ids(search(shop, "blue mug", limit=100, **fond))
    refused = {**fond, "context": {"consent": ""}}
    assert ids(search(shop, "crème lantern", limit=100, **refused)) == plain

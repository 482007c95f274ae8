"""The catalogue and lists of items over HTTP, from one process and from workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tests.platform.http.test_paths import ENCODINGS, ODD_IDS, asked
from tests.platform.support import SHOP, Live, build, small_settings

from tactful.http.routes import ENDPOINTS
from tactful.server.platform import Platform

LISTS = ("similar", "together", "next")
EVERYWHERE = ("popular", "trending", "latest")
ITEM_ROUTES = sorted({it.path for it in ENDPOINTS if "{item_id}" in it.path})
HOSTILE = [
    *(
        "x" * 256,
        "茶" * 256,
        "\x00",
        "\x00kitchen",
        "%",
        "%00",
        "%zz",
        "a b " * 64,
        "\r\n",
        "\u202e",
    ),
    *("(.*)+$", "' OR 1=1 --", "../..", "\U0010ffff", "\ufffe", "e\u0301" * 128),
]
DAY = 86_400_000
BEGIN = 1_700_000_000_000


@pytest.fixture(scope="module")
def items() -> list[dict[str, Any]]:
    """A catalogue of three hundred items, some of which cannot be bought."""
    colours, kinds = ("Blue", "Grün", "Crème"), ("mug", "teapot", "茶壶套装")
    return [
        {
            "item_id": f"sku {number:03d}",
            "title": f"{colours[number % 3]} {kinds[number // 3 % 3]} {number}",
            "category": ("kitchen", "table")[number % 2],
            "price": float(number),
            "available": number % 5 != 0,
            "timestamp": BEGIN + number * DAY,
            "properties": {"margin": 0.25},
        }
        for number in range(300)
    ]


@pytest.fixture(scope="module", params=[0, 1], ids=["process", "worker"])
def shop(
    request: pytest.FixtureRequest,
    items: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Live]:
    """A server that checks keys, with the catalogue; its client has a key for servers."""
    settings = small_settings(tmp_path_factory.mktemp("items"))
    server = replace(settings.server, dev=False, cors_origins=SHOP)
    platform = Platform.open(replace(settings, server=server), build)
    with Live(platform, workers=request.param) as live:
        ingest = {"authorization": f"Bearer {live.create_key('ingest')}"}
        sent = live.http.put("/v1/items", json=items, headers=ingest).json()
        assert sent["accepted"] == len(items)
        live.http.headers["authorization"] = f"Bearer {live.create_key('recommend')}"
        read = live.http.get("/v1/items/sku 000", params={"after": sent["position"]})
        assert read.status_code == 200, read.text
        yield live


def get(live: Live, path: str, **query: Any) -> Any:
    answer = live.http.get(f"/v1/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_an_item_is_read_as_it_was_sent(shop: Live, items: list[dict[str, Any]]) -> None:
    for item in items[::37]:
        assert get(shop, f"items/{quote(item['item_id'])}") == item
    assert refusal(shop.http.get("/v1/items/nothing")) == (404, "not_found")


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ({}, lambda it: True),
        ({"search": ""}, lambda it: True),
        ({"search": "gru"}, lambda it: "Grün" in it["title"]),
        ({"search": "TEAPOT creme"}, lambda it: "Crème teapot" in it["title"]),
        ({"search": "壶套"}, lambda it: "茶壶" in it["title"]),
        ({"search": "sku 12"}, lambda it: any(word.startswith("12") for word in _words(it))),
        ({"search": "mug", "category": "table"}, lambda it: "mug" in it["title"] and _of(it)),
        ({"available": "false"}, lambda it: not it["available"]),
        ({"available": "true", "category": "table"}, lambda it: it["available"] and _of(it)),
        ({"category": "nothing"}, lambda it: False),
        ({"search": "%%%"}, lambda it: False),
    ],
)
@pytest.mark.parametrize("limit", [7, 1_000])
def test_pages_hold_every_match_once(
    shop: Live, items: list[dict[str, Any]], query: dict[str, Any], matches: Any, limit: int
) -> None:
    found, cursor = [], ""
    while True:
        page = get(shop, "items", **query, limit=limit, cursor=cursor)
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert len(page["items"]) == limit
    assert found == [item for item in items if matches(item)]


def _of(item: dict[str, Any]) -> bool:
    return bool(item["category"] == "table")


def _words(item: dict[str, Any]) -> list[str]:
    return f"{item['title']} {item['item_id']}".split()


@pytest.mark.parametrize("search", HOSTILE)
def test_hostile_searches_are_answered(shop: Live, search: str) -> None:
    page = get(shop, "items", search=search, cursor=search, limit=3)
    assert page == {"items": [], "next_cursor": None} or len(page["items"]) <= 3


@pytest.mark.parametrize(
    "query",
    [
        *("search=" + "x" * 257, "available=maybe", "available=null", "limit=0", "limit=1001"),
        *("category=", "nothing=1", "search=a&search=b", "search=%ff", "cursor=%ed%a0%80"),
        *("cursor=" + "x" * 513, "after=" + "x" * 5_000),
    ],
)
def test_wrong_parameters_are_refused(shop: Live, query: str) -> None:
    assert refusal(shop.http.get(f"/v1/items?{query}")) == (400, "bad_query")


@pytest.mark.parametrize("query", ["count=0", "count=1001", "count=x", "category=", "user_id=u"])
def test_wrong_parameters_of_lists_are_refused(shop: Live, query: str) -> None:
    for path in (*(f"items/sku 001/{name}" for name in LISTS), *EVERYWHERE):
        assert refusal(shop.http.get(f"/v1/{path}?{query}")) == (400, "bad_query")


def test_positions_that_no_answer_returned_are_refused(shop: Live) -> None:
    for path in ("items", "items/sku 001"):
        for after in ("999999999", "nonsense", "0:1"):
            answer = shop.http.get(f"/v1/{path}", params={"after": after})
            assert refusal(answer) == (422, "invalid")


def test_lists_have_available_items_of_the_category(
    shop: Live, items: list[dict[str, Any]]
) -> None:
    known = {item["item_id"]: item for item in items}
    for path in ("items/sku 001/similar", "latest", "popular"):
        for category in (None, "table"):
            query = {"count": 9} | ({} if category is None else {"category": category})
            listed = [item["item_id"] for item in get(shop, path, **query)["items"]]
            assert len(listed) == len({*listed}) == 9
            assert "sku 001" not in listed or path != "items/sku 001/similar"
            assert all(known[item_id]["available"] for item_id in listed)
            assert all(category in (None, known[item_id]["category"]) for item_id in listed)
    assert [item["item_id"] for item in get(shop, "latest", count=2)["items"]] == [
        "sku 299",
        "sku 298",
    ]
    similar = get(shop, "items/sku 001/similar", count=20)["items"]
    assert similar[0]["score"] == 1.0
    assert [item["score"] for item in similar] == sorted(
        (item["score"] for item in similar), reverse=True
    )
    titles = [known[item["item_id"]]["title"] for item in similar]
    assert all(title.startswith("Grün mug") for title in titles)
    for path in ("items/sku 001/together", "items/sku 001/next", "trending"):
        answer = get(shop, path)
        assert answer["items"] == []
        assert answer["fallback"].startswith("0 of 20 items: ")


def test_an_unknown_item_has_no_lists(shop: Live) -> None:
    for name in LISTS:
        assert refusal(shop.http.get(f"/v1/items/nothing/{name}")) == (404, "not_found")
    assert refusal(shop.http.get("/v1/items/sku 001/other")) == (404, "not_found")
    assert refusal(shop.http.post("/v1/popular")) == (405, "method_not_allowed")
    assert shop.http.head("/v1/popular").status_code == 200


@pytest.mark.slow
def test_a_browser_key_reads_lists_and_no_catalogue(shop: Live) -> None:
    """Properties may hold margins and purchase prices, which are no business of a page."""
    headers = {"authorization": f"Bearer {shop.create_key('browser')}", "origin": SHOP}

    def read(path: str, **changes: str) -> httpx.Response:
        return shop.http.get(f"/v1/{path}", headers={**headers, **changes})

    for path in (*(f"items/sku 001/{name}" for name in LISTS), *EVERYWHERE):
        answer = read(path)
        assert answer.status_code == 200, answer.text
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert {key for item in answer.json()["items"] for key in item} <= {"item_id", "score"}
        assert refusal(read(path, origin="https://other.example")) == (403, "wrong_origin")
        for page, status in (
            (f"{SHOP}/page?x=1", 200),
            (f"{SHOP}.evil.example/", 403),
            ("https://evil.example/https://shop.example/", 403),
            ("", 403),
        ):
            own = {"authorization": headers["authorization"], "referer": page}
            assert shop.http.get(f"/v1/{path}", headers=own).status_code == status
        preflight = {"access-control-request-method": "GET", "origin": SHOP}
        asked_first = shop.http.options(f"/v1/{path}", headers=preflight)
        assert asked_first.headers["access-control-allow-methods"] == "GET, POST"
        in_address = shop.http.get(
            f"/v1/{path}?key={headers['authorization'][7:]}",
            headers={"authorization": "", "origin": SHOP},
        )
        assert refusal(in_address) == (401, "no_key")
    for path in ("items", "items/sku 001"):
        assert refusal(read(path)) == (403, "missing_scope")


def test_other_keys_read_nothing(shop: Live) -> None:
    for scope in ("ingest", "monitor"):
        headers = {"authorization": f"Bearer {shop.create_key(scope)}"}
        for path in ("items", "items/sku 001", "items/sku 001/similar", "popular"):
            answer = shop.http.get(f"/v1/{path}", headers=headers)
            assert refusal(answer) == (403, "missing_scope")


@pytest.mark.slow
def test_odd_ids_reach_every_route_of_items(shared: Live) -> None:
    """An id with a slash is no other route: `x%2Fsimilar` is the item `x/similar`."""
    ids = [it for it in ODD_IDS if it.isprintable() and len(it) <= 256]
    ids += ["similar", "x", "x/similar", "similar/similar", "a/similar/next", "%2Fsimilar", "next"]
    sent = shared.http.put(
        "/v1/items", json=[{"item_id": item_id, "title": f"title of {item_id}"} for item_id in ids]
    ).json()
    assert sent["accepted"] == len(ids), sent
    for item_id in ids:
        for encode in ENCODINGS:
            encoded = encode(item_id).replace(".", "%2E")
            for route in ITEM_ROUTES:
                path = route.replace("{item_id}", encoded)
                wait = f"?after={sent['position']}" if route == "/v1/items/{item_id}" else ""
                status, body = asked(shared, "GET", path + wait)
                answer = json.loads(body)
                assert status == 200, (route, item_id, answer)
                if wait or route.endswith(("/neighbours", "/trend")):
                    assert answer["item_id"] == item_id
                else:
                    assert "item_id" not in answer
                    assert item_id not in [item["item_id"] for item in answer["items"]]
    for path in ("/v1/items/", "/v1/items//similar", "/v1/items/x//similar", "/v1/items/%ff"):
        assert asked(shared, "GET", path)[0] == 404


def test_facets_come_with_a_page_when_they_are_asked_for(
    shop: Live, items: list[dict[str, Any]]
) -> None:
    assert "facets" not in get(shop, "items", limit=1)
    page = get(shop, "items", search="mug", category="table", facets=True, limit=1)
    mugs = [it for it in items if "mug" in it["title"]]
    facets = page["facets"]
    assert facets["total"] == sum(it["category"] == "table" for it in mugs)
    counts = {it["value"]: it["items"] for it in facets["categories"]}
    assert counts == {
        name: sum(it["category"] == name for it in mugs) for name in ("kitchen", "table")
    }
    available = {it["value"]: it["items"] for it in facets["available"]}
    of_table = [it for it in mugs if it["category"] == "table"]
    assert available["true"] == sum(it["available"] for it in of_table)
    assert sum(it["items"] for it in facets["prices"]) == len(of_table)
    cheap = get(shop, "items", max_price=9.5, min_price=3, limit=100)["items"]
    assert [it["price"] for it in cheap] == [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]


def test_neighbours_of_an_item_are_for_administrators(shop: Live) -> None:
    path = "/v1/items/sku 003/neighbours"
    assert refusal(shop.http.get(path)) == (403, "missing_scope")
    headers = {"authorization": f"Bearer {shop.create_key('admin')}"}
    read = shop.http.get(path, params={"count": 3}, headers=headers).json()
    assert read["vectors"] == read["together"] == read["following"] == []
    assert len(read["described"]) == 3
    assert read["described"][0]["words"] == ["blue", "teapot"]
    gone = shop.http.get("/v1/items/nothing/neighbours", headers=headers)
    assert refusal(gone) == (404, "not_found")


@pytest.mark.slow
def test_an_analyst_reads_the_catalogue_and_trends(shop: Live) -> None:
    headers = {"authorization": f"Bearer {shop.create_key('analyst')}"}
    for path in ("/v1/items", "/v1/items/sku 003", "/v1/popular", "/v1/items/sku 003/next"):
        assert shop.http.get(path, headers=headers).status_code == 200, path
    trend = shop.http.get("/v1/items/sku 003/trend", headers=headers).json()
    assert trend == {"item_id": "sku 003", "trends": []}, "none is published here"

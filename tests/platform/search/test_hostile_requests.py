"""Whatever a stranger sends to search and items is answered or refused with a reason, in time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.platform.support import Live, small_settings

from tactful.recommend.build import build
from tactful.server.platform import Platform

pytest.importorskip("tantivy")

# Control characters, right-to-left, zero-width and combining signs, surrogates, emoji, full-width
# digits, syntax of tantivy and SQL, paths, templates, numbers that are none.
PIECES = st.sampled_from([
    "\x00", "\x1b[31m", "\u202e", "\u200b", "\u200d", "\ufeff", "\u0300" * 50, "\ud800", "\udfff",
    "👩‍👩‍👧‍👦", "🫖", "ﬁ", "İ", "ß", "ﷺ", "１２", "𝕬", "红色皮鞋", "שלום", "ก็", "\u2028",
    "\U0010ffff",
    "title:", "AND", "OR", "NOT", "+", "-", '"', "*", "?", "~2", "^3", "[a TO b]", "(", "))", "\\",
    "*:*", "/x/", "';DROP TABLE items;--", "<script>", "%00", "{{7*7}}", "../..", "NaN", "1e999",
    "bowl", "berry", "a" * 300, " ",
])  # fmt: skip
TEXT = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=30)
NUMBER = st.sampled_from([0, -1, 1e308, -1e308, 2**63, 2**64, 1.5, True, False, None])
VALUE = st.recursive(
    TEXT | NUMBER,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NAMES = (
    *("query", "audio", "language", "user_id", "device_id", "session_id", "context", "category"),
    *("filter", "min_price", "max_price", "unavailable", "facets", "limit", "cursor", "explain"),
    *("record", "after"),
)
SEARCH = st.tuples(
    st.fixed_dictionaries(
        {"query": TEXT},
        optional={
            "explain": st.just(True),
            "facets": st.lists(TEXT | st.sampled_from(["category", "price"]), max_size=3),
            "user_id": TEXT,
            "min_price": st.floats(0),
            "max_price": st.floats(0),
            "filter": st.dictionaries(TEXT | st.sampled_from(["category", "price"]), VALUE),
        },
    ),
    st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=2),
).map(lambda parts: parts[0] | parts[1])
ITEM = st.tuples(
    st.fixed_dictionaries({"item_id": TEXT}, optional={"title": TEXT, "category": TEXT}),
    st.dictionaries(
        st.sampled_from(["item_id", "title", "category", "price", "properties", "image"]),
        VALUE,
        max_size=3,
    ),
).map(lambda parts: parts[0] | parts[1])
CHANGE = st.tuples(st.integers(0, 400), st.integers(0, 255))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    platform = Platform.open(small_settings(tmp_path_factory.mktemp("hostile")), build)
    with Live(platform) as live:
        sent = live.http.put("/v1/items", json=[{"item_id": "bowl", "title": "Berry Bliss Bowl"}])
        live.http.post("/v1/search", json={"query": "x", "after": sent.json()["position"]})
        yield live


def body_of(value: Any, changes: list[tuple[int, int]]) -> bytes:
    """Return a request as bytes, some of them changed."""
    text = json.dumps(value, ensure_ascii=bool(len(changes) % 2))
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for place, byte in changes:
        data[place % len(data)] = byte
    return bytes(data)


def check(shop: Live, method: str, path: str, body: bytes) -> None:
    answer = shop.http.request(method, path, content=body, timeout=10)
    assert answer.status_code in (200, 202, 400, 404, 413, 422), (answer.text, body)
    read = answer.json()
    if answer.status_code >= 400:
        assert read["detail"] and read["code"], body
    for refused in read.get("rejected", ()):
        assert refused["code"] and refused["message"], body


def fuzz(shop: Live, examples: int) -> None:
    limits = settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )

    @limits
    @given(SEARCH, st.lists(ITEM, min_size=1, max_size=3), st.lists(CHANGE, max_size=3))
    def send(search: Any, items: Any, changes: list[tuple[int, int]]) -> None:
        check(shop, "PUT", "/v1/items", body_of(items, changes[:1]))
        check(shop, "POST", "/v1/search", body_of(search, changes[1:]))

    send()
    found = shop.http.post("/v1/search", json={"query": "berry bliss", "limit": 100}).json()
    assert "bowl" in [item["item_id"] for item in found["items"]], "others are served as before"


def test_hostile_searches_and_items(shop: Live) -> None:
    fuzz(shop, 20)


@pytest.mark.slow  # hundreds of requests
def test_many_hostile_searches_and_items(shop: Live) -> None:
    fuzz(shop, 600)


def test_a_megabyte_is_refused_with_a_reason(tmp_path_factory: pytest.TempPathFactory) -> None:
    opened = small_settings(tmp_path_factory.mktemp("large"))
    large = replace(opened, limits=replace(opened.limits, body_bytes=4 * 2**20))
    with Live(Platform.open(large, build)) as live:
        for query in ("a" * 2**20, "红" * 2**18, "\u0300" * 2**18):
            answer = live.http.post("/v1/search", json={"query": query})
            assert answer.status_code == 422 and "1000" in answer.json()["detail"]
            put = live.http.put("/v1/items", json=[{"item_id": "big", "title": query}]).json()
            assert put["rejected"][0]["code"] == "too_long"
        nested = b'{"filter":' + b'{"$not":' * 50_000 + b"{}" + b"}" * 50_001
        assert live.http.post("/v1/search", content=nested).status_code in (400, 422)
        nested = b'{"query":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
        assert live.http.post("/v1/search", content=nested).status_code in (400, 422)
        assert live.http.post("/v1/search", json={"query": "a"}).status_code == 200

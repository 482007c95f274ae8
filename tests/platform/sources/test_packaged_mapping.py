"""The packaged mapping, message by message: Segment's e-commerce spec, GA4's events, plain ones."""

from __future__ import annotations

from typing import Any

import pytest
from tests.platform.sources.mapped import NOON, NOW, kept, of_ga4, of_plain, of_segment, packaged

from tactful.sources.mapping import SOURCES, Mappings

TEA = {"product_id": "tea", "price": "3.50", "currency": "EUR", "category": "drinks"}
OF_TEA = {"price": 3.5, "currency": "EUR", "category": "drinks"}


@pytest.fixture(scope="module")
def mappings() -> Mappings:
    return packaged()


def track(event: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "track",
        "event": event,
        "userId": "ada",
        "anonymousId": "phone",
        "messageId": "m-1",
        "timestamp": NOON,
        "properties": properties,
    }


def test_every_source_has_rules(mappings: Mappings) -> None:
    assert {*mappings} == {*SOURCES}
    assert all(mappings[source].rules for source in SOURCES)
    assert mappings["segment"].rules == mappings["rudderstack"].rules


@pytest.mark.parametrize(
    ("event", "type_"),
    [
        ("Product Viewed", "view"),
        ("product_viewed", "view"),
        ("Product Clicked", "click"),
        ("Product Added", "add_to_cart"),
        ("Product Removed", "remove_from_cart"),
        ("Product Shared", "x.share"),
        ("Product Added to Wishlist", "x.favourite"),
        ("Wishlist Product Added to Cart", "add_to_cart"),
    ],
)
def test_events_about_a_product(mappings: Mappings, event: str, type_: str) -> None:
    (made,) = of_segment(mappings, track(event, **TEA, secret="not named, so not kept"))
    (sent,) = made.events
    assert (sent.type, sent.item_id, dict(sent.properties)) == (type_, "tea", OF_TEA)
    assert (sent.user_id, sent.device_id, sent.event_id) == ("ada", "phone", "m-1")
    assert made.problems == []


def test_an_order_is_a_purchase_of_each_product(mappings: Mappings) -> None:
    products = [{"product_id": "tea", "price": 3.5, "quantity": 2}, {"sku": 17, "price": "8"}]
    order = track("Order Completed", order_id="o-1", total=15, currency="EUR", coupon="SPRING")
    order["properties"]["products"] = products
    (made,) = of_segment(mappings, order)
    shared = {"currency": "EUR", "order_id": "o-1", "coupon": "SPRING"}
    assert kept(made) == [
        ("purchase", "tea", {"price": 3.5, "quantity": 2, **shared}),
        ("purchase", "17", {"price": 8, **shared}),
    ]
    assert [it.event_id for it in made.events] == ["m-1#0", "m-1#1"]
    del order["properties"]["products"]
    (whole,) = of_segment(mappings, order)
    assert kept(whole) == [("purchase", None, {"price": 15, **shared})]


def test_a_product_without_an_id_leaves_the_others(mappings: Mappings) -> None:
    order = track("Order Completed", products=[{"price": 1}, {"product_id": "tea"}])
    (made,) = of_segment(mappings, order)
    assert [(it.item_id, it.event_id) for it in made.events] == [("tea", "m-1#1")]
    (problem,) = made.problems
    assert problem.code == "missing_field"
    assert "properties.products[0]: no item" in problem.message
    assert ".product_id" in problem.message, "it says where an id is looked for"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (track("Products Searched", query="green tea"), [("search", None, {"query": "green tea"})]),
        (track("Product Reviewed", product_id="tea", rating=4), [("rating", "tea", {"rating": 4})]),
        (
            track("Product List Viewed", category="drinks", products=[{"product_id": "tea"}]),
            [("impression", "tea", {"category": "drinks"})],
        ),
        (
            track("Coupon Applied", coupon_id="SPRING", order_id="o-1"),
            [("x.coupon_applied", None, {"coupon": "SPRING", "order_id": "o-1"})],
        ),
        (
            track("Order Refunded", order_id="o-1", products=[{"sku": "tea", "price": 3}]),
            [("refund", "tea", {"price": 3, "order_id": "o-1"})],
        ),
        (track("Order Cancelled", order_id="o-1"), [("refund", None, {"order_id": "o-1"})]),
        (track("Video Playback Started", product_id="tea"), []),
        ({"type": "page", "userId": "ada", "name": "Home", "properties": {"path": "/"}}, []),
        (
            {"type": "page", "userId": "ada", "properties": {"sku": "tea", "path": "/tea"}},
            [("view", "tea", {})],
        ),
        ({"type": "screen", "userId": "ada", "properties": {"item_id": 5}}, [("view", "5", {})]),
        ({"type": "group", "userId": "ada", "groupId": "g"}, []),
        ({"type": "delete", "userId": "ada"}, []),
    ],
)
def test_other_calls(mappings: Mappings, message: dict[str, Any], expected: list[Any]) -> None:
    (made,) = of_segment(mappings, message)
    assert kept(made) == expected
    assert made.problems == []
    assert (made.rule is None) == (not expected)


def test_identify_keeps_the_named_traits_and_links_the_device(mappings: Mappings) -> None:
    traits = {"age": 36, "plan": "gold", "email": "ada@example.com", "address": {"country": "GB"}}
    message = {"type": "identify", "userId": "ada", "traits": traits, "timestamp": NOON}
    (known,) = of_segment(mappings, message)
    assert (known.events, known.rule) == ([], "traits")
    assert known.user is not None
    assert known.user.properties == {"age": 36, "plan": "gold", "country": "GB"}
    (linked,) = of_segment(mappings, {**message, "anonymousId": "phone"})
    (login,) = linked.events
    assert (login.type, login.user_id, login.device_id) == ("x.login", "ada", "phone")
    assert linked.user == known.user
    (nobody,) = of_segment(mappings, {**message, "userId": None, "anonymousId": "phone"})
    assert (nobody.events, nobody.user, nobody.problems) == ([], None, [])


def test_alias_links_the_former_id_as_a_device(mappings: Mappings) -> None:
    (made,) = of_segment(mappings, {"type": "alias", "previousId": "phone", "userId": "ada"})
    (link,) = made.events
    assert (link.type, link.user_id, link.device_id) == ("x.link", "ada", "phone")


@pytest.mark.parametrize(
    ("context", "claim"),
    [
        ({}, None),
        (
            {"consent": {"categoryPreferences": {"Analytics": True, "Advertising": False}}},
            "measurement",
        ),
        (
            {"consent": {"categoryPreferences": {"Personalization": True, "C0004": True}}},
            "marketing personalisation",
        ),
        ({"consent": {"categoryPreferences": {"Analytics": "no"}}}, ""),
        ({"consent": {"categoryPreferences": {}}}, ""),
        ({"consent": {"categoryPreferences": {"Unheard of": True}}}, ""),
        ({"consent": "odd"}, ""),
        (
            {"consentManagement": {"allowedConsentIds": ["C0002", "C0003"]}},
            "measurement personalisation",
        ),
        ({"consentManagement": {"allowedConsentIds": [], "deniedConsentIds": ["C0002"]}}, ""),
        ({"consentManagement": {"deniedConsentIds": ["C0002"]}}, ""),
    ],
)
def test_consent_becomes_a_claim(
    mappings: Mappings, context: dict[str, Any], claim: str | None
) -> None:
    (made,) = of_segment(mappings, {**track("Product Viewed", **TEA), "context": context})
    assert made.events[0].context.get("consent") == claim


def ga4(name: str, **params: Any) -> dict[str, Any]:
    return {"name": name, "params": params}


GA_TEA = {"item_id": "tea", "price": 3.5, "quantity": 2, "item_category": "drinks"}
GA_OF_TEA = {"price": 3.5, "quantity": 2, "category": "drinks", "currency": "EUR"}


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("view_item", "view"),
        ("select_item", "click"),
        ("add_to_cart", "add_to_cart"),
        ("remove_from_cart", "remove_from_cart"),
        ("add_to_wishlist", "x.favourite"),
    ],
)
def test_ga4_events_about_items(mappings: Mappings, name: str, type_: str) -> None:
    event = ga4(name, currency="EUR", items=[GA_TEA, {"item_id": "cup"}], session_id=1772366400)
    (made,) = of_ga4(mappings, event, user_id="ada", timestamp_micros=NOW * 1000)
    assert kept(made) == [(type_, "tea", GA_OF_TEA), (type_, "cup", {"currency": "EUR"})]
    sent = made.events[0]
    assert (sent.user_id, sent.device_id, sent.session_id) == ("ada", "555.1", "1772366400")
    assert sent.timestamp == NOW
    assert len({it.event_id for it in made.events}) == 2


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            ga4("purchase", transaction_id="T1", currency="EUR", items=[GA_TEA]),
            [("purchase", "tea", {**GA_OF_TEA, "order_id": "T1"})],
        ),
        (
            ga4("refund", transaction_id="T1", items=[{"item_id": "tea"}]),
            [("refund", "tea", {"order_id": "T1"})],
        ),
        (
            ga4("refund", transaction_id="T1", value=7),
            [("refund", None, {"price": 7, "order_id": "T1"})],
        ),
        (ga4("search", search_term="tea"), [("search", None, {"query": "tea"})]),
        (
            ga4("view_item_list", item_list_id="new", items=[{"item_id": "tea", "index": 3}]),
            [("impression", "tea", {"position": 3, "list": "new"})],
        ),
        (ga4("login", method="mail"), [("x.login", None, {})]),
        (ga4("page_view", page_location="https://shop.example/"), []),
        (ga4("level_up"), []),
    ],
)
def test_other_ga4_events(mappings: Mappings, event: Any, expected: list[Any]) -> None:
    (made,) = of_ga4(mappings, event, user_id="ada")
    assert kept(made) == expected
    assert made.problems == []


def test_ga4_properties_and_consent_of_the_user(mappings: Mappings) -> None:
    properties = {"plan": {"value": "gold"}, "name": {"value": "Ada Lovelace"}}
    consent = {"ad_user_data": "GRANTED", "ad_personalization": "DENIED"}
    request = {"user_id": "ada", "user_properties": properties, "consent": consent}
    described, login = of_ga4(mappings, ga4("login"), **request)
    assert described.user is not None
    assert (described.index, described.user.properties) == (-1, {"plan": "gold"})
    assert login.events[0].context["consent"] == "measurement"
    (refused,) = of_ga4(mappings, ga4("login"), user_id="ada", consent={"ad_user_data": "DENIED"})
    assert refused.events[0].context["consent"] == ""


def test_a_ga4_login_needs_a_user(mappings: Mappings) -> None:
    (made,) = of_ga4(mappings, ga4("login"))
    assert (made.rule, made.events, made.problems) == (None, [], [])


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            {"event_type": "click", "item_id": "A", "timestamp": 1630000000, "user_id": "u"},
            ("click", "A", "u", None, 1630000000000),
        ),
        (
            {"event": "addToCart", "itemId": "A", "ts": 1630000000.5, "visitorid": 7},
            ("add_to_cart", "A", None, "7", 1630000000500),
        ),
        (
            {"action": "Transaction", "product_id": 12, "time": "1630000000123", "userId": "u"},
            ("purchase", "12", "u", None, 1630000000123),
        ),
        (
            {"Event Name": "page-view", "SKU": "A", "date": "2021-08-26 17:46:40", "user": 3},
            ("view", "A", "3", None, 1630000000000),
        ),
        (
            {"type": "x.print", "item": "A", "timestamp": "2021-08-26T19:46:40+02:00", "uid": "u"},
            ("x.print", "A", "u", None, 1630000000000),
        ),
        (
            {"event_type": "view", "item_id": "A", "timestamp": 1630000000, "session_id": "s"},
            ("view", "A", None, "s", 1630000000000),
        ),
    ],
)
def test_plain_events(mappings: Mappings, event: dict[str, Any], expected: tuple[Any, ...]) -> None:
    (made,) = of_plain(mappings, event)
    (sent,) = made.events
    assert (sent.type, sent.item_id, sent.user_id, sent.device_id, sent.timestamp) == expected
    assert made.problems == []


def test_plain_events_that_say_too_little(mappings: Mappings) -> None:
    nobody = {"event_type": "click", "item_id": "A", "timestamp": 1630000000}
    made = of_plain(
        mappings,
        nobody,
        {**nobody, "user": "u", "timestamp": "yesterday"},
        {"event_type": "unheard of", "user": "u"},
        {"event_type": "x.NOT", "user": "u"},
        "[1]",
        "{",
        {**nobody, "user": "u", "price": float("nan")},
    )
    codes = [[problem.code for problem in it.problems] for it in made]
    assert codes == [["no_subject"], ["bad_timestamp"], [], [], ["wrong_type"], ["not_json"], []]
    assert [it.rule for it in made[2:4]] == [None, None]
    assert kept(made[6]) == [("click", "A", {})], "NaN is no price, and costs no event"


@pytest.mark.parametrize(
    ("consent", "claim"),
    [
        ("personalisation measurement", "measurement personalisation"),
        (False, ""),
        (True, "marketing measurement personalisation service"),
        (None, None),
    ],
)
def test_consent_of_plain_events(mappings: Mappings, consent: Any, claim: str | None) -> None:
    (made,) = of_plain(mappings, {"event": "view", "user": "u", "consent": consent})
    assert made.events[0].context.get("consent") == claim

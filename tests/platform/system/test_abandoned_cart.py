"""A coupon for an abandoned cart is sent once, also if no further event comes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.platform.support import Live, build, now_ms, wait_until
from tests.platform.webhook_receiver import Shop, receiving
from tests.streaming.brokers import topic_name

from tactful.config.server import ActionSettings
from tactful.config.settings import Settings
from tactful.config.storage import LogSettings
from tactful.server.platform import Platform
from tactful_streaming.sinks.webhook import SIGNATURE_HEADER, verify_signature

FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 364d, slide: 28d}}
- name: abandoned_cart
  entity: user
  sequence: [view, add_to_cart, leave, {not: [purchase, view], for: 2s}]
  within: 5m
  emit: coupon
"""
SECRET = "a secret of the shop"


@pytest.fixture
def shop() -> Iterator[Shop]:
    """The shop's own server, which receives coupons; it fails at the first attempt."""
    with receiving(503) as server:
        yield server


def coupons_of(shop: Shop) -> list[dict[str, Any]]:
    """Return the actions that were answered with 200."""
    return [json.loads(body) for _, body in shop.attempts[1:]]


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.slow)])
def watched(
    request: pytest.FixtureRequest, settings: Settings, shop: Shop, tmp_path: Path
) -> Settings:
    """Settings of a server with a webhook to the shop."""
    settings.features.write_text(FEATURES)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    log = LogSettings()
    if request.param == "kafka":
        servers = request.getfixturevalue("kafka_servers")
        log = LogSettings(
            kind="kafka", brokers=servers, topic=topic_name(), consumer_threads=2, linger_ms=1
        )
    return replace(
        settings,
        log=log,
        engine=replace(settings.engine, idle_s=0.2),
        actions=ActionSettings(
            webhook_url=f"http://127.0.0.1:{shop.server_port}/coupons", secret_file=secret
        ),
    )


def event(number: int, type_: str, user: str) -> dict[str, Any]:
    return {
        "event_id": f"{user}-{number}",
        "type": type_,
        "timestamp": now_ms(),
        "user_id": user,
        "item_id": "kettle",
    }


def ahead(number: int, device: int, **more: Any) -> dict[str, Any]:
    """An event of a device whose clock is 295 s fast, and which claims an own receipt."""
    at = now_ms() + 295_000
    fields = {**event(number, "view", f"fast-{device}"), "timestamp": at, **more}
    return {**fields, "context": {"received_at": at}}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 20])
def test_fast_clock(watched: Settings, shop: Shop, devices: int) -> None:
    """Devices with fast clocks stop no abandoned cart of others from being found."""
    people = [f"u{number}" for number in range(10)]
    numbers = itertools.count()

    def post(*events: dict[str, Any]) -> Any:
        fast = [ahead(number, number % devices) for number in itertools.islice(numbers, devices)]
        answer = live.http.post("/v1/events", json=[*fast, *events]).json()
        assert answer["accepted"] == len(fast) + len(events), answer
        return answer

    with Live(Platform.open(watched, build)) as live:
        assert live.views("u0", post()["position"]) == 0
        forged = [ahead(0, 0, event_id="forged", received_at=now_ms() + 295_000)]
        assert live.http.post("/v1/events", json=forged).json()["accepted"] == 0
        for number, type_ in enumerate(("view", "add_to_cart", "leave")):
            post(*(event(number, type_, user) for user in people))

        def is_found() -> bool:
            post()
            return len(coupons_of(shop)) >= len(people)

        wait_until(is_found)
    assert sorted(coupon["user_id"] for coupon in coupons_of(shop)) == people


@pytest.mark.slow
def test_a_coupon_is_sent_once_without_further_events(watched: Settings, shop: Shop) -> None:
    with ExitStack() as stack:
        live = stack.enter_context(Live(Platform.open(watched, build)))
        for number, type_ in enumerate(("view", "add_to_cart", "leave")):
            sent = [event(number, type_, user) for user in ("left", "bought", "stays")]
            assert live.http.post("/v1/events", json=sent[: 3 - (type_ == "leave")]).json()
        live.http.post("/v1/events", json=[event(3, "purchase", "bought")])
        # The server is restarted while nothing is due, and receives no further event.
        live.stop()
        live = stack.enter_context(Live(Platform.open(watched, build)))
        wait_until(lambda: len(coupons_of(shop)) == 1)
        (coupon,) = coupons_of(shop)
        assert (coupon["type"], coupon["user_id"]) == ("x.coupon", "left")
        assert coupon["properties"]["sequence"] == "abandoned_cart"
        assert coupon["properties"]["events"] == ["left-0", "left-1", "left-2"]
        (first, body), (again, same) = shop.attempts
        assert body == same
        assert first["Idempotency-Key"] == again["Idempotency-Key"] == coupon["event_id"]
        for headers in (first, again):
            assert verify_signature(
                SECRET.encode(), body, headers[SIGNATURE_HEADER], now=now_ms() // 1000
            )
        ended = coupon["properties"]["end"]
        assert coupon["timestamp"] >= ended + 2_000
        assert live.platform.features("left", None).features["abandoned_cart"] == ended
        assert live.platform.features("bought", None).features["abandoned_cart"] == 0
        # A client cannot send one.
        forged = live.http.post("/v1/events", json=[event(7, "x.coupon", "left")]).json()
        assert (forged["accepted"], forged["rejected"][0]["code"]) == (0, "forbidden")
        assert "only the platform creates" in forged["rejected"][0]["message"]
        # Neither a restart nor the coupon of another user sends it again.
        live.stop()
        live = stack.enter_context(Live(Platform.open(watched, build)))
        live.http.post("/v1/events", json=[event(9, "leave", "stays")])
        wait_until(lambda: len(coupons_of(shop)) > 1)
        assert [coupon["user_id"] for coupon in coupons_of(shop)] == ["left", "stays"]
        actions = [
            payload
            for partition in live.platform.backend.partitions()
            for _, payload in partition.read(partition.begin, 1000)
            if b"x.coupon" in payload
        ]
        assert len(actions) == 2

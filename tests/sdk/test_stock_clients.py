"""Stock clients of Segment and RudderStack, with nothing but their address changed."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rudderstack.analytics.client
import segment.analytics.client
from tests.platform.support import Live, logged, small_settings, wait_until

from tactful.config.engine import EngineSettings
from tactful.recommend.build import build
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event, User

Call = tuple[str, dict[str, Any]]
Send = Callable[[Live, str, list[Call]], None]
"""Sends calls by a client to a server with a key, and returns when they are answered."""

_PYTHON_NAMES = {
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "previousId": "previous_id",
    "groupId": "group_id",
    "messageId": "message_id",
}


def send_by_python(client: Any, calls: list[Call]) -> None:
    for call, message in calls:
        named = {_PYTHON_NAMES.get(name, name): value for name, value in message.items()}
        if "timestamp" in named:
            named["timestamp"] = dt.datetime.fromisoformat(named["timestamp"])
        accepted, _ = getattr(client, call)(**named)
        assert accepted
    client.shutdown()


def segment_python(gzip: bool) -> Send:
    def send(live: Live, key: str, calls: list[Call]) -> None:
        failures: list[Exception] = []
        send_by_python(
            segment.analytics.client.Client(
                key,
                host=f"{live.url}/v1/sources/segment",
                gzip=gzip,
                max_retries=1,
                on_error=lambda error, items: failures.append(error),
            ),
            calls,
        )
        assert failures == []

    return send


def rudder_python(live: Live, key: str, calls: list[Call]) -> None:
    failures: list[Exception] = []
    send_by_python(
        rudderstack.analytics.client.Client(
            key,
            host=f"{live.url}/v1/sources/rudderstack",
            max_retries=1,
            on_error=lambda error, items: failures.append(error),
        ),
        calls,
    )
    assert failures == []


def by_node(folder: Path, client: str) -> Send:
    def send(live: Live, key: str, calls: list[Call]) -> None:
        done = subprocess.run(
            ["node", "send.mjs", client, live.url, key],
            cwd=folder,
            input="\n".join(map(json.dumps, calls)),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert f"delivered {len(calls)}\n" in done.stdout, done.stdout + done.stderr

    return send


@pytest.fixture(
    params=["segment-python", "segment-python-gzip", "rudder-python", "segment-node", "rudder-node"]
)
def send(request: pytest.FixtureRequest) -> Send:
    if request.param.endswith("-node"):
        folder = request.getfixturevalue("stock_clients")
        return by_node(
            folder, {"segment-node": "segment", "rudder-node": "rudderstack"}[request.param]
        )
    if request.param == "rudder-python":
        return rudder_python
    return segment_python(request.param.endswith("gzip"))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that checks keys, with the packaged features and the real recommender."""
    small = small_settings(tmp_path_factory.mktemp("shop"))
    settings = replace(
        small, server=replace(small.server, dev=False), engine=EngineSettings(commit_ms=20)
    )
    with Live(Platform.open(settings, build)) as server:
        yield server


def of_user(live: Live, user: str) -> list[Event | User]:
    """Events and descriptions of a user in the log."""
    entries = logged(live.platform.settings.storage.data)
    return [it for it in entries if isinstance(it, Event | User) and it.user_id == user]


@pytest.mark.slow
def test_messages_of_a_client_become_events(
    send: Send, live: Live, request: pytest.FixtureRequest
) -> None:
    user = f"ada {request.node.callspec.id}"
    yesterday = (dt.datetime.now(dt.UTC) - dt.timedelta(days=1)).replace(microsecond=0)
    products = [{"product_id": "tea", "price": 3.5, "quantity": 2}, {"sku": "cup", "price": 8}]
    calls: list[Call] = [
        (
            "identify",
            {"userId": user, "anonymousId": "d", "traits": {"plan": "gold", "email": "a@b.c"}},
        ),
        ("track", {"userId": user, "event": "Product Viewed", "properties": {"product_id": "tea"}}),
        (
            "track",
            {
                "userId": user,
                "event": "Order Completed",
                "properties": {"order_id": "o-1", "currency": "EUR", "products": products},
                "timestamp": yesterday.isoformat(),
            },
        ),
        ("page", {"userId": user, "name": "Tea", "properties": {"product_id": "tea"}}),
        ("screen", {"userId": user, "name": "Home"}),
        ("group", {"userId": user, "groupId": "g"}),
        ("alias", {"userId": user, "previousId": "d-old"}),
    ]
    key = live.create_key("source")
    send(live, key, calls)
    entries = of_user(live, user)
    (described,) = [it for it in entries if isinstance(it, User)]
    assert described.properties == {"plan": "gold"}
    events = [it for it in entries if isinstance(it, Event)]
    assert [(it.type, it.item_id) for it in events] == [
        ("x.login", None),
        ("view", "tea"),
        ("purchase", "tea"),
        ("purchase", "cup"),
        ("view", "tea"),
        ("x.link", None),
    ]
    assert {it.sender for it in events} == {"source"}
    assert (events[0].device_id, events[-1].device_id) == ("d", "d-old")
    sold = {"price": 3.5, "quantity": 2, "currency": "EUR", "order_id": "o-1"}
    assert events[2].properties == sold
    at = yesterday.timestamp() * 1000
    assert events[2].timestamp == pytest.approx(at, abs=10_000), "but for the way to the server"
    assert len({it.event_id for it in events}) == len(events)


@pytest.mark.slow
def test_a_message_that_is_sent_again_counts_once(
    send: Send, live: Live, request: pytest.FixtureRequest
) -> None:
    user = f"again {request.node.callspec.id}"
    message = {"userId": user, "event": "Product Added", "properties": {"sku": "tea"}}
    calls: list[Call] = [("track", {**message, "messageId": f"m {user}"})]
    key = live.create_key("source")
    for _ in range(2):
        send(live, key, calls)
    assert len(of_user(live, user)) == 1


@pytest.mark.slow
def test_a_message_changes_the_next_recommendation(
    send: Send, live: Live, request: pytest.FixtureRequest
) -> None:
    """A visitor looks at tea, logs in, and is recommended what others took after tea."""
    case = request.node.callspec.id
    tea, cup = f"tea {case}", f"cup {case}"
    items = [
        {"item_id": it, "category": case, "price": 3}
        for it in (tea, cup, *(f"{case} {n}" for n in range(20)))
    ]
    trusted = {"x-api-key": live.create_key("admin")}
    assert live.http.put("/v1/items", json=items, headers=trusted).status_code == 202
    key = live.create_key("source")

    def seen(user: str, item: str, event: str = "Product Viewed") -> Call:
        properties = {"product_id": item, "price": 3, "category": case}
        return "track", {"userId": user, "event": event, "properties": properties}

    others = [f"{case} other {n}" for n in range(12)]
    send(live, key, [seen(user, tea) for user in others])
    send(live, key, [seen(user, cup, "Product Added") for user in others])
    device = f"phone {case}"
    page = {"anonymousId": device, "event": "Product Viewed", "properties": {"product_id": tea}}
    login = {"userId": f"eve {case}", "anonymousId": device, "traits": {"plan": "gold"}}
    send(live, key, [("track", page), ("identify", login)])

    def recommended() -> list[str]:
        body = {"user_id": f"eve {case}", "count": 5, "category": case, "exclude_seen": True}
        answer = live.http.post("/v1/recommend", json=body, headers=trusted)
        assert answer.status_code == 200, answer.text
        return [it["item_id"] for it in answer.json()["items"]]

    wait_until(lambda: recommended()[:1] == [cup], 60)
    features = live.http.get(f"/v1/users/eve {case}/features", headers=trusted).json()["features"]
    assert [item for item, _ in features["recent_items"]] == [tea], "the device's view is hers"

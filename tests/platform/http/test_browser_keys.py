"""Web pages: allowed origins, and the limits of a key that everybody can read."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest
from tests.platform.support import SHOP, Live, view

from tactful.config.server import ServerSettings
from tactful.config.settings import Settings
from tactful.errors import ApiKeyError, ConfigError
from tactful.http.routes import ENDPOINTS
from tactful.schemas.browser_access import parse_origins
from tactful.schemas.recommendations import NOT_PERSONALISED

PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


@pytest.fixture(scope="session")
def key(shop: Live) -> str:
    return shop.create_key("browser")


def post(live: Live, path: str, body: Any, key: str, origin: str | None = SHOP) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    if origin is not None:
        headers["origin"] = origin
    return live.http.post(path, json=body, headers=headers)


def seen(device: str, **changes: Any) -> dict[str, Any]:
    event = view(1, user=device)
    del event["user_id"]
    return {**event, "device_id": device, **changes}


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", set()),
        (" , ", set()),
        ("https://Shop.example", {b"https://shop.example"}),
        ("https://a.example:443,http://[::1]:80", {b"https://a.example", b"http://[::1]"}),
        ("http://localhost:3000", {b"http://localhost:3000"}),
    ],
)
def test_origins_are_read_as_browsers_write_them(text: str, origins: set[bytes]) -> None:
    assert parse_origins(text).allowed == origins


@pytest.mark.parametrize(
    "text",
    [
        *("*", "null", "shop.example", "https://", "https://*", "https://*.shop.example"),
        *("https://shop.example/", "https://shop.example/page", "https://user@shop.example"),
        *("https://shop.example:port", "ftp://shop.example", "https://kn\xf6del.example"),
    ],
)
def test_what_is_no_origin_stops_the_start(text: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.cors_origins"):
        Settings(server=ServerSettings(cors_origins=text))


def test_a_page_may_ask_and_read_the_answer(shop: Live, key: str) -> None:
    for path in ("/v1/events", "/v1/recommend"):
        asked = shop.http.options(path, headers={"origin": SHOP, **PREFLIGHT})
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == SHOP
        assert asked.headers["access-control-allow-methods"] == "GET, POST"
        allowed = asked.headers["access-control-allow-headers"].split(", ")
        assert {"authorization", "content-type"} <= set(allowed)
        assert "access-control-allow-credentials" not in asked.headers
    answer = post(shop, "/v1/events", [seen("d-1")], key)
    assert answer.json()["accepted"] == 1
    assert answer.json()["position"] == 0, "no answer tells a page how much goes on"
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert answer.headers["vary"] == "origin"
    assert "retry-after" in answer.headers["access-control-expose-headers"]
    given = post(shop, "/v1/recommend", {"device_id": "d-1"}, key).json()
    assert (given["position"], given["explanation"]) == (0, None)
    refused = post(shop, "/v1/events", [seen("d-1")], "wrong")
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == SHOP


@pytest.mark.parametrize("origin", ["https://other.example", "null", "https://shop.example:444"])
def test_pages_of_other_origins_are_refused(shop: Live, key: str, origin: str) -> None:
    asked = shop.http.options("/v1/events", headers={"origin": origin, **PREFLIGHT})
    answer = post(shop, "/v1/events", [seen("d-2")], key, origin)
    for one in (asked, answer):
        assert (one.status_code, one.json()["code"]) == (403, "wrong_origin")
        assert f"{origin!r}" in one.json()["detail"]
        assert "`server.cors_origins`" in one.json()["detail"]
        assert "access-control-allow-origin" not in one.headers
        assert one.headers["vary"] == "origin"


def test_a_browser_key_needs_an_origin_and_a_server_key_none(shop: Live, key: str) -> None:
    server_key = shop.create_key("ingest")
    assert post(shop, "/v1/events", [seen("d-3")], key, None).status_code == 403
    assert post(shop, "/v1/events", [seen("d-3")], server_key, None).status_code == 202
    batch = [seen("d-5", event_id=kind, type=kind) for kind in ("payment", "refund", "return")]
    assert post(shop, "/v1/events", batch, server_key).json()["accepted"] == 3
    with pytest.raises(ApiKeyError, match="second key"):
        shop.platform.keys.create(["browser", "ingest"])


def test_guessed_event_ids(shop: Live, key: str) -> None:
    """A public key that guesses event ids takes no event away from others, and learns none."""
    keys = [shop.create_key("ingest") for _ in range(2)]
    ids = [f"order-{number}" for number in range(1000, 1050)]
    bought = [view(1, "eve", event_id=id_, type="purchase") for id_ in ids]
    guessed = [seen(device, event_id=id_) for device in ("d-eve", "eve") for id_ in ids]

    def sent(events: list[dict[str, Any]], key: str) -> tuple[int, int]:
        answer = post(shop, "/v1/events", events, key)
        assert answer.status_code == 202, answer.text
        return answer.json()["accepted"], answer.json()["duplicates"]

    assert sent(guessed, key) == (100, 0)
    assert sent(bought, keys[0]) == (50, 0)
    assert sent([{**event, "user_id": "bob"} for event in bought], keys[0]) == (50, 0)
    assert sent(guessed, key) == (100, 0), "what is known is not shown"
    assert sent(bought, keys[1]) == (0, 50), "a retry may come after a rotation"
    forged = post(shop, "/v1/events", [seen("d-eve", sender="server")], key).json()
    assert [r["code"] for r in forged["rejected"]] == ["unknown_field"]


def test_a_browser_key_waits_for_no_batch(shop: Live, key: str) -> None:
    """A public key cannot hold requests in the server until a batch that never comes."""
    headers = {"authorization": f"Bearer {key}", "origin": SHOP, "tactful-batch": "b.2"}
    for after in ("never", "no name"):
        began = time.monotonic()
        sent = shop.http.post(
            "/v1/events",
            json=[seen("d-6", event_id=f"after {after}")],
            headers={**headers, "tactful-after": after},
        )
        assert (sent.status_code, sent.json()["accepted"]) == (202, 1)
        assert time.monotonic() - began < 2
    assert "b.2" not in shop.platform.ingest._order._appended, "it names no batch of others"


@pytest.mark.slow
def test_nothing_is_open_to_pages_unless_it_is_set(locked: Live) -> None:
    key = locked.create_key("browser")
    asked = locked.http.options("/v1/events", headers={"origin": SHOP, **PREFLIGHT})
    answer = post(locked, "/v1/events", [seen("d-1")], key)
    assert (asked.status_code, answer.status_code) == (403, 403)
    assert asked.json()["detail"] == answer.json()["detail"]
    for one in (asked, answer):
        assert not {name for name in one.headers if name.startswith("access-control")}


LISTS = {
    *(f"/v1/items/{{item_id}}/{name}" for name in ("similar", "together", "next")),
    *("/v1/popular", "/v1/trending", "/v1/latest"),
}


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:5"])
def test_in_dev_pages_of_this_machine_may_ask_and_read(shared: Live, origin: str) -> None:
    headers = {"origin": origin}
    asked = shared.http.options("/v1/events", headers={**headers, **PREFLIGHT})
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-methods"] == "GET, POST"
    sent = shared.http.post("/v1/events", json=[seen(f"d-{origin}")], headers=headers)
    given = shared.http.post("/v1/recommend", json={"device_id": "d"}, headers=headers)
    assert (sent.status_code, given.status_code) == (202, 200)
    for answer in (asked, sent, given):
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [
        *("https://shop.example", "null", "http://localhost.evil.example", "file://localhost"),
        *("http://127.0.0.1.evil.example", "http://localhost@evil.example", "localhost:3000"),
    ],
)
def test_in_dev_pages_of_other_machines_are_refused(shared: Live, origin: str) -> None:
    asked = shared.http.options("/v1/events", headers={"origin": origin, **PREFLIGHT})
    sent = shared.http.post("/v1/events", json=[seen("d-0")], headers={"origin": origin})
    assert (asked.status_code, asked.json()["code"]) == (403, "wrong_origin")
    assert (sent.status_code, sent.json()["code"]) == (421, "wrong_host")
    for answer in (asked, sent):
        assert f"pages of {origin!r} are refused: with --dev" in answer.json()["detail"]
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["vary"] == "origin"


def test_in_dev_pages_get_the_doors_of_a_key(shared: Live) -> None:
    headers = {"origin": "http://localhost:3000"}
    opened = set()
    for endpoint in ENDPOINTS:
        path = re.sub(r"{\w+}", "n", endpoint.path)
        asked = shared.http.options(path, headers={**headers, **PREFLIGHT})
        if asked.status_code == 204:
            opened.add(endpoint.path)
        else:
            assert not {name for name in asked.headers if name.startswith("access-control")}
    assert opened == {endpoint.path for endpoint in ENDPOINTS if endpoint.browser}


def test_a_browser_key_opens_few_doors(shop: Live, key: str) -> None:
    headers = {"authorization": f"Bearer {key}", "origin": SHOP}
    opened = set()
    for endpoint in ENDPOINTS:
        if endpoint.scope is None:
            continue
        path = endpoint.path.replace("{user_id}", "u").replace("{name}", "n")
        with shop.http.stream(endpoint.method, path, headers=headers, json={}) as answer:
            if answer.headers["content-type"] != "text/event-stream":  # that one does not end
                answer.read()
        if answer.status_code not in (401, 403):
            opened.add(endpoint.path)
        else:
            assert answer.json()["code"] == "missing_scope"
            assert "access-control-allow-origin" not in answer.headers
    flags = {f"/v1/flags/{name}" for name in ("payload", "signing-key", "stream", "token")}
    crossings = {"/v1/domains/{domain}/tokens", "/v1/domains/{domain}/profiles"}
    others = {"/v1/events", "/v1/recommend", "/v1/search", "/v1/me", "/v1/assign"}
    assert opened == {*others, *crossings, *flags, *LISTS}


@pytest.mark.parametrize(
    "changes",
    [{"user_id": "somebody"}, *({"type": it} for it in ("payment", "refund", "return", "x.clock"))],
)
def test_events_of_a_browser_key(shop: Live, key: str, changes: dict[str, Any]) -> None:
    bad = seen("d-4", **{"event_id": "no", **changes})
    batch = [{"type": "?"}, bad, seen("d-4", event_id=f"yes-{changes}")]
    answer = post(shop, "/v1/events", batch, key).json()
    assert answer["accepted"] == 1
    assert [each["index"] for each in answer["rejected"]] == [0, 1]
    assert answer["rejected"][1]["code"] == "forbidden"
    assert "somebody" not in answer["rejected"][1]["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_id", "u"),
        ("explain", True),
        ("after", 1),
        ("timestamp", 1),
        ("as_of", "last"),
        ("force", {"a": "b"}),
    ],
)
def test_requests_of_a_browser_key(shop: Live, key: str, field: str, value: Any) -> None:
    answer = post(shop, "/v1/recommend", {"device_id": "d-1", field: value}, key)
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")


def test_only_a_browser_key_may_be_in_the_address(shop: Live, key: str) -> None:
    """A beacon cannot send headers."""
    server_key = shop.create_key("ingest")
    beacon = {"origin": SHOP, "content-type": "text/plain;charset=UTF-8"}

    def send(key: str) -> int:
        return shop.http.post(
            f"/v1/events?key={key}", json=[seen("d-7")], headers=beacon
        ).status_code

    assert send(key) == 202
    assert send(server_key) == 401
    assert shop.http.put(f"/v1/items?key={key}", json=[], headers=beacon).status_code == 401


@pytest.mark.parametrize("signal", ["sec-gpc", "dnt"])
def test_a_signal_of_the_browser_withdraws_the_claim_of_consent(
    shop: Live, key: str, signal: str
) -> None:
    """The page says that there is consent, the browser that there is none."""
    device = f"d-{signal}"
    headers = {"authorization": f"Bearer {key}", "origin": SHOP}
    context = {"consent": "personalisation measurement"}
    events = [seen(device, event_id=f"{signal}-{n}", context=context) for n in range(2)]

    def sent(value: str) -> dict[str, Any]:
        answer = shop.http.post("/v1/events", json=events, headers={**headers, signal: value})
        return dict(answer.json())

    assert {each["code"] for each in sent("1")["rejected"]} == {"no_consent"}
    assert sent("1, 1")["accepted"] == 0  # of two headers that a proxy joined
    assert sent("0")["accepted"] == 2  # no signal: 0, or anything else
    asked = {"device_id": device, "count": 1, "context": context}

    def fallback(**headers_too: str) -> str | None:
        told = shop.http.post("/v1/recommend", json=asked, headers={**headers, **headers_too})
        reason: str | None = told.json().get("fallback")
        return reason

    assert NOT_PERSONALISED in (fallback(**{signal: "1"}) or "")
    assert NOT_PERSONALISED not in (fallback() or "")
    trusted = {"x-api-key": shop.create_key("admin"), signal: "1"}  # a server may forward it
    told = shop.http.post("/v1/recommend/batch", json={"requests": [asked]}, headers=trusted)
    assert NOT_PERSONALISED in told.json()["results"][0]["recommendation"]["fallback"]
    decided = {"purposes": {"personalisation": True, "measurement": True}}
    admin = {"x-api-key": shop.create_key("ingest", "admin")}
    path = f"/v1/users/device:{device}/consent"
    assert shop.http.put(path, json=decided, headers=admin).status_code == 200
    assert NOT_PERSONALISED not in (fallback(**{signal: "1"}) or "")  # a recorded decision holds


def test_a_large_body_needs_a_key_that_is_secret(shop: Live, key: str) -> None:
    """Hundreds of connections with 4 MiB each filled the memory."""
    body = [seen("d-8", properties={"text": "x" * 2_000})] * 200
    answer = post(shop, "/v1/events", body, key)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert post(shop, "/v1/events", body[:9], key).status_code == 202

"""Sources over HTTP: keys, compression, answers, consent, repetitions, logs and metrics."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from tests.platform.support import Live, build, logged, now_ms, small_settings, wait_until

from tactful.config.server import SourceSettings
from tactful.errors import ApiKeyError, ConfigError
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event, Restricted, User

BATCH = "/v1/sources/segment/v1/batch"
PLAIN = "/v1/sources/plain"
COLLECT = "/v1/sources/ga4/mp/collect"


def viewed(number: int, user: str = "ada", **changes: Any) -> dict[str, Any]:
    return {
        "type": "track",
        "event": "Product Viewed",
        "messageId": f"{user}-{number}",
        "userId": user,
        "properties": {"product_id": f"i-{number}", "price": 2.5},
        **changes,
    }


@pytest.fixture(scope="module", params=[0, 1], ids=["process", "worker"])
def locked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """Server that checks keys."""
    small = small_settings(tmp_path_factory.mktemp("locked"))
    settings = replace(small, server=replace(small.server, dev=False))
    with Live(Platform.open(settings, build), workers=request.param) as live:
        yield live


@pytest.fixture(scope="module")
def key(locked: Live) -> str:
    return locked.create_key("source")


def post(live: Live, path: str, body: Any, key: str, **options: Any) -> httpx.Response:
    return live.http.post(path, json=body, auth=(key, ""), **options)


def entries(live: Live) -> list[Any]:
    """All entries of the log."""
    return logged(live.platform.settings.storage.data)


def events_of(live: Live, user: str) -> list[Event]:
    events = [it.event if isinstance(it, Restricted) else it for it in entries(live)]
    return [it for it in events if isinstance(it, Event) and it.user_id == user]


def described(live: Live, user: str) -> list[dict[str, Any]]:
    return [
        dict(it.properties) for it in entries(live) if isinstance(it, User) and it.user_id == user
    ]


def test_a_source_key_sends_to_sources_and_does_nothing_else(locked: Live, key: str) -> None:
    assert post(locked, BATCH, {"batch": [viewed(1)]}, key).json() == {
        "success": True,
        "accepted": 1,
        "duplicates": 0,
        "ignored": 0,
        "rejected": [],
    }
    event = {"type": "view", "timestamp": now_ms(), "user_id": "ada"}
    for path in ("/v1/events", "/v1/recommend"):
        answer = locked.http.post(path, json=event, headers={"x-api-key": key})
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
        assert post(locked, path, event, key).status_code == 401, "Basic is for sources alone"
    ingest = locked.create_key("ingest")
    assert post(locked, BATCH, {"batch": [viewed(2)]}, ingest).status_code == 403
    with pytest.raises(ApiKeyError, match="'source' is in the settings of other programs"):
        locked.platform.keys.create(["source", "ingest"])


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"wrong:").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Bearer wrong",
        "Digest {key}",
    ],
)
def test_wrong_keys_are_refused(locked: Live, key: str, authorization: str) -> None:
    headers = {"authorization": authorization.format(key=key)}
    answer = locked.http.post(BATCH, json={"batch": []}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "no_key")


def test_a_key_works_in_each_header(locked: Live, key: str) -> None:
    name = base64.b64encode(f"{key}:".encode()).decode()
    for headers in (
        {"authorization": f"Basic {name}"},
        {"authorization": f"Bearer {key}"},
        {"x-api-key": key},
    ):
        assert locked.http.post(BATCH, json={"batch": []}, headers=headers).status_code == 200


def test_web_pages_are_refused(locked: Live, key: str) -> None:
    answer = post(locked, BATCH, {"batch": []}, key, headers={"origin": "https://shop.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "wrong_origin")
    assert "access-control-allow-origin" not in answer.headers


def zipped(live: Live, key: str, body: bytes, encoding: str = "gzip") -> httpx.Response:
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    return live.http.post(BATCH, content=body, auth=(key, ""), headers=headers)


def test_gzip_is_read(locked: Live, key: str) -> None:
    body = json.dumps({"batch": [viewed(n, "zip") for n in range(3)]}).encode()
    assert zipped(locked, key, gzip.compress(body)).json()["accepted"] == 3
    assert zipped(locked, key, gzip.compress(body), "GZip").json()["duplicates"] == 3
    assert [it.item_id for it in events_of(locked, "zip")] == ["i-0", "i-1", "i-2"]
    ingest = {"x-api-key": locked.create_key("ingest"), "content-encoding": "gzip"}
    refused = locked.http.post("/v1/events", content=gzip.compress(b"[]"), headers=ingest)
    assert refused.json()["code"] == "unsupported_encoding", "on the other routes as before"


@pytest.mark.slow
def test_bombs_and_damage_are_refused(locked: Live, key: str) -> None:
    limit = locked.platform.settings.limits.body_bytes
    whole = gzip.compress(b'{"batch": []}')
    for body, status, code in (
        (gzip.compress(b" " * 300 * limit), 413, "too_large"),
        (gzip.compress(b" " * (limit + 1)), 413, "too_large"),
        (gzip.compress(gzip.compress(b'{"batch": []}')), 400, "bad_body"),
        (whole[:-9], 400, "bad_body"),
        (whole[:-5] + b"\x00" + whole[-4:], 400, "bad_body"),
        (whole + whole, 400, "bad_body"),
        (whole * 5000, 400, "bad_body"),
        (whole + b"x", 400, "bad_body"),
        (zlib.compress(b'{"batch": []}'), 400, "bad_body"),
        (b"", 400, "bad_body"),
        (b"{}", 400, "bad_body"),
    ):
        answer = zipped(locked, key, body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), body[:20]
    for encoding in ("br", "deflate", "gzip, gzip"):
        answer = zipped(locked, key, whole, encoding)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")
    fits = gzip.compress(b'{"batch": []}'.ljust(limit))
    assert zipped(locked, key, fits).status_code == 200


def test_refusals_name_their_message_and_spare_the_others(locked: Live, key: str) -> None:
    batch = [
        viewed(1, "mixed"),
        viewed(2, "mixed", properties={}),
        viewed(3, "mixed", event="Video Playback Started"),
        viewed(4, "mixed", timestamp="soon"),
        7,
        viewed(5, "mixed", properties={"sku": "a", "price": "much"}),
        viewed(6, "mixed", userId="device:x"),
        viewed(7, "mixed"),
    ]
    answer = post(locked, BATCH, {"batch": batch}, key)
    assert answer.status_code == 200, "clients retry anything else, or drop all"
    said = answer.json()
    assert (said["accepted"], said["ignored"]) == (2, 1)
    assert [(it["index"], it["code"]) for it in said["rejected"]] == [
        (1, "missing_field"),
        (3, "bad_timestamp"),
        (4, "wrong_type"),
        (5, "wrong_type"),
        (6, "bad_id"),
    ]


@pytest.mark.slow
def test_every_call_has_its_path(locked: Live, key: str) -> None:
    calls: dict[str, dict[str, Any]] = {
        "identify": {"userId": "calls", "anonymousId": "d-calls", "traits": {"plan": "gold"}},
        "track": {"userId": "calls", "event": "Product Added", "properties": {"sku": "tea"}},
        "page": {"userId": "calls", "properties": {"sku": "tea"}},
        "screen": {"userId": "calls", "properties": {"sku": "tea"}},
        "alias": {"userId": "calls", "previousId": "d-old"},
        "group": {"userId": "calls", "groupId": "g"},
        "import": {"batch": [viewed(1, "calls")]},
    }
    made = {}
    for call, body in calls.items():
        answer = post(locked, f"/v1/sources/rudderstack/v1/{call}", body, key)
        assert answer.status_code == 200, answer.text
        made[call] = answer.json()["accepted"]
    assert made == {
        **dict.fromkeys(("track", "page", "screen", "alias", "import"), 1),
        **{"identify": 2, "group": 0},
    }
    types = [it.type for it in events_of(locked, "calls")]
    assert types == ["x.login", "add_to_cart", "view", "view", "x.link", "view"]
    assert described(locked, "calls") == [{"plan": "gold"}]
    for path in ("/v1/sources/segment/v1/delete", "/v1/sources/ga4/v1/batch", "/v1/sources/x"):
        assert post(locked, path, {"batch": []}, key).status_code == 404


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b"{}", b'{"batch": {}}', b"\xff", b"[" * 10_000]
)
def test_what_is_no_batch(locked: Live, key: str, body: bytes) -> None:
    answer = locked.http.post(BATCH, content=body, auth=(key, ""))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_body")


def test_too_many_messages_are_refused(locked: Live, key: str) -> None:
    batch = [{"type": "group"}] * (locked.platform.settings.limits.batch + 1)
    answer = post(locked, BATCH, {"batch": batch}, key)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.slow
def test_a_request_becomes_more_events_than_a_batch_holds(locked: Live, key: str) -> None:
    """Orders with many products: appended in parts, up to a bound."""
    products = [{"sku": n, "price": 1} for n in range(240)]
    order = {"type": "track", "event": "Order Completed", "properties": {"products": products}}
    batch = [{**order, "userId": f"big-{n}", "messageId": f"o-{n}"} for n in range(45)]
    body = json.dumps({"batch": batch}).encode()
    said = zipped(locked, key, gzip.compress(body))
    assert said.status_code == 413, "the limit of a body holds as it is inflated"
    parts = [batch[:15], batch[15:30], batch[30:]]
    assert [post(locked, BATCH, {"batch": it}, key).json()["accepted"] for it in parts] == [
        3600
    ] * 3
    again = post(locked, BATCH, {"batch": batch[:15]}, key).json()
    assert (again["accepted"], again["duplicates"]) == (0, 3600)
    assert len(events_of(locked, "big-44")) == 240


@pytest.mark.slow
def test_a_request_has_a_bound_on_its_events(locked: Live, key: str) -> None:
    order = {"type": "track", "event": "Order Completed", "userId": "bound"}
    batch = [
        {**order, "messageId": f"b-{n}", "properties": {"products": [{"sku": 1}] * 250}}
        for n in range(60)
    ]
    said = post(locked, BATCH, {"batch": batch}, key).json()
    assert said["accepted"] == 10_000
    assert {it["code"] for it in said["rejected"]} == {"too_many_events"}
    assert [it["index"] for it in said["rejected"]] == [*range(40, 60)]


@pytest.mark.slow
def test_traits_complete_a_description(locked: Live, key: str) -> None:
    def identify(**traits: Any) -> dict[str, Any]:
        return {"type": "identify", "userId": "traits", "traits": traits}

    user = {"user_id": "traits", "properties": {"city": "Bath", "consent.marketing": True}}
    headers = {"x-api-key": locked.create_key("ingest")}
    # The server refuses entries until it has caught up with the many events of other tests.
    wait_until(lambda: locked.http.put("/v1/users", json=user, headers=headers).is_success)
    wait_until(lambda: locked.platform.sources._traits._described("traits") != {})
    batch = [identify(age=36, email="ada@example.com"), identify(plan="gold")]
    assert post(locked, BATCH, {"batch": batch}, key).json()["accepted"] == 2
    post(locked, BATCH, {"batch": [identify(age=None), identify(plan=" ")]}, key)
    assert described(locked, "traits")[1:] == [
        {"city": "Bath", "age": 36},
        {"city": "Bath", "age": 36, "plan": "gold"},
        {"city": "Bath", "plan": "gold"},
    ], "decisions are not repeated, and other traits are not kept"


def test_signals_and_claims_of_consent(tmp_path: Any) -> None:
    small = small_settings(tmp_path)
    settings = replace(small, consent=replace(small.consent, default="deny"))
    agreed = {"consent": {"categoryPreferences": {"Personalization": True}}}
    identify = {"type": "identify", "userId": "p", "context": agreed, "traits": {"plan": "gold"}}
    with Live(Platform.open(settings, build)) as live:

        def codes(message: dict[str, Any], **headers: str) -> list[str]:
            answer = live.http.post(BATCH, json={"batch": [message]}, headers=headers).json()
            return [it["code"] for it in answer["rejected"]]

        assert codes(viewed(1, "silent")) == ["no_consent"]
        assert codes(viewed(1, "agrees", context=agreed)) == []
        for signal in ("sec-gpc", "dnt"):
            assert codes(viewed(2, "agrees", context=agreed), **{signal: "1"}) == ["no_consent"]
            assert codes(identify, **{signal: "1"}) == ["no_consent"]
        refused = {"consent": {"categoryPreferences": {"Analytics": False}}}
        decision = {"purposes": {"personalisation": True}}
        assert codes(identify) == ["no_consent"], "a description outlives a claim"
        assert live.http.put("/v1/users/p/consent", json=decision).status_code == 200
        assert codes(identify) == []
        assert codes({**identify, "context": refused}) == [], "a decision precedes a claim"
        kept = [it for it in entries(live) if isinstance(it, Restricted)]
        assert [it.purposes for it in kept] == [("personalisation", "service")]


def test_a_refusal_keeps_traits_out(tmp_path: Any) -> None:
    """Where consent is assumed, a message that says no is heard."""
    refused = {"consent": {"categoryPreferences": {"Personalization": False}}}
    identify = {"type": "identify", "userId": "p", "traits": {"plan": "gold"}}
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        batch = [{**identify, "context": refused}, viewed(1, "p", context=refused)]
        said = live.http.post(BATCH, json={"batch": batch}).json()
        assert [it["code"] for it in said["rejected"]] == ["no_consent", "no_consent"]
        assert live.http.post(BATCH, json={"batch": [identify]}).json()["accepted"] == 1
        assert described(live, "p") == [{"plan": "gold"}]


@pytest.mark.slow
def test_ga4_answers_as_google(locked: Live, key: str) -> None:
    event = {"name": "view_item", "params": {"items": [{"item_id": "tea"}]}}
    body = {"client_id": "c", "user_id": "ga", "events": [event, {"name": "view_item"}]}
    query = {"measurement_id": "G-1", "api_secret": key}
    answer = locked.http.post(COLLECT, params=query, json=body)
    assert (answer.status_code, answer.content) == (204, b"")
    (sent,) = events_of(locked, "ga")
    assert (sent.type, sent.item_id, sent.device_id, sent.sender) == ("view", "tea", "c", "source")
    header = {"x-api-key": key}
    assert locked.http.post(COLLECT, json=body, headers=header).status_code == 204
    checked = locked.http.post("/v1/sources/ga4/debug/mp/collect", params=query, json=body).json()
    (problem,) = checked["validationMessages"]
    assert (problem["fieldPath"], problem["validationCode"]) == ("events[1]", "missing_field")
    assert len(events_of(locked, "ga")) == 2, "a check stores nothing"
    odd = {"user_properties": {"plan": {"value": "gold"}}, "user_id": "device:x", "event": []}
    checked = locked.http.post("/v1/sources/ga4/debug/mp/collect", params=query, json=odd).json()
    assert [it["fieldPath"] for it in checked["validationMessages"]] == [
        "user_properties",
        "events",
    ]


def test_only_a_source_key_may_be_in_an_address(locked: Live, key: str) -> None:
    for scope, status in (("source", 204), ("admin", 401), ("ingest", 401), ("browser", 403)):
        query = {"api_secret": locked.create_key(scope)}
        answer = locked.http.post(COLLECT, params=query, json={"events": []})
        assert answer.status_code == status, scope
    for query in ({"api_secret": ""}, {"api_secret": "x"}, {}):
        assert locked.http.post(COLLECT, params=query, json={}).status_code == 401
    twice = f"{COLLECT}?api_secret={key}&api_secret={key}"
    assert locked.http.post(twice, json={}).status_code == 400
    assert locked.http.post(f"{BATCH}?api_secret={key}", json={}).status_code == 401


def test_plain_events(locked: Live, key: str) -> None:
    event = {"event_type": "click", "item_id": "A", "timestamp": 1630000000, "user": "plain"}
    assert post(locked, PLAIN, event, key).json()["accepted"] == 1
    assert post(locked, PLAIN, [event, {**event, "item_id": "B"}], key).json()["duplicates"] == 1
    lines = b'{"event": "view", "userId": "plain", "sku": "C"}\n\n{"event": '
    said = locked.http.post(PLAIN, content=lines, auth=(key, "")).json()
    assert (said["accepted"], [it["code"] for it in said["rejected"]]) == (1, ["not_json"])
    sent = events_of(locked, "plain")
    assert [(it.type, it.item_id) for it in sent] == [("click", "A"), ("click", "B"), ("view", "C")]
    assert sent[0].timestamp == 1630000000000
    assert post(locked, PLAIN, 7, key).status_code == 400


def test_ids_of_other_senders_are_not_used_up(locked: Live, key: str) -> None:
    event = {"event_id": "m-1", "type": "purchase", "timestamp": now_ms(), "user_id": "sender"}
    message = viewed(1, "sender", messageId="m-1")
    assert post(locked, BATCH, {"batch": [message]}, key).json()["accepted"] == 1
    headers = {"x-api-key": locked.create_key("ingest")}
    assert locked.http.post("/v1/events", json=event, headers=headers).json()["accepted"] == 1
    odd = {"event": "view", "user": "sender", "event_id": "impression:1"}
    said = post(locked, PLAIN, odd, key).json()
    assert [it["code"] for it in said["rejected"]] == ["forbidden"]


def test_logs_and_metrics_hold_counts_and_no_payload(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    small = small_settings(tmp_path)
    settings = replace(small, server=replace(small.server, dev=False))
    caplog.set_level(logging.DEBUG)
    with Live(Platform.open(settings, build)) as live:
        key = live.create_key("source")
        batch = [
            viewed(1, "sentinel-user"),
            viewed(2, "sentinel-user", properties={"x": "sentinel"}),
        ]
        batch.append({"type": "sentinel-kind"})
        post(live, BATCH, {"batch": batch}, key)
        locked_out = {"name": "sentinel-event", "params": {"items": "sentinel"}}
        live.http.post(COLLECT, params={"api_secret": key}, json={"events": [locked_out, 1]})
        monitor = {"x-api-key": live.create_key("monitor")}
        text = live.http.get("/metrics", headers=monitor).text
    assert "source segment: 1 of 3 messages were refused: missing_field 1" in caplog.text
    assert "source ga4: 1 of 2 messages were refused: wrong_type 1" in caplog.text
    for place in (caplog.text.replace(str(live.http.base_url), ""), text):
        own = "\n".join(line for line in place.splitlines() if "httpx" not in line)
        assert "sentinel" not in own
        assert key not in own
    shares = [line for line in text.splitlines() if line.startswith("tactful_source_messages")]
    assert (
        'tactful_source_messages_share{kind="other",result="ignored",source="segment"} 1.0'
        in shares
    )
    assert (
        'tactful_source_messages_share{kind="track",result="refused",source="segment"} 1.0'
        in shares
    )
    assert not [line for line in shares if "_total" in line]


@pytest.mark.slow
def test_an_edited_mapping_is_used_and_a_wrong_one_stops_the_start(tmp_path: Any) -> None:
    mapping, small = tmp_path / "own.yaml", small_settings(tmp_path)
    settings = replace(small, sources=SourceSettings(mapping=mapping))
    mapping.write_text("plain:\n  user_id: who\n  rules: [{name: all, send: x.seen}]\n")
    with Live(Platform.open(settings, build)) as live:
        assert live.http.post(PLAIN, json={"who": "ada"}).json()["accepted"] == 1
        assert live.http.post(BATCH, json={"batch": [viewed(1)]}).json()["ignored"] == 1
    mapping.write_text("plain:\n  rules: [{name: all, send: x.seen}]\n")
    with pytest.raises(ConfigError, match=r"own\.yaml:2: rules: rule all sends events of nobody"):
        Platform.open(settings, build)
    mapping.unlink()
    with pytest.raises(ConfigError, match=r"own\.yaml: cannot be read"):
        Platform.open(settings, build)

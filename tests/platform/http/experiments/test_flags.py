"""Flags over HTTP: values, exposures, consent, payloads, streams, kills, looks at a person."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.flags.flag_files import FLAGS
from tests.platform.support import SHOP, Live, build, logged, now_ms, small_settings, wait_until

from tactful.flags.exposures import Exposure, as_exposure
from tactful.server.platform import Platform
from tactful_bandits.flags import evaluate
from tactful_streaming.contract.log_entries import Event, Restricted

EXPERIMENT = "checkout-2027"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Live]:
    """Server with keys, for the pages of one shop, with flags."""
    settings = small_settings(tmp_path)
    server = replace(settings.server, dev=False, cors_origins=SHOP)
    with Live(Platform.open(replace(settings, server=server), build)) as live:
        live.http.headers["x-api-key"] = live.create_key("admin")
        ok(live.http.post("/v1/flags", json={"definitions": FLAGS}))
        yield live


@pytest.fixture
def page(shop: Live) -> Iterator[httpx.Client]:
    """A page of the shop, with a browser key."""
    headers = {"x-api-key": shop.create_key("browser"), "origin": SHOP}
    with httpx.Client(base_url=shop.url, headers=headers, timeout=60) as client:
        yield client


def ok(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


def exposures(shop: Live) -> list[Exposure]:
    """Stop the server and return the exposures in its log."""
    data = shop.platform.settings.storage.data
    shop.stop()
    events = [it.event if isinstance(it, Restricted) else it for it in logged(data)]
    found = [as_exposure(event) for event in events if isinstance(event, Event)]
    return [exposure for exposure in found if exposure is not None]


def test_an_empty_installation(tmp_path: Path) -> None:
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        empty: dict[str, object] = {
            "version": 0,
            "applied_at": None,
            "flags": [],
            "next_cursor": None,
        }
        assert ok(live.http.get("/v1/flags")) == empty
        answer = ok(live.http.post("/v1/assign", json={"user_id": "ada", "flags": ["a"]}))
        assert answer["flags"]["a"]["source"] == "unknown"
        assert ok(live.http.post("/v1/assign", json={}))["flags"] == {}
        payload = json.loads(ok(live.http.get("/v1/flags/payload"))["payload"])
        assert (payload["version"], payload["features"]) == (0, {})
        for path in ("/v1/flags/a", "/v1/flags/a/why?unit=ada"):
            assert live.http.get(path).json()["code"] == "not_found"
        killed = live.http.post("/v1/flags/a/kill", json={"reason": "x"})
        assert killed.json()["code"] == "not_found"


def test_the_same_values_as_local_evaluation_and_each_exposure_once(shop: Live) -> None:
    payload = json.loads(ok(shop.http.get("/v1/flags/payload"))["payload"])
    arms: dict[str, str] = {}
    for number in range(40):
        user, attributes = f"u-{number}", {"country": "CH" if number % 2 else "DE"}
        for _ in range(2):
            body = {"user_id": user, "attributes": attributes}
            answer = ok(shop.http.post("/v1/assign", json=body))
        assert (answer["version"], answer["verified"], answer["token"]) == (1, True, None)
        assert answer["flags"].keys() == {"new-cart", "banner", "checkout", "结账"}
        for key, flag in answer["flags"].items():
            local = evaluate(payload, key, {"id": user, "user_id": user, **attributes})
            assert (flag["value"], flag["arm"]) == (local.value, local.arm)
        arms[user] = answer["flags"]["checkout"]["arm"]
    ok(shop.http.post("/v1/assign", json={"user_id": "looked", "log": False}))
    ok(shop.http.post("/v1/assign", json={"user_id": "other", "flags": ["banner"]}))
    ok(shop.http.post("/v1/assign", json={"attributes": {"id": "forged", "user_id": "forged"}}))
    found = exposures(shop)
    assert {it.unit: it.arm for it in found} == arms
    assert len(found) == 40
    assert all(it.verified and it.version == 1 and it.experiment == EXPERIMENT for it in found)


def test_a_unit_that_withdrew_measurement_gets_defaults(shop: Live) -> None:
    sides = {
        f"u-{n}": shop.http.post("/v1/assign", json={"user_id": f"u-{n}", "log": False})
        for n in range(20)
    }
    short = [user for user, it in sides.items() if it.json()["flags"]["checkout"]["arm"] == "short"]
    for user in short:
        ok(shop.http.put(f"/v1/users/{user}/consent", json={"purposes": {"measurement": False}}))
    for user in short:
        answer = ok(
            shop.http.post("/v1/assign", json={"user_id": user, "attributes": {"country": "CH"}})
        )
        assert (answer["consented"], answer["verified"]) == (False, False)
        assert answer["flags"]["checkout"]["value"] == "three pages"
        assert answer["flags"]["结账"]["source"] == "default", "no share of the users either"
        assert answer["flags"]["new-cart"]["value"] is True, "targeting by attributes goes on"
        why = ok(shop.http.get("/v1/flags/checkout/why", params={"unit": user}))
        assert (why["consented"], why["result"]["value"]) == (False, "three pages")
    refused = {"user_id": "u-99", "context": {"consent": "personalisation"}}
    assert not ok(shop.http.post("/v1/assign", json=refused))["consented"]
    signal = shop.http.post("/v1/assign", json={"user_id": "u-98"}, headers={"sec-gpc": "1"})
    assert "consented" in ok(signal)
    assert {it.unit for it in exposures(shop)} <= {"u-98"}


def test_a_page_gets_the_public_form_and_a_token(shop: Live, page: httpx.Client) -> None:
    public = ok(page.get("/v1/flags/payload"))["payload"]
    assert "ada@shop.example" not in public
    assert "ada@shop.example" in ok(shop.http.get("/v1/flags/payload"))["payload"]
    assert "ada@shop.example" not in page.get("/v1/flags/payload").text
    named = page.post("/v1/assign", json={"user_id": "ada"})
    assert (named.status_code, named.json()["field"]) == (403, "$.user_id")
    first = ok(page.post("/v1/assign", json={"device_id": "d-1"}))
    again = ok(page.post("/v1/assign", json={"device_id": "d-1", "token": first["token"]}))
    assert first["verified"] and again["token"] == first["token"]
    renewed = ok(page.post("/v1/flags/token", json={"device_id": "d-1", "token": first["token"]}))
    assert renewed["token"] == first["token"]
    for path in ("/v1/flags", "/v1/flags/banner", "/v1/flags/banner/why?unit=device:d-1"):
        assert page.get(path).status_code == 403
    assert page.post("/v1/flags", json={"definitions": ""}).status_code == 403
    asked = page.options(
        "/v1/flags/payload",
        headers={
            "access-control-request-method": "GET",
            "access-control-request-headers": "if-none-match",
        },
    )
    assert "if-none-match" in asked.headers["access-control-allow-headers"]


def test_a_payload_is_sent_once(shop: Live, page: httpx.Client) -> None:
    for client in (shop.http, page):
        first = client.get("/v1/flags/payload")
        tag = first.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}'):
            again = client.get("/v1/flags/payload", headers={"if-none-match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert client.get("/v1/flags/payload", headers={"if-none-match": '"o"'}).status_code == 200
        assert first.headers.get_list("cache-control") == ["private, no-cache"]
    ok(shop.http.post("/v1/flags/banner/kill", json={"reason": "wrong text"}))
    changed = page.get("/v1/flags/payload", headers={"if-none-match": tag})
    assert (changed.status_code, json.loads(changed.json()["payload"])["version"]) == (200, 2)


def test_a_stream_tells_each_version(shop: Live, page: httpx.Client) -> None:
    key = page.headers["x-api-key"]
    with httpx.Client(base_url=shop.url, timeout=60) as events:
        stream = events.stream("GET", f"/v1/flags/stream?key={key}", headers={"origin": SHOP})
        with stream as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            lines = answer.iter_lines()
            told = [next(lines) for _ in range(2)]
            assert told == ["event: version", 'data: {"version":1}']
            ok(shop.http.post("/v1/flags/banner/kill", json={"reason": "wrong text"}))
            assert [next(lines) for _ in range(3)][-1] == 'data: {"version":2}'
    wait_until(lambda: shop.platform.flags.streams._open.total() == 0)


def test_streams_are_bounded(shop: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tactful.flags.streams.MOST_STREAMS", 1)
    with shop.http.stream("GET", "/v1/flags/stream") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: version"
        with httpx.Client(base_url=shop.url, headers=shop.http.headers) as other:
            refused = other.get("/v1/flags/stream")
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")


def test_forged_devices_decide_nothing(shop: Live, page: httpx.Client) -> None:
    """640 devices that one browser key makes up claim an arm of their choice."""
    payload = json.loads(ok(page.get("/v1/flags/payload"))["payload"])

    def arm_of(device: str) -> str | None:
        return evaluate(payload, "checkout", {"id": device, "device_id": device}).arm

    chosen = [f"f-{n}" for n in range(2_000) if arm_of(f"f-{n}") == "short"][:640]
    tokens = {}
    for device in chosen[:100]:
        answer = page.post("/v1/flags/token", json={"device_id": device})
        if answer.status_code == 200:
            tokens[device] = answer.json()["token"]
        else:
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
            assert answer.headers["retry-after"]
    assert len(tokens) == 30

    def claim(device: str, **said: Any) -> dict[str, Any]:
        said = {"experiment": EXPERIMENT, "arm": "short", "flag": "checkout", "version": 1} | said
        at = {"type": "exposure", "timestamp": now_ms()}
        return {**at, "device_id": device, "properties": said}

    stolen = next(iter(tokens.values()))
    batches = [
        [claim(device) for device in chosen],
        [claim(device, token=stolen) for device in chosen[100:]],
        [claim(device, token=token, arm="long") for device, token in tokens.items()],
        [claim(device, token=token) for device, token in tokens.items()],
        [claim(device, token=token) for device, token in tokens.items()],
    ]
    for batch in batches:
        assert ok(page.post("/v1/events", json=batch))["rejected"] == []
    reserved = {**claim("f-0"), "event_id": "exposure:0123"}
    assert ok(page.post("/v1/events", json=[reserved]))["rejected"][0]["code"] == "forbidden"
    doubts = shop.platform.flags.doubts
    assert doubts == Counter({"no token": 640 + 540, "another arm": 30})
    # Beyond the limit an answer comes, but no token and no exposure.
    answer = ok(page.post("/v1/assign", json={"device_id": "d-late"}))
    assert (answer["verified"], answer["token"]) == (False, None)
    assert answer["flags"]["checkout"]["arm"] in ("long", "short")
    found = exposures(shop)
    assert {it.unit for it in found if it.verified} == {f"device:{device}" for device in tokens}
    assert len([it for it in found if it.verified]) == 30, "repeated claims count once"
    assert len([it for it in found if not it.verified]) == 640 + 540 + 30


def test_a_page_cannot_choose_its_arm_by_an_attribute(shop: Live, page: httpx.Client) -> None:
    """Only a server knows the company of a user; a page could try names until it has its arm."""
    rule = "[{experiment: {key: team-1, unit: company, arms: [off, on]}}]"
    text = f"{FLAGS}  team: {{default: off, rules: {rule}}}\n"
    ok(shop.http.post("/v1/flags", json={"definitions": text}))
    arms = set()
    for number in range(10):
        attributes = {"company": f"c-{number}"}
        answer = ok(page.post("/v1/assign", json={"device_id": "d-1", "attributes": attributes}))
        arms.add(answer["flags"]["team"]["arm"])
    assert arms == {"off", "on"}
    ok(shop.http.post("/v1/assign", json={"user_id": "ada", "attributes": {"company": "c-1"}}))
    units = [(it.experiment, it.unit) for it in exposures(shop)]
    assert [unit for experiment, unit in units if experiment == "team-1"] == ["ada"]
    assert (EXPERIMENT, "device:d-1") in units


def test_a_server_needs_no_token_but_the_right_arm(shop: Live) -> None:
    key = {"x-api-key": shop.create_key("ingest")}
    payload = json.loads(ok(shop.http.get("/v1/flags/payload"))["payload"])
    users = [f"u-{n}" for n in range(30)]
    said = {"experiment": EXPERIMENT, "arm": "short", "flag": "checkout", "version": 1}
    at = {"type": "exposure", "timestamp": now_ms()}
    batch = [{**at, "user_id": user, "properties": said} for user in users]
    ok(shop.http.post("/v1/events", json=batch, headers=key))
    short = {u for u in users if evaluate(payload, "checkout", {"id": u}).arm == "short"}
    found = exposures(shop)
    assert {it.unit for it in found if it.verified} == short
    assert len(found) == 30


def test_a_sticky_arm_outlives_a_smaller_coverage_and_a_restart(tmp_path: Path) -> None:
    text = """
flags:
  form:
    default: off
    rules: [{experiment: {key: form-1, arms: [off, on], sticky: true, coverage: COVERAGE}}]
"""

    def arms(live: Live, coverage: str) -> dict[str, str | None]:
        ok(live.http.post("/v1/flags", json={"definitions": text.replace("COVERAGE", coverage)}))
        found = {}
        for user in (f"u-{n}" for n in range(12)):
            answer = ok(live.http.post("/v1/assign", json={"user_id": user}))
            found[user] = answer["flags"]["form"]["arm"]
        return found

    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        before = arms(live, "0.7")
        assert {*before.values()} == {"on", "off", None}
        assert arms(live, "0.0") == before
        why = ok(live.http.get("/v1/flags/form/why", params={"unit": "u-0"}))
        assert why["result"]["arm"] == before["u-0"]
        exported = ok(live.http.get("/v1/users/u-0/export"))
        kept = {it["arm"] for it in exported["kept_arms"]}
        assert kept == {before["u-0"]} - {None}
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        assert arms(live, "0.0") == before


def test_states_and_history_are_read_page_by_page(shop: Live) -> None:
    ok(shop.http.post("/v1/flags/结账/kill", json={"reason": "重复扣款"}))
    first = ok(shop.http.get("/v1/flags", params={"limit": 3}))
    rest = ok(shop.http.get("/v1/flags", params={"cursor": first["next_cursor"]}))
    flags = [*first["flags"], *rest["flags"]]
    assert [it["key"] for it in flags] == ["banner", "checkout", "new-cart", "结账"]
    assert [it["state"] for it in flags] == ["on", "on", "on", "killed"]
    details = ok(shop.http.get("/v1/flags/结账"))
    assert details["killed"]["reason"] == "重复扣款"
    assert [(it["version"], it["change"]) for it in details["history"]] == [
        (2, "killed"),
        (1, "added"),
    ]
    assert details["history"][0]["by"].startswith("key ")
    revived = ok(shop.http.post("/v1/flags/结账/revive", json={"reason": "修好了"}))
    assert (revived["killed"], revived["flag"]["state"]) == (None, "on")
    analyst = {"x-api-key": shop.create_key("analyst")}
    assert "key " not in shop.http.get("/v1/flags", headers=analyst).text
    assert shop.http.get("/v1/flags/banner", headers=analyst).status_code == 403
    assert shop.http.post("/v1/flags/banner/kill", json={"reason": ""}).status_code == 422


def test_a_look_at_a_person_is_recorded(shop: Live) -> None:
    params = {"unit": "ada", "attributes": '{"country": "CH"}'}
    why = ok(shop.http.get("/v1/flags/new-cart/why", params=params))
    assert why["result"]["value"] is True
    assert why["steps"] == [{"rule": "rule-1", "applies": True, "why": "applies"}]
    why = ok(shop.http.get("/v1/flags/new-cart/why", params={"unit": "ada"}))
    assert why["steps"][0]["why"] == 'the condition does not hold: country is one of "CH", "AT"'
    for wrong in ("[]", "{", "\\"):
        bad = shop.http.get("/v1/flags/new-cart/why", params={"unit": "a", "attributes": wrong})
        assert bad.json()["code"] == "bad_query"
    accesses = ok(shop.http.get("/v1/users/ada/accesses"))["accesses"]
    assert [it["action"] for it in accesses] == ["flag", "flag"]


def test_a_wrong_file_is_refused_whole(shop: Live) -> None:
    wrong = FLAGS.replace("share: 0.5", "share: 5")
    refused = shop.http.post("/v1/flags", json={"definitions": wrong, "name": "shop.yaml"})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
    assert refused.json()["detail"].startswith("shop.yaml:")
    assert ok(shop.http.get("/v1/flags"))["version"] == 1


@pytest.mark.slow
def test_worker_processes_forward_and_hold_streams(tmp_path: Path) -> None:
    with Live(Platform.open(small_settings(tmp_path), build), workers=1) as live:
        ok(live.http.post("/v1/flags", json={"definitions": FLAGS}))
        answer = ok(live.http.post("/v1/assign", json={"user_id": "ada"}))
        assert answer["flags"]["checkout"]["arm"] in ("long", "short")
        first = live.http.get("/v1/flags/payload")
        again = live.http.get("/v1/flags/payload", headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 304
        events = httpx.Client(base_url=live.url, headers=live.http.headers, timeout=60)
        with events, events.stream("GET", "/v1/flags/stream") as stream:
            lines = stream.iter_lines()
            assert [next(lines) for _ in range(2)][-1] == 'data: {"version":1}'
            ok(live.http.post("/v1/flags/banner/kill", json={"reason": "wrong text"}))
            assert [next(lines) for _ in range(3)][-1] == 'data: {"version":2}'

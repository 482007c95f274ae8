"""Every look at a person is in the audit trail, with who looked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tests.platform.support import Live, view


@pytest.fixture
def workers() -> int:
    """No worker processes: they forward these requests, as `test_oidc` checks."""
    return 0


def entries(live: Live, key: str, **query: Any) -> list[dict[str, Any]]:
    answer = live.http.get("/v1/audit", params=query, headers={"x-api-key": key})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["entries"]
    return found


def ok(answer: httpx.Response) -> httpx.Response:
    assert answer.is_success, answer.text
    return answer


def test_every_look_names_who_looked(locked: Live) -> None:
    admin, analyst = locked.create_key("admin"), locked.create_key("analyst")
    headers = {"x-api-key": admin}
    http = locked.http
    http.headers.update(headers)
    body = {"item_id": "sku-1", "title": "Teapot", "category": "kitchen"}
    ok(http.put("/v1/items", json=body))
    position = ok(http.post("/v1/events", json=view(1, "zoe"))).json()["position"]
    request = {"user_id": "zoe", "after": position}
    plain = ok(http.post("/v1/recommend", json=request)).json()
    assert entries(locked, admin, action="person") == [], "a plain recommendation shows no person"
    ok(http.get("/v1/users/zoe/features"))
    ok(http.get("/v1/users/zoe/consent"))
    ok(http.get(f"/v1/explain/{plain['recommendation_id']}"))
    ok(http.post("/v1/recommend", json={**request, "explain": True}))
    batch = {"requests": [{"user_id": "zoe", "explain": True}, {"user_id": "bob"}]}
    ok(http.post("/v1/recommend/batch", json=batch))
    ok(http.get("/v1/users/zoe/export"))
    seen = entries(locked, admin, action="person")
    verbs = ["export", "explain", "explain", "explain", "consent", "features"]
    assert [entry["action"] for entry in seen] == [f"person.{verb}" for verb in verbs]
    assert {entry["actor"] for entry in seen} == {f"key {admin.split('_')[1]}"}
    assert len({entry["target"] for entry in seen}) == 1
    assert "zoe" not in str(entries(locked, admin)), "users are keyed hashes"
    told = ok(http.get("/v1/users/zoe/accesses")).json()["accesses"]
    assert [access["action"] for access in told] == verbs
    refused = http.get("/v1/audit", headers={"x-api-key": analyst})
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")


def test_a_test_message_of_alerts_names_who_sent_it(
    locked: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, alerts = locked.create_key("admin"), locked.platform.alerts
    monkeypatch.setattr(alerts, "routes", [SimpleNamespace(name="shift")])
    monkeypatch.setattr(alerts, "test", lambda route: {"shift/1 slack": ""})
    ok(locked.http.post("/v1/alerts/test", json={"route": "shift"}, headers={"x-api-key": admin}))
    (entry,) = entries(locked, admin, action="alert")
    assert (entry["action"], entry["target"]) == ("alert.test", "shift")
    assert entry["actor"] == f"key {admin.split('_')[1]}"


def test_the_trail_is_read_page_by_page(locked: Live) -> None:
    admin = locked.create_key("admin")
    for number in range(3):
        locked.platform.audit.record_change("ann@shop", "alert.edit", f"rule {number}")
    first = locked.http.get("/v1/audit", params={"limit": 2}, headers={"x-api-key": admin}).json()
    cursor = first["next_cursor"]
    rest = entries(locked, admin, cursor=cursor, limit=1000)
    assert [entry["target"] for entry in (*first["entries"], *rest)][:3] == [
        *("rule 2", "rule 1", "rule 0")
    ]
    assert [entry["target"] for entry in entries(locked, admin, actor="ann@shop")] == [
        *("rule 2", "rule 1", "rule 0")
    ]
    wrong = locked.http.get("/v1/audit", params={"cursor": "W10"}, headers={"x-api-key": admin})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_query")


def test_nobody_looks_while_the_trail_cannot_be_written(locked: Live) -> None:
    locked.http.headers["x-api-key"] = locked.create_key("admin")
    ok(locked.http.post("/v1/events", json=view(1, "zoe")))
    metadata = locked.platform.resources.installation.metadata
    with metadata._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE person_accesses RENAME TO hidden")
    for path in ("/v1/users/zoe/features", "/v1/users/zoe/consent", "/v1/users/zoe/export"):
        answer = locked.http.get(path)
        assert answer.status_code == 503, answer.text
        assert "zoe" not in answer.text


def test_what_happened_to_a_person_is_shown_and_recorded(locked: Live) -> None:
    admin = locked.create_key("admin")
    http = locked.http
    http.headers["x-api-key"] = admin
    for number in range(3):
        ok(http.post("/v1/events", json=view(number, "zoe", device_id="phone")))
    body = {"user_id": "zoe", "after": ok(http.post("/v1/events", json=view(9, "bob"))).json()}
    body["after"] = body["after"]["position"]
    given = ok(http.post("/v1/recommend", json=body)).json()["recommendation_id"]
    click = view(4, "zoe", type="click", recommendation_id=given)
    ok(http.post("/v1/events", json=click))
    first = ok(http.get("/v1/users/zoe/timeline", params={"limit": 3})).json()
    rest = http.get(
        "/v1/users/zoe/timeline", params={"limit": 3, "cursor": first["next_cursor"]}
    ).json()
    assert len(first["events"]) == 3 and rest["next_cursor"] is None
    told = [event["event_id"] for page in (first, rest) for event in page["events"]]
    assert {*told} == {"zoe-0", "zoe-1", "zoe-2", "zoe-4"}
    (device,) = ok(http.get("/v1/users/zoe/devices")).json()["devices"]
    assert (device["device_id"], device["events"]) == ("phone", 3)
    (seen,) = ok(http.get("/v1/users/zoe/recommendations")).json()["recommendations"]
    assert (seen["recommendation_id"], seen["answered"]) == (given, ["click"])
    actions = [entry["action"] for entry in entries(locked, admin, action="person")]
    assert actions == [
        "person.recommendations",
        "person.devices",
        "person.timeline",
        "person.timeline",
    ]
    ok(http.delete("/v1/users/zoe"))
    for part in ("timeline", "devices", "recommendations"):
        assert http.get(f"/v1/users/zoe/{part}").status_code == 404
    assert http.get("/v1/users/bob/timeline", params={"cursor": "x"}).json()["code"] == "bad_query"


def test_a_decision_of_an_operator_is_named_and_one_of_the_shop_is_the_users_own(
    locked: Live,
) -> None:
    admin, shop = locked.create_key("admin"), locked.create_key("ingest")
    body = {"purposes": {"marketing": False}, "source": "letter"}
    for key in (shop, admin):
        ok(locked.http.put("/v1/users/zoe/consent", json=body, headers={"x-api-key": key}))
    (entry,) = entries(locked, admin, action="person")
    assert (entry["action"], entry["actor"]) == ("person.decide", f"key {admin.split('_')[1]}")

"""Bandits over HTTP: decisions, rewards, consent, erasure, changes by people."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import httpx
import pytest
from tests.platform.bandits.shop import BANNER, HOUR
from tests.platform.support import Live, build, logged, now_ms, small_settings, wait_until

from tactful.config.recommendation import BanditSettings
from tactful.errors import ConfigError
from tactful.experiments.tally import Tally
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event, encode_entry

KEY = "首页横幅"
CHINESE: dict[str, Any] = {
    **BANNER,
    "key": KEY,
    "arms": [{"name": "冬", "value": {"图": 1}}, {"name": "春", "value": None}],
    "state": "live",
    "min_share": 0.1,
}


def _client(live: Live) -> httpx.Client:
    return httpx.Client(base_url=live.url, timeout=30)


def _decide(client: httpx.Client, key: str, **request: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/bandits/{quote(key)}/decide", json=request)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _reward(client: httpx.Client, user: str, decision_id: str | None, number: int) -> None:
    properties = {} if decision_id is None else {"decision_id": decision_id}
    event: dict[str, Any] = {
        "event_id": f"r{number}",
        "type": "click",
        "user_id": user,
        "timestamp": now_ms(),
    }
    event["properties"] = properties
    answer = client.post("/v1/events", json=event)
    assert answer.json()["accepted"] + answer.json()["duplicates"] == 1, answer.text


def _later(live: Live) -> None:
    """Let the learner believe that the time for rewards is over."""
    live.platform.bandits.learner._clock = lambda: now_ms() + 9 * HOUR


def _learnt(live: Live, key: str) -> list[float]:
    """Return successes by arm."""
    policy: Any = live.platform.bandits.learner._learning[key].policy
    return [round(value, 3) for value in (policy.parameters[0] - 1).tolist()]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bandit_lives(live: Live, workers: int) -> None:
    with _client(live) as client:
        assert client.post("/v1/bandits", json=CHINESE).status_code == 201
        made = [_decide(client, KEY, user_id=f"u{n}") for n in range(30)]
        assert {it["arm"] for it in made} <= {"冬", "春"}
        assert all(it["serves"] and 0.1 <= it["propensity"] <= 0.9 for it in made)
        assert len({it["decision_id"] for it in made}) == 30
        for number, it in enumerate(made):
            if it["arm"] == "冬":
                assert it["value"] == {"图": 1}
                for _ in range(2):  # sent twice
                    _reward(client, f"u{number}", it["decision_id"], number)
        winter = sum(it["arm"] == "冬" for it in made)
        assert _learnt(live, KEY) == [0, 0], "nothing is learnt before the window is over"
        _later(live)
        wait_until(lambda: _learnt(live, KEY) == [winter, 0], 20)
        wait_until(lambda: live.platform.bandits.learner.learnt(KEY).waiting == 0, 20)  # type: ignore[union-attr]

        again = [_decide(client, KEY, user_id=f"v{n}")["arm"] for n in range(40)]
        assert again.count("冬") > 25 or winter < 5
        shown = client.get(f"/v1/bandits/{quote(KEY)}").json()
        assert shown["bandit"]["state"] == "live"
        assert shown["outcomes"]["decisions"] == 0
        assert 30 <= shown["outcomes"]["waiting"] <= 70
        assert [it["key"] for it in client.get("/v1/bandits").json()["bandits"]] == [KEY]

        stopped = client.post(f"/v1/bandits/{quote(KEY)}/stop", json={"reason": "过季"})
        assert stopped.json()["bandit"]["state"] == "off"
        off = _decide(client, KEY, user_id="u1")
        assert (off["arm"], off["decision_id"], off["propensity"]) == ("冬", None, None)
        entries = client.get("/v1/audit?action=bandit").json()["entries"]
        assert [(it["action"], it["target"]) for it in entries] == [
            ("bandit.stop", KEY),
            ("bandit.apply", KEY),
        ]
        assert entries[0]["detail"] == "live → off: 过季"


def test_nobody_and_unpermitted_users_get_the_default_arm_without_a_trace(live: Live) -> None:
    with _client(live) as client:
        client.post("/v1/bandits", json=CHINESE)
        client.put(
            "/v1/users/no/consent",
            json={"purposes": {"personalisation": False}, "source": "a test"},
        )
        for request in (
            {},
            {"user_id": "no"},
            {"user_id": "ada", "context": {"consent": ""}},
        ):
            found = _decide(client, KEY, **request)
            assert (found["arm"], found["decision_id"]) == ("冬", None)
            assert found["reason"]
        with_signal = client.post(
            f"/v1/bandits/{quote(KEY)}/decide", json={"user_id": "ada"}, headers={"Sec-GPC": "1"}
        )
        assert with_signal.json()["decision_id"] is None
    live.stop()
    assert not [it for it in logged(live.platform.settings.storage.data) if _is_decision(it)]


def _is_decision(entry: object) -> bool:
    return isinstance(entry, Event) and entry.type == "x.bandit"


def test_what_is_wrong_is_refused_and_changes_nothing(live: Live) -> None:
    with _client(live) as client:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"min_share": 0.4}, "min_share"),
            ({"default": "d"}, "default"),
            ({"arms": [{"name": "a", "value": 1}]}, "arms"),
            ({"features": [{"user": "nothing"}], "policy": "linucb"}, "views"),
            ({"features": [{"context": "page"}]}, "linear-thompson"),
            ({"reward": {"event": "click", "filter": {"$near": 3}}}, "filter"),
            ({"reward": {"event": "click", "value": "price"}}, "value"),
            ({"key": "a/b"}, "key"),
            ({"reward": {"event": "x.开始匹配"}}, "no event has the type 'x.开始匹配'"),
            ({"reward": {"event": "clicks"}}, "no event has the type 'clicks'"),
            ({"reward": {"event": "click", "within_hours": 6}}, "at least 8 periods"),
            ({"shares": 1}, "shares"),
        ]
        for changes, words in wrong:
            answer = client.post("/v1/bandits", json={**BANNER, **changes})
            assert answer.status_code in (400, 422), changes
            assert words in answer.text, (changes, answer.text)
        assert client.get("/v1/bandits").json()["bandits"] == []
        assert client.post("/v1/bandits/none/decide", json={}).status_code == 404
        assert client.post("/v1/bandits/none/stop", json={}).status_code == 404
        forged = {"event_id": "bandit:1", "type": "x.bandit", "user_id": "eve"}
        assert client.post("/v1/events", json=forged).json()["accepted"] == 0


def test_an_older_look_at_the_database_does_not_undo_a_change(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that read the bandits before a change followed them after it."""
    service = live.platform.bandits
    read, held, free = service.store.all, threading.Event(), threading.Event()

    def slow() -> Any:
        found = read()
        if threading.current_thread().name == "older":
            held.set()
            free.wait(30)
        return found

    monkeypatch.setattr(service.store, "all", slow)
    older = threading.Thread(target=service.learn, name="older")
    older.start()
    assert held.wait(30)
    with _client(live) as client:
        sender = threading.Thread(target=lambda: client.post("/v1/bandits", json=BANNER))
        sender.start()
        wait_until(lambda: service.store.find("banner") is not None, 30)
        free.set()
        older.join()
        sender.join()
        assert _decide(client, "banner", user_id="ada")["arm"] == "a"
        assert service.learner.learnt("banner") is not None


def test_one_bandit_shapes_recommendations(live: Live) -> None:
    arms = [{"name": "as-is", "parameters": {}}, {"name": "new", "parameters": {"diversity": {}}}]
    with _client(live) as client:
        first = {**BANNER, "key": "first", "arms": arms}
        assert client.post("/v1/bandits", json=first).status_code == 201
        answer = client.post("/v1/bandits", json={**first, "key": "second"})
        assert answer.status_code == 422
        assert "'first' shapes recommendations already" in answer.text
        assert client.post("/v1/bandits/first/decide", json={}).status_code == 422
        assert client.post("/v1/bandits/first/stop", json={}).status_code == 200
        assert client.post("/v1/bandits", json={**first, "key": "second"}).status_code == 201


def test_analysts_see_no_number(locked: Live) -> None:
    admin, analyst = locked.create_key("admin"), locked.create_key("analyst")
    with _client(locked) as client:
        as_admin = {"Authorization": f"Bearer {admin}"}
        as_analyst = {"Authorization": f"Bearer {analyst}"}
        client.post("/v1/bandits", json=BANNER, headers=as_admin)
        for path in ("/v1/bandits", "/v1/bandits/banner"):
            assert client.get(path, headers=as_analyst).status_code == 200
        shown = client.get("/v1/bandits/banner", headers=as_analyst).json()
        assert shown["outcomes"] is None and shown["bandit"]["changed_by"] == ""
        (listed,) = client.get("/v1/bandits", headers=as_analyst).json()["bandits"]
        assert listed["changed_by"] == "", "the author is a person"
        assert client.get("/v1/bandits/banner", headers=as_admin).json()["outcomes"] is not None
        for path in ("/v1/bandits", "/v1/bandits/banner/stop", "/v1/bandits/banner/decide"):
            assert client.post(path, json={}, headers=as_analyst).status_code == 403


@pytest.fixture
def erasing_often() -> Iterator[None]:
    """A server that looks for erasures five times a second."""
    with mock.patch("tactful.server.background._ERASE_S", 0.2):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("erasing_often")
def test_an_erased_user_is_unlearnt_and_in_no_file(live: Live) -> None:
    with _client(live) as client:
        client.post("/v1/bandits", json=CHINESE)
        arms = {}
        for user in ("ada-1815", "bea"):
            found = _decide(client, KEY, user_id=user)
            arms[user] = found["arm"]
            _reward(client, user, found["decision_id"], len(arms))
        _later(live)
        wait_until(lambda: sum(_learnt(live, KEY)) == 2, 20)
        live.platform.bandits.learner.save()
        receipt = client.delete("/v1/users/ada-1815").json()["receipt"]
        wait_until(lambda: client.get(f"/v1/erasures/{receipt}").json()["state"] == "done")
        assert _learnt(live, KEY) == [float(arm == arms["bea"]) for arm in ("冬", "春")]
    live.stop()
    data = live.platform.settings.storage.data
    files = [path for path in data.rglob("*") if path.is_file()]
    assert not any(b"ada-1815" in path.read_bytes() for path in files)


def test_the_file_is_applied_at_the_start_and_keeps_states(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    file = tmp_path / "bandits.yaml"
    settings = replace(settings, bandits=BanditSettings(file))
    text = """
- key: banner
  arms: [{name: a, value: 1}, {name: b, value: 2}]
  reward: {event: click}
"""
    file.write_text(text, "utf-8")
    with Live(Platform.open(settings, build)) as live, _client(live) as client:
        assert client.get("/v1/bandits/banner").json()["bandit"]["state"] == "shadow"
        client.post("/v1/bandits/banner/stop", json={})
    with Live(Platform.open(settings, build)) as live, _client(live) as client:
        assert client.get("/v1/bandits/banner").json()["bandit"]["state"] == "off"
    file.write_text(text.replace("name: b", "nane: b"), "utf-8")
    with pytest.raises(ConfigError, match=r"bandits\.yaml:3: bandit 'banner': arms\[1\]"):
        Platform.open(settings, build)


def test_a_rollout_gives_the_bandit_to_a_share_and_measures_its_decisions(live: Live) -> None:
    """A bandit in shadow serves the users of the change, and nobody of the control."""
    plan = {
        "key": "promote",
        "change": {"bandit": "banner"},
        "guardrails": [{"metric": "takers", "minimum_units": 20}],
        "stages": [0.5, 1.0],
        "start": True,
        "accept_low_power": "a test",
    }
    with _client(live) as client:
        client.post("/v1/bandits", json={**BANNER, "min_share": 1 / 3})
        both = {**plan, "change": {"bandit": "banner", "quotas": {}}}
        assert client.post("/v1/experiments", json=both).status_code == 422
        unknown = client.post("/v1/experiments", json={**plan, "change": {"bandit": "bannner"}})
        assert "there is no bandit 'bannner'" in unknown.text
        assert client.post("/v1/experiments", json=plan).status_code == 201
        service = live.platform.bandits
        wait_until(lambda: service.rolled_out("banner") == ["promote"], 20)
        made = {f"u{n}": _decide(client, "banner", user_id=f"u{n}") for n in range(60)}
        serving = {user for user, it in made.items() if it["serves"]}
        assert 15 < len(serving) < 45
        assert {made[user]["arm"] for user in made.keys() - serving} == {"a"}
        assert {made[user]["arm"] for user in serving} > {"a"}
        again = {user for user in made if _decide(client, "banner", user_id=user)["serves"]}
        assert again == serving
        shown = client.get("/v1/bandits/banner").json()
        assert shown["bandit"]["rollouts"] == ["promote"]
    live.stop()
    decisions = [it for it in logged(live.platform.settings.storage.data) if _is_decision(it)]
    assert len(decisions) == 120
    tally = Tally("promote", since=0, types=("click",), lasts=60_000)
    took = {user for user in made if user.endswith("7")}
    clicks = [
        Event(
            event_id=f"c{number}",
            type="click",
            timestamp=now_ms(),
            user_id=user,
            properties={"decision_id": it["decision_id"]},
        )
        for number, (user, it) in enumerate(made.items())
        if user in took
    ]
    tally.read(enumerate(encode_entry(event) for event in (*decisions, *clicks)))
    tally.close(now_ms() + 100_000)
    arms = tally.outcomes().arms
    assert {*arms["change"]} == serving
    counted = {user for people in arms.values() for user, seen in people.items() if seen.took}
    assert counted == took


def test_an_arm_is_removed_and_another_added_while_live(live: Live) -> None:
    with _client(live) as client:
        client.post("/v1/bandits", json={**BANNER, "state": "live", "min_share": 0.3})
        made = [_decide(client, "banner", user_id=f"u{n}") for n in range(40)]
        assert {it["arm"] for it in made} == {"a", "b", "c"}
        arms = [{"name": name, "value": name} for name in ("c", "d")]
        changed = {**BANNER, "state": "live", "min_share": 0.3, "arms": arms}
        assert client.post("/v1/bandits", json=changed).status_code == 201
        after = [_decide(client, "banner", user_id=f"v{n}") for n in range(40)]
        assert {it["arm"] for it in after} == {"c", "d"}
        assert {it["value"] for it in after} == {"c", "d"}
        _reward(client, "u0", made[0]["decision_id"], 1)
        _later(live)
        kept = sum(it["arm"] == "c" for it in made) + 40
        learner = live.platform.bandits.learner
        wait_until(lambda: learner.learnt("banner").decisions == kept, 20)  # type: ignore[union-attr]

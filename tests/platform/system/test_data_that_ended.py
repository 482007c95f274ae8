"""Recommendations of a shop whose events ended months ago: what is said, and other times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.platform.shop import DAY, entries, make_shop, write_log
from tests.platform.support import SHOP as ORIGIN
from tests.platform.support import Live, logged, small_settings, wait_until

from tactful.cli.main import main
from tactful.config.engine import EngineSettings
from tactful.config.settings import Settings
from tactful.recommend.build import build, open_counts
from tactful.schemas.interactions import is_interaction
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event

SHOP = make_shop(7, people=14, items=40, days=40)
EVENTS = [it for it in entries(SHOP) if isinstance(it, Event)]
LATEST = max(it.timestamp for it in EVENTS if is_interaction(it.type))
UNTIL = time.strftime("%Y-%m-%d %H:%M", time.gmtime(LATEST / 1000))
PERSON = str(SHOP.person[-1])


@pytest.fixture
def shop(tmp_path: Path) -> Settings:
    settings = small_settings(tmp_path)
    write_log(settings.storage.data / "log", entries(SHOP)).close()
    server = replace(settings.server, dev=False, cors_origins=ORIGIN)
    return replace(settings, server=server, engine=EngineSettings(commit_ms=20))


def opened(settings: Settings) -> Platform:
    counts = open_counts(settings)
    return Platform.open(settings, partial(build, **counts.options()), consumers=counts.consumers())


@pytest.fixture
def live(shop: Settings) -> Iterator[Live]:
    with Live(opened(shop)) as live:
        yield live


def ask(live: Live, scope: str, *, status: int = 200, **fields: Any) -> dict[str, Any]:
    headers = {"x-api-key": live.platform.keys.create([scope])[0]}
    answer = live.http.post("/v1/recommend", json={"user_id": PERSON, **fields}, headers=headers)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def shown(live: Live) -> list[Event]:
    """The logged recommendations, once everything is written."""
    wait_until(lambda: not live.platform.recent.waiting)
    return [it for it in logged(live.platform.settings.storage.data)
            if isinstance(it, Event) and it.type == "impression"]  # fmt: skip


def test_an_answer_says_until_when_the_events_reach(live: Live) -> None:
    now = ask(live, "recommend")
    assert f"no event in the 28 days before: events reach until {UNTIL} UTC" in now["fallback"]
    assert '`as_of`: "last"' in now["fallback"]
    last = ask(live, "recommend", as_of="last")
    assert "events reach" not in last["fallback"], "no model is trained"
    exact = ask(live, "admin", timestamp=LATEST + 1)
    assert last["items"] == exact["items"] != now["items"]
    assert len({item["score"] for item in last["items"]}) > len(
        {item["score"] for item in now["items"]}
    )
    # What the server logs itself is no event of the shop.
    wait_until(lambda: len(shown(live)) == 2)
    assert ask(live, "recommend", as_of="last")["items"] == last["items"]


def test_a_month_without_events_is_needed(live: Live) -> None:
    for days, said in ((27, False), (29, True)):
        told = ask(live, "recommend", timestamp=LATEST + days * DAY)["fallback"]
        assert ("events reach" in told) is said, days


def test_the_time_is_known_after_a_restart_and_follows_new_events(shop: Settings) -> None:
    with Live(opened(shop)) as live:
        before = ask(live, "recommend")["fallback"]
        assert "events reach" in before
    with Live(opened(shop)) as live:
        assert ask(live, "recommend")["fallback"] == before
        explained = ask(live, "admin", as_of="last", explain=True)
        assert explained["explanation"]["at"] == LATEST + 1
        new = {"event_id": "n", "type": "view", "user_id": "ada", "item_id": "item-001"}
        headers = {"x-api-key": live.platform.keys.create(["ingest"])[0]}
        sent = live.http.post(
            "/v1/events", json={**new, "timestamp": int(time.time() * 1000)}, headers=headers
        ).json()
        told = ask(live, "recommend", after=sent["position"])["fallback"]
        assert "events reach" not in told


def test_only_a_replay_of_an_administrator_is_logged(live: Live) -> None:
    replay = {"timestamp": LATEST - DAY}
    answers = [
        ask(live, "recommend", **replay),
        ask(live, "recommend", as_of="last"),
        ask(live, "admin", as_of="last"),
    ]
    assert all(len(answer["items"]) for answer in answers)
    explained = ask(live, "admin", as_of="last", explain=True)
    assert explained["explanation"]["at"] == LATEST + 1
    assert shown(live) == []
    answer = ask(live, "admin", **replay)
    wait_until(lambda: bool(shown(live)))
    (impression,) = shown(live)
    assert impression.recommendation_id == answer["recommendation_id"]
    assert impression.timestamp == LATEST - DAY


def test_who_may_choose_the_time(live: Live) -> None:
    later = int(time.time() * 1000) + 30 * DAY
    future = ask(live, "recommend", status=422, timestamp=later)
    assert "future" in future["detail"] and future["field"] == "$.timestamp"
    ask(live, "admin", timestamp=later)
    both = ask(live, "recommend", status=422, timestamp=LATEST, as_of="last")
    assert both["field"] == "$.as_of"
    ask(live, "recommend", status=422, as_of="first")
    for fields in ({"explain": True}, {"force": {"ranking": "heuristic"}}):
        refused = ask(live, "recommend", status=403, timestamp=LATEST, **fields)
        assert "`force` and `explain`" in refused["detail"]
    key = {"x-api-key": live.platform.keys.create(["browser"])[0], "origin": ORIGIN}
    for name, value in (("as_of", "last"), ("timestamp", LATEST)):
        answer = live.http.post("/v1/recommend", json={"device_id": "d", name: value}, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")


@pytest.mark.slow
def test_a_shop_without_events_is_answered_for_now(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    with Live(opened(replace(settings, engine=EngineSettings(commit_ms=20)))) as live:
        live.http.put("/v1/items", json=[{"item_id": "tea"}])
        answer = live.http.post("/v1/recommend", json={"as_of": "last", "count": 1}).json()
        assert "events reach" not in answer["fallback"]


def test_the_command_answers_as_of_the_last_event(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACTFUL_API_KEY", live.platform.keys.create(["recommend"])[0])

    def run(*arguments: str) -> Any:
        words = ["recommend", "--url", live.url, "--user", PERSON, *arguments]
        return CliRunner().invoke(main, words)

    last, exact, now = run("--as-of", "last"), run("--as-of", str(LATEST + 1)), run()
    assert last.stdout == exact.stdout != now.stdout
    assert f"events reach until {UNTIL} UTC" in now.stderr
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(LATEST / 1000 + 1))
    assert run("--as-of", written).exit_code == 0
    wrong = run("--as-of", "yesterday")
    assert wrong.exit_code == 2 and "write last, a time such as" in wrong.stderr

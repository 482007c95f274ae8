"""Dead letters and rules over HTTP."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.platform.support import Live, build, small_settings, view, wait_until

from tactful.config.settings import Settings
from tactful.server.platform import Platform

DEAR = """
- {name: dear, when: {properties.price: {at_least: 100}}, action: dead_letter, reason: too dear}
- {name: odd, event: click, when: {properties.price: {at_most: 0}}, action: drop}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    rules = tmp_path / "rules.yaml"
    rules.write_text(DEAR)
    settings = small_settings(tmp_path)
    engine = dataclasses.replace(settings.engine, rules=rules)
    return dataclasses.replace(settings, engine=engine)


def dear(number: int, user: str = "ada") -> dict[str, Any]:
    return view(number, user, properties={"price": 120.0})


def sent(live: Live, events: list[dict[str, Any]]) -> None:
    position = live.http.post("/v1/events", json=events).json()["position"]
    live.http.post("/v1/recommend", json={"after": position})


def test_letters_are_listed_without_ids_and_sent_again(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        sent(live, [view(0), *(dear(number) for number in range(1, 6))])
        sent(live, [view(9)])
        # Letters are written with the commit that passes them.
        wait_until(lambda: live.platform.backend.dead_letters.end == 5)
        page = live.http.get("/v1/dead-letters", params={"limit": 3}).json()
        assert "ada" not in str([it["event"]["user_id"] for it in page["letters"]])
        assert len({it["event"]["user_id"] for it in page["letters"]}) == 1
        params = {"limit": 3, "cursor": page["next_cursor"], "rule": "dear", "reason": "too dear"}
        rest = live.http.get("/v1/dead-letters", params=params).json()
        found = [it["event"]["event_id"] for it in (*page["letters"], *rest["letters"])]
        assert found == [f"ada-{number}" for number in range(1, 6)]
        assert rest["next_cursor"] is None
        assert live.http.get("/v1/dead-letters", params={"rule": "odd"}).json()["letters"] == []
        told = live.http.get("/v1/rules").json()
        assert (told["events"], told["clean"], told["dead_lettered"]) == (7, 2, 5)
        assert [(it["rule"], it["events"], it["letters"]) for it in told["rules"]] == [
            ("dear", 5, 5),
            ("odd", 0, 0),
        ]
        assert [it.action for it in live.platform.accesses.accesses("*")] == ["letters"] * 3
    settings.engine.rules.write_text(DEAR.replace("100", "500"))
    with Live(Platform.open(settings, build)) as live:
        steps = []
        for _ in range(3):
            told = live.http.post("/v1/dead-letters/redrive", json={"most": 2}).json()
            steps.append((told["accepted"], told["more"]))
        assert steps == [(2, True), (2, True), (1, False)]
        again = live.http.post("/v1/dead-letters/redrive", json={"rules": ["dear"]}).json()
        assert (again["accepted"], again["duplicates"]) == (0, 0)
        restarted = {"rules": ["dear"], "restart": True}
        assert live.http.post("/v1/dead-letters/redrive", json=restarted).json()["duplicates"] == 5
        end = live.http.post("/v1/events", json=[]).json()["position"]
        assert live.views("ada", end) == 5

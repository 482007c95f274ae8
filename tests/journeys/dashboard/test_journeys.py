"""Purposes of readers of the dashboard, from signing in to the effect on the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.journeys.dashboard.conftest import House
from tests.journeys.dashboard.reader import Reader, picture
from tests.journeys.installation import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.service("chromium"), pytest.mark.timeout(400)]

ReadAs = Callable[[str], Reader]


def test_why_something_is_recommended_and_how_two_arms_differ(
    house: House, read_as: ReadAs
) -> None:
    reader = read_as(house.admin)
    reader.go("Try", title="Try a recommendation")
    reader.fill("Id of the person", "visitor-1")
    reader.choose("Answer by", "arm learned")
    reader.choose("Compare with", "arm heuristic")
    reader.press("Recommend")
    reader.wait_for("Proposals of each recall channel alone")
    assert reader.says("cups-") or reader.says("Cups-")
    looked = house.shop.http.get("/v1/users/visitor-1/accesses").json()["accesses"]
    assert "try" in {access["action"] for access in looked}


def test_a_model_is_promoted_and_rolled_back(house: House, read_as: ReadAs) -> None:
    before = house.shop.http.get("/v1/models").json()["champion"]["version"]
    reader = read_as(house.admin)
    reader.go("Models", title="Models")
    reader.fill("Reason of the promotion", "a trial of the journey")
    reader.press("Promote")
    wait_until(lambda: _champion(house) != before)
    reader.wait_for("is the champion")
    reader.fill("Reason of the rollback", "back again")
    reader.press("Roll back")
    wait_until(lambda: _champion(house) == before)
    changes = house.shop.http.get("/v1/models/log").json()["changes"]
    assert {"back again", "a trial of the journey"} <= {change["reason"] for change in changes}


def _champion(house: House) -> str:
    version: str = house.shop.http.get("/v1/models").json()["champion"]["version"]
    return version


def test_an_alert_fires_and_is_silenced(house: House, read_as: ReadAs) -> None:
    rules = house.shop.http.get("/v1/alerts/rules?limit=1000").json()["rules"]
    (rule,) = [each["rule"] for each in rules if each["rule"]["name"] == "model_age"]
    edited = house.shop.http.put("/v1/alerts/rules/model_age", json={**rule, "above": 1e-6})
    assert edited.status_code == 200, edited.text
    wait_until(lambda: "model_age" in _open_alerts(house))
    reader = read_as(house.admin)
    reader.go("Alerts", title="Alerts")
    reader.wait_for("The champion was trained long ago")
    assert not house.shop.http.get("/v1/alerts/silences").json()["silences"]
    reader.press("Silence for an hour")
    wait_until(lambda: bool(house.shop.http.get("/v1/alerts/silences").json()["silences"]))


def _open_alerts(house: House) -> set[str]:
    return {each["rule"] for each in house.shop.http.get("/v1/alerts").json()["alerts"]}


def test_a_person_is_erased(house: House, read_as: ReadAs) -> None:
    reader = read_as(house.admin)
    reader.go("People", title="People")
    reader.fill("Value", "visitor-7")
    reader.press("Find")
    reader.wait_for("Consent")
    assert reader.says("visitor-7")
    reader.fill("Type the id to confirm", "visitor-7")
    reader.press("Erase this person")
    wait_until(lambda: house.shop.http.get("/v1/users/visitor-7/features").status_code == 404)
    reader.wait_for("receipt")


def test_a_file_with_refused_rows_is_imported_and_undone(
    house: House, read_as: ReadAs, tmp_path: Path
) -> None:
    rows = [f"view,2026-03-0{day}T12:00:00Z,guest-{day},tea-{day}" for day in range(1, 6)]
    rows += ["view,2999-01-01T00:00:00Z,guest-9,tea-1"]
    file = tmp_path / "guests.csv"
    file.write_text("\n".join(["type,timestamp,user_id,item_id", *rows]) + "\n")
    reader = read_as(house.admin)
    reader.go("Data", title="Data")
    reader.page.wait_for("!!document.querySelector('input[type=file]')")
    reader.page.upload("input[type=file]", file)
    reader.press("Import this file")
    wait_until(lambda: _imported(house, "guests.csv") == ("done", 5, 1))
    assert _people(house, "guest-3") == 1
    reader.go("Overview")
    reader.go("Data", title="Data")
    reader.press("Show what an undo takes out")
    reader.wait_for("People and devices")
    reader.press("Undo this import")
    wait_until(lambda: _imported(house, "guests.csv")[0] == "undone")
    assert _people(house, "guest-3") == 0


def _imported(house: House, name: str) -> tuple[str, int, int]:
    imports = house.shop.http.get("/v1/imports").json()["imports"]
    (found,) = [each for each in imports if each["name"] == name]
    return found["state"], found["accepted"], found["refused"]


def _people(house: House, person: str) -> int:
    query = {"by": "user_id", "value": person}
    return len(house.shop.http.get("/v1/users", params=query).json()["people"])


def test_a_rollout_is_planned_started_and_stopped(house: House, read_as: ReadAs) -> None:
    reader = read_as(house.admin)
    reader.go("Experiments", title="Experiments")
    reader.fill("Key", "cheaper-first")
    reader.fill("Change (YAML)", "objective: {relevance: 1, price: 0.3}")
    reader.wait_for("with probability")
    reader.fill("Reason to accept the low power", "a trial of the journey")
    reader.press("Define this rollout")
    wait_until(lambda: _rollout(house) is not None)
    for step, state in (("Start", "canary"), ("Roll back", "rolled back")):
        reader.go("Overview")
        reader.go("Rollouts", title="Rollouts")
        reader.press("Move this rollout")
        reader.press(step)
        reader.fill("Reason", f"the journey does {step}")
        reader.press("Move")
        wait_until(partial(_is_in, house, state))


def _is_in(house: House, state: str) -> bool:
    return _rollout(house) == state


def _rollout(house: House) -> str | None:
    found = house.shop.http.get("/v1/experiments").json()["experiments"]
    return next((each["state"] for each in found if each["key"] == "cheaper-first"), None)


def test_an_analyst_finds_released_values_and_no_button(house: House, read_as: ReadAs) -> None:
    reader = read_as(house.analyst)
    reader.go("Statistics", title="Statistics")
    reader.wait_for("Privacy loss")
    for link in reader.pages():
        reader.go(link)
        buttons = reader.page.evaluate(
            "[...document.querySelectorAll('[data-testid=stMain] button')]"
            # Buttons of a group choose what is shown.
            ".filter((it) => !it.closest('[data-testid=stButtonGroup]'))"
            ".map((it) => it.innerText.trim())"
            ".filter((label) => label && !['CSV', 'PNG'].includes(label.split('\\n').pop()))"
        )
        assert set(buttons) == set(), link
        said = reader.page.text()
        assert "visitor-" not in said, link
    assert house.analyst not in json.dumps(reader.page.evaluate("location.href"))


def test_pages_are_accessible_and_pictures_are_kept(
    house: House, read_as: ReadAs, pictures: Path
) -> None:
    reader = read_as(house.admin)
    for link in reader.pages():
        reader.go(link)
        assert reader.serious_findings() == [], link
        picture(reader.page, pictures, link.lower())
    assert [it for it in reader.page.complaints if "_stcore" not in it] == []

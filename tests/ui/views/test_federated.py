"""The page of federated runs in every state: down, refused, empty, for analysts and admins."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui.conftest import Open
from tests.ui.reading import descriptions, words
from tests.ui.server import FakePlatform

PLAN: dict[str, Any] = {
    "epsilon": 2.0,
    "delta": 1e-6,
    "unit": "one device over the whole run",
    "rounds": 500,
    "cohort": 1300,
    "report_goal": 1000,
    "minimum_reports": 667,
}
ROUNDS: list[dict[str, Any]] = [
    {
        "number": number,
        "at": 1772366400000 + number,
        "releases": number,
        "epsilon": 0.2 * number,
        "seconds": 40.0 + number,
        "reason": "too few devices reported" if number == 2 else "",
        "asked": 1300,
        "reports": 975,
    }
    for number in (1, 2, 3)
]
RUN: dict[str, Any] = {
    "id": "3f2a9c0d1e4b5a697887a6b5c4d3e2f1",
    "name": "intent-1",
    "tier": "secret",
    "simulated": False,
    "plan": PLAN,
    "state": "running",
    "reason": "",
    "started_at": 1772366400000,
    "updated_at": 1772366400000,
    "rounds": 3,
    "last": ROUNDS[-1],
}


@pytest.fixture
def fleet(fake: FakePlatform) -> FakePlatform:
    """A server with one run, for an administrator."""
    fake.sign_in_as("admin")
    publish(fake, RUN, ROUNDS)
    return fake


def publish(fake: FakePlatform, run: dict[str, Any], rounds: list[dict[str, Any]]) -> None:
    fake.answer("/v1/federated/runs", {"runs": [run]})
    fake.answer(f"/v1/federated/runs/{run['id']}", {"run": run, "rounds": rounds})


def opened(open_page: Open) -> AppTest:
    page = open_page("federated")
    assert not page.exception, page.exception
    return page


def test_an_administrator_sees_cohort_and_drop_outs(open_page: Open, fleet: FakePlatform) -> None:
    page = opened(open_page)
    said = words(page)
    assert "ε of the plan: 0.600 / 2.000" in said
    assert "Releases: 3 / 500" in said
    assert "Drop-outs of the last round: 25.0 %" in said
    assert "at most 1,300 devices" in said and "one device over the whole run" in said
    assert "tactful federated evaluate" in said
    assert page.dataframe[1].value["Reported"].tolist() == [975, 975, 975]
    assert all(len(it) > 20 for it in descriptions(page))


def test_an_analyst_sees_no_number_of_devices(open_page: Open, fleet: FakePlatform) -> None:
    fleet.sign_in_as("analyst")
    hidden = [it | {"asked": None, "reports": None} for it in ROUNDS]
    publish(fleet, RUN | {"last": hidden[-1]}, hidden)
    page = opened(open_page)
    assert "Drop-outs" not in words(page) and "Void rounds: 1" in words(page)
    assert "Reported" not in page.dataframe[1].value.columns
    assert not page.button


def test_accuracy_and_failures_of_a_simulation(open_page: Open, fleet: FakePlatform) -> None:
    run = RUN | {"simulated": True, "state": "failed", "reason": "the disk is full"}
    publish(fleet, run, [it | {"top1": 0.1 * it["number"]} for it in ROUNDS])
    page = opened(open_page)
    assert "The run failed: the disk is full" in words(page)
    assert "generated shoppers" in words(page)
    assert any("Top-1 accuracy by Round: 3 points" in it for it in descriptions(page))
    publish(fleet, RUN | {"last": None, "rounds": 0}, [])
    assert "No round has ended yet" in words(opened(open_page))


@pytest.mark.slow
def test_empty_down_and_refused(open_page: Open, fleet: FakePlatform) -> None:
    fleet.answer("/v1/federated/runs", {"runs": []})
    assert f"--report {fleet.url}" in words(opened(open_page))
    publish(fleet, RUN, ROUNDS)
    fleet.answer(f"/v1/federated/runs/{RUN['id']}", {"status": 503, "title": "x"}, 503)
    page = opened(open_page)
    assert "cannot be shown" in words(page) and len(page.dataframe) == 1
    fleet.key = "sesame"
    assert "analyst" in words(opened(open_page))
    fleet.url = "http://127.0.0.1:9"
    assert "does not answer" in words(opened(open_page))

"""The page "Alerts" in every state a reader can meet."""

from __future__ import annotations

from typing import Any

import pytest
from tests.ui.conftest import Open
from tests.ui.reading import words
from tests.ui.server import FakePlatform

_ALERT: dict[str, Any] = {
    "id": 17,
    "rule": "engine_lag",
    "labels": {},
    "severity": "critical",
    "state": "open",
    "message": "The engine does not keep up with the log: 61204, above 50000",
    "opened_at": 1_772_366_400_000,
    "runbook": "https://shop.example/alerts/#engine_lag",
    "undelivered": ["shift/1 slack: answered with status 500"],
}
_RULE: dict[str, Any] = {
    "kind": "threshold",
    "name": "engine_lag",
    "summary": "The engine does not keep up with the log",
    "value": {"metric": "tactful_engine_lag"},
    "above": 50000.0,
    "clear": 5000.0,
    "severity": "critical",
}
_SILENCE: dict[str, Any] = {
    "id": 3,
    "rule": "disk",
    "labels": {},
    "begins_at": 1_772_366_400_000,
    "ends_at": 1_772_370_000_000,
    "made_by": "key 1f2e3d4c",
    "reason": "moving",
}


@pytest.fixture
def alerting(fake: FakePlatform) -> FakePlatform:
    """A server with an open alert, a silence and a rule that was edited."""

    def alerts(query: dict[str, str]) -> dict[str, Any]:
        cleared = {**_ALERT, "id": 9, "state": "cleared", "cleared_at": 1_772_366_500_000}
        listed = [_ALERT] if query.get("state") == "open" else [cleared]
        return {"alerts": listed, "open": 1, "evaluated_at": 1_772_366_415_000}

    fake.answer("/v1/alerts", alerts)
    info = {"rule": _RULE, "source": "edited", "changed_by": "key 1f2e3d4c"}
    fake.answer("/v1/alerts/rules", {"rules": [info], "routes": ["shift"]})
    fake.answer("/v1/alerts/silences", {"silences": [_SILENCE]})
    fake.answer("/v1/alerts/17/acknowledge", _ALERT)
    fake.answer("/v1/alerts/test", {"route": "shift", "results": {"shift/1 slack": "no answer"}})
    return fake


def test_a_monitor_sees_what_is_wrong_and_no_button(
    open_page: Open, alerting: FakePlatform
) -> None:
    page = open_page("alerts")
    assert not page.exception
    said = words(page)
    for expected in ("61204, above 50000", "Not delivered: shift/1 slack", "2026-03-01 12:00 UTC"):
        assert expected in said
    assert not page.button and not page.text_input
    assert "key 1f2e3d4c" not in said


def test_an_administrator_acknowledges_with_a_note(open_page: Open, alerting: FakePlatform) -> None:
    alerting.sign_in_as("admin")
    page = open_page("alerts")
    page.text_input(key="note-17").set_value("on it")
    page.button(key="ack-17").click().run()
    assert not page.exception
    assert ("/v1/alerts/17/acknowledge", {"note": "on it"}) in alerting.posted


def test_an_administrator_edits_a_level(open_page: Open, alerting: FakePlatform) -> None:
    alerting.sign_in_as("admin")
    alerting.answer("/v1/alerts/rules/engine_lag", {"rule": _RULE, "source": "edited"})
    page = open_page("alerts")
    page.number_input(key="engine_lag-above").set_value(70000.0)
    next(button for button in page.button if button.label == "Save").click().run()
    assert not page.exception
    [(path, rule)] = alerting.put
    assert path == "/v1/alerts/rules/engine_lag"
    assert (rule["above"], rule["clear"], rule["kind"]) == (70000.0, 5000.0, "threshold")


@pytest.mark.slow
def test_a_test_message_that_fails_says_why(open_page: Open, alerting: FakePlatform) -> None:
    alerting.sign_in_as("admin")
    page = open_page("alerts")
    page.button(key="test-shift").click().run()
    assert "shift/1 slack: no answer" in page.error[0].value


def test_nothing_is_wrong(open_page: Open, fake: FakePlatform) -> None:
    fake.answer("/v1/alerts", {"alerts": [], "open": 0, "evaluated_at": 1_772_366_415_000})
    fake.answer("/v1/alerts/rules", {"rules": [], "routes": []})
    fake.answer("/v1/alerts/silences", {"silences": []})
    page = open_page("alerts")
    assert page.success[0].value == "No alert is open." and "Nothing is silenced." in words(page)
    fake.answer("/v1/alerts", {"alerts": [], "open": 0, "evaluated_at": None})
    assert "No server has evaluated the rules yet." in open_page("alerts").info[0].value


def test_a_server_that_is_down_or_refuses_the_key(
    open_page: Open, alerting: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerting.key = "tactful_right"
    page = open_page("alerts")
    assert "does not accept the key" in page.error[0].value and not page.exception
    alerting.url = "http://127.0.0.1:1"
    page = open_page("alerts")
    assert "The server does not answer" in page.error[0].value and not page.exception

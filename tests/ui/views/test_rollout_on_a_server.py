"""An administrator plans, starts, holds and stops a rollout on the pages of a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from tests.platform.support import Live, build, small_settings
from tests.ui.conftest import open_at
from tests.ui.reading import words

from tactful.server.platform import Platform


def press(page: AppTest, label: str) -> None:
    (button,) = (button for button in page.button if button.label == label)
    button.click().run()
    assert not page.exception, page.exception
    assert not page.error, page.error


def move(page: AppTest, step: str, reason: str) -> None:
    page.radio(key="step").set_value(step)
    (field,) = (field for field in page.text_input if field.label == "Reason")
    field.set_value(reason)
    press(page, "Move")


@pytest.mark.slow
def test_a_rollout_from_plan_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TACTFUL_API_KEY", raising=False)
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        monkeypatch.setattr(live.platform.rollout_controller, "_has_model", lambda: True)
        monkeypatch.setenv("TACTFUL_URL", str(live.http.base_url))
        page = open_at("experiments")
        page.text_input(key="new_key").set_value("cheaper")
        page.text_area(key="change").set_value("objective: {relevance: 1, price: 0.3}")
        page.selectbox(key="stages").set_value("50 %")
        page.run()
        assert "cannot be computed: give the people per day" in words(page)
        page.number_input(key="people").set_value(50_000)
        page.number_input(key="rate").set_value(30.0)
        page.run()
        assert "The plan has enough power" in words(page)
        press(page, "Define this rollout")
        assert "cheaper is defined" in words(page)
        page = open_at("rollouts")
        assert "draft" in words(page)
        move(page, "start", "as planned")
        assert "in stages" in words(page)
        move(page, "hold", "a sale begins")
        assert "held: a sale begins" in words(page)
        move(page, "rollback", "complaints")
        assert "rolled back: the control is kept" in words(page)
        history = live.http.get("/v1/experiments/cheaper").json()["history"]
    reasons = [line["reason"] for line in history]
    assert reasons[-2:] == ["a sale begins", "complaints"]
    assert "as planned" in reasons
    assert {line["changed_by"] for line in history} == {"the API without keys"}

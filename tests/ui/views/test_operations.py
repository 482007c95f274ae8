"""The page "Operations" in every state a reader can meet."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.ui.conftest import Open
from tests.ui.machine import NOW, job, metrics, system
from tests.ui.reading import descriptions, rows, words
from tests.ui.server import FakePlatform

from tactful_ui.components.charts import LIGHT
from tactful_ui.components.time_series import Line, draw


@pytest.fixture
def busy(fake: FakePlatform) -> FakePlatform:
    """A server with metrics, jobs and workers."""
    # Now, not when the module was read: that may be minutes ago.
    fake.answer("/v1/system", system(started_at=round(time.time() * 1000) - 7_205_000))
    fake.answer("/v1/metrics", metrics)
    training = job("training", "running", stage="replay", progress=0.4)
    backup = job("backup", "killed")
    fake.answer("/v1/jobs", {"jobs": [training, backup], "next_cursor": None})
    return fake


@pytest.mark.slow
def test_the_page_shows_machine_metrics_and_jobs(open_page: Open, busy: FakePlatform) -> None:
    page = open_page("operations")
    assert not page.exception
    said = words(page)
    for expected in ("State: ready", "Records not applied: 12", "2 h 0 min", "Free disk: 9.0 GB"):
        assert expected in said
    assert "Last backup: none" in said
    assert "All checks pass." in said
    jobs = page.dataframe[0].value
    assert list(jobs["State"]) == ["running", "killed"]
    assert jobs["Progress"][0] == "40 %"
    assert "ms over time: p99 now 5.000, at most 20.000; p50 now 2.000" in descriptions(page)[0]
    assert "in_future, event" in " ".join(descriptions(page))
    assert "no_consent" not in " ".join(descriptions(page)), "a line of zeros says nothing"
    assert "events/s" not in " ".join(descriptions(page)), "that is for administrators"


def test_an_administrator_sees_exact_rates(open_page: Open, busy: FakePlatform) -> None:
    busy.sign_in_as("admin")
    page = open_page("operations")
    assert "events/s over time: accepted now 4.000, at most 5.000." in descriptions(page)[0]


def test_problems_are_told_with_their_cure(open_page: Open, busy: FakePlatform) -> None:
    ended = job("backup", "done", ended_at=NOW - 5 * 86_400_000)
    failed = {"name": "engine", "state": "failed", "finding": "catching up"}
    warned = {"name": "model", "state": "warning", "finding": "none: `tactful train`"}
    worker = {"number": 0, "state": "down", "restarts": 3}
    busy.answer(
        "/v1/system",
        system(status="starting", checks=[failed, warned], workers=[worker], last_backup=ended),
    )
    page = open_page("operations")
    said = words(page)
    assert "State: not ready" in said
    assert "Last backup: 5 days" in said
    assert "catching up" in page.error[0].value
    assert "tactful train" in page.warning[0].value
    assert list(page.dataframe[0].value["State"]) == ["down"]


def test_a_server_that_just_started_has_no_points_yet(open_page: Open, busy: FakePlatform) -> None:
    nothing = {"since": 0, "until": 1, "step_s": 10, "times": [], "series": []}
    busy.answer("/v1/metrics", nothing)
    busy.answer("/v1/jobs", {"jobs": [], "next_cursor": None})
    said = words(open_page("operations"))
    assert "ten seconds after the start" in said
    assert "No long job has run yet" in said
    assert "No ranking model is in use yet" in said


def test_one_section_that_fails_leaves_the_others(open_page: Open, busy: FakePlatform) -> None:
    busy.answer("/v1/metrics", {"title": "Failed", "status": 500}, 500)
    page = open_page("operations")
    assert "cannot be shown" in page.error[0].value
    assert "State: ready" in words(page)
    assert len(page.dataframe) == 1


@pytest.mark.slow
def test_a_reader_without_the_right_is_told_which(open_page: Open, busy: FakePlatform) -> None:
    busy.sign_in_as("analyst")
    page = open_page("operations")
    assert "scope `monitor`" in words(page)
    assert "/v1/metrics" not in busy.asked


@pytest.mark.slow
def test_a_refused_key_and_a_server_that_is_down(open_page: Open, busy: FakePlatform) -> None:
    busy.key = "sesame"
    assert "does not accept the key" in words(open_page("operations"))
    busy.url = "http://127.0.0.1:9"
    assert "does not answer" in words(open_page("operations"))


@pytest.mark.slow
def test_a_longer_time_asks_for_more(open_page: Open, busy: FakePlatform) -> None:
    since: list[int] = []

    def noted(query: dict[str, str]) -> dict[str, Any]:
        since.append(int(query["since"]))
        return metrics(query)

    busy.answer("/v1/metrics", noted)
    page = open_page("operations")
    page.session_state["operations-hours"] = 24
    page.run()
    assert not page.exception
    assert since[0] - since[-1] == pytest.approx(23 * 3_600_000, abs=60_000)


def test_times_are_drawn_as_the_clock_of_the_reader_shows_them() -> None:
    from zoneinfo import ZoneInfo

    chart = draw("s", [0], [Line("a", [1.0])], LIGHT, ZoneInfo("Asia/Shanghai"))
    assert chart is not None
    (point,) = [row for row in rows(chart.to_dict()) if "time" in row][:1]
    assert point["time"] == "1970-01-01T08:00:00+00:00"
    assert draw("s", [0], [Line("a", [None])], LIGHT, ZoneInfo("UTC")) is None

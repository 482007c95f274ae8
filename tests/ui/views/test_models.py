"""The page of models in every state: down, refused, empty, for analysts and for administrators."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui.conftest import Open
from tests.ui.reading import descriptions, words
from tests.ui.server import FakePlatform

VERSION: dict[str, Any] = {
    "version": "3",
    "aliases": ["challenger"],
    "trained_at": 1772366400000,
    "trained_until": 1772362800000,
    "label": "add_to_cart",
    "metrics": {"hr20": 0.573, "ndcg20": 0.145},
    "intervals": {"ndcg20": {"low": 0.131, "high": 0.159}},
    "trees": 87,
    "run_id": "672fbef0",
    "run_url": "https://mlflow.example/#/experiments/1/runs/672fbef0",
}
CHAMPION = VERSION | {"version": "2", "aliases": ["champion"], "intervals": {}, "run_url": ""}
PREVIOUS = VERSION | {"version": "1", "aliases": ["previous"], "metrics": {}}
DETAILS: dict[str, Any] = {
    "version": VERSION,
    "rows": 318204,
    "questions": 8000,
    "shown": 12031,
    "seconds": 182.4,
    "curve": [0.121, 0.138, 0.145],
    "calibration": {
        "method": "isotonic",
        "of": "shown",
        "error": 0.012,
        "brier": 0.061,
        "brier_constant": 0.067,
        "predicted": [0.01, 0.05],
        "observed": [0.012, 0.047],
    },
    "gains": {"blend": 812.5, "price": 90.1},
    "losses": {
        "real_time": {"ndcg20": {"value": 0.08, "low": 0.07, "high": 0.09}},
        "intent": {"ndcg20": {"value": 0.0, "low": -0.01, "high": 0.01}},
    },
    "served": {"version": "3", "drift": {"price": 0.4}, "skew": 0.001, "skew_by_feature": {}},
    "attention": [1.0],
}
BARE = DETAILS | {"curve": [], "calibration": None, "gains": {}, "losses": {}, "served": None}
CHANGE: dict[str, Any] = {
    "id": 7,
    "action": "train",
    "name": "ranker",
    "version": "3",
    "previous": "",
    "changed_by": "key 0f3a9c21",
    "reason": "new items",
    "state": "done",
    "begun_at": 1772366400000,
}
FIGURE = {"value": 0.31, "low": 0.28, "high": 0.34}
QUIET: dict[str, Any] = {
    "day": "2026-02-26",
    "recommendations": 12,
    "users": 5,
    "followed": 0,
    "hr20": None,
    "ndcg20": None,
    "items": 9,
    "diversity": None,
    "novelty": 3.5,
    "popularity_bias": None,
}
BUSY = QUIET | {"day": "2026-02-27", "followed": 9, "hr20": FIGURE, "ndcg20": FIGURE}
QUALITY = {"measured_at": 1772366400000, "label": "click", "catalogue": 36, "days": [QUIET, BUSY]}
IDLE: dict[str, Any] = {"running": False, "latest": CHANGE}


@pytest.fixture
def shop(fake: FakePlatform) -> FakePlatform:
    """A server with three versions, for an administrator."""
    fake.sign_in_as("admin")
    fake.answer("/v1/models/versions", {"versions": [VERSION, CHAMPION, PREVIOUS]})
    for number in "123":
        fake.answer(f"/v1/models/versions/{number}", DETAILS)
    fake.answer("/v1/models/log", {"changes": [CHANGE]})
    fake.answer("/v1/models/train", IDLE)
    fake.answer("/v1/models/quality", QUALITY)
    return fake


def opened(open_page: Open) -> AppTest:
    page = open_page("models")
    assert not page.exception, page.exception
    return page


def press(page: AppTest, label: str) -> AppTest:
    (button,) = [it for it in page.button if it.label == label]
    button.click()
    page.run()
    assert not page.exception, page.exception
    return page


def fill(page: AppTest, label: str, value: str) -> None:
    (field,) = [it for it in page.text_input if it.label == label]
    field.set_value(value)


@pytest.mark.slow
def test_an_administrator_sees_versions_and_their_training(
    open_page: Open, shop: FakePlatform
) -> None:
    page = opened(open_page)
    table = page.dataframe[0].value
    assert table["Version"].tolist() == ["3", "2", "1"]
    assert table["NDCG@20"].tolist() == ["0.145 [0.131, 0.159]", "0.145", "–"]
    said = words(page)
    assert "Runs in MLflow: [3](https://mlflow.example/#/experiments/1/runs/672fbef0)" in said
    assert "Rows: 318,204" in said
    assert "Large drift: price" in said
    assert "0.10 % of the served values differ" in said
    assert all(len(it) > 20 for it in descriptions(page))
    assert sum("95 % intervals" in it for it in descriptions(page)) == 2
    assert {it.label for it in page.button} >= {"Train now", "Promote", "Roll back"}


@pytest.mark.slow
def test_an_analyst_sees_no_button_and_no_count(open_page: Open, shop: FakePlatform) -> None:
    shop.sign_in_as("analyst")
    page = opened(open_page)
    assert [it.label for it in page.button] == []
    said = words(page)
    assert "318,204" not in said and "new items" not in said
    assert not any("/versions/" in path or "train" in path for path in shop.asked)


@pytest.mark.slow
def test_a_version_of_an_earlier_release_has_gaps(open_page: Open, shop: FakePlatform) -> None:
    shop.answer("/v1/models/versions/3", BARE)
    said = words(opened(open_page))
    assert "has no record of it" in said and "Too few items were taken" in said
    assert "measured by the next training" in said


def test_an_empty_server_names_the_command(open_page: Open, shop: FakePlatform) -> None:
    shop.answer("/v1/models/versions", {"versions": []})
    shop.answer("/v1/models/log", {"changes": []})
    shop.answer("/v1/models/train", {"running": False})
    shop.answer("/v1/models/quality", {})
    page = opened(open_page)
    assert "tactful train --promote" in words(page)
    assert [it.label for it in page.button] == ["Train now"]


def test_live_quality_is_drawn_by_day(open_page: Open, shop: FakePlatform) -> None:
    page = opened(open_page)
    table = next(it.value for it in page.dataframe if "Coverage" in it.value.columns)
    assert table["Day"].tolist() == ["2026-02-27", "2026-02-26"]
    assert table["Coverage"].tolist() == ["25.0 %", "25.0 %"]
    assert any("HR@20 by day: 1 days" in it for it in descriptions(page))


@pytest.mark.slow
def test_live_quality_without_a_take_and_without_a_measurement(
    open_page: Open, shop: FakePlatform
) -> None:
    shop.answer("/v1/models/quality", QUALITY | {"days": [QUIET]})
    assert "Nothing was taken after a recommendation" in words(opened(open_page))
    shop.answer("/v1/models/quality", {})
    assert "tactful models quality" in words(opened(open_page))


@pytest.mark.slow
def test_failures_are_explained(open_page: Open, shop: FakePlatform) -> None:
    shop.answer("/v1/models/versions/3", {"status": 500, "title": "x"}, 500)
    shop.answer("/v1/models/train", {"status": 503, "title": "x"}, 503)
    page = opened(open_page)
    assert words(page).count("cannot be shown") == 2
    assert len(page.dataframe) == 3, "the rest of the page stays"
    shop.key = "sesame"
    assert "analyst" in words(opened(open_page))
    shop.url = "http://127.0.0.1:9"
    assert "does not answer" in words(opened(open_page))


@pytest.mark.slow
def test_a_promotion_needs_a_reason_and_is_sent(open_page: Open, shop: FakePlatform) -> None:
    page = press(opened(open_page), "Promote")
    assert "Give a reason" in words(page) and not shop.posted
    shop.answer("/v1/models/promote", {"version": "3", "previous": "2"})
    fill(page, "Reason of the promotion", " better carts ")
    page = press(page, "Promote")
    assert shop.posted == [("/v1/models/promote", {"version": "3", "reason": "better carts"})]
    assert "Version 3 is the champion." in words(page)


@pytest.mark.slow
def test_a_refused_rollback_says_why(open_page: Open, shop: FakePlatform) -> None:
    problem = {"status": 422, "title": "x", "detail": "a rollout compares the champion"}
    shop.answer("/v1/models/rollback", problem, 422)
    page = opened(open_page)
    fill(page, "Reason of the rollback", "fewer clicks")
    assert "a rollout compares the champion" in words(press(page, "Roll back"))
    assert shop.posted == [("/v1/models/rollback", {"reason": "fewer clicks"})]


@pytest.mark.slow
def test_a_training_is_started_and_watched(open_page: Open, shop: FakePlatform) -> None:
    running = {"running": True, "stage": "fit", "progress": 0.4}
    shop.answer("/v1/models/train", lambda query: running if shop.posted else IDLE)
    page = opened(open_page)
    fill(page, "Reason of the training", "new items")
    page = press(page, "Train now")
    assert shop.posted == [("/v1/models/train", {"reason": "new items", "promote": False})]
    assert not any(it.label == "Train now" for it in page.button)
    shop.answer("/v1/models/train", IDLE | {"error": "too little to learn from"})
    page.run()
    assert "The last training failed: too little to learn from" in words(page)

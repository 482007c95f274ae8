"""An analyst sees the cost of released metrics before their numbers, and never an exact one."""

from __future__ import annotations

from typing import Any

import pytest
from tests.ui.conftest import Open
from tests.ui.server import FakePlatform
from tests.ui.views.test_experiments import example, sound

_READ_OUT = "/v1/experiments/new-checkout/readout"


@pytest.fixture
def shop(fake: FakePlatform) -> FakePlatform:
    """A server with an analysis that releases metrics, and one that does not."""
    index = example("/v1/experiments/metrics")
    plan = index["experiments"][0]
    plans: list[dict[str, Any]] = [
        {**plan, "plan": {**plan["plan"], "experiment": key, "epsilon": epsilon}}
        for key, epsilon in (("new-checkout", 1.0), ("private", None))
    ]
    fake.answer("/v1/experiments/metrics", {**index, "experiments": plans})
    fake.answer("/v1/experiments/new-checkout/release", example("/v1/experiments/{key}/release"))
    read_out = example("/v1/experiments/{key}/readout")
    fake.answer(_READ_OUT, {**read_out, "key": "new-checkout", "source": "released"})
    fake.sign_in_as("analyst")
    return fake


def test_the_cost_comes_before_the_charge(shop: FakePlatform, open_page: Open) -> None:
    page = open_page("experiments")
    text = sound(page)
    assert page.selectbox(key="released").options == ["new-checkout"]
    assert "Privacy loss ε = 1 of a person" in text and not page.button and not page.error
    refused = next(it.value for it in page.dataframe if "reason" in it.value.columns)
    assert refused["metric"].tolist() == ["slow_page"]
    assert _READ_OUT not in shop.asked
    page.toggle(key="release-new-checkout").set_value(True).run()
    assert _READ_OUT in shop.asked and not page.error
    assert len(page.dataframe) >= 2


def test_days_that_were_charged_are_shown_at_once(shop: FakePlatform, open_page: Open) -> None:
    cost = example("/v1/experiments/{key}/release")
    shop.answer(
        "/v1/experiments/new-checkout/release", {**cost, "waiting": {"buyers": 0, "spend": 0}}
    )
    page = open_page("experiments")
    assert not page.toggle and _READ_OUT in shop.asked and not page.error


def test_before_the_first_day_closes_there_is_no_number(
    shop: FakePlatform, open_page: Open
) -> None:
    cost = example("/v1/experiments/{key}/release")
    none = {"buyers": 0, "spend": 0}
    shop.answer("/v1/experiments/new-checkout/release", {**cost, "days": none, "waiting": none})
    page = open_page("experiments")
    assert "No day has closed yet" in sound(page) and _READ_OUT not in shop.asked


def test_nothing_is_offered_where_nothing_is_released(shop: FakePlatform, open_page: Open) -> None:
    shop.answer("/v1/experiments/metrics", {"metrics": [], "experiments": []})
    page = open_page("experiments")
    assert "Released metrics" not in sound(page) and _READ_OUT not in shop.asked

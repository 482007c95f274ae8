"""Pages of experiments, rollouts, tuners and coupons, in every state, by AppTest over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui.conftest import Open
from tests.ui.reading import descriptions, words
from tests.ui.server import FakePlatform

from tactful.http.openapi import example_of
from tactful.http.routes import ENDPOINTS

PAGES = ("experiments", "metrics", "rollouts", "tuner", "bandits", "coupons")
OTHERS = ("experiments", "metrics", "tuner", "bandits", "coupons")


def example(path: str, method: str = "GET") -> Any:
    """Return the documented answer of an endpoint."""
    (endpoint,) = (it for it in ENDPOINTS if (it.method, it.path) == (method, path))
    return example_of(endpoint).answer


@pytest.fixture
def shop(fake: FakePlatform) -> FakePlatform:
    """A server with a rollout, an experiment, a tuner and a campaign."""
    fake.answer("/v1/models", {"experiment": {"key": "ranking", "arms": {"a": 0.1, "b": 0.9}}})
    read_out = example("/v1/experiments/{key}/readout")
    details = example("/v1/experiments/{key}")
    fake.answer("/v1/experiments", example("/v1/experiments"))
    fake.answer("/v1/experiments/cheaper-first", details)
    fake.answer("/v1/experiments/cheaper-first/readout", read_out)
    fake.answer("/v1/experiments/ranking/readout", {**read_out, "key": "ranking", "stage": None})
    fake.answer("/v1/experiments/metrics", example("/v1/experiments/metrics"))
    measured = {**read_out, "key": "new-checkout", "stage": None, **measured_parts(read_out)}
    fake.answer("/v1/experiments/new-checkout/readout", measured)
    fake.answer("/v1/experiments/plan", example("/v1/experiments/plan", "POST"))
    fake.answer("/v1/experiments/cheaper-first/hold", details)
    fake.answer("/v1/worth", example("/v1/worth"))
    fake.answer("/v1/tuner", example("/v1/tuner"))
    fake.answer("/v1/bandits", example("/v1/bandits"))
    fake.answer("/v1/bandits/home-banner", example("/v1/bandits/{key}"))
    fake.answer("/v1/coupons", example("/v1/coupons"))
    fake.answer("/v1/coupons/abandoned-cart", example("/v1/coupons/{name}"))
    return fake


def measured_parts(read_out: Any) -> dict[str, Any]:
    """Return the parts of a read-out that metrics of `metrics.yaml` add."""
    effect = {**read_out["effects"][0], "metric": "buyers", "role": "goal", "adjusted": True}
    effect |= {"p": 0.2, "outcomes": 61, "minimum_outcomes": 50}
    late = {**effect, "exploratory": True}
    people = {"control": 40, "change": 41}
    segment = {"segment": "手机", "exploratory": True, "people": people, "effects": [late]}
    notes = ["units in arms that the experiment does not have are left out"]
    return {"effects": [effect], "segments": [segment], "notes": notes}


def sound(page: AppTest) -> str:
    assert not page.exception, page.exception
    assert all(len(text) > 20 for text in descriptions(page)), "every chart has a description"
    return words(page)


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        *((name, "analyst") for name in PAGES),
        ("rollouts", "admin"),
        *(pytest.param(name, "admin", marks=pytest.mark.slow) for name in OTHERS),
    ],
)
def test_every_page_draws(shop: FakePlatform, open_page: Open, name: str, scope: str) -> None:
    shop.sign_in_as(scope)
    page = open_page(name)
    text = sound(page)
    assert not page.error, text
    if scope == "analyst":
        assert not page.button, "an analyst gets no button"
        paths = {path for path in shop.asked if path.startswith("/v1/")}
        assert not any(path.startswith("/v1/coupons") for path in paths)
        assert "/v1/experiments/cheaper-first" not in paths, "the history names callers"
        assert "/v1/experiments/ranking/readout" not in paths


@pytest.mark.parametrize(
    "name", ["rollouts", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_failures_are_explained(shop: FakePlatform, open_page: Open, name: str) -> None:
    shop.sign_in_as("admin")
    shop.key = "sesame"
    assert "does not accept the key" in sound(open_page(name))
    shop.url = "http://127.0.0.1:9"
    assert "does not answer" in sound(open_page(name))


@pytest.mark.slow
def test_an_empty_server_says_what_to_do(fake: FakePlatform, open_page: Open) -> None:
    fake.sign_in_as("admin")
    fake.answer("/v1/experiments", {"experiments": [], "next_cursor": None})
    fake.answer("/v1/tuner", {"tuners": [], "next_cursor": None})
    fake.answer("/v1/bandits", {"bandits": [], "next_cursor": None})
    fake.answer("/v1/experiments/metrics", {"metrics": [], "experiments": []})
    fake.answer("/v1/coupons", {"campaigns": [], "webhook": None, "next_cursor": None})
    expected = {
        "experiments": "No experiment is running",
        "rollouts": "tactful experiment apply",
        "tuner": "tactful tuner train",
        "bandits": "tactful bandit apply",
        "metrics": "tactful metrics check",
        "coupons": "tactful coupons check",
    }
    for name, text in expected.items():
        assert text in sound(open_page(name))


@pytest.mark.slow
def test_a_rollout_shows_effects_and_is_held_with_a_reason(
    shop: FakePlatform, open_page: Open
) -> None:
    shop.sign_in_as("admin")
    page = open_page("rollouts")
    text = sound(page)
    for expected in (
        "1 % → **5 %** → 10 %",
        "Sample ratio as expected",
        "takers",
        "inconclusive",
        "undecided",
    ):
        assert expected in text
    assert len(descriptions(page)) == 2
    page.radio(key="step").set_value("hold")
    (move,) = (button for button in page.button if button.label == "Move")
    move.click().run()
    assert "Give a reason" in words(page)
    assert not shop.posted
    page.text_input(key="reason-cheaper-first-canary").set_value("a sale begins")
    (move,) = (button for button in page.button if button.label == "Move")
    move.click().run()
    assert shop.posted == [("/v1/experiments/cheaper-first/hold", {"reason": "a sale begins"})]


@pytest.mark.slow
def test_a_bandit_shows_shares_and_regret_and_is_stopped_with_a_reason(
    shop: FakePlatform, open_page: Open
) -> None:
    shop.answer("/v1/bandits/home-banner/stop", example("/v1/bandits/{key}/stop", "POST"))
    shop.sign_in_as("analyst")
    assert "need the scope" in sound(open_page("bandits"))
    shop.sign_in_as("admin")
    page = open_page("bandits")
    text = sound(page)
    for expected in ("in shadow", "winter, spring", "**better**", "best arm is **spring**"):
        assert expected in text
    assert len(descriptions(page)) == 1
    (stop,) = (button for button in page.button if button.label == "Stop this bandit")
    stop.click().run()
    assert "Give a reason" in words(page)
    page.text_input(key="reason-home-banner-shadow").set_value("the season is over")
    (stop,) = (button for button in page.button if button.label == "Stop this bandit")
    stop.click().run()
    expected_post = ("/v1/bandits/home-banner/stop", {"reason": "the season is over"})
    assert shop.posted == [expected_post]


@pytest.mark.slow
def test_all_pages_of_the_bandits_are_listed(shop: FakePlatform, open_page: Open) -> None:
    index = example("/v1/bandits")
    second = {**index, "bandits": [{**index["bandits"][0], "key": "横幅"}]}

    def page_of(query: dict[str, str]) -> Any:
        return second if "cursor" in query else {**index, "next_cursor": "home-banner"}

    details = example("/v1/bandits/{key}")
    shop.answer("/v1/bandits", page_of)
    shop.answer("/v1/bandits/横幅", details)
    shop.answer("/v1/bandits/%E6%A8%AA%E5%B9%85", {**details, "bandit": second["bandits"][0]})
    shop.sign_in_as("analyst")
    page = open_page("bandits", key="横幅")
    sound(page)
    assert page.selectbox(key="bandit").options == ["home-banner", "横幅"]
    assert page.selectbox(key="bandit").value == "横幅"
    assert not page.slider and not page.button and not page.error


@pytest.mark.slow
def test_a_mismatch_comes_before_every_effect(shop: FakePlatform, open_page: Open) -> None:
    shop.sign_in_as("admin")
    answer = example("/v1/experiments/{key}/readout")
    ratio = {**answer["sample_ratio"], "verdict": "mismatch"}
    shop.answer("/v1/experiments/cheaper-first/readout", {**answer, "sample_ratio": ratio})
    page = open_page("rollouts")
    assert "do not have the people they should" in page.error[0].value


@pytest.mark.slow
def test_the_wizard_shows_the_power_of_what_is_typed(shop: FakePlatform, open_page: Open) -> None:
    shop.sign_in_as("admin")
    page = open_page("experiments")
    assert not shop.posted
    page.text_input(key="new_key").set_value("cheaper-first")
    page.text_area(key="change").set_value("objective: {relevance: 1, price: 0.3}").run()
    text = sound(page)
    assert "Too little power: 233 days are needed" in text
    ((path, sent),) = shop.posted
    assert path == "/v1/experiments/plan"
    assert sent["change"] == {"objective": {"relevance": 1, "price": 0.3}}
    (define,) = (button for button in page.button if button.label == "Define this rollout")
    assert define.disabled, "a low power needs a reason"
    page.text_area(key="change").set_value("objective: {").run()
    assert "not valid YAML" in sound(page)


def test_metrics_show_definitions_and_uses(shop: FakePlatform, open_page: Open) -> None:
    shop.sign_in_as("analyst")
    page = open_page("metrics")
    text = sound(page)
    assert "new-checkout" in text and "tactful serve" in text
    (metrics, *_) = page.dataframe
    assert metrics.value["used by"].tolist() == ["new-checkout (goal)"]
    assert metrics.value["window"].tolist() == ["7d"]
    assert not page.button, "an analyst changes nothing"


def test_metrics_say_when_nothing_is_registered(shop: FakePlatform, open_page: Open) -> None:
    index = example("/v1/experiments/metrics")
    index["experiments"][0] |= {"registered_at": None, "registered_by": ""}
    shop.answer("/v1/experiments/metrics", index)
    shop.sign_in_as("analyst")
    assert "Not registered" in sound(open_page("metrics"))


def test_any_experiment_with_metrics_is_read_out(shop: FakePlatform, open_page: Open) -> None:
    shop.sign_in_as("admin")
    text = sound(open_page("experiments"))
    for expected in ("Segment 手机", "Exploratory", "adjusted by earlier outcomes", "left out"):
        assert expected in text


@pytest.mark.slow
def test_a_read_out_names_its_confidence_and_missing_outcomes(
    shop: FakePlatform, open_page: Open
) -> None:
    read_out = example("/v1/experiments/{key}/readout")
    parts = measured_parts(read_out)
    (effect,) = parts["effects"]
    few = {**effect, "verdict": "too few data", "outcomes": 31, "minimum_outcomes": 50}
    (segment,) = parts["segments"]
    empty = {**segment, "segment": "会员", "people": {"control": 0, "change": 0}, "effects": []}
    ratio = {**read_out["sample_ratio"], "crossed": 0.02}
    answer = {**read_out, **parts, "key": "new-checkout", "stage": None, "confidence": 0.9}
    answer |= {"effects": [few], "segments": [empty], "sample_ratio": ratio}
    shop.answer("/v1/experiments/new-checkout/readout", answer)
    shop.sign_in_as("admin")
    page = open_page("experiments")
    text = sound(page)
    for expected in ("90 %", "31 of 50 outcomes", "Too few users", "2.0 % of the users saw"):
        assert expected in text
    assert any("p, corrected" in frame.value.columns for frame in page.dataframe)
    reason = {**answer, "effects": [], "segments": [], "reason": "no unit was exposed"}
    shop.answer("/v1/experiments/new-checkout/readout", reason)
    assert "left out" in sound(open_page("experiments")), "notes need no effect"


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_each_page_is_in_chinese(shop: FakePlatform, open_page: Open, name: str) -> None:
    shop.sign_in_as("admin")
    page = open_page(name, language="zh")
    sound(page)
    said = [part.value for part in (*page.title, *page.subheader)]
    labelled = (*page.button, *page.selectbox, *page.expander, *page.metric, *page.slider)
    said += [part.label for part in labelled]
    said += [str(column) for frame in page.dataframe for column in frame.value.columns]
    assert not [text for text in said if text.isascii()]

"""Each page in every state a reader can meet, by AppTest over real HTTP."""

from datetime import date, timedelta
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui import sample
from tests.ui.conftest import PAGES, Open
from tests.ui.reading import charts, descriptions, drawn, words
from tests.ui.server import FakePlatform

from tactful_ui.components import formats

STATES: dict[str, Any] = {
    "finished": sample.report(),
    "partial": sample.partial(),
    "malformed": sample.malformed(),
    "empty": {},
}
ONLY = {f"only {key}": {"name": "demo", key: sample.report()[key]} for key in sample.SECTIONS}


def asked(page: AppTest) -> str:
    assert not page.exception, page.exception
    return words(page)


# States that every page must survive.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "state"),
    [(name, state) for name in PAGES for state in STATES] + [("demo", state) for state in ONLY],
)
def test_no_report_breaks_pages(open_page: Open, fake: FakePlatform, name: str, state: str) -> None:
    fake.publish(demo=(STATES | ONLY)[state])
    page = open_page(name)
    assert asked(page)
    assert not page.error
    assert all(len(said) > 20 for said in descriptions(page)), "every chart has a description"


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_server_failures_are_explained(open_page: Open, fake: FakePlatform, name: str) -> None:
    """A bad answer, a refused key and a server that is down are explained, without a traceback."""
    fake.publish(demo=None)
    answers: list[tuple[int, object]] = [(500, b"oops"), (200, b"not json"), (200, [])]
    for status, body in answers:
        fake.answer("/v1/reports/demo", body, status)
        assert "cannot be shown" in asked(open_page(name))
    fake.key = "sesame"
    said = asked(open_page(name))
    assert "TACTFUL_API_KEY" in said and "analyst" in said
    fake.url = "http://127.0.0.1:9"
    said = asked(open_page(name))
    assert "does not answer" in said and fake.url in said and "tactful serve --dev" in said


@pytest.mark.slow
def test_no_report_names_the_demo(open_page: Open) -> None:
    said = asked(open_page("demo"))
    assert "no report yet" in said and "scripts/demo" in said
    assert "No statistic has been released yet" in asked(open_page("released"))


# The demo page.


@pytest.mark.slow
def test_the_finished_demo_shows_all_its_results(open_page: Open, fake: FakePlatform) -> None:
    fake.publish(demo=sample.report())
    page = open_page("demo")
    said = asked(page)
    results = (
        "0.412 [0.397, 0.427]|+0.057 vs Own frequency|Recommend p50: 3.42 ms"
        "|Recommend p99: 11.8 ms|Freshness p99: 18.6 ms|beats every baseline|inconclusive"
        "|0f3c9a7be1d24c55|Real: nothing.|took 3 min 41 s|4,213 questions"
    )
    assert [text for text in results.split("|") if text not in said] == []
    assert len(charts(page)) == 9
    assert not page.get("progress")
    assert "not in this report yet" not in said


@pytest.mark.slow
def test_a_running_demo_shows_progress_until_it_ends(open_page: Open, fake: FakePlatform) -> None:
    fake.publish(demo=sample.partial("train the ranker", 0.4))
    page = open_page("demo")
    (bar,) = page.get("progress")
    assert (bar.proto.value, bar.proto.text) == (40, "train the ranker · 40 % of this stage")
    assert asked(page).count("not in this report yet") == 8
    fake.publish(demo=sample.report())
    page.run()
    assert not page.get("progress")
    assert "beats every baseline" in asked(page)


@pytest.mark.slow
def test_a_lost_comparison_points_down_and_warns(open_page: Open, fake: FakePlatform) -> None:
    raw = sample.report()
    raw["quality"][0]["hr20"] = {"value": 0.3, "low": 0.29, "high": 0.31}
    raw["verdict"] = "The served ranking does not beat Own frequency."
    fake.publish(demo=raw)
    page = open_page("demo")
    (lead,) = [metric for metric in page.metric if metric.delta]
    assert lead.delta == "-0.055 vs Own frequency"
    assert lead.proto.direction == lead.proto.MetricDirection.DOWN
    assert not page.success
    assert "does not beat" in words(page)


@pytest.mark.slow
def test_text_of_the_server_is_never_markup(open_page: Open, fake: FakePlatform) -> None:
    raw = sample.report()
    raw["verdict"] = "[click](https://example.org) <b>bold</b> :red[alarm] $x^2$"
    raw["real_and_simulated"] = ["![picture](https://example.org/p.png)"]
    fake.publish(demo=raw)
    page = open_page("demo")
    shown = [str(element.value) for element in [*page.markdown, *page.success, *page.warning]]
    assert formats.plain(raw["verdict"]) in shown
    assert f"- {formats.plain(raw['real_and_simulated'][0])}" in shown


@pytest.mark.slow
def test_the_reader_chooses_among_reports(open_page: Open, fake: FakePlatform) -> None:
    fake.publish(a_first=sample.partial(), demo=sample.report())
    page = open_page("demo")
    assert page.selectbox(key="report").value == "demo"
    page.selectbox(key="report").select("a_first").run()
    assert "train the ranker" in page.get("progress")[0].proto.text


def test_the_words_of_the_report_come_first(open_page: Open, fake: FakePlatform) -> None:
    raw = sample.report()
    raw["experiment"]["words"] = "learned minus heuristic +0.009; inconclusive"
    raw["federated"] = {"skipped": "torch is not installed", "households": 0, "rounds": []}
    fake.publish(demo=raw)
    said = asked(open_page("demo"))
    assert raw["experiment"]["words"] in said and "The arms differ" not in said
    assert "Not trained in this run: torch is not installed" in said


# The statistics page.


@pytest.mark.slow
def test_statistics_show_the_guarantee_and_the_bars(open_page: Open, fake: FakePlatform) -> None:
    fake.publish(demo=sample.report())
    fake.publish_statistic(sample.report()["statistics"])
    page = open_page("released")
    said = asked(page)
    facts = (
        "Privacy loss ε per unit: 1.00|Cap, events per unit: 20|Panes in these days: 72"
        "|Unit of privacy: **one user, one UTC day**|in 95 of 100 cases"
    )
    assert [text for text in facts.split("|") if text not in said] == []
    assert page.multiselect[0].value == ["DAIRY", "SOFT DRINKS", "BAKED GOODS"]
    assert len(charts(page)) == 3


def test_only_released_numbers_are_shown(open_page: Open, fake: FakePlatform) -> None:
    statistic = sample.report()["statistics"]
    for cell in statistic["sample"]:
        cell["exact"] = 987_654
    fake.publish(demo={**sample.report(), "statistics": {**statistic, "exact_total": 987_654}})
    page = open_page("released")
    released = {cell["value"] for cell in statistic["sample"]}
    shown = [row["value"] for row in drawn(page) if "value" in row]
    shown += list(page.dataframe[0].value["Released"])
    assert len(shown) > 100 and set(shown) <= released
    assert "987" not in words(page) + str(charts(page)) + str(drawn(page))


@pytest.mark.slow
def test_chosen_days_are_asked_of_the_server(open_page: Open, fake: FakePlatform) -> None:
    fake.publish(demo=sample.report())
    fake.publish_statistic(sample.report()["statistics"])
    page = open_page("released")
    page.multiselect[0].set_value(["DAIRY", "SEAFOOD"])
    day = date(2021, 3, 2)
    page.date_input[0].set_value((day, day)).run()
    assert "Panes in these days: 24" in asked(page)
    assert len(charts(page)) == 2
    page.date_input[0].set_value((date(2020, 1, 1), date(2020, 1, 2))).run()
    assert "Nothing was released" in asked(page)
    page.date_input[0].set_value((day, day)).run()
    assert len(charts(page)) >= 1


@pytest.mark.slow
def test_a_long_range_is_cut_to_a_month(open_page: Open, fake: FakePlatform) -> None:
    fake.publish_statistic(sample.statistics_of_days(60))
    page = open_page("released")
    first = sample.FIRST_PANE.date()
    page.date_input[0].set_value((first, first + timedelta(days=59))).run()
    assert "Panes in these days: 31" in asked(page)


def test_the_report_is_shown_without_a_statistic(open_page: Open, fake: FakePlatform) -> None:
    fake.publish(demo=sample.report())
    page = open_page("released")
    assert len(charts(page)) == 3
    page.multiselect[0].set_value([]).run()
    assert "at least one key" in asked(page)


@pytest.mark.slow
def test_counts_lost_in_the_noise_are_called_so(open_page: Open, fake: FakePlatform) -> None:
    statistic = sample.report()["statistics"]
    for cell in statistic["sample"]:
        value = 5000 if cell["key"] == "DAIRY" else 9
        cell.update(value=value, low=value - 60, high=value + 60)
    fake.publish(demo={**sample.report(), "statistics": statistic})
    said = asked(open_page("released"))
    assert "**DAIRY** (events per pane, UTC): 72 of 72 intervals exclude zero" in said
    assert "**BAKED GOODS** (events per pane, UTC): 0 of 72 intervals exclude zero" in said
    assert "noise would make about 4 do so" in said

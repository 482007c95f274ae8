import time
from datetime import timedelta

import pytest
from tests.ui import sample
from tests.ui.server import FakePlatform

from tactful.client.routes.experiments import metrics
from tactful_ui.errors import BadAnswer, NoReport, ServerDown, SourceError, Unauthorised
from tactful_ui.source import DEFAULT_URL, ReportSource, Settings, connect


def source(fake: FakePlatform, key: str | None = None) -> ReportSource:
    return connect(Settings(fake.url, key))


@pytest.mark.parametrize(
    ("environment", "secrets", "expected"),
    [
        ({}, {}, Settings(DEFAULT_URL, None)),
        ({"TACTFUL_URL": "http://a:1/"}, {"TACTFUL_URL": "http://b"}, Settings("http://a:1", None)),
        ({"TACTFUL_URL": " "}, {"TACTFUL_URL": "b:2"}, Settings("https://b:2", None)),
        ({"TACTFUL_URL": "localhost:8420"}, {}, Settings("http://localhost:8420", None)),
        ({"TACTFUL_API_KEY": "k"}, {"TACTFUL_API_KEY": "x"}, Settings(DEFAULT_URL, "k")),
        ({"TACTFUL_API_KEY": ""}, {"TACTFUL_API_KEY": "x"}, Settings(DEFAULT_URL, "x")),
    ],
)
def test_settings_come_from_environment_before_secrets(
    environment: dict[str, str], secrets: dict[str, str], expected: Settings
) -> None:
    assert Settings.load(secrets, environment) == expected


def test_the_key_opens_the_server_and_is_not_written(fake: FakePlatform) -> None:
    fake.key = "sesame"
    for wrong in (None, "wrong"):
        with pytest.raises(Unauthorised):
            source(fake, wrong).report_names()
    assert source(fake, "sesame").report_names() == []
    assert "sesame" not in repr(Settings("http://a", "sesame"))


def test_answers_of_every_method(fake: FakePlatform) -> None:
    raw = sample.report()
    fake.publish(demo=raw, other=sample.partial())
    fake.publish_statistic(raw["statistics"])
    fake.answer("/v1/models", {"champion": {"version": "3"}})
    server = source(fake)
    assert server.health().ready and server.health().checks == {"engine": "ok"}
    assert server.report_names() == ["demo", "other"]
    assert server.report("demo").finished and not server.report("other").finished
    assert server.statistic_titles() == {"category_purchases_hourly": "category_purchases_hourly"}
    assert server.models() == {"champion": {"version": "3"}}


def test_statistics_are_those_of_the_chosen_time(fake: FakePlatform) -> None:
    fake.publish_statistic(sample.report()["statistics"])
    since = sample.FIRST_PANE + timedelta(hours=5)
    until = since + timedelta(hours=2)
    found = source(fake).statistic("category_purchases_hourly", since, until)
    assert {each.start for each in found.counts} == {since, since + timedelta(hours=1)}
    assert (found.epsilon, found.cap, found.unit) == (1.0, 20, "one user, one UTC day")


def test_a_server_that_is_not_ready_says_why(fake: FakePlatform) -> None:
    problem = {"title": "Not ready", "status": 503, "detail": "engine: catching up"}
    fake.answer("/readyz", problem, 503)
    health = source(fake).health()
    assert not health.ready and "catching up" in health.detail
    assert len(fake.asked) == 1, "a page asks once and does not wait for retries"


def test_a_closed_port_or_an_impossible_address_is_an_error() -> None:
    server = connect(Settings("http://127.0.0.1:9"))
    for ask in (server.report_names, server.health):
        with pytest.raises(ServerDown):
            ask()
    with pytest.raises(SourceError):
        connect(Settings("http://[nonsense")).report_names()


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (404, {"title": "Not Found", "status": 404}, NoReport),
        (403, {"title": "Forbidden", "status": 403}, Unauthorised),
        (500, b"<html>oops</html>", BadAnswer),
        (429, {"title": "Too many", "status": 429}, BadAnswer),
        (200, b"not json", BadAnswer),
        (200, b"\xff\xfe", BadAnswer),
        (200, [1, 2], BadAnswer),
        (200, None, BadAnswer),
    ],
)
def test_failures_have_a_name(
    fake: FakePlatform, status: int, body: object, failure: type[SourceError]
) -> None:
    fake.answer("/v1/reports/demo", body, status)
    with pytest.raises(failure):
        source(fake).report("demo")


def test_what_the_server_computes_may_take_longer(
    fake: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(query: dict[str, str]) -> object:
        time.sleep(1.0)
        return {"metrics": [], "experiments": []}

    fake.answer("/v1/experiments/metrics", computed)
    monkeypatch.setattr("tactful_ui.source._TIMEOUT_SECONDS", 0.2)
    server = source(fake)
    with pytest.raises(ServerDown):
        server.run(metrics())
    assert server.run(metrics(), patient=True).metrics == []

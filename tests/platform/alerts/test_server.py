"""A running server: its routes, and real faults that open alerts and clear after the repair."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.platform.alerts.test_sinks import make_certificate
from tests.platform.support import Live, build, small_settings, view, wait_until
from tests.platform.webhook_receiver import Shop, receiving

from tactful.cli.main import main
from tactful.client import Client, Request
from tactful.client.routes import alerts as routes
from tactful.config.alerts import AlertSettings
from tactful.errors import BadRequest, NotAllowed
from tactful.server.platform import Platform
from tactful.util.clock import now_ms

_LAG = """
  - {name: engine_lag, kind: threshold, summary: behind, value: {metric: tactful_engine_lag},
     above: 20, clear: 2, for: 30s}
"""


class Clock:
    """The clock of the server, which a test sets ahead."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead


class Watched:
    """A server whose alerts the test evaluates, each 15 s of its clock."""

    def __init__(self, live: Live, clock: Clock, directory: Path) -> None:
        self.live, self.clock, self.directory = live, clock, directory

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds // 15):
            self.clock.ahead += 15_000
            assert self.live.platform.alerts.run()

    def open(self) -> list[str]:
        page = self.live.http.get("/v1/alerts").json()
        return sorted(alert["rule"] for alert in page["alerts"])


@pytest.fixture
def shop() -> Iterator[Shop]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def watched(tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    clock = Clock()
    monkeypatch.setattr("tactful.server.resources.now_ms", clock)
    monkeypatch.setattr("tactful.server.gauges._KEPT_S", 0.0)
    address = f"http://127.0.0.1:{shop.server_port}/"
    rules = tmp_path / "alerts.yaml"
    rules.write_text(
        f"rules:{_LAG}routes:\n  - {{name: shift, sinks: [{{kind: webhook, url: '{address}'}}]}}\n"
    )
    certificate = make_certificate(tmp_path / "shop.pem")
    alerts = AlertSettings(rules=rules, every_s=9999.0, certificates=str(certificate))
    settings = dataclasses.replace(small_settings(tmp_path), alerts=alerts)
    with Live(Platform.open(settings, build)) as live:
        yield Watched(live, clock, tmp_path)


@pytest.mark.slow
def test_rejected_events_open_an_alert_that_clears(watched: Watched, shop: Shop) -> None:
    watched.pass_time(15)
    wrong = [{"type": "nonsense"}] * 250
    assert watched.live.http.post("/v1/events", json=wrong).json()["accepted"] == 0
    watched.pass_time(90)
    assert watched.open() == ["ingest_errors"]
    assert len(shop.attempts) == 1 and b'"opened"' in shop.attempts[0][1]
    watched.pass_time(720)  # beyond the span of the rule nothing is left of it
    right = [view(number) for number in range(250)]
    assert watched.live.http.post("/v1/events", json=right).json()["accepted"] == 250
    watched.pass_time(90)
    assert watched.open() == [] and b'"cleared"' in shop.attempts[-1][1]


@pytest.mark.slow
def test_requests_that_fail(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    http, recommender = watched.live.http, watched.live.platform.recommender
    watched.pass_time(15)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr(recommender, "answer", fail)
        for _ in range(6):
            assert http.post("/v1/recommend", json={}).status_code == 500
    watched.pass_time(90)
    assert watched.open() == ["server_errors"]
    watched.pass_time(420)
    assert watched.open() == []


@pytest.mark.slow
def test_recommendations_that_find_few_items_show_a_lack_of_recall(watched: Watched) -> None:
    http = watched.live.http

    def ask(count: int) -> None:
        batch = {"requests": [{"user_id": "u", "count": count}] * 50}
        for _ in range(3):
            assert http.post("/v1/recommend/batch", json=batch).status_code == 200

    items = [{"item_id": f"i{number}", "title": "T"} for number in range(3)]
    assert http.put("/v1/items", json=items).status_code == 202
    wait_until(lambda: len(http.post("/v1/recommend", json={"count": 3}).json()["items"]) == 3)
    watched.pass_time(15)
    ask(10)
    watched.pass_time(90)
    assert watched.open() == ["recall"]
    watched.pass_time(720)
    ask(3)
    watched.pass_time(90)
    assert watched.open() == []


@pytest.mark.slow
def test_a_certificate_that_ends_soon(watched: Watched) -> None:
    make_certificate(watched.directory / "shop.pem", days=5)
    watched.pass_time(30)
    assert watched.open() == ["certificates"]
    make_certificate(watched.directory / "shop.pem", days=90)
    watched.pass_time(90)
    assert watched.open() == []


@pytest.mark.slow
def test_messages_that_do_not_arrive_are_an_alert_of_their_own(
    watched: Watched, shop: Shop
) -> None:
    shop.status = 500
    make_certificate(watched.directory / "shop.pem", days=5)
    watched.pass_time(120)
    assert watched.open() == ["alert_messages", "certificates"]
    page = watched.live.http.get("/v1/alerts?rule=certificates").json()
    assert page["alerts"][0]["undelivered"] == ["shift/1 webhook: answered with status 500"]
    shop.status = 200
    watched.pass_time(300)
    assert watched.open() == ["certificates"]


@pytest.mark.slow
def test_the_routes_are_used_by_client_and_commands(watched: Watched, shop: Shop) -> None:
    make_certificate(watched.directory / "shop.pem", days=5)
    watched.pass_time(30)
    url = ["--url", watched.live.url]

    def tactful(*words: str) -> str:
        result = CliRunner().invoke(main, ["alerts", *words, *url])
        assert result.exit_code == 0, result.output
        return result.output

    assert "A certificate ends soon" in tactful("list")
    assert "certificates: threshold below 14, warning (packaged)" in tactful("rules")
    assert "engine_lag: threshold above 20, clear 2, warning (file)" in tactful("rules")
    assert "Alert 1 is acknowledged by" in tactful("ack", "1", "--note", "renewed tomorrow")
    assert "acknowledged" in tactful("list")
    assert "1  disk until" in tactful("silence", "disk", "--reason", "moving")
    assert "moving" in tactful("silence")
    tactful("silence", "--end", "1")
    assert "shift/1 webhook: arrived" in tactful("test", "shift")
    assert b'"test"' in shop.attempts[-1][1]
    with Client(watched.live.url) as client:
        rules = {info.rule.name: info.rule for info in client.run(routes.rules()).rules}
        edited = msgspec.structs.replace(rules["certificates"], below=1.0)
        assert client.run(routes.put_rule(edited)).source == "edited"
        watched.pass_time(90)
        assert client.run(routes.alerts()).open == 0
        assert len(client.run(routes.alerts(state="cleared")).alerts) == 1
        client.run(routes.delete_rule("certificates"))
        watched.pass_time(30)
        assert client.run(routes.alerts()).open == 1
        with pytest.raises(BadRequest, match="no such route"):
            client.run(routes.test("nobody"))
        wrong = msgspec.structs.replace(rules["certificates"], clear=1.0)
        with pytest.raises(BadRequest, match="must not be smaller"):
            client.run(routes.put_rule(wrong))


@pytest.mark.slow
def test_pages_of_the_history_follow_each_other(watched: Watched) -> None:
    for _ in range(3):
        make_certificate(watched.directory / "shop.pem", days=5)
        watched.pass_time(30)
        make_certificate(watched.directory / "shop.pem", days=90)
        watched.pass_time(90)
    with Client(watched.live.url) as client:
        first = client.run(routes.alerts(state="all", limit=2))
        rest = client.run(routes.alerts(state="all", limit=2, cursor=first.next_cursor))
        names = client.run(routes.rules(limit=2))
    assert [alert.id for alert in (*first.alerts, *rest.alerts)] == [3, 2, 1]
    assert rest.next_cursor is None and names.next_cursor == names.rules[-1].rule.name


def test_reading_needs_monitor_and_shows_no_names_changing_needs_admin(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    server = dataclasses.replace(settings.server, dev=False)
    alerts = AlertSettings(every_s=9999.0)
    with Live(
        Platform.open(dataclasses.replace(settings, server=server, alerts=alerts), build)
    ) as live:
        monitor, admin = live.create_key("monitor"), live.create_key("admin")
        with Client(live.url, admin) as client:
            made = client.run(routes.silence("disk", reason="by Ann"))
            rule = client.run(routes.rules(limit=1)).rules[0].rule
            client.run(routes.put_rule(rule))
        assert made.made_by == f"key {admin.split('_')[1]}"
        with Client(live.url, monitor) as client:
            silence = client.run(routes.silences()).silences[0]
            assert (silence.made_by, silence.reason) == ("", "")
            assert client.run(routes.rules(limit=1)).rules[0].changed_by == ""
            assert client.run(routes.alerts()).open == 0
            changes: list[Request[Any]] = [
                routes.put_rule(rule),
                routes.silence("x"),
                routes.end_silence(1),
            ]
            for request in changes:
                with pytest.raises(NotAllowed):
                    client.run(request)

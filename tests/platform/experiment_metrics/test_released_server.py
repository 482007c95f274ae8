"""A running server: an analyst gets released numbers alone, after a cost that can be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.platform.experiment_metrics.naive import BEGIN, DAY, KEY
from tests.platform.experiment_metrics.released_support import METRICS
from tests.platform.experiment_metrics.test_released_readout import history
from tests.platform.support import Live, build, small_settings

from tactful.cli.main import main
from tactful.client import Client
from tactful.client.routes import experiments as routes
from tactful.config.recommendation import RecommendSettings
from tactful.errors import BadRequest, NotAllowed
from tactful.server.platform import Platform
from tactful.util.clock import now_ms
from tactful_streaming.contract.log_entries import encode_entry

_PEOPLE = 400


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    metrics = tmp_path / "metrics.yaml"
    other = "  - {experiment: open, goals: [buyers], arms: {a: 0.5, b: 0.5}}\n"
    # The server's clock is that of the machine: a year of days would be drawn.
    days = (now_ms() - BEGIN) // DAY - 8
    text = METRICS.replace("start: 2023-11-15", f"start: {_date(BEGIN + days * DAY)}")
    metrics.write_text(text + other, "utf-8")
    settings = small_settings(tmp_path)
    server = dataclasses.replace(settings.server, dev=False)
    recommend = RecommendSettings(metrics=metrics)
    settings = dataclasses.replace(settings, server=server, recommend=recommend)
    with Live(Platform.open(settings, build)) as running:
        entries = [_shifted(entry, days * DAY) for entry in history(_PEOPLE)]
        (log,) = running.platform.resources.backend.partitions()
        log.append([encode_entry(entry) for entry in entries])
        yield running


def _date(at: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d}"


def _shifted(entry: Any, ms: int) -> Any:
    from msgspec import structs

    return structs.replace(entry, timestamp=entry.timestamp + ms)


def test_an_analyst_gets_released_numbers_alone(live: Live) -> None:
    analyst, admin = live.create_key("analyst"), live.create_key("admin")
    with Client(live.url, analyst) as client:
        cost = client.run(routes.release_cost(KEY))
        assert cost.epsilon == 1 and cost.waiting["buyers"] > 3 and cost.days["buyers"] == 0
        found = client.run(routes.read_out(KEY))
        assert found.source == "released" and found.epsilon == 1
        again = client.run(routes.read_out(KEY, source="released"))
        assert again.effects == found.effects
        assert client.run(routes.release_cost(KEY)).days["buyers"] == cost.waiting["buyers"]
        with pytest.raises(NotAllowed, match="exact numbers need"):
            client.run(routes.read_out(KEY, source="exact"))
        with pytest.raises(BadRequest, match="within a day"):
            client.run(routes.read_out(KEY, days=0.5))
        assert "no epsilon" in client.run(routes.read_out("open")).reason
        with pytest.raises(NotAllowed, match="without an analysis"):
            client.run(routes.read_out("ranking"))
    with Client(live.url, admin) as client:
        exact = client.run(routes.read_out(KEY, source="exact"))
    people, noisy = exact.sample_ratio.people, found.sample_ratio.people
    assert sum(people.values()) == _PEOPLE
    values = {it.metric: (it.control.value, it.treatment.value) for it in exact.effects}
    released = {it.metric: (it.control.value, it.treatment.value) for it in found.effects}
    # One number with noise may equal the exact one: in both arms, those of people alone do so in
    # three of 10,000 runs.
    assert (people, values) != (noisy, released)
    assert found.guardrails == [] and found.segments == []


def test_the_command_shows_cost_and_released_numbers(live: Live, tmp_path: Path) -> None:
    settings = live.platform.settings
    config = tmp_path / "tactful.toml"
    config.write_text(
        f'[storage]\ndata = "{settings.storage.data}"\n'
        f'[recommend]\nmetrics = "{settings.recommend.metrics}"\n'
    )

    def tactful(*words: str) -> str:
        arguments = ["experiment", "readout", KEY, *words, "--config", str(config)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    cost = tactful("--cost")
    assert "epsilon 1 for one user" in cost and "prices: a quantile is not released" in cost
    found = tactful("--source", "released")
    assert "checkout, released numbers" in found and "note: clicks: a count without a cap" in found
    assert tactful("--source", "released").splitlines()[2:] == found.splitlines()[2:]


def test_an_analyst_does_not_see_who_registered_an_analysis(live: Live) -> None:
    analyst, admin = live.create_key("analyst"), live.create_key("admin")
    with Client(live.url, analyst) as client:
        assert {it.registered_by for it in client.run(routes.metrics()).experiments} == {""}
    with Client(live.url, admin) as client:
        authors = {it.registered_by for it in client.run(routes.metrics()).experiments}
    assert authors == {"tactful serve"}

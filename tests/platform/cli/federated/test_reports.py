"""Reports of a run are queued, retried and never stop it; tested against a real server."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.platform.http.test_federated import PLAN, RUN, a_round
from tests.platform.support import Live, wait_until

from tactful.cli.federated.reports import RunReporter
from tactful.cli.main import main
from tactful.client import Client
from tactful.client.routes import federated as routes
from tactful.schemas.federated import FederatedReport, FederatedRun

ABOUT = FederatedReport(id=RUN, name="intent-1", tier="secret", plan=PLAN)


def reporter(directory: Path, url: str) -> RunReporter:
    client = Client(url, timeout=5, retries=0)
    return RunReporter(directory, client, ABOUT, url=url, first_pause=0.01)


def run_on(live: Live) -> FederatedRun | None:
    with Client(live.url) as client:
        return next(iter(client.run(routes.runs()).runs), None)


def reported(live: Live, rounds: int, state: str) -> Callable[[], bool]:
    def holds() -> bool:
        run = run_on(live)
        return run is not None and (run.rounds, run.state) == (rounds, state)

    return holds


def test_a_run_shows_its_rounds_while_it_runs(live: Live, tmp_path: Path) -> None:
    with reporter(tmp_path, live.url) as reports:
        reports.add(a_round(1))
        reports.add(a_round(2))
        wait_until(reported(live, 2, "running"))
        reports.add_accuracy(top1=0.25, top5=0.5, top1_error=0.01)
    wait_until(reported(live, 2, "done"))
    run = run_on(live)
    assert run is not None and run.last == a_round(2, top1=0.25, top5=0.5, top1_error=0.01)


def test_a_failed_run_says_why(live: Live, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk"), reporter(tmp_path, live.url) as reports:
        reports.add(a_round(1))
        raise OSError("the disk is full")
    run = run_on(live)
    assert run is not None and (run.state, run.reason) == ("failed", "the disk is full")


def test_a_stopped_run_stays_open(live: Live, tmp_path: Path) -> None:
    with pytest.raises(SystemExit), reporter(tmp_path, live.url) as reports:
        reports.add(a_round(1))
        raise SystemExit(0)
    wait_until(reported(live, 1, "running"))


def test_a_server_that_is_away_stops_no_round(
    live: Live, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next start sends what is left, also behind a line that a kill has cut."""
    with caplog.at_level(logging.WARNING), reporter(tmp_path, "http://127.0.0.1:9") as away:
        for number in range(1, 4):
            away.add(a_round(number))
    assert caplog.text.count("rounds are reported later") == 1
    assert "the next start reports them" in caplog.text
    with (tmp_path / "report.ndjson").open("ab") as file:
        file.write(b'{"number": 4, "at"')
    with reporter(tmp_path, live.url):
        pass
    wait_until(reported(live, 3, "done"))
    sent = (tmp_path / "report.sent").read_text()
    assert sent == f"{live.url}\n3\n"
    with reporter(tmp_path, live.url) as again:
        again.add(a_round(4))
    wait_until(reported(live, 4, "done"))


def test_a_key_that_may_not_report_stops_no_round(locked: Live, tmp_path: Path) -> None:
    with reporter(tmp_path, locked.url) as reports:
        reports.add(a_round(1))
    assert (tmp_path / "report.ndjson").read_bytes().count(b"\n") == 1


@pytest.mark.slow
def test_a_simulation_reports_its_accuracy(live: Live, tmp_path: Path) -> None:
    asked = ["federated", "simulate", str(tmp_path / "first"), "--devices", "60", "--rounds", "2"]
    asked += ["--report-goal", "8", "--report", live.url, "--json"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)["plan"]
    run = run_on(live)
    assert run is not None and run.simulated and run.name == "first"
    assert (run.state, run.rounds) == ("done", 2)
    assert public_part(plan) == {name: getattr(run.plan, name) for name in public_part(plan)}
    with Client(live.url) as client:
        rounds = client.run(routes.rounds(run.id)).rounds
    assert [it.releases for it in rounds] == [1, 2]
    assert rounds[0].epsilon <= rounds[1].epsilon == pytest.approx(8.0)
    assert all(it.top1 is not None and it.asked and it.reports for it in rounds)


def public_part(plan: dict[str, float]) -> dict[str, float]:
    """Return the public part of a plan."""
    names = ("epsilon", "delta", "unit", "rounds", "cohort", "report_goal", "minimum_reports")
    return {name: plan[name] for name in names}

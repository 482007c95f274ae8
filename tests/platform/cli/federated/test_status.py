"""`tactful federated status`: from a directory and from a server, without numbers of devices."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from tests.platform.http.test_federated import PLAN, RUN
from tests.platform.support import Live

from tactful.cli.main import main
from tactful.client import Client
from tactful.client.routes import federated as routes
from tactful.schemas.federated import FederatedReport, FederatedRound
from tactful_federated.core.plan import Wishes
from tactful_federated.serving.rounds import invite


def status(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["federated", "status", *arguments])


def a_round(
    number: int, reports: int, reason: str = "", top1: float | None = None
) -> FederatedRound:
    """A round in which 1,013 devices were asked."""
    return FederatedRound(
        number=number,
        at=1_772_366_400_000 + number,
        releases=number,
        epsilon=0.1 * number,
        seconds=4.5,
        asked=1013,
        reports=reports,
        reason=reason,
        top1=top1,
    )


@pytest.mark.slow
def test_a_simulation_is_shown_after_each_start(tmp_path: Path) -> None:
    directory = str(tmp_path / "first")
    asked = ["federated", "simulate", directory, "--devices", "60", "--report-goal", "8"]
    assert CliRunner().invoke(main, [*asked, "--rounds", "2"]).exit_code == 0
    shown = status(directory)
    assert shown.exit_code == 0, shown.output
    assert "simulation first, tier clear: is not led by any process" in shown.stdout
    assert "2 of 2 releases\nepsilon 8 of 8 spent, 0 left" in shown.stdout
    assert "next round: none" in shown.stdout
    (tmp_path / "first" / "state.npz").write_bytes(b"half")
    damaged = status(directory)
    assert damaged.exit_code == 1 and "state.npz is damaged" in damaged.stderr


def test_numbers_of_devices_are_quarters(tmp_path: Path) -> None:
    wishes = Wishes(epsilon=4.0, delta=1e-3, population=60, rounds=3, report_goal=4)
    invite(tmp_path, wishes, ["bread", "milk"], run="test", tier="clear")
    rounds = [a_round(1, 1013), a_round(2, 1), a_round(3, 777, "too few devices reported", 0.25)]
    lines = b"".join(msgspec.json.encode(figures) + b"\n" for figures in rounds)
    (tmp_path / "report.ndjson").write_bytes(lines + b'{"number": 4, "at')
    (tmp_path / "report.sent").write_text("https://shop.example\n2\n")
    shown, given = status(str(tmp_path)), status(str(tmp_path), "--json")
    assert shown.exit_code == given.exit_code == 0, shown.output
    for output in (shown.stdout, given.stdout):
        assert "1013" not in output and "777" not in output
    assert "at least 75% of those asked answered, top-1 0.250, void: too few" in shown.stdout
    assert "reports: 2 of 3 sent to https://shop.example" in shown.stdout
    assert "after `tactful federated serve` is started again" in shown.stdout
    document = json.loads(given.stdout)
    assert [figures["answered_at_least"] for figures in document["latest"]] == [1.0, 0.0, 0.75]
    assert document["reports"] == {"url": "https://shop.example", "sent": 2, "kept": 3}
    assert document["running"] is False and document["completed_at"] is None


def test_reported_runs_are_read_from_a_server(live: Live, tmp_path: Path) -> None:
    empty = status("--url", live.url)
    assert empty.exit_code == 0 and "no run was reported" in empty.stderr
    rounds = [a_round(1, 1013), a_round(2, 999)]
    report = FederatedReport(id=RUN, name="intent-1", tier="secret", plan=PLAN, rounds=rounds)
    with Client(live.url) as client:
        client.run(routes.report(report))
    shown = status("--url", live.url, "--run", "intent-1")
    assert f"run intent-1 ({RUN}), tier secret: running\n  round 2: " in shown.stdout
    given = status("--url", live.url, "--json")
    (document,) = json.loads(given.stdout)
    assert document["last"]["answered_at_least"] == 0.75
    assert "1013" not in given.stdout and "999" not in given.stdout
    unknown = status("--url", live.url, "--run", "intent-2")
    assert unknown.exit_code == 2 and "no report of a run 'intent-2'" in unknown.stderr


def test_wrong_usage_is_named(tmp_path: Path) -> None:
    for arguments, problem in (
        ([], "either DIRECTORY"),
        ([str(tmp_path), "--url", "http://127.0.0.1:9"], "either DIRECTORY"),
        ([str(tmp_path), "--run", "intent-1"], "go with --url"),
        ([str(tmp_path)], "has no run"),
    ):
        refused = status(*arguments)
        assert refused.exit_code == 2 and problem in refused.stderr

"""`tactful federated plan` says what the planner found, and refuses what it refuses."""

import json
from pathlib import Path

from click.testing import CliRunner

from tactful.cli import main

ASKED = [
    *("federated", "plan", "--population", "100000", "--rounds", "50", "--report-goal", "500"),
    *("--parameters", "1000", "--bands", "4"),
]


def test_a_plan_is_printed_and_given_as_json() -> None:
    shown = CliRunner().invoke(main, [*ASKED, "--curvature", "0.1"])
    assert shown.exit_code == 0, shown.output
    assert "epsilon 2 at delta 1e-06" in shown.output and "nats" in shown.output
    given = CliRunner().invoke(main, [*ASKED, "--json"])
    plan = json.loads(given.stdout)
    assert plan["cohort"] == 650 and plan["expected_loss"] is None
    assert f"{plan['participations']} times at most" in shown.output


def test_what_cannot_be_had_is_a_wrong_usage() -> None:
    refused = CliRunner().invoke(main, [*ASKED[:3], "100", *ASKED[4:]])
    assert refused.exit_code == 2
    assert "lower the report goal" in refused.stderr


def test_a_simulation_says_what_it_promises_and_what_it_reached(tmp_path: Path) -> None:
    asked = [
        *("federated", "simulate", str(tmp_path / "run"), "--devices", "60", "--rounds", "2"),
        *("--report-goal", "8"),
    ]
    shown = CliRunner().invoke(main, asked)
    assert shown.exit_code == 0, shown.output
    assert "2 of 2 releases, 0 void rounds" in shown.output
    again = json.loads(CliRunner().invoke(main, [*asked, "--json"]).stdout)
    assert again["releases"] == 2 and again["plan"]["epsilon"] == 8.0
    other = CliRunner().invoke(main, [*asked, "--epsilon", "4"])
    assert other.exit_code == 1 and "another plan" in other.stderr
    refused = CliRunner().invoke(main, [*asked, "--report-goal", "500"])
    assert refused.exit_code == 2

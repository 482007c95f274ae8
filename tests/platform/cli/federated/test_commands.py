"""`tactful federated plan` says what the planner found, and refuses what it refuses."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tactful.cli.main import main
from tactful.errors import StorageError
from tactful_federated.core.private_evaluation import Evaluation
from tactful_federated.model.lstm_numpy import CURVATURE
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import parameter_count

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
    assert plan["cohort"] == 650
    expected = plan["parameters"] * CURVATURE * plan["model_noise"] ** 2 / 2
    assert plan["expected_loss"] == pytest.approx(expected)
    assert f"{plan['participations']} times at most" in shown.output


def test_a_plan_says_what_a_tier_can_do() -> None:
    def shown(*options: str) -> Any:
        given = CliRunner().invoke(main, [*ASKED, *options])
        assert given.exit_code == 0, given.output
        return given.stdout

    divided = ("--tier", "noise-in-sum", "--group-size", "200")
    told = json.loads(shown(*divided, "--json"))["tier"]
    assert (told["sums"], told["sum_size"], told["sum_fewest"]) == (4, 163, 83)
    assert told["server_epsilon"] == 2.0 > told["model_epsilon"]
    assert told["costs"]["device_sends"] > 4 * 1000 and "--trim" in told["refused"]
    text = shown(*divided)
    assert "4 of at most 163 devices, 83 or more each" in text
    assert "2, if 83 devices of each sum add noise" in text
    assert "no --trim" in shown() and "no --trim" not in shown("--tier", "clear")
    assert "none: the server is trusted" in shown("--tier", "secret")
    clear = CliRunner().invoke(main, [*ASKED, "--tier", "clear", "--group-size", "9"])
    assert clear.exit_code == 2 and "go with secret sums" in clear.stderr


def test_a_refused_plan_names_a_group_size_that_fits() -> None:
    """The documented scale of the strongest tier: its one sum is refused, and its groups fit."""
    asked = ["federated", "plan", "--population", "1000000", "--parameters", "17953"]
    refused = CliRunner().invoke(main, [*asked, "--tier", "noise-in-sum"])
    assert refused.exit_code == 2 and "--group-size 1000 fits" in refused.stderr
    fits = CliRunner().invoke(main, [*asked, "--tier", "noise-in-sum", "--group-size", "1000"])
    assert fits.exit_code == 0 and "2 of at most 650 devices" in fits.stdout


def test_what_cannot_be_had_is_a_wrong_usage() -> None:
    refused = CliRunner().invoke(main, [*ASKED[:3], "100", *ASKED[4:]])
    assert refused.exit_code == 2
    assert "lower the report goal" in refused.stderr


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_simulation_trains_a_model_of_the_widths_that_were_asked_for(tmp_path: Path) -> None:
    def simulate(embedding: int, hidden: int) -> Result:
        asked = ["--devices", "60", "--rounds", "1", "--report-goal", "8", "--json"]
        wide = ["--embedding", str(embedding), "--hidden", str(hidden)]
        directory = str(tmp_path / "run")
        return CliRunner().invoke(main, ["federated", "simulate", directory, *asked, *wide])

    tokens = Vocabulary.from_catalogue(SAMPLE_CATALOGUE).size
    found = simulate(16, 8)
    assert found.exit_code == 0, found.output
    planned = json.loads(found.stdout)["plan"]["parameters"]
    assert planned == parameter_count(tokens, embedding=16, hidden=8)
    other = simulate(8, 16)
    assert other.exit_code == 1 and "another plan" in other.stderr
    refused = simulate(96, 128)
    assert refused.exit_code == 2 and "--embedding 96 and --hidden 128" in refused.stderr


def test_results_are_told_without_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cost a budget that nobody gives back."""

    class Down:
        def __init__(self, directory: Path, tracking_uri: str | None) -> None: ...

        def show_evaluation(self, trained: object, found: object, **more: float) -> None:
            raise StorageError("the store is down")

    @contextlib.contextmanager
    def link(*arguments: object, **options: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(run=lambda name: contextlib.nullcontext())

    plan = SimpleNamespace(epsilon_after=lambda sums: 0.1 * sums)
    invitation = SimpleNamespace(run="test", tier="clear", plan=plan)
    said = Evaluation(3, 100.0, 0.5, 0.75, 0.01, 0.02)
    monkeypatch.setattr("tactful.cli.federated.evaluate.FederatedRuns", Down)
    for name, found in {
        "SuperLink": link,
        "collector_for": lambda *arguments, **options: None,
        "invite_to_evaluations": lambda *arguments, **options: invitation,
        "read_invitation": lambda path: None,
        "serve_evaluation": lambda *arguments: (said, 4),
    }.items():
        monkeypatch.setattr(f"tactful.cli.federated.evaluate.{name}", found)
    asked = ["federated", "evaluate", str(tmp_path), "--population", "100", "--json"]
    weights = tmp_path / "weights.npy"
    weights.write_bytes(b"text")
    refused = CliRunner().invoke(main, asked)
    assert refused.exit_code == 2 and "holds no weights" in refused.stderr
    np.save(weights, np.zeros(3, dtype=np.float32))
    told = CliRunner().invoke(main, asked)
    assert told.exit_code == 1 and "the store is down" in told.stderr
    assert json.loads(told.stdout) == asdict(said) | {"left": 4}

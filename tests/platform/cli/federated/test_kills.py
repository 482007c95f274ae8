"""Training that is killed by `kill -9` goes on: in each tier, and in MLflow without a gap."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tactful_federated.device.ledger import DeviceLedger
from tactful_federated.serving.status import read_status

ROUNDS, KILLED = 4, 3
PROGRAM = f"""
import os, signal, sys
from tactful.cli.federated import reports
from tactful.cli.main import main
from tactful_federated.core.private_training import PrivateTraining

place, save, add = sys.argv.pop(1), PrivateTraining._save, reports.RunReporter.add

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def saving(self, number, *arguments):
    if number == {KILLED} and place == "round":  # devices are charged and have trained
        die()
    save(self, number, *arguments)

def adding(self, figures):
    if figures.number == {KILLED} and place == "report":  # the checkpoint is written
        die()
    add(self, figures)

PrivateTraining._save, reports.RunReporter.add = saving, adding
main()
"""


@pytest.mark.slow  # each starts two processes, which import torch, and one case a store of MLflow
@pytest.mark.parametrize(
    ("tier", "place"),
    [("clear", "round"), ("secret", "round"), ("noise-in-sum", "round"), ("clear", "report")],
)
def test_a_killed_simulation_goes_on(tmp_path: Path, tier: str, place: str) -> None:
    directory, uri = tmp_path / "run", f"sqlite:///{tmp_path / 'mlflow.db'}"
    asked = ["federated", "simulate", str(directory), "--tier", tier]
    asked += ["--tracking-uri", uri] if place == "report" else []
    asked += ["--devices", "120", "--rounds", str(ROUNDS), "--report-goal", "8", "--json"]

    def tactful(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=300
        )

    killed = tactful("-c", PROGRAM, place, *asked)
    assert killed.returncode == -9, killed.stderr
    between = status(directory)
    done = KILLED - 1 if place == "round" else KILLED
    assert (between["round"], between["running"], between["next_round"]) == (done, False, "start")
    again = tactful("-m", "tactful", *asked)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["releases"] == ROUNDS
    ended = status(directory)
    assert (ended["releases"], ended["epsilon_left"], ended["next_round"]) == (ROUNDS, 0, "never")
    if place == "report":
        run = (directory / "mlflow-run").read_text()
        client = MlflowClient(tracking_uri=uri)
        for name in ("releases", "epsilon_spent", "void"):
            steps = [metric.step for metric in client.get_metric_history(run, name)]
            assert sorted(steps) == [1, 2, 3, 4], name
        assert client.get_run(run).info.status == "FINISHED"
    if tier != "clear":  # devices charged themselves for the round that was killed, too
        times = [charged(path) for path in (directory / "devices").iterdir()]
        plan = json.loads((directory / "plan.json").read_text())
        assert max(times) <= plan["participations"]
        assert sum(times) > ROUNDS * plan["minimum_reports"]


def charged(path: Path) -> int:
    ledger = DeviceLedger(path)
    try:
        return ledger.times("simulation")
    finally:
        ledger.close()


def status(directory: Path) -> dict[str, Any]:
    return asdict(read_status(directory))

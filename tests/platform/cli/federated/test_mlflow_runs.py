"""Rounds in MLflow: each step once, whatever was killed or away, and no number of devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tactful.cli.federated.mlflow_runs import FederatedRuns
from tactful.cli.federated.reports import Receiver, RunReporter, plan_of
from tactful.errors import StorageError
from tactful.schemas.federated import FederatedRound
from tactful_federated.core.plan import Wishes, plan_training
from tactful_federated.core.private_evaluation import Evaluation
from tactful_federated.serving.rounds import invite
from tactful_federated.serving.status import RunStatus

PLAN = plan_training(Wishes(epsilon=4.0, delta=1e-3, population=60, rounds=3, report_goal=4))


def a_round(number: int, **more: Any) -> FederatedRound:
    about: dict[str, Any] = {
        "at": 1_772_366_400_000 + number,
        "epsilon": 0.1 * number,
        "seconds": 4.5,
    }
    more = {"asked": 1013, "reports": 777} | more
    return FederatedRound(number=number, releases=number, **about, **more)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


def opened(directory: Path, uri: str) -> tuple[FederatedRuns, str, RunReporter]:
    """Open the log and the reporter of a run as `serve` does."""
    directory.mkdir(exist_ok=True)
    runs = FederatedRuns(directory, tracking_uri=uri)
    reporter = Receiver(None, None).open(directory, name="run", tier="clear", plan=plan_of(PLAN))
    return runs, runs.begin_simulation("run", PLAN, tier="clear"), reporter


def steps(client: MlflowClient, run: str, name: str) -> list[int]:
    return sorted(metric.step for metric in client.get_metric_history(run, name))


@pytest.mark.slow
def test_a_restart_logs_each_round_once(tmp_path: Path, uri: str, client: MlflowClient) -> None:
    runs, run, reporter = opened(tmp_path, uri)
    for number in (1, 2):
        reporter.add(a_round(number))
        runs.show(run, a_round(number), 0.5)
    reporter.add(a_round(3))  # killed before it was logged
    runs, again, reporter = opened(tmp_path, uri)
    assert again == run
    about: dict[str, Any] = {"run": "run", "tier": "clear", "simulated": True, "running": False}
    about |= {"releases": 4, "planned": 5, "epsilon": 0.4, "epsilon_left": 3.6, "delta": 1e-3}
    about |= {"completed_at": 1_772_366_401.0, "seconds": None, "reason": "", "needs": 3}
    about |= {"next_round": "start", "rests": 0, "published": False}
    status = RunStatus(round=4, **about)  # and once more, after the checkpoint of the fourth
    for _ in range(2):
        reporter.add_lost(status)
        runs.resume(run, reporter.rounds)
    reporter.add(a_round(5))
    runs.show(run, a_round(5), 0.25)
    assert [figures.number for figures in reporter.rounds] == [1, 2, 3, 4, 5]
    for name in ("releases", "epsilon_spent", "void"):
        assert steps(client, run, name) == [1, 2, 3, 4, 5], name
    assert steps(client, run, "round_seconds") == [1, 2, 3, 5]
    assert steps(client, run, "noisy_update_norm") == [1, 2, 5]
    runs.show_plot(run, reporter.rounds)
    assert [file.path for file in client.list_artifacts(run, "figures")] == ["figures/rounds.png"]
    logged = client.get_run(run).data
    assert logged.metrics["answered_at_least"] == 0.75
    assert not {1013.0, 777.0} & {*logged.metrics.values()}
    assert "777" not in str(logged.params)


def test_rounds_while_the_store_was_away_are_logged_when_it_is_back(
    tmp_path: Path, uri: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, run, _ = opened(tmp_path, uri)
    runs.show(run, a_round(1), 0.5)
    log_batch, failures = runs._client.log_batch, [StorageError("reset"), StorageError("gone")]

    def failing(*arguments: Any, **options: Any) -> None:
        if failures:
            log_batch(*arguments, **options) if len(failures) == 2 else None
            raise failures.pop()
        log_batch(*arguments, **options)

    monkeypatch.setattr(runs._client, "log_batch", failing)
    for number in range(2, 5):  # the answer about the second is lost, the third never arrives
        runs.show(run, a_round(number), 0.5)
    for name in ("releases", "round_seconds", "noisy_update_norm"):
        assert steps(client, run, name) == [1, 2, 3, 4], name


def test_a_void_round_and_generated_shoppers(
    tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    runs, run, _ = opened(tmp_path, uri)
    runs.show(run, a_round(1, reason="too few devices reported", asked=None, reports=None))
    runs.show(run, a_round(2, loss=2.5, top1=0.25, top5=0.5), 0.5)
    runs.end(run)
    found = client.get_run(run)
    assert found.info.status == "FINISHED" and found.data.params["simulated"] == "True"
    assert [metric.value for metric in client.get_metric_history(run, "void")] == [1.0, 0.0]
    assert steps(client, run, "answered_at_least") == steps(client, run, "noisy_update_norm") == [2]
    assert (found.data.metrics["loss"], found.data.metrics["top1"]) == (2.5, 0.25)


@pytest.mark.slow
def test_accuracy_on_devices_is_logged_with_its_noise_and_budget(
    tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    """Accuracy that rounds carry from an evaluation is not logged as one without noise."""
    wishes = Wishes(epsilon=4.0, delta=1e-3, population=60, rounds=3, report_goal=4)
    invitation = invite(tmp_path, wishes, ["bread", "milk"], run="test", tier="clear")
    runs = FederatedRuns(tmp_path, tracking_uri=uri)
    run = runs.begin(invitation)
    runs.resume(run, [a_round(1, top1=0.25, top5=0.5, top1_error=0.01)])
    nothing = Evaluation(1, 0.0, float("nan"), float("nan"), float("inf"), float("inf"))
    runs.show_evaluation(invitation, nothing, epsilon=0.25, seconds=3.0)
    runs.show_evaluation(
        invitation, Evaluation(2, 50.0, 0.5, 0.75, 0.01, 0.02), epsilon=0.5, seconds=4.0
    )
    logged = client.get_run(run).data.metrics
    assert "top1" not in logged and "on_devices_devices" not in logged
    assert steps(client, run, "on_devices_epsilon_spent") == [1, 2]
    assert (
        steps(client, run, "on_devices_top1") == steps(client, run, "on_devices_top1_error") == [2]
    )

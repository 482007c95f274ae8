"""Runs of MLflow that accompany trainings: failures, curves, data, and a model that is served."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec
import numpy as np
import pytest
from tests.platform.models.test_mlflow_registry import EXAMPLE, make_model, some_rows
from tests.platform.support import wait_until

from tactful.errors import ModelError
from tactful.models.mlflow_registry import Registry
from tactful.models.mlflow_run import code_version, training_run
from tactful.models.training_record import TrainingRecord, read_record, write_record
from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.model import (
    load_model,
    margins_of,
    read_manifest,
    save_model,
    version_directory,
)
from tactful.recall.index import RecallIndex
from tactful.schemas.models import Bounds, Loss, ServedDrift
from tactful.util.checkpoint import Checkpoint

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RECORD = TrainingRecord(
    trained_at=1_700_000_000_000,
    seconds=12.5,
    trees=2,
    curve=[0.1, 0.125, 0.12],
    intervals={"ndcg20": Bounds(low=0.1, high=0.15)},
    losses={"content": {"ndcg20": Loss(value=0.01, low=0.0, high=0.02)}},
    served=ServedDrift(version="1", drift={"price": 0.3}, skew=0.0),
)


@pytest.fixture
def client(tracking_uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri)


def only_run(client: MlflowClient) -> Run:
    experiment = client.get_experiment_by_name("ranker")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ModelError("only 3 questions in the last 2 days"), "FAILED", "only 3 questions"),
        (KeyboardInterrupt(), "KILLED", ""),
    ],
)
def test_a_training_that_fails_leaves_its_run(
    client: MlflowClient, tracking_uri: str, error: BaseException, status: str, reason: str
) -> None:
    with (
        pytest.raises(type(error)),
        training_run(tracking_uri, "ranker", parameters={"depth": 6}),
    ):
        raise error
    run = only_run(client)
    assert run.info.status == status
    assert run.data.tags.get("failure", "").startswith(reason)
    assert run.data.params == {"depth": "6"}
    assert (run.info.run_name or "").startswith("ranker 20")
    assert "ranking model ranker" in run.data.tags["mlflow.note.content"]
    assert run.data.tags.items() >= code_version().items()


def test_the_run_of_a_killed_training_ends(
    client: MlflowClient, tracking_uri: str, tmp_path: Path
) -> None:
    """Its process could not end it; the next training does, also if it starts anew."""
    experiment = client.create_experiment("ranker")
    killed = client.create_run(experiment).info.run_id
    with Checkpoint.hold(tmp_path / "training") as checkpoint:
        checkpoint.note_run(killed)
        checkpoint.begin({"another": "training"})
        with training_run(tracking_uri, "ranker", parameters={}, checkpoint=checkpoint) as run_id:
            assert checkpoint.run() == run_id
        checkpoint.end()
        assert checkpoint.run() is None
    assert client.get_run(killed).info.status == "KILLED"
    assert run_id in client.get_run(killed).data.tags["failure"]
    assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_holds_curve_data_and_descriptions(
    client: MlflowClient, tracking_uri: str, tmp_path: Path
) -> None:
    registry = Registry("ranker", tmp_path / "models")
    with registry.run(parameters={"depth": 6}) as run_id:
        made = registry.register(
            make_model(tmp_path / "model", 1), example=EXAMPLE, figures={}, record=RECORD
        )
    assert made.run_id == run_id
    run = client.get_run(run_id)
    steps = client.get_metric_history(run_id, "ndcg20_by_tree")
    assert [(it.step, it.value) for it in steps] == [(1, 0.1), (2, 0.125), (3, 0.12)]
    assert steps[RECORD.trees - 1].value == run.data.metrics["ndcg20"], "one NDCG, not two"
    assert run.inputs is not None
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.digest == "hash-1"
    assert {it.key: it.value for it in data.tags}["mlflow.data.context"] == "training"
    assert "champion" in (client.get_registered_model("ranker").description or "")
    text = client.get_model_version("ranker", "1").description or ""
    assert "NDCG@20 0.1250 (95 % interval 0.1000 to 0.1500)" in text
    assert text.endswith("2 trees.")
    record = read_record(version_directory(tmp_path / "models", "1"))
    assert record is not None
    assert record.run_path == f"#/experiments/{run.info.experiment_id}/runs/{run_id}"
    assert msgspec.structs.replace(record, run_path="") == RECORD
    client.update_registered_model("ranker", "ours")
    registry.register(make_model(tmp_path / "again", 2), example=EXAMPLE, figures={})
    assert client.get_registered_model("ranker").description == "ours", "a text of people stays"


def test_a_version_without_a_record_or_with_a_damaged_one(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(ModelError, match=r"training\.json: cannot be read as a record"):
        read_record(tmp_path)


@pytest.mark.slow
def test_mlflow_serves_a_registered_model(
    registered_with_start: Path, tracking_uri: str, tmp_path: Path
) -> None:
    """Asked by HTTP in another process, it scores as the server: floats, integers, missing ones."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", "models:/ranker/1", "--port", str(port), "--workers", "1"]
    with (
        (tmp_path / "served.log").open("wb") as log,
        subprocess.Popen(
            command,
            env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri},
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as served,
    ):
        try:
            url = f"http://127.0.0.1:{port}"

            def answers() -> bool:
                assert served.poll() is None, (tmp_path / "served.log").read_text()
                with contextlib.suppress(httpx.HTTPError):
                    return httpx.get(f"{url}/ping").status_code == 200
                return False

            wait_until(answers, seconds=120)
            rows = np.round(some_rows(9), 3)
            rows[::3, ::2] = np.nan
            rows[1] = 1.0
            values = [[None if np.isnan(it) else float(it) for it in row] for row in rows]
            values[1] = [1 for _ in RANKING_FEATURES]  # integers
            frame = {"dataframe_split": {"columns": [*RANKING_FEATURES], "data": values}}
            answer = httpx.post(f"{url}/invocations", content=json.dumps(frame), headers=JSON)
            assert answer.status_code == 200, answer.text
            model = load_model(version_directory(registered_with_start, "1"), definitions="d" * 64)
            assert np.allclose(answer.json()["predictions"], model.score(rows), atol=1e-6)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(served.pid, signal.SIGTERM)
            served.wait(20)


JSON = {"content-type": "application/json"}


@pytest.fixture
def registered_with_start(tracking_uri: str, tmp_path: Path) -> Path:
    """A registered model whose trees correct the logarithm of the blend."""
    import xgboost

    made = make_model(tmp_path / "model", 3)
    manifest = msgspec.structs.replace(read_manifest(made), start="blend")
    forest = xgboost.Booster()
    forest.load_model(made / "model.ubj")
    save_model(made, manifest, forest, RecallIndex.load(made / "index"))
    Registry("ranker", tmp_path / "models").register(made, example=EXAMPLE, figures={})
    margins = margins_of(forest, EXAMPLE)
    ours = load_model(version_directory(tmp_path / "models", "1"), definitions="d" * 64)
    assert np.allclose(ours.score(EXAMPLE), margins, atol=1e-6)
    return tmp_path / "models"

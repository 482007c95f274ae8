"""The run of MLflow that accompanies a training, from its beginning to its end or failure."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.ranking.features import layout

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models.model import ModelInfo

    from tactful.models.training_record import TrainingRecord
    from tactful.ranking.model import Manifest
    from tactful.util.checkpoint import Checkpoint

_DESCRIPTION = (
    "Ranking model of tactful. The alias champion serves, previous served before it, and "
    "challenger is the newest version that has not served. Input: the columns of "
    "feature_schema.json, null for missing; output: a score for each row, larger is better."
)
_LONGEST_REASON = 5_000
_BATCH = 1_000  # metrics in one request
_GIT_S = 5.0


@contextlib.contextmanager
def training_run(
    uri: str, name: str, *, parameters: Mapping[str, Any], checkpoint: Checkpoint | None = None
) -> Iterator[str]:
    """Hold a run open while a training lasts, and yield its id.

    A training that fails ends its run as FAILED, with the reason in the tag `failure`; one that is
    stopped as KILLED. The run of a process that was killed is found by the checkpoint, and ended by
    the training after it.

    Raises:
        ModelError: if MLflow's store cannot be used.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    now = dt.datetime.now(dt.UTC)
    text = (
        f"Training of the ranking model {name} by `tactful train`, begun {now:%Y-%m-%d %H:%M} UTC."
    )
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(name)
        run = mlflow.start_run(
            run_name=f"{name} {now:%Y-%m-%d %H:%M}", description=text, tags=code_version()
        )
    except MlflowException as error:
        raise ModelError(f"{uri}: no run can be started: {error}") from error
    status, run_id = "FINISHED", str(run.info.run_id)
    try:
        if checkpoint is not None:
            _end_killed(checkpoint.run() or "", run_id)
            checkpoint.note_run(run_id)
        mlflow.log_params(dict(parameters))
        yield run_id
    except Exception as error:
        status = "FAILED"
        with contextlib.suppress(Exception):  # the error itself matters more
            mlflow.set_tag("failure", str(error)[:_LONGEST_REASON])
        raise
    except BaseException:  # Ctrl-C, a signal
        status = "KILLED"
        raise
    finally:
        with contextlib.suppress(Exception):
            mlflow.end_run(status)


def _end_killed(run_id: str, next_run: str) -> None:
    """End the run of a training that was killed."""
    import mlflow

    client = mlflow.MlflowClient()
    with contextlib.suppress(Exception):  # it may have been deleted, or be of another store
        if run_id and client.get_run(run_id).info.status == "RUNNING":
            client.set_tag(run_id, "failure", f"its process was killed; run {next_run} came after")
            client.set_terminated(run_id, "KILLED")


def code_version() -> dict[str, str]:
    """Return tags with the version of this package, and its commit where it is a checkout."""
    tags = {"tactful_version": metadata.version("tactful")}
    file = Path(__file__).resolve()
    git = ["git", "-C", str(file.parent)]
    try:
        # An installation inside of somebody else's repository is not part of it.
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", file.name],
            check=True,
            capture_output=True,
            timeout=_GIT_S,
        )
        found = subprocess.run(
            [*git, "rev-parse", "HEAD"], check=True, capture_output=True, timeout=_GIT_S, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return tags
    return tags | {"mlflow.source.git.commit": found.stdout.strip()}


def log_curve(run_id: str, name: str, values: Sequence[float], *, at: int) -> None:
    """Log a figure after each tree; the first tree is step 1. `at` is in epoch milliseconds."""
    import mlflow
    from mlflow.entities import Metric

    steps = [Metric(name, value, at, step) for step, value in enumerate(values, 1)]
    for first in range(0, len(steps), _BATCH):
        mlflow.MlflowClient().log_batch(run_id, metrics=steps[first : first + _BATCH])


def log_figures(
    manifest: Manifest,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    plots: Mapping[str, Path],
) -> None:
    """Log parameters, figures, tags, plots and data of a training to the run that is open."""
    import mlflow

    mlflow.log_params({**parameters, "rows": manifest.rows, "questions": manifest.questions})
    mlflow.log_metrics({**manifest.metrics, **metrics})
    mlflow.set_tags(
        {
            "data_hash": manifest.data_hash,
            "definitions": manifest.definitions,
            "trained_until": str(manifest.trained_until),
        }
    )
    mlflow.log_dict(_schema(manifest), "feature_schema.json")
    for path in plots.values():
        mlflow.log_artifact(str(path), "figures")
    log_data(manifest)


def log_data(manifest: Manifest) -> None:
    """Log the training rows as a dataset: hash, columns and size, and no row."""
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.types.schema import ColSpec, DataType, Schema

    until = dt.datetime.fromtimestamp(manifest.trained_until / 1000, dt.UTC)
    columns = Schema([ColSpec(DataType.float, name) for name in manifest.features])
    source = CodeDatasetSource({"source": "event log", "until": f"{until:%Y-%m-%dT%H:%M:%SZ}"})
    described: Any = MetaDataset  # mypy takes its optional profile for abstract
    mlflow.log_input(
        described(source, name="event log", digest=manifest.data_hash[:36], schema=columns),
        context="training",
        tags={"rows": str(manifest.rows), "questions": str(manifest.questions)},
    )


def log_ranker(directory: Path, manifest: Manifest, example: NDArray[np.float32]) -> ModelInfo:
    """Log a model that `mlflow models serve` can serve, with its signature and an example.

    The signature takes float64 and so any number; a missing value is null.
    """
    import mlflow
    import pandas as pd
    import xgboost
    from mlflow.models import infer_signature

    from tactful.models import ranker_scoring

    rows = pd.DataFrame(example.astype(np.float64), columns=list(manifest.features))
    requirements = [f"{package}=={metadata.version(package)}" for package in ("numpy", "pandas")]
    with tempfile.TemporaryDirectory(prefix="tactful-model-") as scratch:
        for name in ("manifest.json", "model.ubj"):
            shutil.copy(directory / name, scratch)
        scores = np.asarray(ranker_scoring.Ranker(Path(scratch)).predict(rows), np.float64)
        logged: ModelInfo = mlflow.pyfunc.log_model(
            name=manifest.name,
            loader_module=ranker_scoring.__name__.rpartition(".")[2],
            data_path=scratch,
            code_paths=[str(ranker_scoring.__file__)],
            signature=infer_signature(rows, scores),
            input_example=rows,
            # Given, because inferring them starts another interpreter for seconds.
            pip_requirements=[*requirements, f"xgboost-cpu=={xgboost.__version__}"],
        )
        return logged


def register_version(
    client: MlflowClient,
    model_uri: str,
    name: str,
    manifest: Manifest,
    record: TrainingRecord | None,
) -> str:
    """Register a logged model as a new version with a description, and return its number.

    A description that somebody has given the model itself stays.
    """
    import mlflow

    version = str(mlflow.register_model(model_uri, name, await_registration_for=0).version)
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, _DESCRIPTION)
    client.update_model_version(name, version, _describe(manifest, record))
    return version


def _describe(manifest: Manifest, record: TrainingRecord | None) -> str:
    """Describe a version in a sentence or two, for readers of the registry."""
    until = dt.datetime.fromtimestamp(manifest.trained_until / 1000, dt.UTC)
    parts = [f"Trained on events until {until:%Y-%m-%d %H:%M} UTC, {manifest.questions} questions."]
    if (value := manifest.metrics.get("ndcg20")) is not None:
        bounds = None if record is None else record.intervals.get("ndcg20")
        between = f" (95 % interval {bounds.low:.4f} to {bounds.high:.4f})" if bounds else ""
        parts.append(f"NDCG@20 {value:.4f}{between} on later lists.")
    if record is not None:
        parts.append(f"{record.trees} trees.")
    return " ".join(parts)


def _schema(manifest: Manifest) -> dict[str, Any]:
    """Describe the columns, for readers of a run without this package."""
    return {
        "definitions": manifest.definitions,
        "layout": layout(manifest.definitions),
        "columns": [{"name": name, "type": "float32"} for name in manifest.features],
        "missing": "NaN",
    }

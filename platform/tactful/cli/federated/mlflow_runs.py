"""Rounds of federated training and their model in MLflow."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tactful.errors import ModelError, StorageError
from tactful.models.mlflow_registry import CHAMPION, PREVIOUS
from tactful.models.mlflow_run import code_version

if TYPE_CHECKING:
    from tactful_federated.core.invitation import Invitation
    from tactful_federated.core.private_evaluation import Evaluation
    from tactful_federated.serving.rounds import LiveView

_logger = logging.getLogger(__name__)

_EXPERIMENT = "intent"
_RUN = "Private training on devices: run {} of `tactful federated serve`."
_MODEL = (
    "Intent model of tactful: a signed package for devices, which predict on their own what their "
    "person looks for. The alias champion is what devices get."
)
_LONGEST_REASON = 5_000
_TRIES = "2"  # MLflow's own are minutes, for which a round would wait


class FederatedRuns:
    """One private training run as one run of MLflow, also after restarts.

    The logged values are public: the plan, the number of rounds and their duration. All methods
    but `show` raise a StorageError while the store cannot be reached.
    """

    def __init__(self, directory: Path, *, tracking_uri: str | None = None) -> None:
        """Open the store without writing; the directory of the server holds the id of the run.

        Without a store it is ``MLFLOW_TRACKING_URI`` or else ``sqlite:///mlflow.db``.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _TRIES)
        import mlflow

        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        self._uri, self._away = uri, False
        with self._store():
            self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._kept = directory / "mlflow-run"
        self._directory = directory

    def begin(self, invitation: Invitation) -> str:
        """Return the id of the earlier run, or of a new one with the plan as parameters."""
        from tactful_federated.core.checkpoint import write_whole

        if self._kept.exists():
            return self._kept.read_text("utf-8")
        names = ("tier", "embedding", "hidden", "learning_rate", "proximal")
        chosen = {name: getattr(invitation, name) for name in names}
        with self._store():
            found = self._client.get_experiment_by_name(_EXPERIMENT)
            experiment = (
                found.experiment_id if found else self._client.create_experiment(_EXPERIMENT)
            )
            tags = {"mlflow.note.content": _RUN.format(invitation.run), **code_version()}
            made = self._client.create_run(experiment, run_name=invitation.run, tags=tags)
            run = str(made.info.run_id)
            for name, value in {**asdict(invitation.plan), **chosen}.items():
                self._client.log_param(run, name, value)
        write_whole(self._kept, run.encode())
        return run

    @contextlib.contextmanager
    def failing(self, run: str) -> Iterator[None]:
        """End a run as FAILED, with the reason, if the context raises an error.

        A run that failed before runs again. A run that is stopped stays as it is.
        """
        with contextlib.suppress(StorageError), self._store():
            if self._client.get_run(run).info.status == "FAILED":
                self._client.update_run(run, status="RUNNING")
        try:
            yield
        except Exception as error:
            with contextlib.suppress(StorageError), self._store():
                self._client.set_tag(run, "failure", str(error)[:_LONGEST_REASON])
                self._client.set_terminated(run, "FAILED")
            raise

    def show(self, run: str, view: LiveView) -> None:
        """Log a round; an unreachable store causes one warning and no error."""
        figures: Mapping[str, float] = {
            "releases": view.releases,
            "epsilon_spent": view.epsilon,
            "round_seconds": view.seconds,
            "void": float(bool(view.reason)),
        }
        try:
            with self._store():
                for name, value in figures.items():
                    self._client.log_metric(run, name, value, step=view.round)
        except StorageError as error:
            if not self._away:
                _logger.warning("rounds are not logged until it is back: %s", error)
            self._away = True
        else:
            self._away = False

    def show_evaluation(self, invitation: Invitation, found: Evaluation) -> None:
        """Log a noised evaluation on devices to the run of its model."""
        if math.isnan(found.top1):
            return
        run = self.begin(invitation)
        with self._store():
            for name in ("top1", "top5", "top1_error", "top5_error"):
                value = float(getattr(found, name))
                self._client.log_metric(run, f"on_devices_{name}", value, step=found.round)

    def finish(self, run: str, *, name: str = "intent") -> str:
        """Keep and register the signed package as the champion, once; return its version.

        Raises:
            ModelError: No model came of the run yet.
        """
        package = self._directory / "model"
        if not package.exists():
            raise ModelError(f"{package} is missing: the run has not released a model yet")
        with self._store():
            return self._register(run, package, name)

    def _register(self, run: str, package: Path, name: str) -> str:
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name, description=_MODEL)
        made = self._client.search_model_versions(f"name = '{name}' and run_id = '{run}'")
        if made:
            version = str(made[0].version)
            if self._client.get_run(run).info.status == "FINISHED":
                return version  # what became of the champion since is somebody's decision
        else:
            self._client.log_artifact(run, str(package), "model")
            source = f"{self._client.get_run(run).info.artifact_uri}/model"
            text = self._client.get_run(run).data.tags.get("mlflow.note.content", "")
            registered = self._client.create_model_version(
                name, source, run_id=run, description=text
            )
            version = str(registered.version)
        aliases = self._client.get_registered_model(name).aliases
        if str(aliases.get(CHAMPION, version)) != version:
            self._client.set_registered_model_alias(name, PREVIOUS, aliases[CHAMPION])
        self._client.set_registered_model_alias(name, CHAMPION, version)
        self._client.set_terminated(run)
        return version

    @contextlib.contextmanager
    def _store(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            raise StorageError(f"MLflow at {self._uri} does not do it: {error}") from error

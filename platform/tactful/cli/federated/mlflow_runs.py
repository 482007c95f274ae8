"""Rounds of federated training and their model in MLflow."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tactful.cli.federated.reports import quarters_answered
from tactful.cli.federated.round_plots import plot_rounds
from tactful.errors import ModelError, StorageError
from tactful.models.mlflow_registry import CHAMPION, PREVIOUS
from tactful.models.mlflow_run import code_version
from tactful.schemas.federated import FederatedRound

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from tactful_federated.core.invitation import Invitation
    from tactful_federated.core.plan import TrainingPlan
    from tactful_federated.core.private_evaluation import Evaluation

_logger = logging.getLogger(__name__)

_EXPERIMENT = "intent"
_RUN = "Private training on devices: run {} of `tactful federated serve`."
_SIMULATION = "Private training on simulated shoppers: run {} of `tactful federated simulate`."
_MODEL = (
    "Intent model of tactful: a signed package for devices, which predict on their own what their "
    "person looks for. The alias champion is what devices get."
)
_LONGEST_REASON = 5_000
_BATCH = 1_000  # metrics in one request, at most
_TRIES = "2"  # MLflow's own are minutes, for which a round would wait


class FederatedRuns:
    """One private training run as one run of MLflow, also after restarts.

    The logged values are public: the plan, the number of rounds, their duration, and the norms of
    noised updates; of numbers of devices only the quarter of those asked that answered. All methods
    but `resume` and `show` raise a StorageError while the store cannot be reached.
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
        self._pending: list[tuple[FederatedRound, float | None]] = []
        with self._store():
            self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._kept = directory / "mlflow-run"
        self._directory = directory

    def begin(self, invitation: Invitation) -> str:
        """Return the id of the earlier run, or of a new one with the plan as parameters."""
        names = ("tier", "embedding", "hidden", "learning_rate", "proximal")
        chosen = {name: getattr(invitation, name) for name in names}
        return self._begin(invitation.run, _RUN, {**asdict(invitation.plan), **chosen})

    def begin_simulation(self, name: str, plan: TrainingPlan, **parameters: Any) -> str:
        """Return the id of the earlier run of a simulation, or of a new one."""
        return self._begin(name, _SIMULATION, {**asdict(plan), **parameters, "simulated": True})

    def _begin(self, name: str, note: str, parameters: Mapping[str, Any]) -> str:
        from tactful_federated.core.checkpoint import write_whole

        if self._kept.exists():
            return self._kept.read_text("utf-8")
        with self._store():
            found = self._client.get_experiment_by_name(_EXPERIMENT)
            experiment = (
                found.experiment_id if found else self._client.create_experiment(_EXPERIMENT)
            )
            tags = {"mlflow.note.content": note.format(name), **code_version()}
            made = self._client.create_run(experiment, run_name=name, tags=tags)
            run = str(made.info.run_id)
            for parameter, value in parameters.items():
                self._client.log_param(run, parameter, value)
        write_whole(self._kept, run.encode())
        return run

    def resume(self, run: str, rounds: Sequence[FederatedRound]) -> None:
        """Log the rounds of earlier starts that are not in the store, each once."""
        latest = {figures.number: figures for figures in rounds}
        self._pending += [(figures, None) for figures in latest.values()]
        self._flush(run, again=True)

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

    def show(self, run: str, figures: FederatedRound, noisy_norm: float | None = None) -> None:
        """Log a round, and those before it for which the store could not be reached.

        An unreachable store causes one warning and no error.
        """
        self._pending.append((figures, noisy_norm))
        self._flush(run, again=self._away)

    def _flush(self, run: str, *, again: bool) -> None:
        """Log the pending rounds; `again` if some of their steps may be logged already."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, figures.at, figures.number)
            for figures, noisy_norm in self._pending
            for name, value in _metrics(figures, noisy_norm).items()
        ]
        try:
            with self._store():
                if again:
                    metrics = self._unlogged(run, metrics)
                for first in range(0, len(metrics), _BATCH):
                    self._client.log_batch(run, metrics=metrics[first : first + _BATCH])
        except StorageError as error:
            if not self._away:
                _logger.warning("rounds are not logged until it is back: %s", error)
            self._away = True
        else:
            self._pending, self._away = [], False

    def _unlogged(self, run: str, metrics: Sequence[Metric]) -> list[Metric]:
        logged = {
            (name, metric.step)
            for name in {metric.key for metric in metrics}
            for metric in self._client.get_metric_history(run, name)
        }
        return [metric for metric in metrics if (metric.key, metric.step) not in logged]

    def show_evaluation(
        self, invitation: Invitation, found: Evaluation, *, epsilon: float, seconds: float
    ) -> None:
        """Log a noised evaluation on devices to the run of its model.

        `epsilon` is that of all evaluations so far. One that is no more than noise has no accuracy.
        """
        figures = {"epsilon_spent": epsilon, "seconds": seconds}
        if not math.isnan(found.top1):
            names = ("top1", "top5", "top1_error", "top5_error")
            figures |= {name: float(getattr(found, name)) for name in names}
        run = self.begin(invitation)
        with self._store():
            for name, value in figures.items():
                self._client.log_metric(run, f"on_devices_{name}", value, step=found.round)

    def show_plot(self, run: str, rounds: Sequence[FederatedRound]) -> None:
        """Keep a plot of the rounds of a run as `figures/rounds.png`."""
        if not rounds:
            return
        with tempfile.TemporaryDirectory() as directory, self._store():
            drawn = plot_rounds(rounds, Path(directory) / "rounds.png")
            self._client.log_artifact(run, str(drawn), "figures")

    def end(self, run: str) -> None:
        """End a run that registers no model."""
        with self._store():
            self._client.set_terminated(run)

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


def _metrics(figures: FederatedRound, noisy_norm: float | None) -> dict[str, float]:
    found = {
        "releases": figures.releases,
        "epsilon_spent": figures.epsilon,
        "round_seconds": figures.seconds or None,
        "void": bool(figures.reason),
        "answered_at_least": quarters_answered(figures),
        "noisy_update_norm": noisy_norm,
        "loss": figures.loss,
        "top1": figures.top1 if figures.loss is not None else None,
        "top5": figures.top5 if figures.loss is not None else None,
    }
    return {name: float(value) for name, value in found.items() if value is not None}

"""Record the end of a rollout: a run in MLflow, and a new champion where a model was shipped.

The server starts `tactful experiment record` as a process of its own, so that it imports no MLflow.
A process that is killed is started again, and repeats no step that was done.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import msgspec

from tactful.config.settings import Settings
from tactful.errors import ConfigError, TactfulError
from tactful.experiments.store import RolloutStore, StoredRollout
from tactful.models.mlflow_registry import audited_registry
from tactful.models.rollout_effects import figures_of, recorded_effects
from tactful.models.schedule import environment, run_command
from tactful.ranking.model import read_pointer
from tactful.schemas.experiments.readouts import ReadOutMessage
from tactful_streaming.errors import StreamingError

logger = logging.getLogger(__name__)

_ATTEMPTS = 3


class Recorder:
    """Starts a process to record the end of each rollout."""

    def __init__(
        self, settings: Settings, store: RolloutStore, *, python: str = sys.executable
    ) -> None:
        """Prepare to record."""
        self._settings = settings
        self._store = store
        self._python = python
        self._attempts: dict[str, int] = {}

    async def run(self) -> None:
        """Record rollouts that have ended and are not recorded, with three attempts each.

        Raises:
            StorageError: if the database cannot be used.
            OSError: if no process can be started.
        """
        for stored in self._store.all():
            tried = self._attempts.get(stored.key, 0)
            if not stored.ended or stored.run_id or tried >= _ATTEMPTS:
                continue
            self._attempts[stored.key] = tried + 1
            command = [self._python, "-m", "tactful", "experiment", "record", stored.key]
            code, error = await run_command(command, {**os.environ, **environment(self._settings)})
            if code:
                logger.error("the end of rollout %s was not recorded: %s", stored.key, error)


def record(store: RolloutStore, settings: Settings, key: str) -> str:
    """Record the end of a rollout in MLflow, and return the id of the run.

    A shipped model becomes the champion first.

    Raises:
        ConfigError: if there is no such rollout, or it goes on.
        ModelError: if the model cannot become the champion.
        StorageError: if the database cannot be used.
    """
    stored = store.find(key)
    if stored is None or not stored.ended:
        raise ConfigError(f"rollout {key!r} has not ended" if stored else f"no rollout {key!r}")
    if stored.run_id:
        return stored.run_id
    if stored.rollout.decision == "ship" and stored.definition.model:
        _promote(settings, stored)
    run_id = _log_run(store, stored, _effects(settings, store, stored))
    store.record_run(key, run_id)
    return run_id


def _promote(settings: Settings, stored: StoredRollout) -> None:
    version = stored.definition.model
    pointer = read_pointer(settings.models)
    if pointer is not None and pointer.version == version:
        return
    by = f"rollout {stored.key}"
    with audited_registry(settings, settings.training.name, by=by) as registry:
        registry.promote(version, reason="its rollout ended well")


def _effects(
    settings: Settings, store: RolloutStore, stored: StoredRollout
) -> ReadOutMessage | None:
    """Return the effects of the last stage with a control; None where they cannot be read."""
    try:
        return recorded_effects(settings, store, stored)
    except (TactfulError, StreamingError) as error:
        # The end of a rollout is recorded without its effects rather than not at all.
        logger.warning("the effects of rollout %s were not recorded: %s", stored.key, error)
        return None


def _log_run(store: RolloutStore, stored: StoredRollout, effects: ReadOutMessage | None) -> str:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    experiment = mlflow.set_experiment("rollouts").experiment_id
    # A run of a process that was killed before it could store the run id.
    query = f"tags.rollout = '{stored.key}' and attributes.status = 'FINISHED'"
    for finished in mlflow.MlflowClient().search_runs([experiment], query, max_results=1):
        return str(finished.info.run_id)
    rollout, definition = stored.rollout, stored.definition
    history: list[dict[str, Any]] = [
        {"at": it.at, "action": it.action, "share": it.share, "by": it.changed_by, "why": it.reason}
        for it in store.changes(stored.key)
    ]
    with mlflow.start_run(run_name=stored.key) as run:
        guardrails = ", ".join(guard.metric for guard in definition.guardrails)
        mlflow.log_params({"change": str(definition.change), "stages": str(definition.stages)})
        mlflow.log_params({"guardrails": guardrails, "alpha": definition.alpha})
        mlflow.set_tags({"state": rollout.state, "decision": str(rollout.decision)})
        mlflow.set_tag("rollout", stored.key)
        mlflow.log_metrics({"looks": stored.looks, "stage": rollout.stage})
        mlflow.log_dict({"history": history}, "history.json")
        if effects is not None:
            mlflow.set_tag("source", effects.source)
            mlflow.set_tag("sample_ratio", effects.sample_ratio.verdict)
            mlflow.log_metrics(figures_of(effects))
            mlflow.log_dict(msgspec.to_builtins(effects), "effects.json")
    return str(run.info.run_id)

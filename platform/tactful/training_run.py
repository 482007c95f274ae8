"""One training from beginning to end: lock, train, compare, register, record, promote."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tactful.checkpoints import Checkpoint
from tactful.config import Settings
from tactful.connections import open_installation
from tactful.errors import ConfigError, ModelError
from tactful.linking import identity_of
from tactful.model_log import ModelLog, whoever_runs_this
from tactful.registry import Registry
from tactful.skew import Skew, measure_skew
from tactful.training import Trained, TrainingOptions, plot_training, train
from tactful.training_rows import Progress
from tactful_streaming import DefinitionError, EmbeddedLog, LogError, load_definitions


@contextlib.contextmanager
def open_model_log(settings: Settings) -> Iterator[ModelLog]:
    """The audit log of an installation, as long as the context lasts.

    Raises:
        StorageError: if its metadata cannot be used.
    """
    settings.storage.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(open_installation(settings)) as metadata:
        yield ModelLog(metadata, clock=lambda: time.time_ns() // 1_000_000)


@contextlib.contextmanager
def audited_registry(settings: Settings, name: str, *, by: str | None = None) -> Iterator[Registry]:
    """The registry of an installation, which records what changes, as long as the context lasts."""
    with open_model_log(settings) as audit:
        yield Registry(name, settings.models, audit=audit, by=by)


def run_training(
    settings: Settings,
    options: TrainingOptions,
    *,
    promote: bool = False,
    fresh: bool = False,
    reason: str = "",
    by: str | None = None,
    say: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Train from the log of a data directory and register what came out.

    A training that was killed within the last day goes on where it was, if it is asked for with
    the same options.

    Args:
        settings: of the installation.
        options: how to train.
        promote: whether the new version serves at once.
        fresh: forget what a killed training has done.
        reason: why, for the audit log.
        by: who, for the audit log; None means the login and host of this process.
        say: told how far it is.

    Returns:
        What came out, as ``tactful train --json`` prints it.

    Raises:
        ConfigError: if the feature definitions are wrong.
        ModelError: if there is too little to learn from.
        TrainingBusy: if the same model is being trained.
    """
    try:
        definitions = load_definitions(settings.features)
        log = EmbeddedLog(settings.storage.data / "log", read_only=True)
    except DefinitionError as error:
        raise ConfigError(str(error)) from error
    except LogError as error:
        raise ModelError(
            f"nothing to train from: {error}; send events to `tactful serve` first, or name its "
            "data directory with --data"
        ) from error
    identity = identity_of(settings.identity)
    who = whoever_runs_this() if by is None else by
    with contextlib.ExitStack() as stack:
        stack.callback(log.close)
        checkpoint = stack.enter_context(Checkpoint.hold(settings.models / "training"))
        if fresh:
            checkpoint.clear()
        audit = stack.enter_context(open_model_log(settings))
        registry = Registry(options.name, settings.models, audit=audit, by=who)
        made = stack.enter_context(audit.entry("train", options.name, by=who, reason=reason))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tactful-train-")))
        trained = train(
            log,
            definitions,
            scratch / "model",
            options,
            kernels=settings.models / "kernels",
            identity=identity,
            checkpoint=checkpoint,
            progress=say,
        )
        skew = measure_skew(
            log, definitions, settings.models, identity=identity, progress=partial(say, "compare")
        )
        say("register", 0, 1)
        registered = registry.register(
            scratch / "model",
            parameters=_parameters(options),
            example=trained.example,
            figures=plot_training(trained, scratch / "figures"),
            metrics=_metrics(trained, skew),
        )
        made(registered.version)
        checkpoint.clear()
        if promote:
            registry.promote(registered.version, reason=reason or "tactful train --promote")
        say("register", 1, 1)
    manifest = trained.manifest
    return {
        "name": registered.name,
        "version": registered.version,
        "alias": "champion" if promote else "",
        "run_id": registered.run_id,
        "resumed": trained.resumed,
        "rows": manifest.rows,
        "questions": manifest.questions,
        "shown": manifest.shown,
        "looked": manifest.looked,
        "metrics": manifest.metrics,
        "calibration": manifest.calibration,
        "features": [{"name": key, "gain": gain} for key, gain in manifest.gains.items()],
        "skew": {
            "lists": skew.lists,
            "skipped": skew.skipped,
            "share": skew.share if skew.lists else None,
            "by_feature": skew.by_feature,
        },
    }


def _parameters(options: TrainingOptions) -> dict[str, Any]:
    chosen = asdict(options)
    del chosen["name"], chosen["threads"]
    return {**chosen, "outcomes": ",".join(options.outcomes)}


def _metrics(trained: Trained, skew: Skew) -> dict[str, float]:
    found: dict[str, float] = {"shown": trained.manifest.shown}
    if skew.lists:
        found |= {"skew": skew.share, "skew_lists": skew.lists}
    calibration = trained.manifest.calibration
    if calibration is not None:
        found |= {
            "calibration_error": calibration.error,
            "brier": calibration.brier,
            "brier_constant": calibration.brier_constant,
        }
    return found

"""Run one training from beginning to end: lock, train, compare, register, record, promote."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tactful.config.identity import identity_of
from tactful.config.privacy import RecordKind, retention_limits
from tactful.config.settings import Settings
from tactful.errors import ConfigError, ModelError
from tactful.event_log.open import open_log
from tactful.metadata.connections import open_installation
from tactful.models.audit_log import login_and_host, open_model_log
from tactful.models.mlflow_registry import Registered, Registry
from tactful.models.schedule import LATEST, Drift, measure_drift, why_due
from tactful.models.skew import Skew, measure_skew
from tactful.models.training_plots import plot_training
from tactful.models.training_record import TrainingRecord
from tactful.ranking.features import column_names, columns_fingerprint, layout
from tactful.ranking.model import (
    checked_version,
    load_trees,
    margins_of,
    read_manifest,
    read_pointer,
)
from tactful.ranking.own_columns import own_columns
from tactful.recall.index import RecallIndex
from tactful.schemas.models import Bounds, ServedDrift
from tactful.subjects.consent import open_consents
from tactful.subjects.consented_log import PermittedLog, training_permissions
from tactful.subjects.crossings import training_profiles
from tactful.subjects.erasure_requests import ErasureJobs
from tactful.subjects.permissions import Permissions
from tactful.subjects.suppression import open_suppression
from tactful.training.baselines import doubts
from tactful.training.boosting import fixed_parameters
from tactful.training.crossings import CrossingData
from tactful.training.evaluation import list_metrics
from tactful.training.kept_rows import Keeper
from tactful.training.options import TrainingOptions
from tactful.training.replay_rows import Progress
from tactful.training.train import Trained, train
from tactful.understanding.item_vectors import working_item_vectors
from tactful.util.checkpoint import Checkpoint
from tactful.util.clock import now_ms
from tactful.util.jobs import Job, tracked
from tactful.util.process_tuning import return_large_pieces
from tactful.util.signing import open_signing_key, trusted_keys
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import DefinitionError, LogError, LogUnreachableError
from tactful_streaming.identity.resolver import Identity

_FEWEST_TO_JUDGE = 50
_LEARNED_FROM: tuple[RecordKind, ...] = ("personalisation", "impressions")


@dataclass(frozen=True)
class _Run:
    """Inputs that the steps of one training share."""

    settings: Settings
    log: PermittedLog
    definitions: Definitions
    identity: Identity | None  # rules by which the server joins devices to users
    checkpoint: Checkpoint
    begun: int  # epoch milliseconds, before the log was opened
    trusted: Collection[str]  # public keys whose signature a model needs
    say: Progress


def run_training(
    settings: Settings,
    options: TrainingOptions,
    *,
    promote: bool = False,  # serve the new version at once …
    if_better: bool = False,  # … if it is `no_worse` than the champion
    fresh: bool = False,  # discard the checkpoint of a killed training
    reason: str = "",
    by: str | None = None,  # author for the audit log; None: login and host of this process
    say: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Train from the log of a data directory and register the new version.

    A training that was killed within the last day is continued, if the options are the same; one
    that failed starts anew. A model that could not be registered is registered by the next call.
    The result is as `tactful train --json` prints it.

    Raises:
        ConfigError: if the feature definitions are wrong.
        ModelError: if there is too little to learn from, or the log cannot be read.
        TrainingBusy: if the same model is being trained.
    """
    return_large_pieces()
    begun = now_ms()
    identity = identity_of(settings.identity)
    author = login_and_host() if by is None else by
    with contextlib.ExitStack() as stack:
        log, definitions = stack.enter_context(open_training_log(settings))
        checkpoint = stack.enter_context(Checkpoint.hold(settings.models / "training"))
        job = stack.enter_context(tracked(settings.storage.data, "training"))
        say = _both(say, job)
        if fresh:
            checkpoint.clear()
        audit = stack.enter_context(open_model_log(settings))
        key = open_signing_key(settings.storage.data)
        trusted = trusted_keys(settings.storage.data, settings.models)
        registry = Registry(options.name, settings.models, audit=audit, by=author, key=key)
        registry.check_store()
        made = stack.enter_context(audit.entry("train", options.name, by=author, reason=reason))
        parameters = _parameters(options)
        stack.enter_context(registry.run(parameters=parameters, checkpoint=checkpoint))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tactful-train-")))
        run = _Run(settings, log, definitions, identity, checkpoint, begun, trusted, say)
        trained = _train(run, scratch / "model", options)
        skew = _skew(run, trained)
        served = _served(settings, log, definitions, skew)
        say("register", 0, 1)
        record = _record(trained, served, begun=begun)
        registered = _register(registry, trained, skew, record, scratch)
        made(registered.version)
        checkpoint.end()
        doubtful = _doubts(trained)
        promote = promote and not doubtful
        if promote and if_better:
            promote = no_worse(settings.models, trained, scratch / "model", trusted)
        if promote:
            registry.promote(registered.version, reason=reason or "tactful train --promote")
        say("register", 1, 1)
    return {**_report(registered, trained, skew, champion=promote), "doubts": doubtful}


def _train(run: _Run, model: Path, options: TrainingOptions) -> Trained:
    """Train into a directory, with the rows that the last training kept."""
    # Elsewhere workers have the features of users, and no state holds those of all.
    keeper = None
    if run.settings.log.in_files:
        state = run.settings.storage.data / "state"
        keeper = Keeper(run.checkpoint, state, run.definitions)
    with (
        working_item_vectors(run.settings, progress=partial(run.say, "encode")) as encoded,
        run.checkpoint.cleared_on_failure(but=LogUnreachableError),
    ):
        return train(
            run.log,
            run.definitions,
            model,
            options,
            identity=run.identity,
            checkpoint=run.checkpoint,
            keeper=keeper,
            encoded=encoded,
            crossing=crossing_data(run.settings, run.trusted, run.begun),
            progress=run.say,
        )


def crossing_data(settings: Settings, trusted: Collection[str], begun: int) -> CrossingData | None:
    """Read the profiles of users who consent, and the champion, whose directions may stay.

    Users without a decision about personalisation have the default of a running server. The
    training began at `begun`, epoch milliseconds.
    """
    if not settings.domains.name:
        return None
    with contextlib.closing(open_installation(settings)) as metadata:
        consents = open_consents(settings, metadata, clock=now_ms, beside=True).consents
        erased = open_suppression(settings, metadata, clock=now_ms).suppressed
        permissions = Permissions(consents, suppressed=erased)
        profiles = training_profiles(metadata, permissions, settings.domains)
        erased_at = ErasureJobs(metadata, clock=now_ms).latest()
    previous = None
    if (pointer := read_pointer(settings.models)) is not None:
        with contextlib.suppress(ModelError):
            place = checked_version(settings.models, pointer.version, trusted)
            previous = RecallIndex.load(place / "index")
    return CrossingData(
        settings.domains,
        profiles,
        previous,
        trained_at=begun,
        erased_at=erased_at,
        crosses=permissions.crosses,
    )


def _skew(run: _Run, trained: Trained) -> Skew:
    """Compare the served features with those of a replay; of no lists for a log in topics."""
    # A list does not hold how far a server had read each partition of a topic.
    if not run.settings.log.in_files:
        return Skew(0, 0, 0, 0, {})
    return measure_skew(
        run.log,
        run.definitions,
        run.settings.models,
        identity=run.identity,
        trusted=run.trusted,
        progress=partial(run.say, "compare"),
        state=run.checkpoint.place("kept") / "state" if trained.replayed_from else None,
    )


def _register(
    registry: Registry, trained: Trained, skew: Skew, record: TrainingRecord, scratch: Path
) -> Registered:
    """Register the model below a temporary directory, with its plots and figures."""
    return registry.register(
        scratch / "model",
        parameters={"read_until": trained.reach, "replayed_from": trained.replayed_from},
        example=trained.example,
        figures=plot_training(trained, scratch / "figures"),
        metrics=_metrics(trained, skew),
        record=record,
    )


def _doubts(trained: Trained) -> list[str]:
    """Return the reasons to doubt the figures of a training; no such model is promoted."""
    held_back, manifest = trained.held_back, trained.manifest
    return doubts(manifest.metrics, manifest.gains, len(held_back.labels), len(held_back.sizes))


def _report(
    registered: Registered, trained: Trained, skew: Skew, *, champion: bool
) -> dict[str, Any]:
    manifest = trained.manifest
    names = ("data_hash", "rows", "questions", "shown", "looked", "metrics", "calibration")
    return {
        "name": registered.name,
        "version": registered.version,
        "alias": "champion" if champion else "",
        "run_id": registered.run_id,
        "resumed": trained.resumed,
        "read_until": trained.reach,
        "replayed_from": trained.replayed_from,
        **{name: getattr(manifest, name) for name in names},
        "features": [{"name": key, "gain": gain} for key, gain in manifest.gains.items()],
        "skew": {
            "lists": skew.lists,
            "skipped": skew.skipped,
            "share": skew.share if skew.lists else None,
            "by_feature": skew.by_feature,
        },
    }


def no_worse(
    models: Path, trained: Trained, directory: Path, trusted: Collection[str] | None = None
) -> bool:
    """Return whether a new model may take the place of the champion.

    Both rank the replayed lists that the new one was judged on, as far as they are later than the
    champion's data. They chose the number of the new one's trees, so it is favoured a little. True
    if NDCG@20 of the new model is at least that of the champion, on 50 lists or more, or if there
    is no champion that could serve.
    """
    pointer = read_pointer(models)
    if pointer is None:
        return True
    try:
        place = checked_version(models, pointer.version, trusted)
        manifest, champion = read_manifest(place), load_trees(place)
    except ModelError:
        return True
    fresh = trained.manifest
    if manifest.definitions != fresh.definitions:
        return True  # the server refuses such a champion
    first = int(np.searchsorted(trained.held_back_at, manifest.trained_until))
    rows = trained.held_back.split(first)[1]
    ends = np.cumsum(rows.sizes)[:-1]
    lists = np.split(rows.labels, ends) if len(rows.sizes) else []
    positives = [int(labels.sum()) for labels in lists]
    if sum(count > 0 for count in positives) < _FEWEST_TO_JUDGE:
        return False
    margins = (
        margins_of(forest, rows.features, of.start, of.features, fresh.features)
        for forest, of in ((load_trees(directory), fresh), (champion, manifest))
    )
    new, old = (list_metrics(m, rows.labels, rows.sizes, positives)["ndcg20"] for m in margins)
    return new >= old


def reason_to_train(settings: Settings, *, now: int) -> str | None:
    """Return the reason to train the model of the settings now; None where there is none.

    Raises:
        ConfigError: if the feature definitions are wrong.
        ModelError: if the log cannot be read.
    """
    training = settings.training
    pointer = read_pointer(settings.models)
    champion = None if pointer is None else pointer.version

    def drift() -> Drift | None:
        with open_training_log(settings, latest=LATEST) as (log, definitions):
            names = column_names(own_columns(definitions))
            meaning = layout(columns_fingerprint(definitions))
            return measure_drift(log, champion or "", meaning, names=names)

    with open_model_log(settings) as audit:
        last = audit.latest("train", training.name)
    with contextlib.closing(open_installation(settings)) as metadata:
        erased_at = ErasureJobs(metadata, clock=now_ms).latest()
    limits = retention_limits(settings.retention)
    return why_due(
        training,
        now=now,
        last=last,
        champion=champion,
        drift=drift,
        erased_at=erased_at,
        kept_ms=min((limits[kind] for kind in _LEARNED_FROM if kind in limits), default=0),
    )


@contextlib.contextmanager
def open_training_log(
    settings: Settings, *, latest: int | None = None
) -> Iterator[tuple[PermittedLog, Definitions]]:
    """Open what may be learned from, and the definitions of the features.

    Raises:
        ConfigError: if the definitions are wrong.
        ModelError: if the log cannot be read.
    """
    try:
        definitions = load_definitions(settings.features)
    except DefinitionError as error:
        raise ConfigError(str(error)) from error
    with contextlib.ExitStack() as stack:
        try:
            log = stack.enter_context(open_log(settings, clock=now_ms, latest=latest))
        except LogError as error:
            cure = "; send events to `tactful serve` first, or name its data directory with --data"
            cure *= settings.log.in_files
            raise ModelError(f"nothing to train from: {error}{cure}") from error
        allows = stack.enter_context(training_permissions(settings, clock=now_ms))
        try:
            yield PermittedLog(log, allows), definitions
        except LogError as error:
            raise ModelError(f"the log cannot be read to its end: {error}") from error


def _parameters(options: TrainingOptions) -> dict[str, Any]:
    """Return every parameter of a training: its options, and what is fixed."""
    chosen = asdict(options)
    del chosen["name"]
    return chosen | {f"xgboost_{name}": value for name, value in fixed_parameters().items()}


def _served(
    settings: Settings, log: PermittedLog, definitions: Definitions, skew: Skew
) -> ServedDrift:
    """Measure the drift of the version that serves, beside its skew."""
    pointer = read_pointer(settings.models)
    version = "" if pointer is None else pointer.version
    names = column_names(own_columns(definitions))
    moved = None
    if version and settings.log.in_files:
        meaning = layout(columns_fingerprint(definitions))
        moved = measure_drift(log, version, meaning, names=names, latest=LATEST)
    return ServedDrift(
        version=version,
        drift={} if moved is None else dict(moved.by_name),
        skew=skew.share if skew.lists else None,
        skew_by_feature=dict(skew.by_feature),
    )


def _record(trained: Trained, served: ServedDrift, *, begun: int) -> TrainingRecord:
    now = now_ms()
    bounds = {name: Bounds(low=low, high=high) for name, (low, high) in trained.intervals.items()}
    return TrainingRecord(
        trained_at=now,
        seconds=round((now - begun) / 1000, 1),
        trees=trained.trees,
        curve=[round(value, 6) for value in trained.curve],
        intervals=bounds,
        losses={group: dict(lost) for group, lost in trained.losses.items()},
        served=served,
    )


def _both(say: Progress, job: Job) -> Progress:
    """Return a callback that reports to `say` and to the job."""

    def both(stage: str, done: int, total: int) -> None:
        job.advance(done, total, stage)
        say(stage, done, total)

    return both


def _metrics(trained: Trained, skew: Skew) -> dict[str, float]:
    metrics: dict[str, float] = {"shown": trained.manifest.shown, "trees": trained.trees}
    for name, (low, high) in trained.intervals.items():
        metrics |= {f"{name}_low": low, f"{name}_high": high}
    for group, lost in trained.losses.items():
        metrics |= {f"{name}_loss_without_{group}": loss.value for name, loss in lost.items()}
    if skew.lists:
        metrics |= {"skew": skew.share, "skew_lists": skew.lists}
    calibration = trained.manifest.calibration
    if calibration is not None:
        metrics |= {
            "calibration_error": calibration.error,
            "brier": calibration.brier,
            "brier_constant": calibration.brier_constant,
        }
    return metrics

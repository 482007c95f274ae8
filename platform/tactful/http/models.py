"""Endpoints of models: versions, their trainings, changes of the champion, training now."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tactful.errors import ModelError, TrainingBusy, UnknownVersion
from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import LogPageQuery, caller_of, cursor_number, stored
from tactful.models.kept_quality import read_quality
from tactful.models.version_list import describe_training, list_versions
from tactful.schemas.models import (
    LiveQuality,
    ModelVersionDetails,
    ModelVersions,
    Promoted,
    PromoteRequest,
    RollbackRequest,
    TrainingState,
    TrainRequest,
)
from tactful.schemas.problems import ProblemError
from tactful.schemas.reports import ModelChangeInfo, ModelChanges
from tactful.util.jobs import jobs_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tactful.ranking.model import Pointer
    from tactful.server.platform import Platform

T = TypeVar("T")

_promotion = msgspec.json.Decoder(PromoteRequest)
_rollback = msgspec.json.Decoder(RollbackRequest)
_training = msgspec.json.Decoder(TrainRequest)
_LATEST = 100  # entries of the audit log that tell what was promoted


async def _get_models(platform: Platform, call: Call) -> Reply:
    return json_reply(platform.recommender.describe())


async def _get_log(platform: Platform, call: Call) -> Reply:
    query = call.query(LogPageQuery)
    before = cursor_number(query.cursor)
    read = partial(platform.model_log.changes, limit=query.limit + 1, before=before)
    entries = await stored(read, "the audit log cannot be read now")
    page = entries[: query.limit]
    cursor = str(page[-1].id) if len(entries) > len(page) else None
    changes = [msgspec.convert(change, ModelChangeInfo, from_attributes=True) for change in page]
    return json_reply(ModelChanges(changes=changes, next_cursor=cursor))


async def _get_versions(platform: Platform, call: Call) -> Reply:
    query, models = call.query(LogPageQuery), platform.settings.models
    before = cursor_number(query.cursor)

    def read() -> ModelVersions:
        changes = platform.model_log.changes(limit=_LATEST)
        found = list_versions(models, changes, before=before, limit=query.limit + 1)
        page = found[: query.limit]
        cursor = page[-1].version if len(found) > len(page) else None
        return ModelVersions(versions=page, next_cursor=cursor)

    return json_reply(await _read(read))


async def _get_version(platform: Platform, call: Call) -> Reply:
    models, version = platform.settings.models, call.path["version"]

    def read() -> ModelVersionDetails:
        return describe_training(models, version, platform.model_log.changes(limit=_LATEST))

    return json_reply(await _read(read))


async def _read(work: Callable[[], T]) -> T:
    try:
        return await stored(work, "the models cannot be read now")
    except UnknownVersion as error:
        raise ProblemError("not_found", str(error)) from None
    except ModelError as error:
        raise ProblemError("not_ready", str(error), retry_after=2) from None


async def _promote(platform: Platform, call: Call) -> Reply:
    request, by = await call.json(_promotion), caller_of(call)
    promote = platform.model_commands.promote
    return await _changed(promote(request.version, by=by, reason=request.reason))


async def _roll_back(platform: Platform, call: Call) -> Reply:
    request, by = await call.json(_rollback), caller_of(call)
    return await _changed(platform.model_commands.roll_back(by=by, reason=request.reason))


async def _changed(change: Awaitable[Pointer]) -> Reply:
    try:
        pointer = await change
    except ModelError as error:
        raise ProblemError("invalid", str(error)) from None
    except OSError:
        raise ProblemError("not_ready", "no process can be started", retry_after=2) from None
    return json_reply(Promoted(version=pointer.version, previous=pointer.previous))


async def _train(platform: Platform, call: Call) -> Reply:
    request, by = await call.json(_training), caller_of(call)
    try:
        platform.model_commands.train(by=by, reason=request.reason, promote=request.promote)
    except TrainingBusy as error:
        raise ProblemError("invalid", str(error)) from None
    return json_reply(await _state(platform), 202)


async def _get_training(platform: Platform, call: Call) -> Reply:
    return json_reply(await _state(platform))


async def _state(platform: Platform) -> TrainingState:
    commands, settings = platform.model_commands, platform.settings

    def read() -> TrainingState:
        latest = platform.model_log.latest("train", settings.training.name)
        jobs = (job for job in jobs_of(settings.storage.data) if job.kind == "training")
        job = next((job for job in jobs if job.state == "running"), None)
        return TrainingState(
            running=commands.training or job is not None,
            stage="" if job is None else job.stage,
            progress=None if job is None else job.progress,
            latest=None
            if latest is None
            else msgspec.convert(latest, ModelChangeInfo, from_attributes=True),
            error=commands.error,
        )

    return await _read(read)


async def _get_live_quality(platform: Platform, call: Call) -> Reply:
    quality = await stored(
        partial(read_quality, platform.settings.models), "the quality cannot be read now"
    )
    items = int(platform.recommender.describe().get("items") or 0)
    return json_reply(msgspec.structs.replace(quality, catalogue=items))


MODEL_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/models",
        "Describe the models in use",
        _get_models,
        scope="analyst",
        answer=dict[str, Any],
    ),
    Endpoint(
        "GET",
        "/v1/models/log",
        "Read the audit log of models",
        _get_log,
        details="Newest first. It names operators of the installation: it needs `admin`.",
        scope="admin",
        query=LogPageQuery,
        answer=ModelChanges,
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/v1/models/versions",
        "Compare the versions of the model",
        _get_versions,
        details=(
            "Those in the models directory, newest first, with their figures and 95 % intervals. "
            "It contains no number of users or events."
        ),
        scope="analyst",
        query=LogPageQuery,
        answer=ModelVersions,
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/v1/models/versions/{version}",
        "Read the training of a version",
        _get_version,
        details=(
            "Learning curve, calibration, gain by column, loss without each kind of columns, "
            "drift and skew. These are exact figures about users, so it needs the scope `admin`."
        ),
        scope="admin",
        answer=ModelVersionDetails,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/models/promote",
        "Promote a version",
        _promote,
        details=(
            "The checks are those of `tactful models promote`: registry, files, signature, and no "
            "rollout that compares models. It takes some seconds; servers load the version within "
            "seconds. Caller and reason are recorded in the audit log."
        ),
        scope="admin",
        body=PromoteRequest,
        answer=Promoted,
        problems=("invalid", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/models/rollback",
        "Go back to the previous champion",
        _roll_back,
        details="As `tactful models rollback`. Caller and reason are recorded in the audit log.",
        scope="admin",
        body=RollbackRequest,
        answer=Promoted,
        problems=("invalid", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/models/train",
        "Train now",
        _train,
        details=(
            "Starts `tactful train` with the settings, as a process of its own; with `promote` the "
            "version serves at once if it is no worse than the champion. While a training runs, "
            "whoever started it, it is `invalid`. `GET` of the same path shows its progress."
        ),
        scope="admin",
        body=TrainRequest,
        answer=TrainingState,
        status=202,
        problems=("invalid", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/models/train",
        "Watch the training that runs",
        _get_training,
        details="Also of a training that a schedule or the command line has started.",
        scope="admin",
        answer=TrainingState,
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/v1/models/quality",
        "Read the live quality by day",
        _get_live_quality,
        details=(
            "Of logged recommendations and what their users took within 24 hours: HR@20, NDCG@20, "
            "diversity, novelty, popularity bias. Measured every `training.quality_minutes`, from "
            "the newest 500,000 records. Exact numbers about users, so it needs the scope `admin`."
        ),
        scope="admin",
        answer=LiveQuality,
        problems=("not_ready",),
    ),
)

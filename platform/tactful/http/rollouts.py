"""Endpoints of rollouts: ``/v1/experiments``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from tactful.errors import ConfigError
from tactful.experiments.definitions import RolloutDefinition
from tactful.experiments.messages import (
    STEPS,
    RolloutDetails,
    RolloutIndex,
    RolloutStep,
    details,
    move,
    rollout_info,
)
from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import PageQuery, caller_of, stored
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

T = TypeVar("T")

_new = msgspec.json.Decoder(RolloutDefinition)
_step = msgspec.json.Decoder(RolloutStep)


async def _list(platform: Platform, call: Call) -> Reply:
    query = call.query(PageQuery)
    rollouts = await _stored(platform.rollouts.all)
    page = [rollout_info(rollout) for rollout in rollouts if rollout.key > query.cursor]
    more = len(page) > query.limit
    page = page[: query.limit]
    return json_reply(RolloutIndex(experiments=page, next_cursor=page[-1].key if more else None))


async def _get(platform: Platform, call: Call) -> Reply:
    return json_reply(await _details(platform, call.path["key"]))


async def _create(platform: Platform, call: Call) -> Reply:
    definition, by = await call.json(_new), caller_of(call)
    apply = platform.rollouts.apply
    await _stored(lambda: apply(definition, by=by, reason="sent to the API"))
    await _stored(platform.publish_rollouts)
    return json_reply(await _details(platform, definition.key), 201)


async def _move(platform: Platform, call: Call) -> Reply:
    request, key, step = await call.json(_step), call.path["key"], call.path["step"]
    by = caller_of(call)
    if step not in STEPS:
        raise ProblemError("not_found", f"steps are {', '.join(STEPS)}")
    await _details(platform, key)
    await _stored(
        lambda: move(
            platform.rollouts, key, step, by=by, reason=request.reason, decision=request.decision
        )
    )
    await _stored(platform.publish_rollouts)
    return json_reply(await _details(platform, key))


async def _details(platform: Platform, key: str) -> RolloutDetails:
    rollout = await _stored(lambda: platform.rollouts.find(key))
    if rollout is None:
        raise ProblemError("not_found", "GET /v1/experiments lists all rollouts")
    return await _stored(lambda: details(platform.rollouts, rollout))


async def _stored(work: Callable[[], T]) -> T:
    try:
        return await stored(work, "experiments cannot be kept now")
    except ConfigError as error:
        raise ProblemError("invalid", str(error)) from None


ROLLOUT_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/experiments",
        "List the rollouts",
        _list,
        details="Changes that are rolled out in stages, by key, with their present stage.",
        scope="analyst",
        query=PageQuery,
        answer=RolloutIndex,
        problems=("not_ready",),
    ),
    Endpoint(
        "POST",
        "/v1/experiments",
        "Define a rollout",
        _create,
        details=(
            "The plan is fixed at the start: a draft can be defined again, a rollout that has "
            "begun cannot. With `start` it starts at once."
        ),
        scope="admin",
        body=RolloutDefinition,
        answer=RolloutDetails,
        status=201,
        problems=("invalid", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/experiments/{key}/{step}",
        "Move a rollout by hand",
        _move,
        details=(
            "`start` begins the shadow phase; `advance` begins the first stage, or continues "
            "after a hold; `rollback`, `decide` and `archive` end it. Between stages it moves by "
            "itself. Caller and reason are recorded in the audit log."
        ),
        scope="admin",
        body=RolloutStep,
        answer=RolloutDetails,
        problems=("invalid", "not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/experiments/{key}",
        "Read a rollout, its history and the verdicts of looks",
        _get,
        details="Verdicts without numbers of users. The history names callers: it needs `admin`.",
        scope="admin",
        answer=RolloutDetails,
        problems=("not_found", "not_ready"),
    ),
)

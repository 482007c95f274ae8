"""The API's part on rollouts: ``/v1/experiments``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from msgspec import Meta

from tactful.errors import ConfigError, StorageError
from tactful.experiments.definitions import RolloutDefinition
from tactful.experiments.messages import (
    RolloutDetails,
    RolloutIndex,
    RolloutStep,
    details,
    move,
    rollout_info,
)
from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

T = TypeVar("T")

_STEPS = ("start", "advance", "rollback", "decide", "archive")
_KEY_ID = re.compile(rb"tactful_([0-9a-f]{8})_")
_new = msgspec.json.Decoder(RolloutDefinition)
_step = msgspec.json.Decoder(RolloutStep)


class RolloutsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which part of the list."""

    cursor: Annotated[str, Meta(max_length=64)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class NoRolloutQuery(msgspec.Struct, forbid_unknown_fields=True):
    """No query parameters."""


async def _list(platform: Platform, call: Call) -> Reply:
    query = call.query(RolloutsQuery)
    found = await _stored(platform.rollouts.all)
    page = [rollout_info(each) for each in found if each.key > query.cursor]
    more = len(page) > query.limit
    page = page[: query.limit]
    return json_reply(RolloutIndex(experiments=page, next_cursor=page[-1].key if more else None))


async def _get(platform: Platform, call: Call) -> Reply:
    call.query(NoRolloutQuery)
    return json_reply(await _details(platform, call.path["key"]))


async def _create(platform: Platform, call: Call) -> Reply:
    definition, by = await call.json(_new), _caller(call)
    apply = platform.rollouts.apply
    await _stored(lambda: apply(definition, by=by, reason="sent to the API"))
    await _stored(platform.publish_rollouts)
    return json_reply(await _details(platform, definition.key), 201)


async def _move(platform: Platform, call: Call) -> Reply:
    asked, key, step = await call.json(_step), call.path["key"], call.path["step"]
    by = _caller(call)
    if step not in _STEPS:
        raise ProblemError("not_found", f"steps are {', '.join(_STEPS)}")
    await _details(platform, key)
    await _stored(
        lambda: move(
            platform.rollouts, key, step, by=by, reason=asked.reason, decision=asked.decision
        )
    )
    await _stored(platform.publish_rollouts)
    return json_reply(await _details(platform, key))


async def _details(platform: Platform, key: str) -> RolloutDetails:
    stored = await _stored(lambda: platform.rollouts.find(key))
    if stored is None:
        raise ProblemError("not_found", "GET /v1/experiments lists what there is")
    return await _stored(lambda: details(platform.rollouts, stored))


async def _stored(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except ConfigError as error:
        raise ProblemError("invalid", str(error)) from None
    except StorageError:
        raise ProblemError("not_ready", "experiments cannot be kept now", retry_after=2) from None


def _caller(call: Call) -> str:
    """Who asks, for the audit log: the public part of the key."""
    sent = call.headers.get(b"x-api-key") or call.headers.get(b"authorization", b"")
    found = _KEY_ID.search(sent)
    return f"key {found[1].decode()}" if found else "the API without keys"


_INFO = {
    "key": "cheaper-first",
    "state": "canary",
    "stage": 1,
    "share": 0.05,
    "decision": None,
    "change": {"objective": {"relevance": 1, "price": 0.3}},
    "looks": 31,
    "looked_at": 1772366400000,
    "archived": False,
    "run_id": "",
}
_DETAILS = {
    "rollout": _INFO,
    "history": [
        {
            "at": 1772280000000,
            "action": "shadow → canary",
            "share": 0.01,
            "changed_by": "key 1a2b3c4d",
            "reason": "started",
        }
    ],
    "looks": [
        {
            "number": 31,
            "at": 1772366400000,
            "stage": 1,
            "sample_ratio": "ok",
            "guardrails": {"takers": "undecided"},
            "state": "canary",
        }
    ],
}

ROLLOUT_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/experiments",
        "List the rollouts",
        _list,
        details="Changes that are tried out in stages, by key, and how far each is.",
        scope="analyst",
        query=RolloutsQuery,
        answer=RolloutIndex,
        parameters_example={"limit": 20},
        answer_example={"experiments": [_INFO], "next_cursor": None},
        problems=("not_ready",),
    ),
    Endpoint(
        "POST",
        "/v1/experiments",
        "Define a rollout",
        _create,
        details=(
            "The plan is written before it starts: a draft can be defined anew, and what has begun "
            "cannot. With `start` it starts at once."
        ),
        scope="admin",
        body=RolloutDefinition,
        answer=RolloutDetails,
        status=201,
        request_example={
            "key": "cheaper-first",
            "change": {"objective": {"relevance": 1, "price": 0.3}},
            "guardrails": [{"metric": "takers", "margin": 0.02}],
        },
        answer_example=_DETAILS,
        problems=("invalid", "not_ready"),
    ),
    # A parameter matches slashes, too: the longer path stands before the shorter one.
    Endpoint(
        "POST",
        "/v1/experiments/{key}/{step}",
        "Move a rollout by hand",
        _move,
        details=(
            "`start` begins its shadow; `advance` gives it to the first stage, or goes on after a "
            "hold; `rollback`, `decide` and `archive` end it. Between stages it moves by itself. "
            "Who asks and why goes to the audit log."
        ),
        scope="admin",
        body=RolloutStep,
        answer=RolloutDetails,
        parameters_example={"key": "cheaper-first", "step": "rollback"},
        request_example={"reason": "complaints about the order"},
        answer_example=_DETAILS,
        problems=("invalid", "not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/experiments/{key}",
        "Read a rollout, who moved it and what looks said",
        _get,
        details="Verdicts, no numbers of people. It names who moved it: it needs `admin`.",
        scope="admin",
        query=NoRolloutQuery,
        answer=RolloutDetails,
        parameters_example={"key": "cheaper-first"},
        answer_example=_DETAILS,
        problems=("not_found", "not_ready"),
    ),
)

"""Endpoints of bandits: ``/v1/bandits``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from tactful.bandits.definitions import BanditDefinition, check_definition
from tactful.errors import ConfigError
from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import PageQuery, caller_of, opts_out, stored
from tactful.schemas.experiments.bandits import (
    BanditDecision,
    BanditDetails,
    BanditIndex,
    BanditInfo,
    BanditStop,
    DecideRequest,
)
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.bandits.store import StoredBandit
    from tactful.server.platform import Platform

T = TypeVar("T")


class BanditQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Choices of a bandit's report.

    Attributes:
        days: of decisions that count.
    """

    days: Annotated[float, Meta(gt=0, le=400)] = 28.0


_definition = msgspec.json.Decoder(BanditDefinition)
_stop = msgspec.json.Decoder(BanditStop)
_decide = msgspec.json.Decoder(DecideRequest)


async def _post_decide(platform: Platform, call: Call) -> Reply:
    request = await call.json(_decide)
    if opts_out(platform, call):
        request = msgspec.structs.replace(request, context={**request.context, "consent": ""})
    return json_reply(platform.bandits.decide(call.path["key"], request))


async def _get_bandits(platform: Platform, call: Call) -> Reply:
    query = call.query(PageQuery)
    found = [it for it in await _stored(platform.bandits.store.all) if it.key > query.cursor]
    page = [_info(platform, it, named=call.trusted) for it in found[: query.limit]]
    more = len(found) > query.limit
    return json_reply(BanditIndex(bandits=page, next_cursor=page[-1].key if more else None))


async def _get_bandit(platform: Platform, call: Call) -> Reply:
    query, key = call.query(BanditQuery), call.path["key"]
    bandit = await _found(platform, key)
    outcomes = None
    if call.trusted:
        read = partial(platform.bandits.reports.of, bandit.definition, days=query.days)
        outcomes = await _stored(read)
    return json_reply(_details(platform, bandit, named=call.trusted, outcomes=outcomes))


async def _post_bandit(platform: Platform, call: Call) -> Reply:
    definition, by = await call.json(_definition), caller_of(call)

    def apply() -> None:
        check_definition(definition)
        platform.bandits.apply(definition, by=by, reason="sent to the API")

    await _stored(apply)
    return json_reply(_details(platform, await _found(platform, definition.key)), 201)


async def _post_stop(platform: Platform, call: Call) -> Reply:
    request, key, by = await call.json(_stop), call.path["key"], caller_of(call)
    await _found(platform, key)
    stopped = await _stored(lambda: platform.bandits.stop(key, by=by, reason=request.reason))
    return json_reply(_details(platform, stopped))


async def _found(platform: Platform, key: str) -> StoredBandit:
    bandit = await _stored(lambda: platform.bandits.store.find(key))
    if bandit is None:
        raise ProblemError("not_found", "GET /v1/bandits lists all bandits")
    return bandit


async def _stored(work: Callable[[], T]) -> T:
    try:
        return await stored(work, "bandits cannot be kept now")
    except ConfigError as error:
        raise ProblemError("invalid", str(error)) from None


def _details(
    platform: Platform, bandit: StoredBandit, *, named: bool = True, **more: Any
) -> BanditDetails:
    definition: dict[str, Any] = msgspec.to_builtins(bandit.definition)
    info = _info(platform, bandit, named=named)
    return BanditDetails(bandit=info, definition=definition, **more)


def _info(platform: Platform, bandit: StoredBandit, *, named: bool) -> BanditInfo:
    """Return the state of a bandit; `named`: with its author, a person, for `admin` alone."""
    info, rollouts = bandit.info(), platform.bandits.rolled_out(bandit.key)
    author = info.changed_by if named else ""
    return msgspec.structs.replace(info, rollouts=rollouts, changed_by=author)


BANDIT_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/bandits",
        "List the bandits",
        _get_bandits,
        scope="analyst",
        query=PageQuery,
        answer=BanditIndex,
        problems=("not_ready",),
    ),
    Endpoint(
        "POST",
        "/v1/bandits",
        "Apply a bandit",
        _post_bandit,
        details=(
            "It replaces the definition of the same key, and its `state`. A bandit whose arms, "
            "features or rewards changed is learnt again from the log. Caller and change are "
            "recorded in the audit log."
        ),
        scope="admin",
        body=BanditDefinition,
        answer=BanditDetails,
        status=201,
        problems=("invalid", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/bandits/{key}/decide",
        "Choose the arm of a user",
        _post_decide,
        details=(
            "The decision is logged with its probability. Send `decision_id` in the `properties` "
            "of the event that rewards it; an event without an id rewards the user's latest "
            "decision. Without consent to personalisation, and without a user, the default arm is "
            "returned, and nothing is logged."
        ),
        scope="recommend",
        body=DecideRequest,
        answer=BanditDecision,
        problems=("invalid", "not_found", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/bandits/{key}/stop",
        "Stop a bandit",
        _post_stop,
        details=(
            "Its default arm serves from now on, and nothing is learnt. Caller and reason are "
            "recorded in the audit log."
        ),
        scope="admin",
        body=BanditStop,
        answer=BanditDetails,
        problems=("invalid", "not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/bandits/{key}",
        "Read a bandit and its outcomes",
        _get_bandit,
        details=(
            "Definition and state. `admin` also gets shares of the arms over time, rewards, the "
            "off-policy estimate of every arm, the verdict on the shadow, and the regret against "
            "the best arm. That reads the log, at most once in ten seconds."
        ),
        scope="analyst",
        query=BanditQuery,
        answer=BanditDetails,
        problems=("not_found", "not_ready"),
    ),
)

"""Endpoints of rollouts: ``/v1/experiments``."""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from msgspec import Meta

from tactful.errors import ConfigError
from tactful.experiments.definitions import RolloutDefinition
from tactful.experiments.messages import details, move, rollout_info
from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import PageQuery, caller_of, stored
from tactful.schemas.experiments.readouts import ReadOutMessage, Source
from tactful.schemas.experiments.releases import ReleaseCost
from tactful.schemas.experiments.rollouts import (
    STEPS,
    RolloutDetails,
    RolloutForecast,
    RolloutIndex,
    RolloutStep,
)
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.experiments.planning import Given
    from tactful.experiments.store import StoredRollout
    from tactful.server.platform import Platform
    from tactful_bandits.assignment.assign import Experiment

T = TypeVar("T")


class ForecastQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Numbers for a forecast, which replace those of the last 28 days.

    Attributes:
        people_per_day: users who are shown something on a day.
        rate: share of them who take something.
    """

    people_per_day: Annotated[float, Meta(ge=1, le=1e9)] | None = None
    rate: Annotated[float, Meta(gt=0, lt=1)] | None = None


class ReadOutQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Choices of a read-out.

    Attributes:
        source: `exact` needs `admin`; absent: the exact numbers for `admin` unless the rollout has
            `epsilon`, else the released ones.
        stage: of a rollout; absent: its last one with a control.
        days: of an experiment: days of recommendations; released numbers count from the start of
            its analysis on, in whole days.
    """

    source: Source | None = None
    stage: Annotated[int, Meta(ge=0, le=1_000)] | None = None
    days: Annotated[float, Meta(gt=0, le=400)] = 28.0


class WorthQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Choices of the effect against the permanent holdout.

    Attributes:
        source: `exact` needs `admin`; absent: exact for `admin`, else released.
        days: of recommendations and orders; the released numbers are of the last whole week.
    """

    source: Source | None = None
    days: Annotated[float, Meta(gt=0, le=400)] = 28.0


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
    given = _given(call)
    definition, by = await call.json(_new), caller_of(call)
    apply = platform.planner.apply
    _, forecast = await _stored(
        lambda: apply(definition, by=by, reason="sent to the API", given=given)
    )
    await _stored(platform.publish_rollouts)
    return json_reply(await _details(platform, definition.key, forecast), 201)


async def _plan(platform: Platform, call: Call) -> Reply:
    given = _given(call)
    definition = await call.json(_new)
    return json_reply(await _stored(lambda: platform.planner.forecast(definition, given)))


def _given(call: Call) -> Given:
    from tactful.experiments.planning import Given

    query = call.query(ForecastQuery)
    return Given(query.people_per_day, query.rate)


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


async def _read_out(platform: Platform, call: Call) -> Reply:
    query, key = call.query(ReadOutQuery), call.path["key"]
    if query.source == "exact" and not call.trusted:
        raise ProblemError("missing_scope", "exact numbers need the scope admin")
    rollout = await _stored(lambda: platform.rollouts.find(key))
    if rollout is not None:
        private = rollout.definition.epsilon is not None or not call.trusted
        exact = query.source == "exact" or (query.source is None and not private)
        read = partial(platform.read_outs.of_rollout, rollout, exact=exact, stage=query.stage)
        return json_reply(await _with_metrics(platform, await _stored(read), rollout))
    experiments = {it.key: it for it in await _stored(partial(_experiments, platform))}
    measured = (await _stored(platform.metric_read_outs.definitions)).plans
    if key not in experiments and key not in measured:
        raise ProblemError("not_found", "GET /v1/experiments lists all rollouts")
    if not call.trusted or query.source == "released":
        return await _read_released(platform, key, query, measured)
    if key not in experiments:
        read = partial(platform.metric_read_outs.of_key, key, days=query.days)
        return json_reply(await _stored(read))
    read = partial(platform.read_outs.of_experiment, experiments[key], days=query.days)
    return json_reply(await _with_metrics(platform, await _stored(read)))


async def _read_released(
    platform: Platform, key: str, query: ReadOutQuery, measured: Container[str]
) -> Reply:
    if key not in measured:
        raise ProblemError(
            "missing_scope",
            "without an analysis in metrics.yaml an experiment releases no numbers: exact ones "
            "need admin",
        )
    if query.days < 1:
        raise ProblemError(
            "invalid", "numbers within a day are not released: a day is drawn when it is closed"
        )
    return json_reply(await _stored(partial(platform.released_read_outs.of_key, key)))


async def _release(platform: Platform, call: Call) -> Reply:
    key = call.path["key"]
    if key not in (await _stored(platform.metric_read_outs.definitions)).plans:
        raise ProblemError("not_found", "GET /v1/experiments/metrics lists the analyses")
    return json_reply(await _stored(partial(platform.released_read_outs.cost, key)))


async def _with_metrics(
    platform: Platform, found: ReadOutMessage, rollout: StoredRollout | None = None
) -> ReadOutMessage:
    from tactful.experiment_metrics.own_guardrails import with_own_guardrails

    read_outs = platform.metric_read_outs
    extended = await _stored(partial(read_outs.extended, found))
    if rollout is None:
        return extended
    return await _stored(partial(with_own_guardrails, read_outs, rollout, extended))


async def _get_worth(platform: Platform, call: Call) -> Reply:
    from tactful_privacy.errors import BudgetError

    query = call.query(WorthQuery)
    if query.source == "exact" and not call.trusted:
        raise ProblemError("missing_scope", "exact numbers need the scope admin")
    exact = query.source == "exact" or (query.source is None and call.trusted)
    try:
        if exact:
            return json_reply(await _stored(partial(platform.worth.exact, query.days)))
        return json_reply(await _stored(platform.worth.released))
    except BudgetError as error:
        raise ProblemError("invalid", f"the week cannot be released: {error}") from None


def _experiments(platform: Platform) -> list[Experiment]:
    from tactful_bandits.assignment.definitions import load_experiments
    from tactful_bandits.errors import DefinitionError

    try:
        return list(load_experiments(platform.settings.experiments))
    except DefinitionError as error:
        raise ConfigError(str(error)) from error


async def _details(
    platform: Platform, key: str, forecast: RolloutForecast | None = None
) -> RolloutDetails:
    rollout = await _stored(lambda: platform.rollouts.find(key))
    if rollout is None:
        raise ProblemError("not_found", "GET /v1/experiments lists all rollouts")
    return await _stored(lambda: details(platform.rollouts, rollout, forecast=forecast))


async def _stored(work: Callable[[], T]) -> T:
    try:
        return await stored(work, "experiments cannot be kept now")
    except ConfigError as error:
        raise ProblemError("invalid", str(error)) from None


ROLLOUT_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/worth",
        "Read what personal recommendations are worth",
        _get_worth,
        details=(
            "The effect on clicked recommendations, orders of a user and the share of the revenue "
            "that discounts cost, against the users who are held out for good "
            "(`recommend.holdout`). `analyst` gets the numbers released for the last whole week, "
            "which the first such request draws, if `recommend.holdout_epsilon` is set."
        ),
        scope="analyst",
        query=WorthQuery,
        answer=ReadOutMessage,
        problems=("invalid", "not_ready"),
    ),
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
            "begun cannot. With `start` it starts at once. A plan that would find the "
            "`smallest_loss` of a critical guardrail with a probability below 0.8 is `invalid`, "
            "unless `accept_low_power` has the reason; `forecast` has its power and days."
        ),
        scope="admin",
        query=ForecastQuery,
        body=RolloutDefinition,
        answer=RolloutDetails,
        status=201,
        problems=("invalid", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/experiments/plan",
        "Forecast the plan of a rollout",
        _plan,
        details=(
            "Stores nothing. The power of each critical guardrail by the end of the stage before "
            "100 %, and the days until then, by the recommendations of the last 28 days; for a "
            "rollout with `epsilon` by counts that earlier looks have released."
        ),
        scope="admin",
        query=ForecastQuery,
        body=RolloutDefinition,
        answer=RolloutForecast,
        problems=("invalid", "not_ready"),
    ),
    # Before the steps, whose path matches it, too.
    Endpoint(
        "GET",
        "/v1/experiments/{key}/release",
        "Read what the release of an experiment's metrics costs",
        _release,
        details=(
            "The privacy loss of a person by metric, the days that the next released read-out "
            "draws and charges, and the reason of each metric that is not released. Draws and "
            "charges nothing."
        ),
        scope="analyst",
        answer=ReleaseCost,
        problems=("invalid", "not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/experiments/{key}/readout",
        "Read the effects of a rollout or experiment",
        _read_out,
        details=(
            "The sample ratio first, then by metric, built in or of `metrics.yaml`, the values of "
            "both arms, their difference with "
            "an interval for one look and one for any number of looks, the chance to win and "
            "expected losses, and the same over time. `analyst` gets the counts that private looks "
            "have released; of an experiment whose analysis has `epsilon`, the capped metrics, "
            "drawn once for each arm and day and charged before. Exact numbers need `admin`. It "
            "may take as long as reading the log."
        ),
        scope="analyst",
        query=ReadOutQuery,
        answer=ReadOutMessage,
        problems=("invalid", "not_found", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/experiments/{key}/{step}",
        "Move a rollout by hand",
        _move,
        details=(
            "`shadow` begins the shadow phase, `start` the first stage; `advance` begins it after "
            "a shadow, or its stage again after a hold; `hold` stops it in its stage, where harm "
            "still rolls back; `rollback`, `decide` and `archive` end it. "
            "Between stages it moves by itself. Caller and reason are recorded in the audit log."
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

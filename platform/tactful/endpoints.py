"""The API: its handlers, and the one table that registers and documents them."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from tactful import browser, metrics
from tactful.asgi import Call, Endpoint, Reply, json_reply
from tactful.conclusion_query import CONCLUSIONS, ConclusionQuery
from tactful.consent_endpoints import get_consent, person_of, put_consent
from tactful.errors import StorageError
from tactful.messages import (
    BatchResult,
    Conclusion,
    Consent,
    Erasure,
    EventsAccepted,
    Explanation,
    Health,
    ModelChangeInfo,
    ModelChanges,
    Moment,
    NewConsent,
    NewEvent,
    NewItem,
    NewUser,
    PersonExport,
    Recommendation,
    RecommendBatch,
    RecommendBatchRequest,
    RecommendRequest,
    ReportIndex,
    StatisticsIndex,
    StatisticsPage,
    Upserted,
    UserFeatures,
    to_milliseconds,
)
from tactful.openapi import document
from tactful.privacy_ledger import PrivacyLedger
from tactful.problems import ProblemError
from tactful.reports import list_reports, report_path
from tactful.rollout_endpoints import ROLLOUT_ENDPOINTS
from tactful_streaming import StreamingError

if TYPE_CHECKING:
    from tactful.service import Platform

T = TypeVar("T")
Cursor = Annotated[str, Meta(max_length=512)]
Limit = Annotated[int, Meta(ge=1, le=1000)]

_one = msgspec.json.Decoder(RecommendRequest)
_many = msgspec.json.Decoder(RecommendBatchRequest)


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """No query parameters."""


class PageQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which part of a list."""

    cursor: Cursor = ""
    limit: Limit = 100


class FeaturesQuery(msgspec.Struct, forbid_unknown_fields=True):
    """As of when."""

    at: Moment | None = None


class ExportQuery(msgspec.Struct, forbid_unknown_fields=True):
    """As data, or as a page to read."""

    format: Literal["json", "html"] = "json"


class StatisticsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which panes, and which part of them."""

    cursor: Cursor | None = None
    limit: Limit = 1000
    since: Moment | None = None
    until: Moment | None = None


async def _post_events(platform: Platform, call: Call) -> Reply:
    forbidden = browser.refused if call.public else None
    accepted = await platform.door.events(await call.body(), call.content_type, forbidden=forbidden)
    if call.public:  # how far the log goes is an exact number about everybody
        accepted = msgspec.structs.replace(accepted, position=0)
    return json_reply(accepted, 202)


async def _put_items(platform: Platform, call: Call) -> Reply:
    return json_reply(await platform.door.items(await call.body(), call.content_type), 202)


async def _put_users(platform: Platform, call: Call) -> Reply:
    return json_reply(await platform.door.users(await call.body(), call.content_type), 202)


async def _post_recommend(platform: Platform, call: Call) -> Reply:
    request = await call.json(_one)
    if call.public:
        browser.check_request(request)
    answer = await platform.recommend(request, trusted=call.trusted)
    return json_reply(msgspec.structs.replace(answer, position=0) if call.public else answer)


async def _post_recommend_batch(platform: Platform, call: Call) -> Reply:
    batch = await call.json(_many)
    results = []
    for request in batch.requests:
        try:
            answer = await platform.recommend(request, trusted=call.trusted)
            results.append(BatchResult(recommendation=answer))
        except ProblemError as error:
            results.append(BatchResult(problem=error.problem(None)))
    return json_reply(RecommendBatch(results=results))


async def _get_explanation(platform: Platform, call: Call) -> Reply:
    call.query(NoQuery)
    return json_reply(await platform.explain(call.path["recommendation_id"]))


async def _get_features(platform: Platform, call: Call) -> Reply:
    at = _moment(call.query(FeaturesQuery).at)
    user = person_of(call)
    if platform.permissions.is_erased(user):
        raise ProblemError("not_found", "this person was erased")
    return json_reply(platform.features(user, at))


async def _get_export(platform: Platform, call: Call) -> Reply:
    person, query = person_of(call), call.query(ExportQuery)
    if platform.permissions.is_erased(person):
        raise ProblemError("not_found", "this person was erased")
    try:
        found = await asyncio.to_thread(platform.export, person)
    except (StorageError, StreamingError):
        raise ProblemError("not_ready", "log or state cannot be read now", retry_after=2) from None
    if query.format == "html":
        from tactful.person_export import export_page  # with SQLAlchemy, which no worker needs

        return Reply(200, export_page(found).encode(), b"text/html; charset=utf-8")
    return json_reply(found)


async def _delete_user(platform: Platform, call: Call) -> Reply:
    person = person_of(call)

    def request() -> Erasure:
        platform.suppression.suppress([person])
        return platform.erasures.request(person)

    return json_reply(await _stored(request), 202)


async def _get_erasure(platform: Platform, call: Call) -> Reply:
    call.query(NoQuery)
    found = await _stored(lambda: platform.erasures.find(call.path["receipt"]))
    if found is None:
        raise ProblemError("not_found", "no erasure has this receipt")
    return json_reply(found)


async def _stored(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except StorageError:
        raise ProblemError("not_ready", "erasures cannot be kept now", retry_after=2) from None


async def _of_ledger(work: Callable[[], T]) -> T:
    from tactful_privacy import LedgerError  # where there is a ledger; serving workers have none

    try:
        return await asyncio.to_thread(work)
    except LedgerError:
        raise ProblemError("not_ready", "the ledger cannot be read now", retry_after=2) from None


async def _get_statistics(platform: Platform, call: Call) -> Reply:
    call.query(NoQuery)
    published = platform.statistics
    return json_reply(StatisticsIndex(statistics=[]) if published is None else published.index())


async def _get_ledger(platform: Platform, call: Call) -> Reply:
    call.query(NoQuery)
    if platform.statistics is None:
        raise ProblemError("not_found", "no statistics are published here")
    return json_reply(await _of_ledger(platform.statistics.ledger))


async def _get_statistic(platform: Platform, call: Call) -> Reply:
    query = call.query(StatisticsQuery)
    if platform.statistics is None:
        raise ProblemError("not_found", "no statistics are published here")
    since, until = _moment(query.since), _moment(query.until)
    read = platform.statistics.page
    try:
        page = await _of_ledger(
            lambda: read(call.path["name"], query.cursor, query.limit, since, until)
        )
    except KeyError:
        raise ProblemError("not_found", "GET /v1/statistics lists what is published") from None
    except ValueError:
        raise ProblemError("bad_query", "give a cursor as it was returned") from None
    return json_reply(page)


async def _get_conclusion(platform: Platform, call: Call) -> Reply:
    query = call.query(ConclusionQuery)
    if platform.statistics is None:
        raise ProblemError("not_found", "no statistics are published here")
    draw = platform.statistics.conclude
    name, conclusion = call.path["name"], call.path["conclusion"]
    try:
        return json_reply(await _of_ledger(lambda: draw(name, conclusion, query)))
    except KeyError:
        known = ", ".join(CONCLUSIONS)
        raise ProblemError(
            "not_found", f"GET /v1/statistics lists what is published; conclusions are {known}"
        ) from None
    except ValueError as error:
        raise ProblemError("bad_query", str(error)) from None


async def _get_reports(platform: Platform, call: Call) -> Reply:
    query = call.query(PageQuery)
    directory = platform.settings.storage.reports
    return json_reply(
        await asyncio.to_thread(list_reports, directory, after=query.cursor, limit=query.limit)
    )


async def _get_report(platform: Platform, call: Call) -> Reply:
    call.query(NoQuery)
    path = report_path(platform.settings.storage.reports, call.path["name"])
    if path is None:
        raise ProblemError("not_found", "GET /v1/reports lists what there is")
    return Reply(200, await asyncio.to_thread(path.read_bytes))


async def _get_models(platform: Platform, call: Call) -> Reply:
    call.query(NoQuery)
    return json_reply(platform.recommender.describe())


async def _get_model_log(platform: Platform, call: Call) -> Reply:
    query = call.query(PageQuery)
    if query.cursor and not (query.cursor.isdecimal() and len(query.cursor) < 19):
        raise ProblemError("bad_query", "give a cursor as it was returned")
    if platform.model_log is None:
        return json_reply(ModelChanges(changes=[]))
    before = int(query.cursor) if query.cursor else None
    read = functools.partial(platform.model_log.changes, limit=query.limit + 1, before=before)
    found = await asyncio.to_thread(read)
    page = found[: query.limit]
    cursor = str(page[-1].id) if len(found) > len(page) else None
    changes = [msgspec.convert(change, ModelChangeInfo, from_attributes=True) for change in page]
    return json_reply(ModelChanges(changes=changes, next_cursor=cursor))


async def _get_health(platform: Platform, call: Call) -> Reply:
    return json_reply(Health(status="ok", version=platform.version))


async def _get_readiness(platform: Platform, call: Call) -> Reply:
    health = platform.health()
    if health.status != "ok":
        wrong = [f"{name}: {said}" for name, said in health.checks.items() if said != "ok"]
        raise ProblemError("not_ready", "; ".join(wrong) or health.status, retry_after=1)
    return json_reply(health)


async def _get_metrics(platform: Platform, call: Call) -> Reply:
    return Reply(200, platform.metrics.render(), metrics.CONTENT_TYPE)


async def _get_openapi(platform: Platform, call: Call) -> Reply:
    return Reply(200, _openapi(platform.version))


@functools.cache
def _openapi(version: str) -> bytes:
    return msgspec.json.encode(document(ENDPOINTS, version=version))


def _moment(moment: int | dt.datetime | None) -> int | None:
    try:
        return None if moment is None else to_milliseconds(moment)
    except ValueError as error:
        raise ProblemError("bad_query", str(error)) from None


_EVENT = {
    "event_id": "b7c1f0c2-1",
    "type": "view",
    "timestamp": "2026-03-01T12:00:00Z",
    "user_id": "u-17",
    "session_id": "s-3",
    "item_id": "sku-42",
    "properties": {"price": 12.5, "currency": "EUR", "dwell_ms": 4200},
    "context": {"page": "home", "locale": "de-DE"},
}
_ITEM = {
    "item_id": "sku-42",
    "title": "Teapot",
    "category": "kitchen",
    "price": 12.5,
    "properties": {"brand": "Brown & Sons"},
}
_USER = {"user_id": "u-17", "properties": {"country": "DE", "age_band": "35-44"}}
_RECOMMENDATION = {
    "recommendation_id": "r-0b8e",
    "items": [{"item_id": "sku-42", "score": 0.83, "channel": "next"}],
    "model_version": "3",
    "variant": {"ranking": "control"},
    "position": 128,
    "fallback": None,
    "took_ms": 2.4,
    "explanation": None,
}
_ERASURE = {
    "receipt": "3f0c9f4e5a0b4b0f8f3a4a6f7c1d2e3b",
    "state": "requested",
    "requested_at": 1772366400000,
    "due_at": 1774958400000,
    "done_at": None,
    "steps": [],
}
_LEDGER = {
    "month": "2026-03",
    "today": "2026-03-17",
    "unit": "one user, one UTC day",
    "delta": 1e-6,
    "spends": [
        {
            "tenant": "*",
            "purpose": "*",
            "epsilon_each_day": 1.0,
            "days": 17,
            "epsilon_spent": 17.0,
            "epsilon_spent_composed": 16.8,
            "epsilon_forecast": 31.0,
            "epsilon_forecast_composed": 28.6,
        }
    ],
    "budgets": [
        {
            "tenant": "*",
            "purpose": "*",
            "epsilon": 1.0,
            "delta": 0.0,
            "composition": "basic",
            "reserved": 1.0,
            "largest_day": 1.0,
        }
    ],
    "queries": [],
    "in_words": "One day of one person: …",
}
_CONSENT = {
    "person": "u-17",
    "allowed": ["measurement", "personalisation", "service"],
    "said": {"personalisation": True, "measurement": True, "marketing": False},
    "default": [],
    "history": [
        {
            "version": 7,
            "purposes": {"personalisation": True, "measurement": True},
            "at": 1772366400000,
            "source": "cookie dialogue",
        },
        {
            "version": 9,
            "purposes": {"marketing": False},
            "at": 1772366500000,
            "source": "settings page",
        },
    ],
}
_BATCH_MEDIA = ("application/json", "application/x-ndjson")

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/v1/events",
        "Accept events",
        _post_events,
        details=(
            "One event, an array, or one event a line (NDJSON). The answer comes when the accepted "
            "events are durable. A bad event is refused by its index and never fails its "
            "neighbours; an `event_id` that was accepted before changes nothing."
        ),
        scope="ingest",
        browser=True,
        body=NewEvent | list[NewEvent],
        media=_BATCH_MEDIA,
        answer=EventsAccepted,
        status=202,
        request_example=[_EVENT, {**_EVENT, "event_id": "b7c1f0c2-2", "type": "no-such-type"}],
        answer_example={
            "accepted": 1,
            "duplicates": 0,
            "rejected": [{"index": 1, "code": "unknown_type", "message": "…"}],
            "position": 128,
        },
        problems=("too_many_events", "not_ready"),
    ),
    Endpoint(
        "PUT",
        "/v1/items",
        "Insert or replace items",
        _put_items,
        details="One item, an array, or one item a line (NDJSON). The last word on an item wins.",
        scope="ingest",
        body=NewItem | list[NewItem],
        media=_BATCH_MEDIA,
        answer=Upserted,
        status=202,
        request_example=[_ITEM],
        answer_example={"accepted": 1, "rejected": [], "position": 129},
        problems=("too_many_events", "not_ready"),
    ),
    Endpoint(
        "PUT",
        "/v1/users",
        "Insert or replace users",
        _put_users,
        details="One user, an array, or one user a line (NDJSON). The last word on a user wins.",
        scope="ingest",
        body=NewUser | list[NewUser],
        media=_BATCH_MEDIA,
        answer=Upserted,
        status=202,
        request_example=[_USER],
        answer_example={"accepted": 1, "rejected": [], "position": 130},
        problems=("too_many_events", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/recommend",
        "Recommend items",
        _post_recommend,
        details=(
            "Send `recommendation_id` back on the events that follow from the list. `after` waits "
            "until the events up to that position count: you read your own writes."
        ),
        scope="recommend",
        browser=True,
        body=RecommendRequest,
        answer=Recommendation,
        request_example={"user_id": "u-17", "count": 10, "context": {"page": "home"}},
        answer_example=_RECOMMENDATION,
        problems=("invalid", "not_ready", "overloaded", "not_caught_up"),
    ),
    Endpoint(
        "POST",
        "/v1/recommend/batch",
        "Recommend items for several requests",
        _post_recommend_batch,
        details="Each request has its own answer or problem, in the order of the requests.",
        scope="recommend",
        body=RecommendBatchRequest,
        answer=RecommendBatch,
        request_example={"requests": [{"user_id": "u-17", "count": 3}, {"device_id": "d-1"}]},
        answer_example={"results": [{"recommendation": _RECOMMENDATION}]},
        problems=("invalid", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/explain/{recommendation_id}",
        "Explain a list",
        _get_explanation,
        details=(
            "From the list as it was logged: channel, features as served and what each added to "
            "the model's margin, the rules that took part, arm and model version. It finds the "
            "latest 2,000 lists of this server and those among the latest 200,000 records of a log "
            "in files. This is personal data, so it needs the scope `admin`."
        ),
        scope="admin",
        query=NoQuery,
        answer=Explanation,
        parameters_example={"recommendation_id": "r-0b8e"},
        answer_example={
            "recommendation_id": "r-0b8e",
            "at": 1772366400000,
            "ranking": "learned",
            "model_version": "3",
            "experiment": "ranking",
            "arm": "learned",
            "forced": False,
            "propensity": 0.9,
            "base": 0.5,
            "items": [
                {
                    "item_id": "sku-42",
                    "channel": "next",
                    "score": 0.83,
                    "margin": 0.83,
                    "features": {"next_last": 1.0, "days_since_taken": None},
                    "contributions": {"next_last": 0.35, "days_since_taken": -0.02},
                }
            ],
            "rules": {"filters": ["category: kitchen"]},
            "note": None,
        },
        problems=("not_found",),
    ),
    Endpoint(
        "GET",
        "/v1/users/{user_id}/features",
        "Read the features of one user",
        _get_features,
        details="As of now, or as of `at`. This is personal data, so it needs the scope `admin`.",
        scope="admin",
        query=FeaturesQuery,
        answer=UserFeatures,
        parameters_example={"user_id": "u-17", "at": "2026-03-01T12:00:00Z"},
        answer_example={
            "user_id": "u-17",
            "at": 1772366400000,
            "position": 130,
            "features": {"views_5m": {"kitchen": 1.0}, "spend_30d": 12.5},
        },
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/users/{user_id}/consent",
        "Read what a person has agreed to",
        get_consent,
        details=(
            "Also all they ever said of it, with time and source. The id is a user id, or "
            "`device:` and a device id."
        ),
        scope="admin",
        query=NoQuery,
        answer=Consent,
        parameters_example={"user_id": "u-17"},
        answer_example=_CONSENT,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "PUT",
        "/v1/users/{user_id}/consent",
        "Record what a person agrees to or refuses",
        put_consent,
        details=(
            "Purposes that are not named stay as they were. It holds when the answer comes, and "
            "within a second in the other servers of the installation."
        ),
        scope="ingest",
        body=NewConsent,
        answer=Consent,
        parameters_example={"user_id": "u-17"},
        request_example={"purposes": {"marketing": False}, "source": "settings page"},
        answer_example=_CONSENT,
        problems=("not_found", "invalid", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/users/{user_id}/export",
        "Export all there is of a person",
        _get_export,
        details=(
            "Everything that an erasure would remove: what the log holds, what is computed, what "
            "they decided. With `format=html` it is a page for them to read, complete in itself. "
            "It reads the log, which takes its time where that is long."
        ),
        scope="admin",
        query=ExportQuery,
        answer=PersonExport,
        parameters_example={"user_id": "u-17", "format": "json"},
        answer_example={
            "person": "u-17",
            "made_at": 1772366400000,
            "consent": _CONSENT["history"],
            "description": {"country": "DE"},
            "devices": ["d-17"],
            "shared_devices": [],
            "sessions": ["s-3"],
            "records": [{"offset": 3, "kind": "event", **_EVENT, "timestamp": 1772366400000}],
            "features": {"user u-17": {"views_5m": {"kitchen": 1.0}}},
            "dead_letters": [],
            "waiting_actions": [],
            "notes": ["Published statistics carry noise, …"],
        },
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "DELETE",
        "/v1/users/{user_id}",
        "Erase a person",
        _delete_user,
        details=(
            "From the answer on nothing is taken of the person and nothing of them is read. What "
            "they left is removed at the next start of the server, by the date in the receipt at "
            "the latest. The id is a user id, or `device:` and a device id."
        ),
        scope="admin",
        answer=Erasure,
        status=202,
        parameters_example={"user_id": "u-17"},
        answer_example=_ERASURE,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/erasures/{receipt}",
        "Read the receipt of an erasure",
        _get_erasure,
        details="It says what was removed where, and names nobody.",
        scope="admin",
        query=NoQuery,
        answer=Erasure,
        parameters_example={"receipt": _ERASURE["receipt"]},
        answer_example={
            **_ERASURE,
            "state": "done",
            "done_at": 1772452800000,
            "steps": [{"place": "log", "removed": 112, "note": "", "sha256": "5f70…"}],
        },
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/statistics",
        "List the published statistics",
        _get_statistics,
        scope="analyst",
        query=NoQuery,
        answer=StatisticsIndex,
        answer_example={
            "statistics": [{"name": "views", "epsilon": 1.0, "cap": 20, "unit": "user-day"}]
        },
    ),
    Endpoint(
        "GET",
        "/v1/privacy/ledger",
        "Tell what published numbers cost one person this month",
        _get_ledger,
        details="Spent so far, by tenant and purpose, and forecast to the end of the month, for "
        "somebody who is active on every day.",
        scope="analyst",
        query=NoQuery,
        answer=PrivacyLedger,
        answer_example=_LEDGER,
        problems=("not_found", "not_ready"),
    ),
    # A parameter matches slashes, too: the longer path stands before the shorter one.
    Endpoint(
        "GET",
        "/v1/statistics/{name}/{conclusion}",
        "Conclude something from a published statistic",
        _get_conclusion,
        details=(
            "A `sum`, a `share`, a `quantile`, the `top` keys, or periods that are `consistent`. "
            "Only released numbers go in, so it costs no privacy; intervals are of the noise."
        ),
        scope="analyst",
        query=ConclusionQuery,
        answer=Conclusion,
        parameters_example={
            "name": "views",
            "conclusion": "top",
            "since": "2026-03-01T00:00:00Z",
            "until": "2026-03-02T00:00:00Z",
            "k": 1,
        },
        answer_example={
            "name": "views",
            "conclusion": "top",
            "since": 1772323200000,
            "until": 1772409600000,
            "panes": 24,
            "epsilon": 1.0,
            "delta": 2.2e-17,
            "cap": 20,
            "unit": "one user, one UTC day",
            "method": "discrete Laplace, exact 64-bit table",
            "confidence": 0.95,
            "results": [
                {"key": "kitchen", "value": 9012, "low": 8620, "high": 9404, "best": 1, "worst": 1}
            ],
        },
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/statistics/{name}",
        "Read a published statistic",
        _get_statistic,
        details="Every number is noisy and comes with its confidence interval.",
        scope="analyst",
        query=StatisticsQuery,
        answer=StatisticsPage,
        parameters_example={"name": "views", "limit": 24, "since": "2026-03-01T00:00:00Z"},
        answer_example={
            "name": "views",
            "epsilon": 1.0,
            "cap": 20,
            "unit": "user-day",
            "cells": [
                {
                    "pane_start": 1772366400000,
                    "key": "kitchen",
                    "value": 412.0,
                    "low": 352.0,
                    "high": 472.0,
                }
            ],
            "next_cursor": None,
        },
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/reports",
        "List the reports",
        _get_reports,
        scope="analyst",
        query=PageQuery,
        answer=ReportIndex,
        answer_example={
            "reports": [{"name": "demo", "updated_at": 1772366400000, "bytes": 5120}],
            "next_cursor": None,
        },
    ),
    Endpoint(
        "GET",
        "/v1/reports/{name}",
        "Read a report",
        _get_report,
        scope="analyst",
        query=NoQuery,
        answer=dict[str, Any],
        parameters_example={"name": "demo"},
        answer_example={"name": "demo", "stage": "done", "progress": 1.0},
        problems=("not_found",),
    ),
    Endpoint(
        "GET",
        "/v1/models",
        "Describe the models in use",
        _get_models,
        scope="analyst",
        query=NoQuery,
        answer=dict[str, Any],
        answer_example={"ranker": {"version": "3", "alias": "champion"}},
    ),
    Endpoint(
        "GET",
        "/v1/models/log",
        "Read who changed which model, when and why",
        _get_model_log,
        details="Newest first. It names who worked on the installation: it needs `admin`.",
        scope="admin",
        query=PageQuery,
        answer=ModelChanges,
        parameters_example={"limit": 20},
        answer_example={
            "changes": [
                {
                    "id": 7,
                    "action": "rollback",
                    "name": "ranker",
                    "version": "3",
                    "previous": "4",
                    "changed_by": "ann@shop-1",
                    "reason": "fewer purchases since noon",
                    "state": "done",
                    "begun_at": 1772366400000,
                    "ended_at": 1772366400180,
                    "error": None,
                }
            ],
            "next_cursor": None,
        },
    ),
    *ROLLOUT_ENDPOINTS,
    Endpoint(
        "GET",
        "/healthz",
        "Say that the process is alive",
        _get_health,
        answer=Health,
        answer_example={"status": "ok", "version": "0.1.0", "checks": {}},
    ),
    Endpoint(
        "GET",
        "/readyz",
        "Say whether it is ready for traffic",
        _get_readiness,
        answer=Health,
        answer_example={"status": "ok", "version": "0.1.0", "checks": {"engine": "ok"}},
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/metrics",
        "Read the metrics, for Prometheus",
        _get_metrics,
        details="Exact totals are for the operators: it needs a key with the scope `monitor`.",
        scope="monitor",
        answer_media="text/plain",
    ),
    Endpoint(
        "GET",
        "/openapi.json",
        "Read this document",
        _get_openapi,
        answer=dict[str, Any],
    ),
)

"""All endpoints: their handlers, and `ENDPOINTS`, which registers and documents them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tactful.http.access import ACCESS_ENDPOINTS
from tactful.http.alerts import ALERT_ENDPOINTS
from tactful.http.asgi import Call, Endpoint, Host, Reply, json_reply
from tactful.http.common import (
    PageQuery,
    moment_of,
    opts_out,
    person_of,
    prepared,
    stored,
)
from tactful.http.data.dead_letters import DEAD_LETTER_ENDPOINTS
from tactful.http.data.imports import IMPORT_ENDPOINTS, import_of
from tactful.http.data.live import LIVE_ENDPOINTS
from tactful.http.data.quality import QUALITY_ENDPOINTS
from tactful.http.description import described
from tactful.http.experiments.bandits import BANDIT_ENDPOINTS
from tactful.http.experiments.coupons import COUPON_ENDPOINTS
from tactful.http.experiments.flags import FLAG_ENDPOINTS
from tactful.http.experiments.metrics import METRIC_ENDPOINTS
from tactful.http.experiments.rollouts import ROLLOUT_ENDPOINTS
from tactful.http.experiments.tuner import TUNER_ENDPOINTS
from tactful.http.federated import FEDERATED_ENDPOINTS
from tactful.http.item_details import ITEM_DETAIL_ENDPOINTS
from tactful.http.items import ITEM_ENDPOINTS
from tactful.http.limits.key_limits import EventQuota
from tactful.http.models import MODEL_ENDPOINTS
from tactful.http.operations import OPERATIONS_ENDPOINTS
from tactful.http.resource import Application, route
from tactful.http.search import SEARCH_ENDPOINTS
from tactful.http.sources import SOURCE_ENDPOINTS
from tactful.http.statistics import STATISTICS_ENDPOINTS
from tactful.http.subjects.audit import AUDIT_ENDPOINTS, looked_at
from tactful.http.subjects.domains import DOMAIN_ENDPOINTS
from tactful.http.subjects.people import PEOPLE_ENDPOINTS
from tactful.http.subjects.privacy import PRIVACY_ENDPOINTS
from tactful.http.subjects.rights import RIGHTS_ENDPOINTS
from tactful.http.trials import TRIAL_ENDPOINTS
from tactful.metrics import registry as metrics
from tactful.pipeline.batch_order import place_of
from tactful.schemas import browser_access as browser
from tactful.schemas.elements import IdentifiedEvent, NewItem, NewUser
from tactful.schemas.fields import Moment
from tactful.schemas.health import Health
from tactful.schemas.ingestion import EventsAccepted, Upserted
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import (
    BatchResult,
    Explanation,
    Recommendation,
    RecommendBatch,
    RecommendBatchRequest,
    RecommendRequest,
)
from tactful.schemas.reports import ReportIndex, ReportInfo
from tactful.schemas.users import UserFeatures
from tactful_streaming.contract.log_entries import BROWSER, subject_key

if TYPE_CHECKING:
    from tactful.server.platform import Platform

Recommend = Callable[[RecommendRequest], Awaitable[Recommendation]]

request_decoder = msgspec.json.Decoder(RecommendRequest)
_REPORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
batch_decoder = msgspec.json.Decoder(RecommendBatchRequest)


class FeaturesQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Time of the features; now, if not given."""

    at: Moment | None = None


async def _post_events(platform: Platform, call: Call) -> Reply:
    options: dict[str, Any]
    with EventQuota(platform.key_counters, call.key) as quota:

        def count(number: int, devices: list[str | None]) -> None:
            platform.rates.count_events(number)
            if call.public:
                platform.rates.count(call.browser_key, number, devices)
            if call.key.limits is not None:
                quota.count(number)

        if call.public:
            options = {"sender": BROWSER, "forbidden": browser.refused}
        else:
            place, import_id = place_of(call.headers), await import_of(platform, call)
            options = {"place": place, "import_id": import_id}
        if call.public or call.key.limits is not None or platform.settings.limits.event_rate:
            options["count"] = count
        if opts_out(platform, call):
            options["opted_out"] = True
        accepted = await platform.ingest.events(await call.body(), call.content_type, **options)
    _count(platform, options.get("import_id"), accepted)
    if call.public:
        # The length of the log is an exact number about all users, and a duplicate about a device.
        sent = accepted.accepted + accepted.duplicates
        accepted = msgspec.structs.replace(accepted, accepted=sent, duplicates=0, position=0)
    return json_reply(accepted, 202)


async def _put_items(platform: Platform, call: Call) -> Reply:
    return await _upserted(platform, platform.ingest.items, call)


async def _put_users(platform: Platform, call: Call) -> Reply:
    return await _upserted(platform, platform.ingest.users, call)


async def _upserted(
    platform: Platform, upsert: Callable[..., Awaitable[Upserted]], call: Call
) -> Reply:
    place, import_id = place_of(call.headers), await import_of(platform, call)
    body = await call.body()
    accepted = await upsert(body, call.content_type, place=place, import_id=import_id)
    _count(platform, import_id, accepted)
    return json_reply(accepted, 202)


def _count(platform: Platform, import_id: str | None, accepted: EventsAccepted | Upserted) -> None:
    if import_id is not None:
        platform.imports.count(import_id, accepted.accepted, len(accepted.rejected))


async def _post_recommend(platform: Platform, call: Call) -> Reply:
    recommend = partial(platform.recommendations.recommend, trusted=call.trusted)
    request = await call.json(request_decoder)
    await _explained_to(platform, call, [request])
    return await recommend_one(platform, call, request, recommend)


async def _post_recommend_batch(platform: Platform, call: Call) -> Reply:
    batch = await call.json(batch_decoder)
    await _explained_to(platform, call, batch.requests)
    recommend = partial(platform.recommendations.recommend, trusted=call.trusted)
    return await recommend_each(platform, call, batch, recommend)


async def _explained_to(
    platform: Platform, call: Call, requests: Sequence[RecommendRequest]
) -> None:
    """Record the look at each user whose recommendation is explained to the caller."""
    subjects = {request.subject for request in requests if request.explain and call.trusted}
    for person in filter(None, subjects):
        await looked_at(platform, call, person, "explain")


async def recommend_one(
    host: Host, call: Call, request: RecommendRequest, recommend: Recommend
) -> Reply:
    """Answer one request, within the limits of the key, by `recommend`."""
    if call.public:
        browser.check_request(request)
        host.rates.count(call.browser_key, 0, [request.device_id])
    answer = await recommend(prepared(host, call, request))
    _count_list(host, request, answer)
    return json_reply(msgspec.structs.replace(answer, position=0) if call.public else answer)


def _count_list(host: Host, request: RecommendRequest, answer: Recommendation) -> None:
    """Count a recommendation that is shown to somebody now."""
    if request.as_of is None and request.timestamp is None:
        first = answer.items[0].score if answer.items else None
        host.metrics.listed(request.count, len(answer.items), first)


async def recommend_each(
    host: Host, call: Call, batch: RecommendBatchRequest, recommend: Recommend
) -> Reply:
    """Answer the requests of a batch in order, each by a recommendation or a problem."""
    results = []
    for request in batch.requests:
        try:
            answer = await recommend(prepared(host, call, request))
            _count_list(host, request, answer)
            results.append(BatchResult(recommendation=answer))
        except ProblemError as error:
            results.append(BatchResult(problem=error.problem(None)))
    return json_reply(RecommendBatch(results=results))


async def _get_explanation(platform: Platform, call: Call) -> Reply:
    impression = await platform.recommendations.find(call.path["recommendation_id"])
    if (person := subject_key(impression)) is not None:
        await looked_at(platform, call, person, "explain")
    return json_reply(await platform.recommendations.explain(impression))


async def _get_features(platform: Platform, call: Call) -> Reply:
    at = moment_of(call.query(FeaturesQuery).at)
    user = person_of(call)
    if platform.permissions.is_erased(user):
        raise ProblemError("not_found", "this user was erased")
    await looked_at(platform, call, user, "features")
    return json_reply(platform.features(user, at))


async def _get_reports(platform: Platform, call: Call) -> Reply:
    query, directory = call.query(PageQuery), platform.settings.storage.reports
    read = partial(_list_reports, directory, query.cursor, query.limit)
    return json_reply(await stored(read, "the reports cannot be read now"))


async def _get_report(platform: Platform, call: Call) -> Reply:
    path = _report_path(platform.settings.storage.reports, call.path["name"])
    if path is None:
        raise ProblemError("not_found", "GET /v1/reports lists all reports")
    return Reply(200, await stored(path.read_bytes, "the report cannot be read now"))


def _list_reports(directory: Path, after: str, limit: int) -> ReportIndex:
    """Return a page of the reports, by name, from the one after `after`."""
    if not directory.is_dir():
        return ReportIndex(reports=[])
    names = sorted(
        path.stem
        for path in directory.glob("*.json")
        if path.stem > after and _report_path(directory, path.stem) is not None
    )
    reports = []
    for name in names[:limit]:
        status = (directory / f"{name}.json").stat()
        reports.append(
            ReportInfo(name=name, updated_at=status.st_mtime_ns // 1_000_000, bytes=status.st_size)
        )
    more = len(names) > limit
    return ReportIndex(reports=reports, next_cursor=reports[-1].name if more else None)


def _report_path(directory: Path, name: str) -> Path | None:
    """Return the file of a report, or None if no report has that name.

    A name has letters, digits, ``-`` and ``_`` only, so it cannot leave the directory; a symbolic
    link that leaves it is refused.
    """
    if not _REPORT.fullmatch(name):
        return None
    path = directory / f"{name}.json"
    inside = path.resolve().parent == directory.resolve()
    return path if inside and path.is_file() else None


async def _get_health(platform: Platform, call: Call) -> Reply:
    return json_reply(Health(status="ok", version=platform.version))


async def _get_readiness(platform: Platform, call: Call) -> Reply:
    health = await asyncio.to_thread(platform.health)
    if health.status != "ok":
        failed = [f"{name}: {text}" for name, text in health.checks.items() if text != "ok"]
        raise ProblemError("not_ready", "; ".join(failed) or health.status, retry_after=1)
    return json_reply(health)


async def _get_metrics(platform: Platform, call: Call) -> Reply:
    return Reply(200, platform.metrics.render(), metrics.CONTENT_TYPE)


_ingestion = partial(
    Endpoint,
    scope="ingest",
    media=("application/json", "application/x-ndjson", "text/plain"),
    status=202,
    problems=("too_many_events", "not_ready"),
)

_ENDPOINTS: tuple[Endpoint, ...] = (
    _ingestion(
        "POST",
        "/v1/events",
        "Accept events",
        _post_events,
        details=(
            "One event, an array, or one event a line (NDJSON). The response comes when the "
            "accepted events are durable. An invalid event is rejected with its index, and the "
            "others are accepted; an `event_id` that its sender sent before changes nothing."
        ),
        browser=True,
        body=IdentifiedEvent | list[IdentifiedEvent],
        answer=EventsAccepted,
    ),
    _ingestion(
        "PUT",
        "/v1/items",
        "Insert or replace items",
        _put_items,
        details="One item, an array, or one item a line (NDJSON). The latest description wins.",
        body=NewItem | list[NewItem],
        answer=Upserted,
    ),
    _ingestion(
        "PUT",
        "/v1/users",
        "Insert or replace users",
        _put_users,
        details="One user, an array, or one user a line (NDJSON). The latest description wins.",
        body=NewUser | list[NewUser],
        answer=Upserted,
    ),
    *IMPORT_ENDPOINTS,
    *DEAD_LETTER_ENDPOINTS,
    *QUALITY_ENDPOINTS,
    *LIVE_ENDPOINTS,
    *SOURCE_ENDPOINTS,
    Endpoint(
        "POST",
        "/v1/recommend",
        "Recommend items",
        _post_recommend,
        details=(
            "Send `recommendation_id` with the events that follow from the recommendation. "
            "`after` waits until the events up to that position count (read your own writes)."
        ),
        scope="recommend",
        browser=True,
        body=RecommendRequest,
        answer=Recommendation,
        problems=("invalid", "not_ready", "overloaded", "not_caught_up"),
    ),
    Endpoint(
        "POST",
        "/v1/recommend/batch",
        "Recommend items for several requests",
        _post_recommend_batch,
        details="Each request has a result or a problem, in the order of the requests.",
        scope="recommend",
        body=RecommendBatchRequest,
        answer=RecommendBatch,
        problems=("invalid", "not_ready"),
    ),
    *TRIAL_ENDPOINTS,
    *SEARCH_ENDPOINTS,
    Endpoint(
        "GET",
        "/v1/explain/{recommendation_id}",
        "Explain a recommendation",
        _get_explanation,
        details=(
            "From the logged impression: channel, features as served, the contribution of each to "
            "the model's margin, applied rules, arm and model version. It finds the latest 2,000 "
            "recommendations of this server, and those among the latest 200,000 records of a log "
            "in files. This is personal data, so it needs the scope `admin`."
        ),
        scope="admin",
        answer=Explanation,
        problems=("not_found",),
    ),
    Endpoint(
        "GET",
        "/v1/users/{user_id}/features",
        "Read the features of one user",
        _get_features,
        details="Now, or at the time `at`. This is personal data, so it needs the scope `admin`.",
        scope="admin",
        query=FeaturesQuery,
        answer=UserFeatures,
        problems=("not_found", "not_ready"),
    ),
    *ACCESS_ENDPOINTS,
    *ITEM_ENDPOINTS,
    *ITEM_DETAIL_ENDPOINTS,
    *PEOPLE_ENDPOINTS,
    *RIGHTS_ENDPOINTS,
    *DOMAIN_ENDPOINTS,
    *PRIVACY_ENDPOINTS,
    *AUDIT_ENDPOINTS,
    *STATISTICS_ENDPOINTS,
    Endpoint(
        "GET",
        "/v1/reports",
        "List the reports",
        _get_reports,
        scope="analyst",
        query=PageQuery,
        answer=ReportIndex,
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/v1/reports/{name}",
        "Read a report",
        _get_report,
        scope="analyst",
        answer=dict[str, Any],
        problems=("not_found", "not_ready"),
    ),
    *MODEL_ENDPOINTS,
    *FEDERATED_ENDPOINTS,
    # Before the rollouts, a path of which matches it, too.
    *METRIC_ENDPOINTS,
    *ROLLOUT_ENDPOINTS,
    *FLAG_ENDPOINTS,
    *COUPON_ENDPOINTS,
    *TUNER_ENDPOINTS,
    *BANDIT_ENDPOINTS,
    *OPERATIONS_ENDPOINTS,
    *ALERT_ENDPOINTS,
    Endpoint("GET", "/healthz", "Check that the process is alive", _get_health, answer=Health),
    Endpoint(
        "GET",
        "/readyz",
        "Check whether it is ready for traffic",
        _get_readiness,
        answer=Health,
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/metrics",
        "Read the metrics, for Prometheus",
        _get_metrics,
        details="For the operators: it needs a key with the scope `monitor`.",
        scope="monitor",
        answer_media=("text/plain",),
    ),
)
ENDPOINTS = described(_ENDPOINTS)


def make_application(platform: Platform) -> Application:
    """Make the application that serves `platform`; its lifespan starts and stops it."""
    return route(ENDPOINTS, platform, platform)

"""Endpoints of alerts: ``/v1/alerts``, their rules, silences and test messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from tactful.alerts.rules import check_routes, check_rule
from tactful.errors import ConfigError
from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import LogPageQuery, PageQuery, caller_of, cursor_number, stored
from tactful.schemas.alerts import (
    Acknowledgement,
    AlertInfo,
    AlertPage,
    AlertRule,
    AlertRuleInfo,
    AlertRules,
    AlertTest,
    AlertTestResult,
    NewSilence,
    Silence,
    Silences,
)
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.alerts.service import AlertService
    from tactful.server.platform import Platform

T = TypeVar("T")

_acknowledgement = msgspec.json.Decoder(Acknowledgement)
_rule = msgspec.json.Decoder(AlertRule)
_silence = msgspec.json.Decoder(NewSilence)
_test = msgspec.json.Decoder(AlertTest)


class AlertQuery(LogPageQuery):
    """Which alerts to list, and one page of them.

    Attributes:
        state: `open`, `cleared` or `all`.
        rule: only alerts of this rule.
    """

    state: Literal["open", "cleared", "all"] = "open"
    rule: Annotated[str, Meta(max_length=64)] | None = None


async def _get_alerts(platform: Platform, call: Call) -> Reply:
    query, store = call.query(AlertQuery), platform.alerts.store
    before = cursor_number(query.cursor)

    def read() -> AlertPage:
        found = store.page(query.state, limit=query.limit + 1, before=before, rule=query.rule)
        page = found[: query.limit]
        return AlertPage(
            alerts=page,
            open=store.count_open(),
            evaluated_at=store.evaluated_at(),
            next_cursor=str(page[-1].id) if len(found) > len(page) else None,
        )

    page = await _stored(read)
    if not call.trusted:
        page = msgspec.structs.replace(page, alerts=[_without_people(it) for it in page.alerts])
    return json_reply(page)


def _without_people(alert: AlertInfo) -> AlertInfo:
    """Return an alert without the name and words of whoever acknowledged it."""
    return msgspec.structs.replace(alert, acknowledged_by="", note="")


async def _acknowledge_alert(platform: Platform, call: Call) -> Reply:
    request, by, store = await call.json(_acknowledgement), caller_of(call), platform.alerts.store
    number = _number(call.path["alert_id"])
    if not await _stored(partial(store.acknowledge, number, by=by, note=request.note)):
        raise ProblemError("not_found", "GET /v1/alerts lists all alerts")
    return json_reply(await _stored(partial(store.find, number)))


async def _get_alert_rules(platform: Platform, call: Call) -> Reply:
    query, service = call.query(PageQuery), platform.alerts
    infos = [it for it in await _stored(service.described) if it.rule.name > query.cursor]
    page = infos[: query.limit]
    if not call.trusted:
        page = [msgspec.structs.replace(it, changed_by="") for it in page]
    more = len(infos) > len(page)
    routes = [] if query.cursor else [route.name for route in service.routes]
    cursor = page[-1].rule.name if more else None
    return json_reply(AlertRules(rules=page, routes=routes, next_cursor=cursor))


async def _put_alert_rule(platform: Platform, call: Call) -> Reply:
    rule, by, service = await call.json(_rule), caller_of(call), platform.alerts
    if rule.name != call.path["rule"]:
        raise ProblemError("invalid", "the name of a rule is that of its path", field="$.name")
    try:
        check_rule(rule, where="the rule")
        check_routes([rule], service.routes, where="the rule")
    except ConfigError as error:
        raise ProblemError("invalid", str(error)) from None
    await _stored(partial(service.store.put_rule, rule, by=by))
    return json_reply(await _rule_info(service, rule.name))


async def _delete_alert_rule(platform: Platform, call: Call) -> Reply:
    name, by, service = call.path["rule"], caller_of(call), platform.alerts
    if not await _stored(partial(service.store.delete_rule, name, by=by)):
        raise ProblemError("not_found", "only edited rules can be deleted: disable the others")
    return Reply(204, b"")


async def _rule_info(service: AlertService, name: str) -> AlertRuleInfo | None:
    infos = await _stored(service.described)
    return next((info for info in infos if info.rule.name == name), None)


async def _get_silences(platform: Platform, call: Call) -> Reply:
    query, before = call.query(LogPageQuery), cursor_number(call.query(LogPageQuery).cursor)
    found = await _stored(platform.alerts.store.silences)
    found = [it for it in found if before is None or it.id < before]
    page = found[: query.limit]
    if not call.trusted:
        page = [msgspec.structs.replace(it, made_by="", reason="") for it in page]
    cursor = str(page[-1].id) if len(found) > len(page) else None
    return json_reply(Silences(silences=page, next_cursor=cursor))


async def _post_silence(platform: Platform, call: Call) -> Reply:
    new, by = await call.json(_silence), caller_of(call)
    return json_reply(await _stored(partial(platform.alerts.store.silence, new, by=by)), 201)


async def _delete_silence(platform: Platform, call: Call) -> Reply:
    number, by = _number(call.path["silence_id"]), caller_of(call)
    if not await _stored(partial(platform.alerts.store.end_silence, number, by=by)):
        raise ProblemError("not_found", "GET /v1/alerts/silences lists all that have not ended")
    return Reply(204, b"")


async def _post_alert_test(platform: Platform, call: Call) -> Reply:
    request, by, service = await call.json(_test), caller_of(call), platform.alerts
    route = next((it for it in service.routes if it.name == request.route), None)
    if route is None:
        known = ", ".join(it.name for it in service.routes) or "none"
        raise ProblemError("not_found", f"there is no such route; known are {known}")
    await _stored(partial(platform.audit.record_change, by, "alert.test", route.name))
    results = await asyncio.to_thread(service.test, route)
    return json_reply(AlertTestResult(route=route.name, results=results))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ProblemError("not_found", "its number is a whole number")
    return int(text)


async def _stored(work: Callable[[], T]) -> T:
    return await stored(work, "alerts cannot be kept now")


def _endpoint(method: str, path: str, title: str, handle: Any, **fields: Any) -> Endpoint:
    fields = {"scope": "monitor" if method == "GET" else "admin"} | fields
    fields["problems"] = ("not_ready", *fields.pop("problems", ()))
    return Endpoint(method, path, title, handle, **fields)


ALERT_ENDPOINTS: tuple[Endpoint, ...] = (
    _endpoint(
        "GET",
        "/v1/alerts",
        "List the alerts",
        _get_alerts,
        details=(
            "Open alerts or the history, newest first. Who acknowledged an alert is shown to "
            "`admin` only."
        ),
        query=AlertQuery,
        answer=AlertPage,
    ),
    _endpoint(
        "POST",
        "/v1/alerts/{alert_id}/acknowledge",
        "Acknowledge an alert",
        _acknowledge_alert,
        details="Nobody else is sent a message that it opened. The caller is recorded.",
        body=Acknowledgement,
        answer=AlertInfo,
        problems=("invalid", "not_found"),
    ),
    _endpoint(
        "GET",
        "/v1/alerts/rules",
        "List the rules of alerts",
        _get_alert_rules,
        details="As they are evaluated now: packaged, of the shop's file, or edited.",
        query=PageQuery,
        answer=AlertRules,
    ),
    _endpoint(
        "PUT",
        "/v1/alerts/rules/{rule}",
        "Define or edit a rule",
        _put_alert_rule,
        details=(
            "It takes the place of the rule of that name from the next evaluation on. The caller "
            "is recorded."
        ),
        body=AlertRule,
        answer=AlertRuleInfo,
        problems=("invalid",),
    ),
    _endpoint(
        "DELETE",
        "/v1/alerts/rules/{rule}",
        "Delete an edited rule",
        _delete_alert_rule,
        details="The rule of that name in the files holds again, if there is one.",
        status=204,
        answer_media=(),
        problems=("not_found",),
    ),
    _endpoint(
        "GET",
        "/v1/alerts/silences",
        "List the silences",
        _get_silences,
        details="Those that have not ended. Who made them and why is shown to `admin` only.",
        query=LogPageQuery,
        answer=Silences,
    ),
    _endpoint(
        "POST",
        "/v1/alerts/silences",
        "Silence alerts for a time",
        _post_silence,
        details="Alerts open all the same, without messages. The caller is recorded.",
        body=NewSilence,
        answer=Silence,
        status=201,
        problems=("invalid",),
    ),
    _endpoint(
        "DELETE",
        "/v1/alerts/silences/{silence_id}",
        "End a silence",
        _delete_silence,
        details="Alerts that are still open are sent now.",
        status=204,
        answer_media=(),
        problems=("not_found",),
    ),
    _endpoint(
        "POST",
        "/v1/alerts/test",
        "Send a test message",
        _post_alert_test,
        details=(
            "To each sink of a route, once; the result is empty, or why it failed. The caller is "
            "recorded."
        ),
        body=AlertTest,
        answer=AlertTestResult,
        problems=("invalid", "not_found"),
    ),
)

"""Endpoints of sources: messages that clients of other programs send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
from msgspec import Meta

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import opts_out
from tactful.http.limits.key_limits import EventQuota
from tactful.metadata.key_cache import SOURCE_SCOPE
from tactful.schemas.problems import ProblemError
from tactful.schemas.sources import (
    SourceAnswer,
    SourceBatch,
    ValidationMessage,
    ValidationMessages,
)
from tactful.sources import ga4, plain, segment
from tactful.sources.mapping import SourceName
from tactful.sources.preview import preview
from tactful.sources.translate import Message

if TYPE_CHECKING:
    from tactful.server.platform import Platform

SEGMENT_LIKE = ("segment", "rudderstack")
"""Sources with the calls of Segment."""

_SECRET = "api_secret"
_FIELD_PATHS = {ga4.OF_USER: "user_properties", ga4.OF_REQUEST: "events"}
_Parameter = Annotated[str, Meta(max_length=256)]


class MeasurementQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Data stream, which is not looked at, and API key."""

    measurement_id: _Parameter = ""
    firebase_app_id: _Parameter = ""
    api_secret: _Parameter = ""


async def _post_source_batch(platform: Platform, call: Call) -> Reply:
    return await _segment(platform, call, "batch")


async def _post_source_call(platform: Platform, call: Call) -> Reply:
    name = call.path["call"]
    if name not in segment.CALLS:
        raise ProblemError("not_found", f"the calls are {', '.join(segment.CALLS)}")
    return await _segment(platform, call, name)


async def _segment(platform: Platform, call: Call, name: str) -> Reply:
    if call.path["source"] not in SEGMENT_LIKE:
        raise ProblemError("not_found", f"the sources are {', '.join(SEGMENT_LIKE)}")
    source = cast(SourceName, call.path["source"])
    body = await _body(call)
    read = partial(segment.read_calls, body, name, received=platform.sources.now())
    return json_reply(await _accept(platform, call, source, read))


async def _post_measurement(platform: Platform, call: Call) -> Reply:
    call.query(MeasurementQuery)
    body = await _body(call)
    await _accept(platform, call, "ga4", partial(ga4.read_request, body))
    return Reply(204, b"")


async def _check_measurement(platform: Platform, call: Call) -> Reply:
    call.query(MeasurementQuery)
    messages = _messages(platform, partial(ga4.read_request, await _body(call)))
    checked = preview(messages, platform.sources.mapping("ga4"), now=platform.sources.now())
    found = [
        ValidationMessage(
            fieldPath=_FIELD_PATHS.get(it.index, f"events[{it.index}]"),
            description=problem.message,
            validationCode=problem.code,
        )
        for it in checked
        for problem in it.problems
    ]
    return json_reply(ValidationMessages(validationMessages=found))


async def _post_plain(platform: Platform, call: Call) -> Reply:
    body, mapping = await _body(call), platform.sources.mapping("plain")
    most = platform.settings.limits.batch
    read = partial(plain.read_events, body, call.content_type, mapping, most=most)
    return json_reply(await _accept(platform, call, "plain", read))


async def _accept(
    platform: Platform, call: Call, source: SourceName, read: Callable[[], Sequence[Message]]
) -> SourceAnswer:
    messages, opted_out = _messages(platform, read), opts_out(platform, call)
    with EventQuota(platform.key_counters, call.key) as quota:
        quota.count(len(messages))
        return await platform.sources.accept(source, messages, opted_out=opted_out)


async def _body(call: Call) -> bytes:
    """Return the body of a request that no web page has sent."""
    if b"origin" in call.headers:
        raise ProblemError(
            "wrong_origin",
            "a source key names users, so it belongs on a server: pages send events with the "
            "browser client and a key with the scope 'browser'",
        )
    return await call.body()


def _messages(platform: Platform, read: Callable[[], Sequence[Message]]) -> Sequence[Message]:
    """Read the messages of a body, or raise `ProblemError`."""
    try:
        messages = read()
    except ValueError as error:
        raise ProblemError("bad_body", f"the body cannot be read: {error}") from None
    if len(messages) > (most := platform.settings.limits.batch):
        raise ProblemError("too_large", f"a request may have {most} messages: send smaller batches")
    return messages


_PROBLEMS = ("wrong_origin", "too_many_events", "not_ready")
_source = partial(
    Endpoint,
    "POST",
    scope=SOURCE_SCOPE,
    foreign=True,
    problems=_PROBLEMS,
)
_MEASUREMENT: dict[str, Any] = {
    "query": MeasurementQuery,
    "secret": _SECRET,
    "body": dict[str, Any],
}

SOURCE_ENDPOINTS: tuple[Endpoint, ...] = (
    _source(
        "/v1/sources/{source}/v1/batch",
        "Accept a batch of Segment or RudderStack",
        _post_source_batch,
        details=(
            "Their clients send it when their host is this server's address with "
            "`/v1/sources/segment` or `/v1/sources/rudderstack`. The key is the user name of "
            "Basic authentication; gzip may compress the body. The mapping decides what becomes "
            "of a message; the answer comes when that is durable."
        ),
        body=SourceBatch,
        answer=SourceAnswer,
        problems=(*_PROBLEMS, "not_found"),
    ),
    _source(
        "/v1/sources/{source}/v1/{call}",
        "Accept one message of Segment or RudderStack",
        _post_source_call,
        details="`call` is the kind of the message: track, identify, page, screen, group or alias.",
        body=dict[str, Any],
        answer=SourceAnswer,
        problems=(*_PROBLEMS, "not_found"),
    ),
    _source(
        "/v1/sources/ga4/mp/collect",
        "Accept events of Google Analytics 4",
        _post_measurement,
        details=(
            "As the measurement protocol sends them. `api_secret` is a key with the scope "
            "`source`; addresses end up in logs, so send it in a header where you can. Refused "
            "events are logged and counted: the answer is empty, as Google's."
        ),
        status=204,
        answer_media=(),
        **_MEASUREMENT,
    ),
    _source(
        "/v1/sources/ga4/debug/mp/collect",
        "Check events of Google Analytics 4",
        _check_measurement,
        details="Nothing is stored. Consent is not considered.",
        answer=ValidationMessages,
        **_MEASUREMENT,
    ),
    _source(
        "/v1/sources/plain",
        "Accept events under common names of fields",
        _post_plain,
        details=(
            "One event, an array, or one event a line (NDJSON), such as "
            '`{"event_type": "click", "userId": "ada", "itemId": "tea", "ts": 1772366400}`.'
        ),
        media=("application/json", "application/x-ndjson", "text/plain"),
        body=dict[str, Any] | list[Any],
        answer=SourceAnswer,
    ),
)

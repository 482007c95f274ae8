"""Endpoints of flags: ``/v1/assign`` and ``/v1/flags``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from msgspec import Meta

from tactful.errors import ConfigError
from tactful.flags.streams import VersionStreams
from tactful.http.asgi import ANY_KEY, Call, Endpoint, Reply, json_reply
from tactful.http.common import PageQuery, caller_of, opts_out, sender_address, stored
from tactful.http.subjects.audit import looked_at
from tactful.schemas.experiments.flags import (
    Assignment,
    AssignRequest,
    FlagDetails,
    FlagIndex,
    FlagsApplied,
    FlagsFile,
    FlagSigningKey,
    FlagStep,
    FlagWhy,
    SignedPayload,
    UnitToken,
    UnitTokenRequest,
)
from tactful.schemas.problems import ProblemError
from tactful.subjects.permissions import without_claim

if TYPE_CHECKING:
    from tactful.server.platform import Platform

T = TypeVar("T")

FLAG_STREAM = "/v1/flags/stream"
_MEDIA = b"text/event-stream"
# A browser keeps the payload, and asks each time whether it is still the present one.
_REVALIDATED = (b"cache-control", b"private, no-cache")
_BY_KEY = (b"vary", b"authorization, x-api-key")
_UNAVAILABLE = "flags cannot be kept now"

assign_decoder = msgspec.json.Decoder(AssignRequest)
_token = msgspec.json.Decoder(UnitTokenRequest)
_file = msgspec.json.Decoder(FlagsFile)
_step = msgspec.json.Decoder(FlagStep)


class WhyQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The unit of an explanation.

    Attributes:
        unit: user id, or ``device:`` and a device id.
        attributes: other attributes, as a JSON object.
    """

    unit: Annotated[str, Meta(min_length=1, max_length=263)]
    attributes: Annotated[str, Meta(max_length=8_192)] = "{}"


async def _post_assign(platform: Platform, call: Call) -> Reply:
    request = await call.json(assign_decoder)
    sender = None
    if call.public:
        if request.user_id is not None:
            raise ProblemError(
                "missing_scope",
                "`user_id` needs a key with the scope 'recommend', which belongs on a server",
                field="$.user_id",
            )
        platform.rates.count(call.browser_key, 0, [request.device_id])
        sender = call.key.id, sender_address(platform, call)
    if opts_out(platform, call):
        request = without_claim(request)
    return json_reply(await platform.flags.assign(request, sender))


async def _post_flag_token(platform: Platform, call: Call) -> Reply:
    request = await call.json(_token)
    sender = None
    if call.public:
        platform.rates.count(call.browser_key, 0, [request.device_id])
        sender = call.key.id, sender_address(platform, call)
    return json_reply(platform.flags.token(request.device_id, request.token, sender))


async def _get_flag_payload(platform: Platform, call: Call) -> Reply:
    served = platform.flags.service.served
    envelope = served.public if call.public else served.full
    platform.flags.read_by_client()
    headers = ((b"etag", envelope.etag), _REVALIDATED, _BY_KEY)
    known = {tag.strip() for tag in call.headers.get(b"if-none-match", b"").split(b",")}
    if envelope.etag in {tag.removeprefix(b"W/") for tag in known}:
        return Reply(304, b"", headers=headers)
    return Reply(200, envelope.body, headers=headers)


async def _get_flag_signing_key(platform: Platform, call: Call) -> Reply:
    return json_reply(platform.flags.service.signer.public)


async def _get_flag_stream(platform: Platform, call: Call) -> Reply:
    return stream_reply(platform.flags.streams)


def stream_reply(streams: VersionStreams) -> Reply:
    """Return a response that follows the versions, or raise `ProblemError` if too many are open."""
    if streams.is_full:
        raise ProblemError(
            "overloaded", "too many streams are open: read the payload now and then", retry_after=60
        )
    return Reply(200, b"", _MEDIA, parts=streams.events())


async def _list_flags(platform: Platform, call: Call) -> Reply:
    query = call.query(PageQuery)
    reader = platform.flags.reader
    served, infos = await stored(reader.all, _UNAVAILABLE)
    page = [info for info in infos if info.key > query.cursor]
    more = len(page) > query.limit
    page = page[: query.limit]
    return json_reply(
        FlagIndex(
            version=served.number,
            applied_at=served.at or None,
            flags=page,
            next_cursor=page[-1].key if more else None,
        )
    )


async def _get_flag(platform: Platform, call: Call) -> Reply:
    return json_reply(await _details(platform, call.path["key"]))


async def _apply_flags(platform: Platform, call: Call) -> Reply:
    file, by = await call.json(_file), caller_of(call)
    return json_reply(await _changed(platform, partial(platform.flags.service.apply, file, by=by)))


async def _kill_flag(platform: Platform, call: Call) -> Reply:
    return await _switch(platform, call, platform.flags.service.kill)


async def _revive_flag(platform: Platform, call: Call) -> Reply:
    return await _switch(platform, call, platform.flags.service.revive)


async def _switch(platform: Platform, call: Call, change: Callable[..., object]) -> Reply:
    request, key = await call.json(_step), call.path["key"]
    await _changed(platform, partial(change, key, request.reason, by=caller_of(call)))
    return json_reply(await _details(platform, key))


async def _explain_flag(platform: Platform, call: Call) -> Reply:
    query, key = call.query(WhyQuery), call.path["key"]
    try:
        attributes = msgspec.json.decode(query.attributes, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeError):
        raise ProblemError(
            "bad_query", "write the attributes as a JSON object", field="$.attributes"
        ) from None
    if key not in platform.flags.service.served.features.by_key:
        raise _no_flag()
    await looked_at(platform, call, query.unit, "flag")
    return json_reply(await platform.flags.why(key, query.unit, attributes))


async def _details(platform: Platform, key: str) -> FlagDetails:
    details = await stored(partial(platform.flags.reader.details, key), _UNAVAILABLE)
    if details is None:
        raise _no_flag()
    return details


async def _changed(platform: Platform, work: Callable[[], T]) -> T:
    """Change the flags in a thread, and wake those who wait for another version."""
    try:
        return await stored(work, _UNAVAILABLE)
    except ConfigError as error:
        raise ProblemError("invalid", str(error)) from None
    except KeyError:
        raise _no_flag() from None
    finally:
        platform.flags.service.announce()


def _no_flag() -> ProblemError:
    return ProblemError("not_found", "GET /v1/flags lists all flags")


FLAG_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/v1/assign",
        "Evaluate flags and experiments for one unit",
        _post_assign,
        details=(
            "Logs an exposure for each experiment that gave a value, once for a unit and arm. "
            "A unit that has not agreed to `measurement` is in no experiment. A browser key names "
            "a device only, and gets a `token` for it: exposures of devices without one decide "
            "nothing."
        ),
        scope="recommend",
        browser=True,
        body=AssignRequest,
        answer=Assignment,
        problems=("invalid", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/flags/token",
        "Get the token of a device that evaluates flags itself",
        _post_flag_token,
        details=(
            "Its `exposure` events count with this token in `properties.token`. The token so far "
            "is renewed; a device without one counts as new, and new devices of one address are "
            "limited with a browser key"
            " (`limits.new_devices_per_hour`)."
        ),
        scope="recommend",
        browser=True,
        body=UnitTokenRequest,
        answer=UnitToken,
        problems=("invalid", "too_many_requests"),
    ),
    Endpoint(
        "GET",
        "/v1/flags/payload",
        "Get the signed flags for local evaluation",
        _get_flag_payload,
        details=(
            "Send the `ETag` as `If-None-Match`: 304 means that nothing changed. A browser key "
            "gets the public form: targeted values are hashed, and flags that cannot be are "
            "`remote`. The signature is Ed25519 over the UTF-8 bytes of `payload`."
        ),
        scope="recommend",
        browser=True,
        answer=SignedPayload,
    ),
    Endpoint(
        "GET",
        "/v1/flags/signing-key",
        "Get the public key of signed flags",
        _get_flag_signing_key,
        scope=ANY_KEY,
        browser=True,
        answer=FlagSigningKey,
    ),
    Endpoint(
        "GET",
        FLAG_STREAM,
        "Follow the versions of the flags",
        _get_flag_stream,
        details=(
            "Server-sent events: `event: version` with the number now and at each change, for ten "
            "minutes. At most 500 are open at once in each process that answers requests."
        ),
        scope="recommend",
        browser=True,
        answer_media=("text/event-stream",),
        problems=("overloaded",),
    ),
    Endpoint(
        "GET",
        "/v1/flags",
        "List the flags",
        _list_flags,
        details="By key, with their state and the reasons to remove them.",
        scope="analyst",
        query=PageQuery,
        answer=FlagIndex,
        problems=("not_ready",),
    ),
    Endpoint(
        "POST",
        "/v1/flags",
        "Apply definitions of flags",
        _apply_flags,
        details=(
            "Replaces all flags in one transaction; killed flags stay killed. A file is `invalid` "
            "as a whole, and so is one that changes the arms, weights or hash of an experiment "
            "under its units: give it another key or phase. With `check` nothing is applied."
        ),
        scope="admin",
        body=FlagsFile,
        answer=FlagsApplied,
        problems=("invalid", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/flags/{key}",
        "Read a flag, its rules and its history",
        _get_flag,
        details="The history names callers: it needs `admin`.",
        scope="admin",
        answer=FlagDetails,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/flags/{key}/kill",
        "Kill a flag",
        _kill_flag,
        details="Every unit gets the default value until it is revived; the reason is recorded.",
        scope="admin",
        body=FlagStep,
        answer=FlagDetails,
        problems=("invalid", "not_found", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/flags/{key}/revive",
        "Revive a killed flag",
        _revive_flag,
        scope="admin",
        body=FlagStep,
        answer=FlagDetails,
        problems=("invalid", "not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/flags/{key}/why",
        "Explain the value of a flag for one unit",
        _explain_flag,
        details=(
            "The rules in their order, with the reason why each applies or not. This is a look at "
            "a person, and is recorded as such."
        ),
        scope="admin",
        query=WhyQuery,
        answer=FlagWhy,
        problems=("not_found", "not_ready"),
    ),
)

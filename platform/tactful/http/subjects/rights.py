"""Endpoints of users' rights: consent, look-up, export, erasure."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import LogPageQuery, caller_of, cursor_number, person_of, stored
from tactful.http.subjects.audit import looked_at
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.problems import ProblemError
from tactful.schemas.users import (
    BY_PATTERN,
    Consent,
    ConsentDecision,
    Erasure,
    ErasureResults,
    NewConsent,
    NewErasures,
    PersonAccesses,
    PersonExport,
    PersonMatches,
)
from tactful.subjects.look_up import Identifier
from tactful_privacy.errors import ParameterError
from tactful_privacy.people.consent import parse_decision

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_UNAVAILABLE = "erasures cannot be kept now"
_UNREADABLE = "log or state cannot be read now"
_new_consent = msgspec.json.Decoder(NewConsent)
_new_erasures = msgspec.json.Decoder(NewErasures)


class FindQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Kind of a value, as `properties.email`, and the value."""

    by: Annotated[str, Meta(pattern=BY_PATTERN)]
    value: Annotated[str, Meta(min_length=1, max_length=256)]


class ExportQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Format: JSON, or an HTML page to read."""

    format: Literal["json", "html"] = "json"


async def _get_consent(platform: Platform, call: Call) -> Reply:
    person = person_of(call)
    await looked_at(platform, call, person, "consent")
    return json_reply(await _consent(platform, person))


async def _put_consent(platform: Platform, call: Call) -> Reply:
    person = person_of(call)
    decision = await call.json(_new_consent)
    try:
        purposes = parse_decision(decision.purposes, platform.settings.domains.pairs)
        at = None if decision.at is None else to_milliseconds(decision.at)
    except (ParameterError, ValueError) as error:
        raise ProblemError("invalid", str(error), field="$") from None
    if platform.permissions.is_erased(person):
        raise ProblemError("invalid", "this user was erased: a user who returns needs a new id")
    if call.trusted:  # an operator; the shop's own server has a key with `ingest`
        await looked_at(platform, call, person, "decide")
    record = partial(platform.consents.record, person, purposes, source=decision.source, at=at)
    await stored(record, "consent cannot be recorded now; send it again")
    return json_reply(await _consent(platform, person))


async def _consent(platform: Platform, person: str) -> Consent:
    consents = platform.consents.consents
    read = partial(platform.consents.history, person)
    history = await stored(read, "consent cannot be read now")
    return Consent(
        person=person,
        allowed=platform.permissions.held(person, platform.settings.domains.pairs),
        said={str(purpose): agrees for purpose, agrees in consents.said(person).items()},
        default=sorted(consents.default),
        history=msgspec.convert(history, list[ConsentDecision], from_attributes=True),
    )


async def _get_export(platform: Platform, call: Call) -> Reply:
    person, query = person_of(call), call.query(ExportQuery)
    if platform.permissions.is_erased(person):
        raise ProblemError("not_found", "this user was erased")
    by = caller_of(call)

    def collect() -> PersonExport:
        platform.accesses.record(person, "export", by=by)
        return platform.export(person)

    export = await stored(collect, _UNREADABLE)
    if query.format == "html":
        from tactful.subjects.export import export_page  # with SQLAlchemy, which no worker needs

        return Reply(200, export_page(export).encode(), b"text/html; charset=utf-8")
    return json_reply(export)


async def _find_users(platform: Platform, call: Call) -> Reply:
    query, by = call.query(FindQuery), caller_of(call)
    identifier = Identifier(query.by, query.value)

    def find() -> PersonMatches:
        matches = platform.find_people([identifier])[identifier]
        for match in matches.people:
            platform.accesses.record(match.person, "find", by=by)
        return matches

    return json_reply(await stored(find, _UNREADABLE))


async def _post_erasures(platform: Platform, call: Call) -> Reply:
    requests, most = (await call.json(_new_erasures)).requests, platform.settings.limits.batch
    if len(requests) > most:
        raise ProblemError("too_large", f"a request may erase {most} users: send smaller batches")
    request = partial(platform.request_erasures, requests, caller_of(call))
    return json_reply(ErasureResults(results=await stored(request, _UNAVAILABLE)), 202)


async def _delete_user(platform: Platform, call: Call) -> Reply:
    person, by = person_of(call), caller_of(call)

    def request() -> Erasure:
        platform.accesses.record(person, "erase", by=by)
        platform.suppression.suppress([person])
        return platform.erasures.request(person)

    return json_reply(await stored(request, _UNAVAILABLE), 202)


async def _get_accesses(platform: Platform, call: Call) -> Reply:
    person, query = person_of(call), call.query(LogPageQuery)
    before = cursor_number(query.cursor)
    read = partial(platform.accesses.accesses, person, limit=query.limit + 1, before=before)
    accesses = await stored(read, "accesses cannot be read now")
    page = accesses[: query.limit]
    cursor = str(page[-1].id) if len(accesses) > len(page) else None
    return json_reply(PersonAccesses(accesses=page, next_cursor=cursor))


async def _get_erasure(platform: Platform, call: Call) -> Reply:
    erasure = await stored(partial(platform.erasures.find, call.path["receipt"]), _UNAVAILABLE)
    if erasure is None:
        raise ProblemError("not_found", "no erasure has this receipt")
    return json_reply(erasure)


RIGHTS_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/users/{user_id}/consent",
        "Read the consent of a user",
        _get_consent,
        details=(
            "With the history of decisions, their times and sources. The id is a user id, or "
            "`device:` and a device id."
        ),
        scope="admin",
        answer=Consent,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "PUT",
        "/v1/users/{user_id}/consent",
        "Record a consent decision of a user",
        _put_consent,
        details=(
            "Purposes that are not named stay unchanged. The decision is in force when the "
            "response comes, and within a second in the other servers of the installation."
        ),
        scope="ingest",
        body=NewConsent,
        answer=Consent,
        problems=("not_found", "invalid", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/users/{user_id}/export",
        "Export everything that is stored about a user",
        _get_export,
        details=(
            "Everything that an erasure would remove: log records, features and decisions. With "
            "`format=html` it is a self-contained page for the user. It reads the whole log, "
            "which takes time if the log is long."
        ),
        scope="admin",
        query=ExportQuery,
        answer=PersonExport,
        answer_media=("application/json", "text/html"),
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "DELETE",
        "/v1/users/{user_id}",
        "Erase a user",
        _delete_user,
        details=(
            "From the response on, no data of the user is accepted or read. Stored data are "
            "removed while the server runs, at the latest by the date in the receipt. The id is "
            "a user id, or `device:` and a device id."
        ),
        scope="admin",
        answer=Erasure,
        status=202,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/users",
        "Find the users in whose data a value occurs",
        _find_users,
        details=(
            "The value is searched in descriptions of users and in events, which takes time if "
            "the log is long, and is compared exactly. An anonymous event belongs to the user who "
            "last used its device."
        ),
        scope="admin",
        query=FindQuery,
        answer=PersonMatches,
        problems=("not_ready",),
    ),
    Endpoint(
        "POST",
        "/v1/erasures",
        "Erase many users",
        _post_erasures,
        details=(
            "Each by a user id or by another value that was stored of them. One request may be "
            "refused and the others accepted; each user gets one receipt. After a `503` send the "
            "same again: receipts stay the same."
        ),
        scope="admin",
        body=NewErasures,
        answer=ErasureResults,
        status=202,
        problems=("invalid", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/users/{user_id}/accesses",
        "List who found, read, exported or erased the data of a user",
        _get_accesses,
        details="Newest first, also after the erasure. An access is written before it happens.",
        scope="admin",
        query=LogPageQuery,
        answer=PersonAccesses,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/erasures/{receipt}",
        "Read the receipt of an erasure",
        _get_erasure,
        details="It lists the removed records by place, and contains no id.",
        scope="admin",
        answer=Erasure,
        problems=("not_found", "not_ready"),
    ),
)

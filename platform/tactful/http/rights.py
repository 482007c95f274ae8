"""The API's part on the rights of a person: consent, export, erasure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from tactful.errors import StorageError
from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import EVENT_EXAMPLE, NoQuery
from tactful.http.consent import get_consent, person_of, put_consent
from tactful.schemas.problems import ProblemError
from tactful.schemas.users import Consent, Erasure, NewConsent, PersonExport
from tactful_streaming.errors import StreamingError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

T = TypeVar("T")


class ExportQuery(msgspec.Struct, forbid_unknown_fields=True):
    """As data, or as a page to read."""

    format: Literal["json", "html"] = "json"


async def _get_export(platform: Platform, call: Call) -> Reply:
    person, query = person_of(call), call.query(ExportQuery)
    if platform.permissions.is_erased(person):
        raise ProblemError("not_found", "this person was erased")
    try:
        found = await asyncio.to_thread(platform.export, person)
    except (StorageError, StreamingError):
        raise ProblemError("not_ready", "log or state cannot be read now", retry_after=2) from None
    if query.format == "html":
        from tactful.subjects.export import export_page  # with SQLAlchemy, which no worker needs

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


_ERASURE = {
    "receipt": "3f0c9f4e5a0b4b0f8f3a4a6f7c1d2e3b",
    "state": "requested",
    "requested_at": 1772366400000,
    "due_at": 1774958400000,
    "done_at": None,
    "steps": [],
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

RIGHTS_ENDPOINTS: tuple[Endpoint, ...] = (
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
            "records": [
                {"offset": 3, "kind": "event", **EVENT_EXAMPLE, "timestamp": 1772366400000}
            ],
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
            "they left is removed while the server runs, by the date in the receipt at the "
            "latest. The id is a user id, or `device:` and a device id."
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
)

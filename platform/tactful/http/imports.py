"""Endpoints of imports: begin and end, list, effect of an undo, undo."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from tactful.errors import ImportRefused
from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import LogPageQuery, caller_of, cursor_number, stored
from tactful.schemas.imports import IMPORT_HEADER, Import, Imports, NewImport, UndoPreview
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_UNAVAILABLE = "imports cannot be kept now"
_HEADER = IMPORT_HEADER.lower().encode()
_ID = re.compile(r"[0-9a-f]{32}")
_new_import = msgspec.json.Decoder(NewImport)


async def import_of(platform: Platform, call: Call) -> str | None:
    """Return the import that a request names in its header, or raise `ProblemError`."""
    sent = call.headers.get(_HEADER)
    if sent is None:
        return None
    import_id = sent.decode("latin-1")
    known = None
    if _ID.fullmatch(import_id):
        known = await stored(partial(platform.imports.find, import_id), _UNAVAILABLE)
    if known is None or known.state not in ("running", "done"):
        raise ProblemError(
            "invalid",
            f"{IMPORT_HEADER} names no import that takes elements: begin one with "
            "PUT /v1/imports/{import_id}",
        )
    return import_id


async def _put_import(platform: Platform, call: Call) -> Reply:
    import_id = call.path["import_id"]
    if not _ID.fullmatch(import_id):
        raise ProblemError("not_found", "the id of an import has 32 hexadecimal digits")
    new = await call.json(_new_import)
    register = partial(platform.imports.register, import_id, new, by=caller_of(call))
    try:
        return json_reply(await stored(register, _UNAVAILABLE))
    except ImportRefused as error:
        raise ProblemError("invalid", str(error)) from None


async def _get_imports(platform: Platform, call: Call) -> Reply:
    query = call.query(LogPageQuery)
    before = cursor_number(query.cursor)
    read = partial(platform.imports.page, limit=query.limit, before=before)
    page, following = await stored(read, _UNAVAILABLE)
    cursor = None if following is None else str(following)
    return json_reply(Imports(imports=[*page], next_cursor=cursor))


async def _get_import(platform: Platform, call: Call) -> Reply:
    return json_reply(_known(await _find(platform, call)))


async def _get_undo(platform: Platform, call: Call) -> Reply:
    found = _known(await _find(platform, call))
    preview = partial(platform.preview_undo, found)
    return json_reply(await stored(preview, "the log cannot be read now"))


async def _delete_import(platform: Platform, call: Call) -> Reply:
    if problem := platform.undo_problem():
        raise ProblemError("invalid", problem)
    undo = partial(platform.imports.request_undo, call.path["import_id"], by=caller_of(call))
    return json_reply(_known(await stored(undo, _UNAVAILABLE)), 202)


async def _find(platform: Platform, call: Call) -> Import | None:
    return await stored(partial(platform.imports.find, call.path["import_id"]), _UNAVAILABLE)


def _known(found: Import | None) -> Import:
    if found is None:
        raise ProblemError("not_found", "GET /v1/imports lists all imports")
    return found


IMPORT_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/imports",
        "List the imports",
        _get_imports,
        details="Newest first. They have exact numbers, so it needs the scope `admin`.",
        scope="admin",
        query=LogPageQuery,
        answer=Imports,
        problems=("not_ready",),
    ),
    Endpoint(
        "PUT",
        "/v1/imports/{import_id}",
        "Begin or end an import",
        _put_import,
        details=(
            "The caller draws the id, 32 hexadecimal digits, and sends it in the header "
            f"`{IMPORT_HEADER}` with events, items and users: they belong to the import, and an "
            "undo takes them out. `tactful import` does so."
        ),
        scope="ingest",
        body=NewImport,
        answer=Import,
        problems=("not_found", "invalid", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/imports/{import_id}",
        "Read one import",
        _get_import,
        details="With the steps of its undo, if there is one.",
        scope="admin",
        answer=Import,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/imports/{import_id}/undo",
        "Preview the undo of an import",
        _get_undo,
        details=(
            "How many people and items it touches, and which models saw them. It reads the whole "
            "log, which takes time if the log is long."
        ),
        scope="admin",
        answer=UndoPreview,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "DELETE",
        "/v1/imports/{import_id}",
        "Undo an import",
        _delete_import,
        details=(
            "From the response on, no element of it is accepted. While the server runs, its "
            "records leave log, dead letters and late events, and the features are computed again "
            "from the log without them. An item that only this import described becomes "
            "unavailable; others get their earlier description back. Published statistics, "
            "trained models and sent actions stay."
        ),
        scope="admin",
        answer=Import,
        status=202,
        problems=("not_found", "invalid", "not_ready"),
    ),
)

"""Endpoints of imports: begin and end, list, effect of an undo, undo."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from tactful.errors import ImportRefused
from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import LogPageQuery, caller_of, cursor_number, stored
from tactful.schemas.data.imports import (
    IMPORT_HEADER,
    FilePreview,
    Import,
    ImportMapping,
    Imports,
    NewImport,
    UndoPreview,
    Uploaded,
)
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_UNAVAILABLE = "imports cannot be kept now"
_HEADER = IMPORT_HEADER.lower().encode()
_ID = re.compile(r"[0-9a-f]{32}")
_mapping = msgspec.json.Decoder(ImportMapping)
_new_import = msgspec.json.Decoder(NewImport)


class PartQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Place of a part in its file."""

    offset: Annotated[int, Meta(ge=0, le=1 << 40)] = 0


async def import_of(platform: Platform, call: Call) -> str | None:
    """Return the import that a request names in its header, or raise `ProblemError`."""
    sent = call.headers.get(_HEADER)
    if sent is None:
        return None
    import_id = sent.decode("latin-1")
    accepts = partial(platform.imports.accepts, import_id)
    if not _ID.fullmatch(import_id) or not await stored(accepts, _UNAVAILABLE):
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
    import_id, by = call.path["import_id"], caller_of(call)

    def undo() -> Import | None:
        platform.audit.record_change(by, "import.undo", import_id)
        return platform.imports.request_undo(import_id, by=by)

    _known(await _find(platform, call))
    return json_reply(_known(await stored(undo, _UNAVAILABLE)), 202)


async def _find(platform: Platform, call: Call) -> Import | None:
    return await stored(partial(platform.imports.find, call.path["import_id"]), _UNAVAILABLE)


def _known(found: Import | None) -> Import:
    if found is None:
        raise ProblemError("not_found", "GET /v1/imports lists all imports")
    return found


async def _put_file(platform: Platform, call: Call) -> Reply:
    query = call.query(PartQuery)
    found, part = _known(await _find(platform, call)), await call.body(is_file=True)
    append = partial(platform.uploads.append, found.id, found.name, query.offset, part)
    return json_reply(await stored(append, "the part cannot be stored now"))


async def _post_preview(platform: Platform, call: Call) -> Reply:
    found, mapping = _known(await _find(platform, call)), await call.json(_mapping)
    preview = partial(platform.uploads.preview, found.id, found.name, mapping)
    return json_reply(await stored(preview, "the file cannot be read now"))


async def _post_start(platform: Platform, call: Call) -> Reply:
    found, mapping = _known(await _find(platform, call)), await call.json(_mapping)
    note = partial(platform.audit.record_change, caller_of(call), "import.start", found.id)
    await stored(note, _UNAVAILABLE)
    await platform.uploads.begin(found.id, mapping)
    return json_reply(found, 202)


_upload = partial(Endpoint, scope="admin", problems=("not_found", "invalid", "not_ready"))

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
    _upload(
        "PUT",
        "/v1/imports/{import_id}/file",
        "Upload a part of a file",
        _put_file,
        details=(
            "The bytes of a file of any format that `tactful import` reads, in parts of at most "
            "`limits.body_bytes`, each with its `offset`, in order; a repeated part is written "
            "over. The server deletes the file after its import, or a day later without one."
        ),
        query=PartQuery,
        media=("application/octet-stream", "text/plain"),
        body=str,
        answer=Uploaded,
    ),
    _upload(
        "POST",
        "/v1/imports/{import_id}/preview",
        "Preview an uploaded file",
        _post_preview,
        details="The mapping of its columns, guessed or given, the first rows, and refused ones.",
        body=ImportMapping,
        answer=FilePreview,
    ),
    _upload(
        "POST",
        "/v1/imports/{import_id}/start",
        "Import an uploaded file",
        _post_start,
        details=(
            "The server reads and sends it to itself; `GET /v1/imports/{import_id}` has the "
            "progress. An interrupted import goes on at the next start."
        ),
        body=ImportMapping,
        answer=Import,
        status=202,
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

"""Requests about data: imports and their undo, dead letters, rules, quality."""

from __future__ import annotations

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.data.dead_letters import DeadLetterPage, NewRedrive, Redriven, RulesInfo
from tactful.schemas.data.imports import (
    FilePreview,
    Import,
    ImportMapping,
    Imports,
    NewImport,
    UndoPreview,
    Uploaded,
)
from tactful.schemas.data.quality import Quality


def imports(*, cursor: str | None = None, limit: int = 100) -> Request[Imports]:
    """Request a page of the imports, newest first."""
    return Request("GET", "/v1/imports", Imports, params={"cursor": cursor, "limit": limit})


def import_(import_id: str) -> Request[Import]:
    """Request one import."""
    return Request("GET", f"/v1/imports/{segment(import_id)}", Import)


def register_import(import_id: str, new: NewImport) -> Request[Import]:
    """Begin or end an import."""
    return Request("PUT", f"/v1/imports/{segment(import_id)}", Import, body=new)


def preview_undo(import_id: str) -> Request[UndoPreview]:
    """Request what the undo of an import takes out."""
    return Request("GET", f"/v1/imports/{segment(import_id)}/undo", UndoPreview)


def undo_import(import_id: str) -> Request[Import]:
    """Undo an import."""
    return Request("DELETE", f"/v1/imports/{segment(import_id)}", Import)


def rules() -> Request[RulesInfo]:
    """Request the counts of the cleaning rules."""
    return Request("GET", "/v1/rules", RulesInfo)


def dead_letters(
    *,
    rule: str | None = None,
    reason: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Request[DeadLetterPage]:
    """Request a page of the dead letters, oldest first, of one rule or reason."""
    params = {"rule": rule, "reason": reason, "cursor": cursor, "limit": limit}
    return Request("GET", "/v1/dead-letters", DeadLetterPage, params=params)


def redrive(rules: list[str], *, restart: bool = False, most: int = 5_000) -> Request[Redriven]:
    """Send dead letters of some rules again, of all for none."""
    body = NewRedrive(rules=rules, restart=restart, most=most)
    return Request("POST", "/v1/dead-letters/redrive", Redriven, body=body)


def quality(*, latest: int = 20_000) -> Request[Quality]:
    """Request the quality of the latest events, and of the items."""
    return Request("GET", "/v1/data/quality", Quality, params={"latest": latest})


def upload(import_id: str, offset: int, part: bytes) -> Request[Uploaded]:
    """Upload a part of a file for a registered import."""
    path = f"/v1/imports/{segment(import_id)}/file"
    params, kind = {"offset": offset}, "application/octet-stream"
    return Request("PUT", path, Uploaded, params=params, body=part, content_type=kind)


def preview_file(import_id: str, mapping: ImportMapping) -> Request[FilePreview]:
    """Request how an uploaded file is understood, with its first rows."""
    path = f"/v1/imports/{segment(import_id)}/preview"
    return Request("POST", path, FilePreview, body=mapping, repeatable=True)


def start_import(import_id: str, mapping: ImportMapping) -> Request[Import]:
    """Import an uploaded file."""
    path = f"/v1/imports/{segment(import_id)}/start"
    return Request("POST", path, Import, body=mapping, repeatable=True)

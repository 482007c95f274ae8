"""Imports of files: their list, and what an undo of one takes out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

ImportKind = Literal["events", "items", "users"]
ImportState = Literal["running", "done", "undoing", "undone"]

IMPORT_HEADER = "Tactful-Import"
"""Header of requests whose elements belong to an import: its id."""

_Name = Annotated[str, Meta(min_length=1, max_length=255)]


class NewImport(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Beginning or end of an import.

    Attributes:
        name: name of the file.
        kind: kind of its elements.
        state: running, or done when all of it was sent.
        refused: rows that were refused before they were sent.
    """

    name: _Name
    kind: ImportKind
    state: Literal["running", "done"] = "running"
    refused: Annotated[int, Meta(ge=0)] = 0


class UndoStep(msgspec.Struct, kw_only=True, frozen=True):
    """Completed step of an undo.

    Attributes:
        place: store, such as ``log`` or ``state``.
        removed: records that were removed, or values that were changed.
        at: time, epoch milliseconds.
    """

    place: str
    removed: int
    at: int


class ImportUndo(msgspec.Struct, kw_only=True, frozen=True):
    """Undo of an import.

    Attributes:
        requested_at: time of the request, epoch milliseconds.
        requested_by: API key of the request.
        steps: completed steps.
        done_at: time of the last step; None while it runs.
        problem: reason why it waits; empty for none.
    """

    requested_at: int
    requested_by: str
    steps: list[UndoStep] = []
    done_at: int | None = None
    problem: str = ""


class Import(msgspec.Struct, kw_only=True, frozen=True):
    """One import of a file.

    Attributes:
        id: import id, which its log records have.
        name: name of the file.
        kind: kind of its elements.
        state: ``running``, ``done``, ``undoing`` or ``undone``. An import that was interrupted
            stays ``running``.
        begun_at: time of the beginning, epoch milliseconds.
        ended_at: time of the end; None while it runs.
        begun_by: API key that began it.
        accepted: elements that are in the log, or were.
        refused: rows that were refused.
        undo: undo of it; None if none was requested.
        problem: reason why the server ended the import of an uploaded file early; empty for none.
    """

    id: str
    name: str
    kind: ImportKind
    state: ImportState
    begun_at: int
    ended_at: int | None = None
    begun_by: str
    accepted: int
    refused: int
    undo: ImportUndo | None = None
    problem: str = ""


class Imports(msgspec.Struct, kw_only=True, frozen=True):
    """Page of imports, newest first.

    Attributes:
        imports: imports.
        next_cursor: cursor of the next page; None if there is none.
    """

    imports: list[Import]
    next_cursor: str | None = None


class ModelSeen(msgspec.Struct, kw_only=True, frozen=True):
    """Model that was trained after an import began.

    Attributes:
        name: registered name.
        version: version.
        trained_at: end of the training, epoch milliseconds.
    """

    name: str
    version: str
    trained_at: int


class UndoPreview(msgspec.Struct, kw_only=True, frozen=True):
    """Effect of an undo, before it is requested.

    Attributes:
        import_id: import.
        events: events that it brought.
        users: descriptions of users that it brought.
        items: descriptions of items that it brought.
        people: users and devices whose data it brought.
        restored_items: items that get their earlier or later description back.
        withdrawn_items: items that only this import described, which become unavailable.
        models: models that were trained since; they keep what they learned until the next training.
        problem: reason why it cannot be undone; empty if it can.
    """

    import_id: str
    events: int
    users: int
    items: int
    people: int
    restored_items: int
    withdrawn_items: int
    models: list[ModelSeen]
    problem: str = ""


class ImportMapping(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Mapping of an uploaded file; missing parts are guessed.

    Attributes:
        kind: kind of the elements.
        maps: column by field, such as ``{"user": "customer_no"}``; "" leaves a field empty.
        constants: value by field, for all rows.
        types: type of events by the word of the file; "" skips rows with the word.
        date_order: order of day and month.
        time_zone: zone of times without an offset.
        decimal: sign before the fraction of numbers.
        encoding: encoding of text.
        delimiter: sign between fields.
    """

    kind: ImportKind | None = None
    maps: dict[str, str] = {}
    constants: dict[str, str] = {}
    types: dict[str, str] = {}
    date_order: Literal["dmy", "mdy"] | None = None
    time_zone: Annotated[str, Meta(max_length=64)] | None = None
    decimal: Literal["point", "comma"] | None = None
    encoding: Annotated[str, Meta(max_length=64)] | None = None
    delimiter: Annotated[str, Meta(min_length=1, max_length=2)] | None = None


class Uploaded(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to a part of a file.

    Attributes:
        bytes: size of the file so far, the offset of the next part.
    """

    bytes: int


class RefusedRow(msgspec.Struct, kw_only=True, frozen=True):
    """Row of a file that is not sent.

    Attributes:
        row: number from 1.
        code: short stable name of the reason.
        message: reason, and correction.
    """

    row: int
    code: str
    message: str


class FilePreview(msgspec.Struct, kw_only=True, frozen=True):
    """Guessed mapping of an uploaded file.

    Attributes:
        format: format of the file, in words.
        kind: kind of the elements.
        columns: columns of the file.
        mapping: column by field.
        not_sent: columns that are not sent.
        notes: remarks.
        elements: the first 20 elements, as they would be sent.
        refused: the first refused rows before them.
    """

    format: str
    kind: ImportKind
    columns: list[str]
    mapping: dict[str, str]
    not_sent: list[str]
    notes: list[str]
    elements: list[dict[str, Any]]
    refused: list[RefusedRow]

"""Indexes of reports and of model changes."""

from __future__ import annotations

import msgspec


class ReportInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A report that can be read.

    Attributes:
        name: last part of its path.
        updated_at: time of the last write, epoch milliseconds.
        bytes: size.
    """

    name: str
    updated_at: int
    bytes: int


class ReportIndex(msgspec.Struct, kw_only=True, frozen=True):
    """The reports that can be read, by name."""

    reports: list[ReportInfo]
    next_cursor: str | None = None


class ModelChangeInfo(msgspec.Struct, kw_only=True, frozen=True):
    """One entry of the audit log of models.

    Attributes:
        id: grows with every entry.
        action: ``train``, ``promote`` or ``rollback``.
        name: registered model name.
        version: new version, or version that serves from then on; empty until there is one.
        previous: version that served before; empty for none.
        changed_by: operator.
        reason: given by the operator.
        state: ``begun`` (also after its process was killed), ``done`` or ``failed``.
        begun_at: epoch milliseconds.
        ended_at: epoch milliseconds; None while it is only begun.
        error: reason of a failure.
    """

    id: int
    action: str
    name: str
    version: str
    previous: str
    changed_by: str
    reason: str
    state: str
    begun_at: int
    ended_at: int | None = None
    error: str | None = None


class ModelChanges(msgspec.Struct, kw_only=True, frozen=True):
    """One page of the audit log of models, newest first.

    Attributes:
        changes: the entries.
        next_cursor: send it as ``cursor`` for the next page; None at the end.
    """

    changes: list[ModelChangeInfo]
    next_cursor: str | None = None

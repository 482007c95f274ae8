"""The history of model changes."""

from __future__ import annotations

import msgspec


class ModelChangeInfo(msgspec.Struct, kw_only=True, frozen=True):
    """One entry of the audit log of models.

    Attributes:
        id: grows with every entry.
        action: ``train``, ``promote`` or ``rollback``.
        name: registered model name.
        version: the version that was made, or that serves from then on; empty until it has one.
        previous: the version that served before; empty for none.
        changed_by: who did it.
        reason: why, in the words of who did it.
        state: ``begun`` (also after its process was killed), ``done`` or ``failed``.
        begun_at: epoch milliseconds.
        ended_at: epoch milliseconds; None while it is only begun.
        error: why it failed.
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
        next_cursor: give it as ``cursor`` for the next page; None at the end.
    """

    changes: list[ModelChangeInfo]
    next_cursor: str | None = None

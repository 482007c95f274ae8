"""Audit trail of an installation: changes, and looks at users, with their authors."""

from __future__ import annotations

import msgspec


class AuditEntry(msgspec.Struct, kw_only=True, frozen=True):
    """A change, or a look at the data of a user.

    Attributes:
        at: epoch milliseconds.
        actor: a signed-in person, an API key by its public part, login and host of a command, or
            a part of the server.
        action: kind and verb, such as `person.export`, `model.promote` or `key.create`.
        target: the changed object; a user by a keyed hash.
        detail: reason, or further words.
    """

    at: int
    actor: str
    action: str
    target: str
    detail: str = ""


class AuditPage(msgspec.Struct, kw_only=True, frozen=True):
    """A page of the audit trail, newest first.

    Attributes:
        entries: the entries.
        next_cursor: cursor of the next page; null on the last one.
    """

    entries: list[AuditEntry]
    next_cursor: str | None = None

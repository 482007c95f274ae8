"""Caller of the HTTP API, as it is told to itself."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The sender of a request, and its rights.

    Attributes:
        name: as the audit logs name it: the public part of its key.
        note: owner or purpose of the key; empty for none.
        scopes: rights; ``admin`` has all.
        expires_at: end of the key, epoch milliseconds; left out if it does not expire.
    """

    name: str
    note: str
    scopes: list[str]
    expires_at: int | None = None

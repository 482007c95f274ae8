"""The index of reports that a server offers."""

from __future__ import annotations

import msgspec


class ReportInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A report that can be read.

    Attributes:
        name: to ask for it.
        updated_at: when it was last written, epoch milliseconds.
        bytes: its size.
    """

    name: str
    updated_at: int
    bytes: int


class ReportIndex(msgspec.Struct, kw_only=True, frozen=True):
    """The reports that can be read, by name."""

    reports: list[ReportInfo]
    next_cursor: str | None = None

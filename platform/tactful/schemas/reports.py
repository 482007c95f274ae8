"""Index of the reports of a server."""

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

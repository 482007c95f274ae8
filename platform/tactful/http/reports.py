"""JSON reports of one directory, by name; files outside it are never read."""

from __future__ import annotations

import re
from pathlib import Path

from tactful.schemas.reports import ReportIndex, ReportInfo

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def list_reports(directory: Path, *, after: str = "", limit: int = 100) -> ReportIndex:
    """Return a page of the reports, by name, from the one after `after`."""
    if not directory.is_dir():
        return ReportIndex(reports=[])
    names = sorted(
        path.stem
        for path in directory.glob("*.json")
        if path.stem > after and report_path(directory, path.stem) is not None
    )
    reports = []
    for name in names[:limit]:
        status = (directory / f"{name}.json").stat()
        reports.append(
            ReportInfo(name=name, updated_at=status.st_mtime_ns // 1_000_000, bytes=status.st_size)
        )
    more = len(names) > limit
    return ReportIndex(reports=reports, next_cursor=reports[-1].name if more else None)


def report_path(directory: Path, name: str) -> Path | None:
    """Return the file of a report, or None if no report has that name.

    A name has letters, digits, ``-`` and ``_`` only, so it cannot leave the directory; a symbolic
    link that leaves it is refused.
    """
    if not _NAME.fullmatch(name):
        return None
    path = directory / f"{name}.json"
    inside = path.resolve().parent == directory.resolve()
    return path if inside and path.is_file() else None

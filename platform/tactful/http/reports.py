"""The JSON reports of one directory, by name, and nothing outside it."""

from __future__ import annotations

import re
from pathlib import Path

from tactful.schemas.reports import ReportIndex, ReportInfo

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def list_reports(directory: Path, *, after: str = "", limit: int = 100) -> ReportIndex:
    """Reports by name, from the one after `after`."""
    if not directory.is_dir():
        return ReportIndex(reports=[])
    names = sorted(
        path.stem
        for path in directory.glob("*.json")
        if path.stem > after and report_path(directory, path.stem) is not None
    )
    reports = []
    for name in names[:limit]:
        about = (directory / f"{name}.json").stat()
        reports.append(
            ReportInfo(name=name, updated_at=about.st_mtime_ns // 1_000_000, bytes=about.st_size)
        )
    more = len(names) > limit
    return ReportIndex(reports=reports, next_cursor=reports[-1].name if more else None)


def report_path(directory: Path, name: str) -> Path | None:
    """The file of a report, or None when there is none of that name.

    A name is letters, digits, ``-`` and ``_``, so it cannot leave the directory; a link that does
    is not followed.
    """
    if not _NAME.fullmatch(name):
        return None
    path = directory / f"{name}.json"
    inside = path.resolve().parent == directory.resolve()
    return path if inside and path.is_file() else None

"""Finding of `tactful doctor` about models: the champion with its age, or what is missing."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Literal

from tactful.config.settings import Settings
from tactful.errors import TactfulError
from tactful.models.audit_log import ModelChange, open_model_log
from tactful.ranking.features import columns_fingerprint
from tactful.ranking.model import Manifest, read_manifest, read_pointer, version_directory
from tactful_streaming.definitions.reader import load_definitions

_DAY_MS = 86_400_000
_OLD_DAYS = 30
_ENTRIES = 1_000  # of the audit log that are read


def check_model(settings: Settings, *, now: int) -> tuple[Literal["ok", "warning"], str]:
    """Return whether a fitting, recent model serves, and the finding with its cure.

    Raises:
        ModelError: if the pointer to the champion, or the champion, is damaged.
    """
    models = settings.models
    changes: list[ModelChange] = []
    with contextlib.suppress(TactfulError), open_model_log(settings) as log:
        changes = log.changes(limit=_ENTRIES)
    pointer = read_pointer(models) if models.is_dir() else None
    if pointer is None:
        return "warning", _without_champion(models, settings.training.name, changes)
    place = version_directory(models, pointer.version)
    manifest = read_manifest(place)
    trained_at = _ended(changes, "train", pointer.version) or _modified(place / "manifest.json")
    since = max(
        _ended(changes, "promote", pointer.version),
        _ended(changes, "rollback", pointer.version),
    )
    said = _serving(manifest, pointer.version, trained_at, since, now)
    if manifest.definitions != columns_fingerprint(load_definitions(settings.features)):
        return "warning", f"{said}; it does not fit the present features: `tactful train --promote`"
    if now - trained_at > _OLD_DAYS * _DAY_MS:
        return "warning", f"{said}; it is old: `tactful train --promote --if-better`"
    return "ok", said


def _without_champion(models: Path, name: str, changes: list[ModelChange]) -> str:
    versions = [path.name for path in (models / "versions").glob("[!.]*")]
    if versions:
        latest = max(versions, key=lambda it: (it.isdecimal(), it.zfill(20)))
        return (
            f"no version serves: `tactful models promote {latest}` makes version {latest} of "
            f"{name} the champion"
        )
    said = "no model was ever trained: send items and events, then `tactful train --promote`"
    last = next((it for it in changes if it.action == "train" and it.name == name), None)
    if last is not None and last.state == "failed":
        said += f"; the last training failed: {last.error}"
    elif last is not None and last.state == "begun":
        said += "; a training is running, or was killed and resumes with the same command"
    return said


def _serving(manifest: Manifest, version: str, trained_at: int, since: int, now: int) -> str:
    said = f"{manifest.name} {version} is the champion"
    if since:
        said += f" since {_date(since)}"
    said += f", trained {_ago(now - trained_at)}"
    return f"{said} on events until {_date(manifest.trained_until)}"


def _ended(changes: list[ModelChange], action: str, version: str) -> int:
    """Return the end of the latest such change, epoch milliseconds; 0 where none is known."""
    found = (
        it.ended_at or 0
        for it in changes
        if it.action == action and it.version == version and it.state == "done"
    )
    return next(found, 0)


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000


def _date(at: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at / 1000))


def _ago(passed: int) -> str:
    """Return a past span in words.

    >>> _ago(0), _ago(86_400_000), _ago(20 * 86_400_000)
    ('today', '1 day ago', '20 days ago')
    """
    days = max(0, passed) // _DAY_MS
    if not days:
        return "today"
    return "1 day ago" if days == 1 else f"{days} days ago"

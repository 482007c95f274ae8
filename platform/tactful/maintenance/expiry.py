"""Expiry of copies outside the log: backups, exports of users, and unused models.

A server applies retention to its log and state. Copies lie in places unknown to it, so a command
gets their directories and applies the same times.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from tactful.config.privacy import days_to_ms, retention_limits
from tactful.config.settings import Settings
from tactful.errors import BackupError, ConfigError, StorageError
from tactful.maintenance.backup import read_manifest
from tactful.maintenance.backup_source import MANIFEST
from tactful_privacy.decoding import DECODE_ERRORS

_EXPORT = ("export.json", "export.html")
_GOING = ".expired"
_UNFINISHED = ".unfinished"


class Expired(msgspec.Struct, kw_only=True, frozen=True):
    """An expired copy."""

    kind: str  # ``backup``, ``export``, ``model``; ``unreadable``: of unknown age, so it stays
    what: str  # path, or number of a version
    made_at: int = 0  # epoch milliseconds; 0 if unknown
    removed: bool = False  # whether it was removed; not in a dry run, nor while it serves
    note: str = ""  # reason for which it stays


class _Export(msgspec.Struct):
    """Fields of an export with its age."""

    made_at: int
    person: str


def kept_for(settings: Settings, days: float | None = None) -> int:
    """Return the milliseconds for which a copy of all data may be kept.

    Without `days`, the shortest time of `[retention]` applies; ConfigError if neither is set.
    """
    if days is not None:
        return days_to_ms(days)
    limits = retention_limits(settings.retention)
    if not limits:
        raise ConfigError("no retention time of copies is set: set [retention], or --older-than")
    return min(limits.values())


def expire_backups(directory: Path, before: int, *, dry_run: bool) -> Iterator[Expired]:
    """Remove the backups in a directory that were begun before a time, epoch milliseconds.

    An expired backup is renamed first, so that the next run removes the rest after a kill. A
    killed backup run leaves a directory whose own age counts. A file that cannot be removed raises
    StorageError.
    """
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") and path.suffix in (_GOING, _UNFINISHED) and path.is_dir():
            made_at = path.stat().st_mtime_ns // 1_000_000
            is_over = path.suffix == _GOING or made_at < before
        elif (path / MANIFEST).is_file():
            try:
                made_at = read_manifest(path).begun_at
            except BackupError as error:
                yield Expired(kind="unreadable", what=str(path), note=str(error))
                continue
            is_over = made_at < before
        else:
            continue
        if not is_over:
            continue
        if not dry_run:
            with _explained(path):
                going = path
                if path.suffix != _GOING:
                    going = path.rename(path.with_name(f".{path.name.lstrip('.')}{_GOING}"))
                shutil.rmtree(going)
        yield Expired(kind="backup", what=str(path), made_at=made_at, removed=not dry_run)


def expire_exports(directory: Path, before: int, *, dry_run: bool) -> Iterator[Expired]:
    """Remove files of ``tactful user export --to`` made before a time, epoch milliseconds.

    They are searched anywhere below the directory. A file that cannot be removed raises
    StorageError.
    """
    for path in sorted(directory.rglob(_EXPORT[0])):
        try:
            made_at = msgspec.json.decode(path.read_bytes(), type=_Export).made_at
        except (OSError, *DECODE_ERRORS) as error:
            yield Expired(kind="unreadable", what=str(path), note=str(error))
            continue
        if made_at >= before:
            continue
        if not dry_run:
            with _explained(path):
                # The page first: its age is in the data file.
                for name in reversed(_EXPORT):
                    path.with_name(name).unlink(missing_ok=True)
        yield Expired(kind="export", what=str(path.parent), made_at=made_at, removed=not dry_run)


def expire_models(
    versions: list[tuple[str, int, str]],  # number, time of training, aliases
    before: int,  # epoch milliseconds
    forget: Callable[[str], None],
    *,
    dry_run: bool,
) -> Iterator[Expired]:
    """Remove model versions without an alias that were trained before a time."""
    for version, made_at, aliases in versions:
        if made_at >= before:
            continue
        if aliases:
            note = f"it is the {aliases}: train and promote another one"
            yield Expired(kind="model", what=version, made_at=made_at, note=note)
            continue
        if not dry_run:
            forget(version)
        yield Expired(kind="model", what=version, made_at=made_at, removed=not dry_run)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed: {error}") from error

"""What is kept outside the log for too long: backups, exports of people, and models that are over.

A server forgets what is too old in its log and state by itself. Copies lie where only whoever made
them knows, so a command is told where, and does it by the same times.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from tactful.config.retention_limits import days_to_ms, retention_limits
from tactful.config.settings import Settings
from tactful.errors import BackupError, ConfigError, StorageError
from tactful.maintenance.backup_manifest import MANIFEST, read_manifest

_EXPORT = ("export.json", "export.html")
_GOING = ".expired"
_UNFINISHED = ".unfinished"


class Expired(msgspec.Struct, kw_only=True, frozen=True):
    """One thing that is too old.

    Attributes:
        kind: ``backup``, ``export``, ``model``, or ``unreadable``: no age can be told, so it stays.
        what: a path, or the number of a version.
        made_at: epoch milliseconds; 0 where it is not known.
        removed: whether it was removed; not in a dry run, nor where it serves.
        note: why it stays, in words.
    """

    kind: str
    what: str
    made_at: int = 0
    removed: bool = False
    note: str = ""


class _Export(msgspec.Struct):
    """What of an export says when it was made."""

    made_at: int
    person: str


def kept_for(settings: Settings, days: float | None = None) -> int:
    """How long a copy of everything may be kept, milliseconds.

    Args:
        settings: whose shortest time of `[retention]` it is, since a copy holds what has that time.
        days: another time, if given.

    Raises:
        ConfigError: if neither is given.
    """
    if days is not None:
        return days_to_ms(days)
    limits = retention_limits(settings.retention)
    if not limits:
        raise ConfigError("nothing says how long copies are kept: set [retention], or --older-than")
    return min(limits.values())


def expire_backups(directory: Path, before: int, *, dry_run: bool) -> Iterator[Expired]:
    """Remove the backups in a directory that were begun before a time.

    One that goes gets another name first, by which the next run finds what a kill left of it. So
    does what a kill left of the making of one, which is as old as its directory.

    Args:
        directory: holds backups, one a directory.
        before: epoch milliseconds.
        dry_run: only tell.

    Raises:
        StorageError: if one cannot be removed.
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
    """Remove what ``tactful user export --to`` wrote before a time, anywhere below a directory.

    Args:
        directory: is searched.
        before: epoch milliseconds.
        dry_run: only tell.

    Raises:
        StorageError: if one cannot be removed.
    """
    for path in sorted(directory.rglob(_EXPORT[0])):
        try:
            made_at = msgspec.json.decode(path.read_bytes(), type=_Export).made_at
        except (OSError, msgspec.MsgspecError) as error:
            yield Expired(kind="unreadable", what=str(path), note=str(error))
            continue
        if made_at >= before:
            continue
        if not dry_run:
            with _explained(path):
                # The page first: without the data beside it, nothing would tell how old it is.
                for name in reversed(_EXPORT):
                    path.with_name(name).unlink(missing_ok=True)
        yield Expired(kind="export", what=str(path.parent), made_at=made_at, removed=not dry_run)


def expire_models(
    versions: list[tuple[str, int, str]],
    before: int,
    forget: Callable[[str], None],
    *,
    dry_run: bool,
) -> Iterator[Expired]:
    """Remove versions that were trained before a time and stand for nothing any more.

    Args:
        versions: number, time of training in epoch milliseconds, and aliases of each.
        before: epoch milliseconds.
        forget: removes one.
        dry_run: only tell.
    """
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

"""Restores: a backup takes the place of what is in a data directory, and the erased stay erased.

All is gathered and checked beside the data, under ``.restoring``. Then the list of what is to be
put in place is written, and from there on the restore only goes forward: whoever holds the data
directory next, a server at its start or the next restore, moves the rest. Before that, what was
there is untouched.

Some things must never go back to what they were when the backup was made: what the ledger says was
spent, which people are erased, what people agreed to since, which API keys are revoked, and keys
that were destroyed. Where the directory still has them, it keeps them (`tactful.maintenance.restore_merge`).
What was erased since is removed from what was restored before a server opens its door.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec

from tactful.config.settings import Settings
from tactful.erasure.erase import RESTORED
from tactful.errors import BackupError
from tactful.maintenance.backup_manifest import Copied, Manifest, copy_checked, read_manifest
from tactful.maintenance.restore_merge import Parts, keep_what_never_goes_back
from tactful.metadata.restore_journal import READY, RESTORING, STAGED, Ready, finish_restore
from tactful_privacy.durable_files import replace_file, sync
from tactful_privacy.errors import PrivacyError
from tactful_streaming.engine.erasure import drop_consumer
from tactful_streaming.errors import StreamingError
from tactful_streaming.state.store import RocksState


class _Restored(msgspec.Struct, frozen=True):
    backup: int
    at: int


def check_backup(source: Path, *, copied: Copied = lambda size: None) -> Manifest:
    """Read every file of a backup and compare it with the manifest.

    Raises:
        BackupError: if it is damaged or partial; the message says what and where.
    """
    manifest = read_manifest(source)
    for file in manifest.files:
        copy_checked(source, file, None, copied)
    return manifest


def restore_backup(
    settings: Settings,
    source: Path,
    *,
    clock: Callable[[], int],
    replace: bool = False,
    without_tombstones: bool = False,
    copied: Copied = lambda size: None,
    say: Callable[[str], None] = lambda stage: None,
) -> tuple[Manifest, Parts]:
    """Put a backup in the place of a data directory that this process holds.

    Args:
        settings: of the installation.
        source: directory of the backup.
        clock: now in epoch milliseconds.
        replace: whether what is in the data directory may be replaced.
        without_tombstones: go on although nothing says who was erased since the backup.
        copied: told of every piece that was copied, in bytes.
        say: told of each stage.

    Returns:
        What the backup holds, and what was kept or taken instead.

    Raises:
        BackupError: if the backup is damaged or partial, does not fit what is there, or it cannot
            be known who was erased since. The data directory is as it was.
    """
    data = settings.storage.data
    finish_restore(data)
    manifest = read_manifest(source)
    present = sorted(path.name for path in data.iterdir() if path.name not in ("lock", RESTORING))
    if any((data / name).exists() for name in ("log", "state")) and not replace:
        raise BackupError(f"{data}: there are a log and a state here: --replace replaces them")
    if source.absolute().is_relative_to(data.absolute()):
        raise BackupError(f"{source}: lies in the data directory; move it out first")
    restoring = data / RESTORING
    staged = restoring / STAGED
    try:
        shutil.rmtree(restoring, ignore_errors=True)
        staged.mkdir(mode=0o700, parents=True)
        say("copy")
        for file in manifest.files:
            copy_checked(source, file, staged / file.path, copied)
        say("keep")
        if (staged / "state" / "CURRENT").exists():
            _stop_counting(staged / "state")
        parts = keep_what_never_goes_back(
            settings, staged, clock=clock, without_tombstones=without_tombstones
        )
        replace_file(staged / RESTORED, msgspec.json.encode(_Restored(manifest.begun_at, clock())))
        say("place")
        comes = sorted(path.name for path in staged.iterdir())
        for directory in (*(path for path in staged.rglob("*") if path.is_dir()), staged):
            sync(directory)
        replace_file(restoring / READY, msgspec.json.encode(Ready(present, comes)))
        sync(data)
    except BackupError:
        shutil.rmtree(restoring, ignore_errors=True)
        raise
    except (OSError, sqlite3.Error, StreamingError, PrivacyError) as error:
        shutil.rmtree(restoring, ignore_errors=True)
        raise BackupError(f"{source}: was not restored, nothing has changed: {error}") from error
    finish_restore(data)
    return manifest, parts


def _stop_counting(state: Path) -> None:
    """Let published statistics begin anew on a day of which nothing was released.

    What people contributed between the backup and now is not in the restored counters, and some of
    it may be in what was released: they could contribute twice to one day.
    """
    with contextlib.closing(RocksState(state, sync=True)) as store:
        for name in ("statistics", "statistics.changes"):
            drop_consumer(store, name)
        store.purge()

"""Restore of a backup into a data directory, in which erased users stay erased.

Files are copied and checked under ``.restoring``. Then the journal with the files to move is
written; from there on, the restore is completed by the next process that holds the data directory,
after a kill, too. Until then the present files are untouched.

Some data must not be reset to the time of the backup: spent privacy budgets, erased users,
decisions on consent, revoked API keys and destroyed keys. If the directory still has them, it keeps
them (`tactful.maintenance.restore_merge`). Users erased since the backup are erased again before a
server starts.
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
    clock: Callable[[], int],  # epoch milliseconds
    replace: bool = False,  # whether present data may be replaced
    without_tombstones: bool = False,  # users erased since the backup are unknown: continue
    copied: Copied = lambda size: None,
    say: Callable[[str], None] = lambda stage: None,  # called with each stage
) -> tuple[Manifest, Parts]:
    """Replace the content of a data directory, which this process holds, by a backup.

    Raises:
        BackupError: if the backup is damaged or partial, belongs to another installation, or users
            erased since are unknown. The data directory is unchanged.
    """
    data = settings.storage.data
    finish_restore(data)
    manifest = read_manifest(source)
    present = sorted(path.name for path in data.iterdir() if path.name not in ("lock", RESTORING))
    if any((data / name).exists() for name in ("log", "state")) and not replace:
        raise BackupError(f"{data} has a log and a state already: --replace replaces them")
    if source.absolute().is_relative_to(data.absolute()):
        raise BackupError(f"{source} lies in the data directory; move it out first")
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
        restored = sorted(path.name for path in staged.iterdir())
        for directory in (*(path for path in staged.rglob("*") if path.is_dir()), staged):
            sync(directory)
        replace_file(restoring / READY, msgspec.json.encode(Ready(present, restored)))
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
    """Restart published statistics on a day of which nothing was released.

    Contributions between the backup and now are missing in the restored counters, but may be in
    releases: users could contribute twice to one day.
    """
    with contextlib.closing(RocksState(state, sync=True)) as store:
        for name in ("statistics", "statistics.changes"):
            drop_consumer(store, name)
        store.purge()

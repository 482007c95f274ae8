"""Journal of a restore, which completes it also after a kill.

The restored files are complete under ``.restoring`` before the journal is written. From then on the
restore can only be completed::

    .restoring/files/...      restored files
    .restoring/ready          {"goes": ["log", "state"], "comes": ["log", "models"]}
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from tactful.errors import BackupError
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import sync

RESTORING = ".restoring"  # directory of a restore in the data directory
READY = "ready"  # journal in it
STAGED = "files"  # folder of the restored files in it


class Ready(msgspec.Struct, frozen=True):
    """Names in the data directory to remove, and to put in place."""

    goes: list[str]
    comes: list[str]


def finish_restore(data: Path) -> bool:
    """Complete an interrupted restore; the caller holds the data directory.

    A restore without a journal is discarded: the present files are untouched. It returns whether
    files were put in place; BackupError if one cannot be moved.
    """
    restoring = data / RESTORING
    if restoring.is_symlink():
        raise BackupError(f"{restoring}: a link, which no restore makes; remove it")
    if not restoring.exists():
        return False
    try:
        ready = msgspec.json.decode((restoring / READY).read_bytes(), type=Ready)
    except FileNotFoundError:
        shutil.rmtree(restoring, ignore_errors=True)
        return False
    except (OSError, *DECODE_ERRORS) as error:
        raise BackupError(f"{restoring / READY}: cannot be read: {error}") from error
    staged = restoring / STAGED
    for name in (*ready.goes, *ready.comes):
        if name != Path(name).name or "\0" in name or name in ("", "..", "lock", RESTORING):
            raise BackupError(
                f"{restoring / READY}: {name!r} is no name of a restored file: remove {restoring}, "
                "and restore again"
            )
    try:
        # Repeatable: a staged file is gone when it is in place.
        for name in ready.goes:
            if name not in ready.comes:
                _remove(data / name)
        for name in ready.comes:
            if (staged / name).exists():
                _remove(data / name)
                (staged / name).rename(data / name)
        sync(data)
        shutil.rmtree(restoring)
        sync(data)
    except OSError as error:
        raise BackupError(f"{data}: the restore cannot be finished: {error}") from error
    return True


def refuse_unfinished(data: Path) -> None:
    """Raise BackupError if a restore was interrupted after its journal was written."""
    if (data / RESTORING / READY).exists():
        raise BackupError(
            f"{data}: a restore was interrupted. Start the server, or run `tactful restore "
            "--finish`, before anything else"
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

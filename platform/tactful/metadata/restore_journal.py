"""Puts restored files in their place, also after the process that began it was killed.

What is to be put in place lies in the data directory under ``.restoring``, whole, before a list
says so. From there on it only goes forward.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from tactful.errors import BackupError
from tactful_privacy.durable_files import sync

RESTORING = ".restoring"
"""Directory in which a restore gathers what it puts in place."""

READY = "ready"
"""The list in it of what goes and what comes."""

STAGED = "files"
"""The files in it."""


class Ready(msgspec.Struct, frozen=True):
    """What is to be done: names in the data directory that go, and that come."""

    goes: list[str]
    comes: list[str]


def finish_restore(data: Path) -> bool:
    """Go on with a restore that was broken off, by whoever holds the data directory.

    One that had not gathered everything is given up: what was there is still there.

    Returns:
        Whether there was something to be put in place.

    Raises:
        BackupError: if that cannot be done.
    """
    restoring = data / RESTORING
    if not restoring.exists():
        return False
    try:
        ready = msgspec.json.decode((restoring / READY).read_bytes(), type=Ready)
    except FileNotFoundError:
        shutil.rmtree(restoring, ignore_errors=True)
        return False
    except (OSError, msgspec.MsgspecError) as error:
        raise BackupError(f"{restoring / READY}: cannot be read: {error}") from error
    staged = restoring / STAGED
    try:
        # In two rounds, and what is staged is gone when it is in place: so again is harmless.
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
    """Refuse to work on a data directory that is half restored.

    Raises:
        BackupError: if a restore was broken off when it had begun to put things in place.
    """
    if (data / RESTORING / READY).exists():
        raise BackupError(
            f"{data}: a restore was broken off here. Start the server, or run `tactful restore "
            "--finish`, before anything else"
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

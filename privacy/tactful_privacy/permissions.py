"""Permissions of directories and files with personal data, checked as PostgreSQL checks its own.

| mode of a directory | effect |
|---|---|
| 0700 | accepted; new files of the process are 0600 |
| 0750 | accepted, for backups by a group that reads; new files are 0640 |
| readable by others, such as 0755 | changed to 0700, and every file and folder in it likewise |
| writable by others, such as 0777 | refused unless empty: its files may be another user's |
| of another owner | refused |
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from tactful_privacy.errors import PermissionsError

logger = logging.getLogger(__name__)

_OTHERS = 0o077
_OTHERS_WRITE = 0o022
_GROUP_READS = 0o750


def secure_directory(directory: Path) -> int:
    """Create a directory for this user only, or check and repair one that exists.

    It sets the umask of the process, so that libraries create private files, too.

    Returns:
        Number of files and folders that others could use and no longer can.

    Raises:
        PermissionsError: another user owns the directory or may write in it.
        OSError: it cannot be created or changed.
    """
    os.umask(_OTHERS)
    directory.mkdir(parents=True, exist_ok=True)
    status = directory.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise PermissionsError(
            f"{directory}: user {status.st_uid} owns it and this is user {os.geteuid()}: run "
            f"tactful as its owner, or run `chown -R {os.geteuid()} {directory}`"
        )
    if mode & _OTHERS_WRITE and any(directory.iterdir()):
        raise PermissionsError(
            f"{directory}: other users may write in it (mode {mode:04o}), so its files may not be "
            f"yours: check them, then run `chmod 700 {directory}`"
        )
    closed = _OTHERS
    if mode & 0o777 == _GROUP_READS:
        closed = _OTHERS & ~_GROUP_READS
        os.umask(closed)
    repaired = _close(directory, mode, closed)
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder, name)
            try:
                kind = path.lstat().st_mode
            except FileNotFoundError:
                continue  # deleted by another process
            if not stat.S_ISLNK(kind):
                repaired += _close(path, stat.S_IMODE(kind), closed)
    if repaired:
        logger.warning(
            "%s: other users of this machine could use %d files and folders: closed to them",
            directory,
            repaired,
        )
    return repaired


def secure_file(path: Path) -> None:
    """Close an existing secret file to other users.

    A file of another owner, such as a mounted secret, is left as it is.

    Raises:
        PermissionsError: every user may write it.
        OSError: it cannot be changed.
    """
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH:
        raise PermissionsError(
            f"{path}: every user may write it (mode {mode:04o}): check it, then run "
            f"`chmod 600 {path}`"
        )
    if status.st_uid == os.geteuid() and _close(path, mode, _OTHERS):
        logger.warning("%s: other users of this machine could use it: closed to them", path)


def _close(path: Path, mode: int, closed: int) -> int:
    """Remove the `closed` bits from a mode; return the number of changed paths."""
    if not mode & closed:
        return 0
    path.chmod(mode & ~closed)
    return 1

"""Directory for a copy of an installation on its way elsewhere, such as to a bucket.

It lies in the data directory, so the copy is as private as the data, and on the same disk. A lock
shows whether its process still runs: what a killed one left holds data of users, so it is deleted
at the next start and before the next erasure is verified.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tactful.errors import StorageError

SCRATCH = ".scratch"
"""Name of the directory in a data directory; no backup contains it."""

_LOCK = "lock"
_COPY = "copy"


@contextlib.contextmanager
def scratch_copy(data: Path) -> Iterator[Path]:
    """Yield the path of a directory to make, which is deleted with its content at the end.

    Raises:
        StorageError: if another process has one in this data directory.
    """
    folder = data / SCRATCH
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / _LOCK).open("ab") as holder:
        if not _locked(holder):
            raise StorageError(f"{data}: another backup is being sent: wait until it has ended")
        _empty(folder)
        try:
            yield folder / _COPY
        finally:
            _empty(folder)


def remove_abandoned_copy(data: Path) -> None:
    """Delete the copy that a killed process left in a data directory."""
    folder = data / SCRATCH
    with contextlib.suppress(FileNotFoundError), (folder / _LOCK).open("rb") as holder:
        if _locked(holder):
            _empty(folder)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != _LOCK:
            shutil.rmtree(path, ignore_errors=True)


def _locked(holder: IO[bytes]) -> bool:
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

"""Exclusive lock of a data directory."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from tactful.errors import StorageError
from tactful.metadata.restore_journal import finish_restore


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Lock a data directory for this process; create it, private, if it is missing.

    One that cannot be used, or that another process holds, raises StorageError.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        holder = (directory / "lock").open("ab")
    except OSError as error:
        raise StorageError(f"{directory}: cannot be used as data directory: {error}") from error
    with holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(
                f"{directory}: another process uses this data directory; "
                "stop it, or choose another one with --data"
            ) from None
        finish_restore(directory)
        yield

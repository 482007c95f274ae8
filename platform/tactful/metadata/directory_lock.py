"""Opening of a data directory: its permissions, and its exclusive lock."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from tactful.errors import StorageError
from tactful.metadata.restore_journal import finish_restore
from tactful.util.signing import open_signing_key
from tactful_privacy.errors import PermissionsError
from tactful_privacy.permissions import secure_directory


def open_directory(directory: Path) -> int:
    """Create a data directory, or close it to other users; return the number of changed paths.

    One that cannot be used, or that others may change, raises StorageError.
    """
    try:
        return secure_directory(directory)
    except PermissionsError as error:
        raise StorageError(str(error)) from error
    except OSError as error:
        raise StorageError(f"{directory}: cannot be used as data directory: {error}") from error


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Lock a data directory for this process; create it, private, if it is missing.

    One that cannot be used, or that another process holds, raises StorageError.
    """
    open_directory(directory)
    try:
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
        open_signing_key(directory)  # made with the directory
        yield

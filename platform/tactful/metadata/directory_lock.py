"""Opening of a data directory: its permissions, and its exclusive lock."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from tactful.errors import StorageError
from tactful.metadata.restore_journal import RESTORING, finish_restore
from tactful.metadata.scratch import SCRATCH, remove_abandoned_copy
from tactful.util.jobs import FOLDER as JOBS
from tactful.util.signing import ADOPTED_MODELS, SIGNING_KEY, open_signing_key
from tactful_privacy.errors import PermissionsError
from tactful_privacy.permissions import secure_directory

# Files of which a data directory has at least one when it is not new.
_MARKS = ("log", "state", "metadata.db", "ledger.db", "vault.db", "keyring.json")
_NEW = (
    "lock",
    JOBS,
    "lost+found",
    RESTORING,
    SCRATCH,
    SIGNING_KEY,
    ADOPTED_MODELS,
    "metadata.db.id",
    "vault.db.id",
)


def foreign_file(directory: Path) -> str | None:
    """Return the name of a file in a directory that is no data directory; None if it is one."""
    names = {path.name for path in directory.iterdir()}
    return None if names.intersection(_MARKS) else min(names.difference(_NEW), default=None)


def open_directory(directory: Path) -> int:
    """Create a data directory, or close it to other users; return the number of changed paths.

    One that cannot be used, or that others may change, raises StorageError; so does a directory of
    other files that others may read, which would be closed to them.
    """
    try:
        readable = directory.is_dir() and directory.stat().st_mode & 0o005
        if readable and (foreign := foreign_file(directory)):
            raise StorageError(
                f"{directory}: no data directory, it has {foreign!r} and other users may read it: "
                "choose a new one with --data"
            )
        return secure_directory(directory)
    except StorageError:
        raise
    except PermissionsError as error:
        raise StorageError(str(error)) from error
    except OSError as error:
        raise _unusable(directory, error) from error


@contextlib.contextmanager
def exclusive(directory: Path, *, note: bytes = b"") -> Iterator[None]:
    """Lock a data directory for this process; create it, private, if it is missing.

    One that cannot be used, or that another process holds, raises StorageError. `note_of_holder`
    returns `note` to other processes meanwhile.
    """
    open_directory(directory)
    try:
        holder = (directory / "lock").open("ab")
    except OSError as error:
        raise _unusable(directory, error) from error
    with holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(
                f"{directory}: another process uses this data directory; "
                "stop it, or choose another one with --data"
            ) from None
        holder.truncate(0)  # a process that was killed left its note
        holder.write(note)
        holder.flush()
        finish_restore(directory)
        remove_abandoned_copy(directory)
        open_signing_key(directory)  # made with the directory
        try:
            yield
        finally:
            holder.truncate(0)


def _unusable(directory: Path, error: OSError) -> StorageError:
    place = Path(error.filename or directory)
    where = "" if place == directory else f" ({place})"
    return StorageError(
        f"{directory}: cannot be used as data directory: {error.strerror}{where}; "
        "choose another one with --data"
    )


def note_of_holder(directory: Path) -> bytes:
    """Return the note of the process that holds a data directory; empty if none does."""
    try:
        with (directory / "lock").open("rb") as lock:
            if note := lock.read():
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return note
    except OSError:
        pass
    return b""

"""Recognition of database files of a data directory that were emptied or exchanged.

A random number in the header of an SQLite file is also kept in a file of the data directory::

    metadata.db       application_id = 0x5f0c2a91
    metadata.db.id    5f0c2a91

Copies of the database keep the number; no backup contains the file with it, so that a restore
begins anew.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
from pathlib import Path
from urllib.parse import quote

from tactful.errors import StorageError
from tactful_privacy.durable_files import create_file

MARK = ".id"
"""Suffix of the files with the numbers."""

_WAIT_S = 60.0
_logger = logging.getLogger(__name__)


def mark_of(data: Path, file: Path) -> Path:
    """Return the path of the number of a database file, which may lie outside `data`."""
    return data / (file.name + MARK)


def check_identity(data: Path, file: Path, loss: str, *, may_begin_anew: bool = False) -> None:
    """Compare a database file with the number of it in a data directory, if there is one.

    With `may_begin_anew`, a file that is missing was moved away by the operator: this is logged.

    Raises:
        StorageError: if it is missing or another file; `loss` is a clause about the consequence.
    """
    mark = mark_of(data, file)
    if not mark.exists():
        return
    if not file.exists() and may_begin_anew:
        _logger.warning("%s is missing and begins anew: %s", file, loss)
        mark.unlink(missing_ok=True)
        return
    if not file.exists():
        problem = "is missing"
    else:
        try:
            number = _number(file)
            if f"{number:08x}" == mark.read_text("ascii").strip():
                return
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            raise StorageError(f"{file}: cannot be compared with {mark}: {error}") from error
        problem = "is that of another installation" if number else "was emptied or replaced"
    raise StorageError(
        f"{file} {problem}: {loss}. Nothing was changed; restore it from a backup, or start once "
        "with --accept-loss (`tactful serve`, `tactful worker`), which uses it as it is"
    )


def mark_identity(data: Path, file: Path) -> None:
    """Give a database file a number, if it has none, and keep it in the data directory.

    A file that cannot be written raises StorageError.
    """
    mark = mark_of(data, file)
    if mark.exists() or not data.is_dir():
        return
    try:
        number = _number(file, new=secrets.randbelow(2**31 - 1) + 1)
        create_file(mark, f"{number:08x}\n".encode())
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{file}: cannot be marked by {mark}: {error}") from error


def accept_file(data: Path, file: Path, loss: str) -> None:
    """Use a database file as it is from now on; a loss is logged."""
    try:
        check_identity(data, file, loss)
    except StorageError as error:
        _logger.warning("the loss is accepted: %s", str(error).partition(". Nothing")[0])
        mark_of(data, file).unlink()


def _number(file: Path, new: int | None = None) -> int:
    """Read the number of a file, 0 without one; then set it to `new`, if given."""
    uri = f"file:{quote(str(file.absolute()))}?mode=rw"
    opened = sqlite3.connect(uri, uri=True, timeout=_WAIT_S, isolation_level=None)
    with contextlib.closing(opened) as connection:
        if new is not None:
            connection.execute("BEGIN IMMEDIATE")
        number = int(connection.execute("PRAGMA application_id").fetchone()[0])
        if new is not None:
            if number == 0:
                connection.execute(f"PRAGMA application_id = {new}")
                number = new
            connection.execute("COMMIT")
    return number

"""Durability, transactions and true deletion of the SQLite files of tactful."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator

_PAUSE_S = 0.01
_CLEAN = 1  # PRAGMA user_version of a file without bytes of rows that an older version deleted


def use_write_ahead_log(connection: sqlite3.Connection, *, timeout_s: float = 60.0) -> None:
    """Switch to a write-ahead log with synchronous commits, outside a transaction.

    Readers then continue beside a writer, and a commit is on disk when it returns. Deleted rows are
    overwritten in the file; see `empty_write_ahead_log` for their copies in the log. SQLite needs
    exclusive access to change the mode and ignores the connection's timeout for it, so processes
    that open a new file together would fail; this function retries for `timeout_s` seconds.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode & 0xFF
            if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON")


def empty_write_ahead_log(connection: sqlite3.Connection, *, wait_s: float = 1.0) -> bool:
    """Move the write-ahead log into the file and truncate it, outside a transaction.

    With `secure_delete`, the bytes of rows that were deleted before are then in neither. It waits
    at most `wait_s` seconds for readers, which hold up writers meanwhile.

    Returns:
        False while another connection reads older pages, so that the log still holds them.
    """
    (before,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout={round(wait_s * 1000)}")
    try:
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout={before}")
    return not busy


def rewrite_once(connection: sqlite3.Connection) -> None:
    """Rewrite a file in which an older version left the bytes of deleted rows.

    The file is marked, so that this happens once; while others use it, a later call does it.
    """
    if connection.execute("PRAGMA user_version").fetchone()[0] >= _CLEAN:
        return
    with contextlib.suppress(sqlite3.OperationalError):  # locked
        connection.execute("VACUUM")
        if empty_write_ahead_log(connection):
            connection.execute(f"PRAGMA user_version={_CLEAN}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run a block in a transaction that begins with the write lock; roll it back on an error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")

"""What every SQLite file of tactful is opened with."""

from __future__ import annotations

import sqlite3
import time

_PAUSE_S = 0.01


def use_write_ahead_log(connection: sqlite3.Connection, *, timeout_s: float = 60.0) -> None:
    """Let readers go on beside a writer, and a commit be on disk when it returns.

    To change the mode, SQLite wants the file for itself, and does not wait for that however long
    the connection's own timeout is. Processes that open a new file at once would fail, so we wait.

    Args:
        connection: one that is in no transaction.
        timeout_s: how long to wait for others, seconds.

    Raises:
        sqlite3.OperationalError: if the file cannot be used, or others hold it for too long.
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

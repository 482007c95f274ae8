"""Durability and transactions of the SQLite files of tactful."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator

_PAUSE_S = 0.01


def use_write_ahead_log(connection: sqlite3.Connection, *, timeout_s: float = 60.0) -> None:
    """Switch to a write-ahead log with synchronous commits, outside a transaction.

    Readers then continue beside a writer, and a commit is on disk when it returns. SQLite needs
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

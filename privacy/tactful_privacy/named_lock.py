"""Named locks of a MySQL server, for mutual exclusion of processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa


@contextlib.contextmanager
def hold_named_lock(engine: sa.Engine, name: str, *, timeout_s: int) -> Iterator[None]:
    """Hold a named lock of a MySQL or MariaDB database, shared with other processes.

    The lock has its own connection, so that it outlives the guarded transaction: released before
    the commit, it would let the next process read stale data. After `timeout_s` seconds of waiting
    TimeoutError is raised.
    """
    with engine.connect() as connection:
        digest = sa.text("SELECT SHA1(CONCAT(:name, ' ', DATABASE()))")
        lock = {"lock": connection.scalar(digest, {"name": name})}
        wanted = {**lock, "seconds": timeout_s}
        if connection.scalar(sa.text("SELECT GET_LOCK(:lock, :seconds)"), wanted) != 1:
            raise TimeoutError(
                f"another process has held the lock {name!r} of the database for {timeout_s} s"
            )
        try:
            yield
        finally:
            connection.execute(sa.text("SELECT RELEASE_LOCK(:lock)"), lock)

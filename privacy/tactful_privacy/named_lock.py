"""One process at a time, by a lock that a MySQL server keeps under a name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa


@contextlib.contextmanager
def hold_named_lock(engine: sa.Engine, name: str, *, timeout_s: int) -> Iterator[None]:
    """Keep others out who ask for the same name in the same database.

    The lock has a connection of its own, so that it outlives the transaction that it guards: given
    back before the commit, it let the next one read what was not there yet.

    Args:
        engine: a MySQL or MariaDB database.
        name: of the lock.
        timeout_s: how long to wait for it, seconds.

    Raises:
        TimeoutError: if somebody else has it for that long.
    """
    with engine.connect() as connection:
        digest = sa.text("SELECT SHA1(CONCAT(:name, ' ', DATABASE()))")
        lock = {"lock": connection.scalar(digest, {"name": name})}
        wanted = {**lock, "seconds": timeout_s}
        if connection.scalar(sa.text("SELECT GET_LOCK(:lock, :seconds)"), wanted) != 1:
            raise TimeoutError(f"another process keeps the lock {name!r} of the database")
        try:
            yield
        finally:
            connection.execute(sa.text("SELECT RELEASE_LOCK(:lock)"), lock)

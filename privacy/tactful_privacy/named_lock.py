"""Named locks of a database server, for mutual exclusion of processes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import sqlalchemy as sa

from tactful_privacy.database_servers import LOCK_TIMEOUT


@contextlib.contextmanager
def hold_named_lock(engine: sa.Engine, name: str, *, timeout_s: int) -> Iterator[None]:
    """Hold a named lock of a database on MySQL, MariaDB or PostgreSQL, shared with other processes.

    The lock has its own connection, so that it outlives the guarded transaction: released before
    the commit, it would let the next process read stale data. After `timeout_s` seconds of waiting
    TimeoutError is raised.
    """
    hold = _hold_on_postgresql if engine.dialect.name == "postgresql" else _hold_on_mysql
    with engine.connect() as connection, hold(connection, name, timeout_s):
        yield


@contextlib.contextmanager
def _hold_on_mysql(connection: sa.Connection, name: str, timeout_s: int) -> Iterator[None]:
    digest = sa.text("SELECT SHA1(CONCAT(:name, ' ', DATABASE()))")
    lock = {"lock": connection.scalar(digest, {"name": name})}
    wanted = {**lock, "seconds": timeout_s}
    if connection.scalar(sa.text("SELECT GET_LOCK(:lock, :seconds)"), wanted) != 1:
        raise _too_long(name, timeout_s)
    try:
        yield
    finally:
        connection.execute(sa.text("SELECT RELEASE_LOCK(:lock)"), lock)


@contextlib.contextmanager
def _hold_on_postgresql(connection: sa.Connection, name: str, timeout_s: int) -> Iterator[None]:
    digest = hashlib.sha256(f"tactful {name}".encode()).digest()
    lock = {"lock": int.from_bytes(digest[:8], signed=True)}  # a lock belongs to one database
    # Without a transaction, which servers may end when it is idle; its settings end with it.
    connection = connection.execution_options(isolation_level="AUTOCOMMIT")
    connection.detach()
    limit = {"limit": f"{timeout_s}s"}
    connection.execute(sa.text("SELECT set_config('lock_timeout', :limit, false)"), limit)
    try:
        connection.execute(sa.text("SELECT pg_advisory_lock(:lock)"), lock)
    except sa.exc.OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_TIMEOUT:
            raise
        raise _too_long(name, timeout_s) from error
    try:
        yield
    finally:
        connection.execute(sa.text("SELECT pg_advisory_unlock(:lock)"), lock)


def _too_long(name: str, timeout_s: int) -> TimeoutError:
    return TimeoutError(
        f"another process has held the lock {name!r} of the database for {timeout_s} s"
    )

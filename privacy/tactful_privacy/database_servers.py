"""Connections to MySQL, MariaDB and PostgreSQL, and what differs between these servers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tactful_privacy.errors import DriverError

# Driver and extra of each server.
_DRIVERS = {
    "mysql": ("pymysql", "mysql"),
    "mariadb": ("pymysql", "mysql"),
    "postgresql": ("psycopg", "postgres"),
}
SERVERS = frozenset(_DRIVERS)
"""Servers by SQLAlchemy's name of their dialect."""

SERVER_NAMES = "PostgreSQL, MySQL or MariaDB"
EXAMPLE_URL = "postgresql+psycopg://user:password@host/database or mysql+pymysql://…"

_CONNECT_S = 10
_LOCK_S = 60
# More than locks wait, so that a lock that took too long is reported as such.
_READ_S = 90
_RECYCLE_S = 1_800
# A process that is suspended within a transaction keeps its locks for so long.
_IDLE_S = 20
# A lock that took too long, a deadlock, and a row that changed under MariaDB's snapshot.
_MYSQL_TRY_AGAIN = (1205, 1213, 1020)
LOCK_TIMEOUT = "55P03"
# A lock that took too long, a deadlock, and a transaction that could not be made serial.
_POSTGRESQL_TRY_AGAIN = (LOCK_TIMEOUT, "40P01", "40001")


def parse_url(text: str) -> sa.URL:
    """Parse a database URL; ``postgres://``, as other programs write it, is PostgreSQL.

    Raises:
        ValueError or sqlalchemy.exc.ArgumentError: It is no URL; the message may hold a password.
    """
    url = sa.make_url(text)
    return url.set(drivername="postgresql") if url.drivername == "postgres" else url


def without_password(url: sa.URL) -> str:
    """Return a URL for messages: without password and options, which may hold one."""
    return url.set(query={}).render_as_string(hide_password=True)


def connect_server(url: sa.URL) -> sa.Engine:
    """Return an engine for one of `SERVERS`; it connects at the first use.

    A URL without a driver gets the one of the extra. Text is UTF-8, values that are too long are
    refused, and a connection waits for a lock for a minute at most. A transaction in which nothing
    happens for 20 s is rolled back, so that a suspended process keeps no locks; MySQL cannot do
    that. On PostgreSQL each statement of a transaction reads what is committed by then, so that a
    lock taken first makes transactions serial.

    Raises:
        DriverError: The driver is not installed, or another one of PostgreSQL is named.
    """
    backend = url.get_backend_name()
    driver, extra = _DRIVERS[backend]
    if url.drivername == backend:
        url = url.set(drivername=f"{backend}+{driver}")
    cure = f"write {backend}+{driver}:// and pip install 'tactful[{extra}]'"
    is_postgresql = backend == "postgresql"
    if is_postgresql and url.drivername != "postgresql+psycopg":
        raise DriverError(f"the driver {url.drivername} is not supported: {cure}")
    try:
        return _connect_postgresql(url) if is_postgresql else _connect_mysql(url)
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        raise DriverError(f"the driver {url.drivername} is not installed: {cure}") from error


def _connect_mysql(url: sa.URL) -> sa.Engine:
    timeouts = {"read_timeout": _READ_S, "write_timeout": _READ_S}
    engine = sa.create_engine(
        url.update_query_dict({"charset": "utf8mb4"}),
        pool_pre_ping=True,
        pool_recycle=_RECYCLE_S,
        connect_args={"connect_timeout": _CONNECT_S, **timeouts},
    )

    # Without strict mode a server truncates long values with a warning only.
    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            # MariaDB alone reads the comment.
            cursor.execute(
                "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')"
                f" /*M!, idle_transaction_timeout = {_IDLE_S} */"
            )

    return engine


def _connect_postgresql(url: sa.URL) -> sa.Engine:
    from tactful_privacy.postgresql import prepare_connection

    options = {
        "connect_timeout": _CONNECT_S,
        "tcp_user_timeout": _READ_S * 1_000,  # milliseconds
        "keepalives_idle": _LOCK_S,
        "fallback_application_name": "tactful",
        "client_encoding": "utf8",
    }
    engine = sa.create_engine(
        url,
        pool_pre_ping=True,
        pool_recycle=_RECYCLE_S,
        # Not the default of the server: in REPEATABLE READ a transaction that waited for a lock
        # would read what was committed before it waited.
        isolation_level="READ COMMITTED",
        connect_args={name: value for name, value in options.items() if name not in url.query},
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        prepare_connection(connection, lock_timeout_s=_LOCK_S, idle_timeout_s=_IDLE_S)

    return engine


def snapshot_options(engine: sa.Engine) -> dict[str, Any]:
    """Return execution options of a connection whose reads all see the same moment.

    It does not write. MySQL and SQLite do so by default.
    """
    if engine.dialect.name != "postgresql":
        return {}
    return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def is_transient(error: sa.exc.DBAPIError) -> bool:
    """Return whether a server rolled a transaction back that may succeed when it is repeated."""
    cause = error.orig
    if cause is None:
        return False
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return state in _POSTGRESQL_TRY_AGAIN
    return bool(cause.args) and cause.args[0] in _MYSQL_TRY_AGAIN


def describe_error(error: BaseException) -> str:
    """Return the cause of a database error in one line, without the statement.

    The details that PostgreSQL adds are left out: they quote rows.
    """
    cause: Any = getattr(error, "orig", None) or error
    said = getattr(getattr(cause, "diag", None), "message_primary", None)
    return " ".join(str(said or cause).split())

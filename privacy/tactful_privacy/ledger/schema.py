"""Tables of the ledger, their upgrade, and database transactions."""

import contextlib
import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from tactful_privacy.database_servers import (
    SERVER_NAMES,
    SERVERS,
    connect_server,
    describe_error,
    is_transient,
    parse_url,
    snapshot_options,
)
from tactful_privacy.errors import LedgerError, ParameterError
from tactful_privacy.named_lock import hold_named_lock
from tactful_privacy.sqlite import empty_write_ahead_log, rewrite_once, use_write_ahead_log

logger = logging.getLogger(__name__)

SCHEMA = 4
"""1: budget, statistics, releases. 2: more budgets, queries, shared noise, days of statistics.
3: budgets of several days. 4: the fence, and the publishers of days."""

FOREVER = 2**62
"""Last day of a statistic that is not retired."""

_LOCK_SECONDS = 60
_ATTEMPTS = 10
_SHORTEST_WAIT_S = 0.005
_LOCKED = ("locked", "lock wait", "lock timeout", "deadlock", "could not serialize")
"""Words in the messages of databases whose locks were held for too long."""

_INNODB: dict[str, Any] = {"mysql_engine": "InnoDB"}
_long_text = sa.Text(2**24 - 1).with_variant(sa.Text(), "postgresql")

tables = sa.MetaData()
budget = sa.Table(
    "privacy_budget",
    tables,
    # One row: the budget over everything, the only budget that older versions read.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("daily_epsilon", sa.String(128), nullable=False),
    **_INNODB,
)
budgets = sa.Table(
    "privacy_budgets",
    tables,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("purpose", sa.String(64), primary_key=True),
    sa.Column("epsilon", sa.String(128), nullable=False),
    sa.Column("delta", sa.String(128), nullable=False),
    sa.Column("composition", sa.String(16), nullable=False),
    **_INNODB,
)
span_budgets = sa.Table(
    "privacy_span_budgets",
    tables,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("purpose", sa.String(64), primary_key=True),
    sa.Column("days", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epsilon", sa.String(128), nullable=False),
    sa.Column("delta", sa.String(128), nullable=False),
    sa.Column("composition", sa.String(16), nullable=False),
    **_INNODB,
)
statistics = sa.Table(
    "privacy_statistics",
    tables,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("definition", _long_text, nullable=False),
    sa.Column("registered_at", sa.BigInteger, nullable=False),
    sa.Column("first_day", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("last_day", sa.BigInteger, nullable=False, server_default=str(FOREVER)),
    **_INNODB,
)
releases = sa.Table(
    "privacy_releases",
    tables,
    # This primary key forbids a second draw of a pane, from any process at any time.
    sa.Column("statistic", sa.String(128), sa.ForeignKey(statistics.c.name), primary_key=True),
    sa.Column("pane_start", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("noisy_counts", sa.LargeBinary(2**32 - 1), nullable=False),
    sa.Column("released_at", sa.BigInteger, nullable=False),
    **_INNODB,
)
noise = sa.Table(
    "privacy_noise",
    tables,
    # Noise that several releases share: secret, and drawn once.
    sa.Column("statistic", sa.String(128), sa.ForeignKey(statistics.c.name), primary_key=True),
    sa.Column("period_start", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("part", sa.String(64), primary_key=True),
    sa.Column("noise", sa.LargeBinary(2**32 - 1), nullable=False),
    **_INNODB,
)
queries = sa.Table(
    "privacy_queries",
    tables,
    sa.Column("name", sa.String(190), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("definition", _long_text, nullable=False),
    sa.Column("first_day", sa.BigInteger, nullable=False, index=True),
    sa.Column("last_day", sa.BigInteger, nullable=False),
    sa.Column("reserved_at", sa.BigInteger, nullable=False),
    sa.Column("answer", sa.LargeBinary(2**32 - 1)),
    sa.Column("answered_at", sa.BigInteger),
    mysql_collate="utf8mb4_bin",
    mysql_charset="utf8mb4",
    **_INNODB,
)
fences = sa.Table(
    "privacy_fence",
    tables,
    # One row: the highest fence of a process that released under a lease.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    **_INNODB,
)
publishers = sa.Table(
    "privacy_publishers",
    tables,
    # The counter whose numbers of a UTC day are released, of counters that may differ.
    sa.Column("statistic", sa.String(128), sa.ForeignKey(statistics.c.name), primary_key=True),
    sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("counter", sa.String(64), nullable=False),
    **_INNODB,
)
_version = sa.Table(
    "privacy_schema",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    **_INNODB,
)


def connect(location: str | Path) -> sa.Engine:
    """Return an engine whose SQLite transactions begin with the write lock.

    Connections with the execution option ``reads_only`` do not take the lock. Other databases than
    SQLite files and `SERVERS` raise `ParameterError`, a missing driver `DriverError`.
    """
    text = str(location)
    url = parse_url(text if "://" in text else f"sqlite:///{text}")
    backend = url.get_backend_name()
    if backend in SERVERS:
        return connect_server(url)
    if backend != "sqlite":
        raise ParameterError(
            f"{backend} is not supported: give an SQLite path or a URL of {SERVER_NAMES}"
        )
    if url.database in (None, "", ":memory:"):
        raise ParameterError("an SQLite ledger in memory loses its releases: give a path")
    engine = sa.create_engine(url, connect_args={"timeout": _LOCK_SECONDS})

    # The driver begins transactions at the first write, so another writer could come between a
    # read and a write. Its own transactions are switched off, and `begin` starts ours.
    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        use_write_ahead_log(connection, timeout_s=_LOCK_SECONDS)
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        reads_only = connection.get_execution_options().get("reads_only")
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    """Turn database errors into `LedgerError`, without the statement and its values."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        driver = error if isinstance(error, sqlite3.Error) else getattr(error, "orig", None)
        cause = describe_error(error) if driver else type(error).__name__
        if any(sign in cause.lower() for sign in _LOCKED):
            raise LedgerError(
                "the ledger was locked by other processes for too long, and nothing was written:"
                f" {cause}. Try again; with many writers keep it in {SERVER_NAMES}"
            ) from error
        raise LedgerError(
            f"the ledger cannot be used, and nothing is released without it: {cause}."
            " If it is damaged, restore it from its latest backup"
        ) from error


@_translated_errors()
def upgrade(engine: sa.Engine) -> None:
    """Create the tables or upgrade those of an older version; releases stay unchanged.

    Each step creates only missing parts: MySQL commits table by table, so an earlier upgrade may
    have stopped at any step. A ledger of a newer version raises `LedgerError`.
    """
    if engine.dialect.name == "sqlite":
        with contextlib.closing(engine.raw_connection()) as raw:
            rewrite_once(_driver(raw))
    with engine.connect().execution_options(reads_only=True) as connection:
        if _stored_version(connection) == SCHEMA:
            return
    with _exclusive_transaction(engine) as connection:
        version = _stored_version(connection)
        if version == SCHEMA:
            return
        if version is not None and version > SCHEMA:
            raise LedgerError(
                f"the ledger has schema {version}, and this version of tactful reads schemas up to"
                f" {SCHEMA}: start the newer version that wrote it"
            )
        for table in tables.sorted_tables:
            connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
        present = {column["name"] for column in sa.inspect(connection).get_columns(statistics.name)}
        for name, default in (("first_day", 0), ("last_day", FOREVER)):
            if name not in present:
                connection.exec_driver_sql(
                    f"ALTER TABLE {statistics.name} ADD COLUMN {name} BIGINT NOT NULL"
                    f" DEFAULT {default}"
                )
        for row in connection.execute(sa.select(budget)).all():
            total = {"tenant": "*", "purpose": "*", "epsilon": row.daily_epsilon}
            insert_where_absent(
                connection, budgets, [{**total, "delta": "0", "composition": "basic"}]
            )
        connection.execute(sa.delete(_version))
        connection.execute(sa.insert(_version).values(id=1, version=SCHEMA))
        logger.info("the ledger has schema %s", SCHEMA)


def _stored_version(connection: sa.Connection) -> int | None:
    if not sa.inspect(connection).has_table(_version.name):
        return None
    version = connection.execute(sa.select(_version.c.version)).scalar_one_or_none()
    return None if version is None else int(version)


@contextlib.contextmanager
def _exclusive_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Begin a transaction while no other process upgrades the ledger."""
    with contextlib.ExitStack() as stack:
        if engine.dialect.name != "sqlite":  # on SQLite, BEGIN IMMEDIATE already excludes writers
            # MySQL commits at every CREATE TABLE, so a transaction excludes nobody. PostgreSQL may
            # refuse a table that two transactions create at once.
            try:
                stack.enter_context(
                    hold_named_lock(engine, "privacy ledger", timeout_s=_LOCK_SECONDS)
                )
            except TimeoutError as error:
                raise LedgerError(
                    f"another process has been upgrading the ledger for {_LOCK_SECONDS} s:"
                    " wait until it has finished, or stop it"
                ) from error
        yield stack.enter_context(engine.begin())


@contextlib.contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a connection that only reads, all from one moment.

    Failures of the database are `LedgerError`.
    """
    options = {"reads_only": True, **snapshot_options(engine)}
    with _translated_errors(), engine.connect().execution_options(**options) as connection:
        yield connection


@_translated_errors()
def write(engine: sa.Engine, work: Callable[[sa.Connection], object]) -> None:
    """Run one transaction; repeat it if a server chose it as the victim of a deadlock."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                work(connection)
            return
        except sa.exc.OperationalError as error:
            if attempt == _ATTEMPTS or not is_transient(error):
                raise
        # Random waits keep the deadlocked transactions from colliding again.
        time.sleep(random.uniform(0, _SHORTEST_WAIT_S * 2**attempt))


@_translated_errors()
def destroy(engine: sa.Engine, statement: sa.Delete) -> bool:
    """Delete rows, and their bytes in the files of SQLite.

    Returns:
        False while another connection reads older pages: the bytes are in the write-ahead log until
        a later call. Database servers overwrite deleted rows when they see fit.
    """
    write(engine, lambda connection: connection.execute(statement))
    if engine.dialect.name != "sqlite":
        return True
    with contextlib.closing(engine.raw_connection()) as raw:
        return empty_write_ahead_log(_driver(raw))


def _driver(raw: Any) -> sqlite3.Connection:
    connection: sqlite3.Connection = raw.driver_connection
    return connection


def lock(connection: sa.Connection) -> None:
    """Serialise granting transactions; on SQLite they hold the lock already."""
    # The upgrade inserted this row. In an empty table MySQL would give every transaction the gap
    # before the first row, and none of them could insert into it.
    connection.execute(sa.select(_version).with_for_update())


def insert_where_absent(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]
) -> None:
    """Insert rows whose primary key is absent; keep existing rows unchanged."""
    if connection.dialect.name == "sqlite":
        connection.execute(sqlite.insert(table).on_conflict_do_nothing(), rows)
    elif connection.dialect.name == "postgresql":
        keys = list(table.primary_key)
        absent = postgresql.insert(table).on_conflict_do_nothing(index_elements=keys)
        connection.execute(absent, rows)
    else:
        # Not INSERT IGNORE, which would let truncated values pass as warnings.
        key = next(iter(table.primary_key))
        connection.execute(mysql.insert(table).on_duplicate_key_update({key.name: key}), rows)

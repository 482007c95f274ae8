"""Window results in a table of PostgreSQL, MySQL, MariaDB or SQLite."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from tactful_privacy.database_servers import (
    EXAMPLE_URL,
    SERVER_NAMES,
    SERVERS,
    connect_server,
    describe_error,
    is_transient,
    parse_url,
    without_password,
)
from tactful_privacy.errors import DriverError
from tactful_privacy.named_lock import hold_named_lock
from tactful_privacy.sqlite import use_write_ahead_log
from tactful_streaming.errors import OnlineStoreError
from tactful_streaming.sinks.sink import WindowRow, WindowValue

_ATTEMPTS = 5
_ERASED_TOGETHER = 500
# Another sink may hold the lock for long: SQLite has no queue of waiting connections.
_SQLITE_WAIT_S = 60.0
_CREATE_WAIT_S = 60

# The primary key is a digest: names may be longer than an index allows, and are compared byte by
# byte in every collation.
_digest = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
_long_text = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
_tables = sa.MetaData()
_values = sa.Table(
    "tactful_fired_values",
    _tables,
    sa.Column("id", _digest, primary_key=True),
    sa.Column("feature", sa.String(255), nullable=False),
    sa.Column("entity_key", sa.Text, nullable=False),
    sa.Column("group_key", sa.Text),
    sa.Column("window_start", sa.BigInteger, nullable=False),
    sa.Column("window_end", sa.BigInteger, nullable=False),
    sa.Column("feature_value", _long_text, nullable=False),
    sa.Column("source_offset", sa.BigInteger, nullable=False),
    sa.Index(
        "tactful_fired_entity",
        "entity_key",
        mysql_length={"entity_key": 191},
        mariadb_length={"entity_key": 191},
        postgresql_using="hash",  # its other indexes refuse keys of more than 2,700 bytes
    ),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)


class SqlRows:
    """A `RowTarget` in the table ``tactful_fired_values``.

    It has one line for each feature, entity and group (NULL without ``group_by``), of its newest
    window. A group whose ``window_end`` is not the newest of its feature and entity is not in the
    newest window. Methods raise OnlineStoreError if the database cannot be reached or refuses.
    """

    def __init__(self, url: str) -> None:
        """Connect, and create the table if it is missing.

        `url` is ``postgresql+psycopg://user:password@host/database``, ``mysql+pymysql://…``,
        ``mariadb+pymysql://…`` or ``sqlite:///path``.
        """
        try:
            self._engine = _connect(url)
        except (sa.exc.ArgumentError, ValueError):
            raise OnlineStoreError(f"not a database URL: write {EXAMPLE_URL}") from None
        except DriverError as error:
            raise OnlineStoreError(str(error)) from error
        self._upsert = _upsert_statement(self._engine.dialect.name)
        with self._explained():
            if not self._has_table():
                self._create_table()

    def write(self, rows: Sequence[WindowRow]) -> None:
        """Store those of `rows` that are newer than the stored ones, in one transaction."""
        # In one order in every sink, which prevents deadlocks.
        lines = sorted(map(_line, rows), key=lambda line: line["id"])
        if not lines:
            return
        with self._explained():
            self._try(lambda connection: connection.execute(self._upsert, lines))

    def read(self, entity_keys: Sequence[str]) -> list[dict[str, WindowValue]]:
        """Read the values by feature of each of `entity_keys`, in their order."""
        query = sa.select(_values).where(_values.c.entity_key.in_(list(set(entity_keys))))
        with self._explained(), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        entities: dict[str, dict[str, list[sa.Row[Any]]]] = {}
        for row in rows:
            entities.setdefault(row.entity_key, {}).setdefault(row.feature, []).append(row)
        return [
            {feature: _newest(lines) for feature, lines in entities.get(key, {}).items()}
            for key in entity_keys
        ]

    def erase(self, entity_keys: Sequence[str]) -> int:
        """Delete all rows of `entity_keys`; return their number."""
        removed = 0
        for start in range(0, len(entity_keys), _ERASED_TOGETHER):
            keys = entity_keys[start : start + _ERASED_TOGETHER]
            query = sa.select(_values.c.id, _values.c.entity_key)
            query = query.where(_values.c.entity_key.in_(keys))
            with self._explained():
                with self._engine.connect() as connection:
                    rows = connection.execute(query).all()
                # Collations of MySQL ignore trailing blanks, which distinguish users.
                ids = [{"row": row.id} for row in rows if row.entity_key in keys]
                statement = sa.delete(_values).where(_values.c.id == sa.bindparam("row"))
                if ids:
                    self._try(lambda c, s=statement, i=ids: c.execute(s, i))  # type: ignore[misc]
            removed += len(ids)
        return removed

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _create_table(self) -> None:
        """Create what is missing of the table and its index, while no other sink does."""
        with ExitStack() as stack:
            if self._engine.dialect.name != "sqlite":
                lock = hold_named_lock(self._engine, _values.name, timeout_s=_CREATE_WAIT_S)
                try:
                    stack.enter_context(lock)
                except TimeoutError as error:
                    raise OnlineStoreError(str(error)) from error
            connection = stack.enter_context(self._engine.begin())
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.execute(sa.schema.CreateTable(_values, if_not_exists=True))
            for index in _values.indexes - self._present_indexes(connection):
                connection.execute(sa.schema.CreateIndex(index))

    def _has_table(self) -> bool:
        with self._engine.connect() as connection:
            if not sa.inspect(connection).has_table(_values.name):
                return False
            return self._present_indexes(connection) == _values.indexes

    def _present_indexes(self, connection: sa.Connection) -> set[sa.Index]:
        present = sa.inspect(connection).get_indexes(_values.name)
        names = {index["name"] for index in present}
        return {index for index in _values.indexes if index.name in names}

    def _try(self, work: Callable[[sa.Connection], object]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._engine.begin() as connection:
                    work(connection)
                return
            except sa.exc.OperationalError as error:
                if attempt == _ATTEMPTS or not is_transient(error):
                    raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert errors of drivers, without the statement and its values."""
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            where = without_password(self._engine.url)
            cause = describe_error(error)
            raise OnlineStoreError(f"{where}: the database failed: {cause}") from error


def _connect(location: str) -> sa.Engine:
    url = parse_url(location)
    backend = url.get_backend_name()
    if backend == "sqlite":
        engine = sa.create_engine(url, connect_args={"timeout": _SQLITE_WAIT_S})

        @sa.event.listens_for(engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            use_write_ahead_log(connection)

        return engine
    if backend not in SERVERS:
        raise OnlineStoreError(f"rows cannot be stored in {backend}: use {SERVER_NAMES}, or SQLite")
    return connect_server(url)


def _upsert_statement(dialect: str) -> sa.Insert:
    kept = ("feature_value", "window_start", "source_offset")
    if dialect in ("sqlite", "postgresql"):
        insert: Any = (sqlite if dialect == "sqlite" else postgresql).insert(_values)
        newer = _newer(insert.excluded)
        changed = {name: insert.excluded[name] for name in (*kept, "window_end")}
        upsert: sa.Insert = insert.on_conflict_do_update(
            index_elements=["id"], set_=changed, where=newer
        )
        return upsert
    other = mysql.insert(_values)
    newer = _newer(other.inserted)
    # MySQL assigns from left to right and later expressions use assigned values, so the columns of
    # the condition come last, and the last one does not use the condition.
    assigned = [(name, sa.func.if_(newer, other.inserted[name], _values.c[name])) for name in kept]
    end = sa.func.greatest(_values.c.window_end, other.inserted.window_end)
    return other.on_duplicate_key_update([*assigned, ("window_end", end)])


def _newer(inserted: Any) -> sa.ColumnElement[bool]:
    return sa.or_(
        inserted.window_end > _values.c.window_end,
        sa.and_(
            inserted.window_end == _values.c.window_end,
            inserted.source_offset >= _values.c.source_offset,
        ),
    )


def _line(row: WindowRow) -> dict[str, Any]:
    identity = msgspec.json.encode([row.feature, row.entity_key, row.group_key])
    return {
        "id": hashlib.sha256(identity).digest(),
        "feature": row.feature,
        "entity_key": row.entity_key,
        "group_key": row.group_key,
        "window_start": row.window_start,
        "window_end": row.window_end,
        "feature_value": bytes(row.feature_value).decode(),
        "source_offset": row.offset,
    }


def _newest(lines: Sequence[sa.Row[Any]]) -> WindowValue:
    end = max(line.window_end for line in lines)
    newest = [line for line in lines if line.window_end == end]
    start = min(line.window_start for line in newest)
    values = {line.group_key: msgspec.json.decode(line.feature_value) for line in newest}
    return WindowValue(start, end, values.get(None, values))

"""The metadata of an installation, in one database.

One database, SQLite, PostgreSQL, MySQL or MariaDB, is shared by all processes of the installation.
Opening it upgrades its schema by the migrations.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import sqlalchemy as sa

from tactful.errors import StorageError
from tactful.metadata.tables import backfill_jobs, definition_versions
from tactful.util.clock import now_ms
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
from tactful_privacy.sqlite import empty_write_ahead_log, use_write_ahead_log

logger = logging.getLogger(__name__)

SCHEMA = "0019"  # the newest migration: the schema that this version reads and writes
VERSION_TABLE = "tactful_schema"
"""Table of the schema's version; MLflow may use Alembic's default in the same database."""

_T = TypeVar("_T")
_LOCK_SECONDS = 60
_READERS_S = 1.0
_ATTEMPTS = 5


@dataclass(frozen=True)
class DefinitionVersion:
    """Applied definitions; fields are in the order of the table."""

    fingerprint: str  # hash of the computation, independent of the YAML's style
    definitions: str  # canonical YAML
    applied_at: int  # epoch milliseconds
    applied_by: str  # command or process that applied them


@dataclass(frozen=True)
class BackfillJob:
    """A computation of added features from the log; fields are in the order of the table."""

    id: str  # hash of features, definitions and partition
    fingerprint: str
    partition: int
    features: tuple[str, ...]
    # ``running`` also after a kill, until it is resumed
    state: Literal["running", "done", "failed"]
    position: int  # next offset of the log to read
    end: int  # offset up to which it reads
    started_at: int  # epoch milliseconds
    updated_at: int  # epoch milliseconds
    error: str | None = None


class MetadataStore:
    """The metadata of one installation; open it by :func:`open_metadata`.

    Its methods raise StorageError if the database cannot be reached or refuses; nothing was
    changed then.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], int]) -> None:
        """Use a database whose schema is up to date."""
        self._engine = engine
        self._clock = clock

    def fetch(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """Return the rows of a query."""
        with _explained(self._engine), self._engine.connect() as connection:
            return connection.execution_options(reads_only=True).execute(query).all()

    def read(self, work: Callable[[sa.Connection], _T]) -> _T:
        """Run `work`, which only reads, on a connection of its own."""
        with _explained(self._engine), self._engine.connect() as connection:
            return work(connection.execution_options(reads_only=True))

    def change(self, work: Callable[[sa.Connection], _T]) -> _T:
        """Run `work` in a serial transaction; repeat it if the database broke a deadlock."""
        with _explained(self._engine):
            for _ in range(_ATTEMPTS - 1):
                try:
                    return self._change(work)
                except sa.exc.OperationalError as error:
                    if not is_transient(error):
                        raise
            return self._change(work)

    def _change(self, work: Callable[[sa.Connection], _T]) -> _T:
        with self._engine.begin() as connection:
            if self._engine.dialect.name != "sqlite":  # there BEGIN IMMEDIATE is exclusive
                # Lock a row that always exists: on missing rows MySQL grants gap locks to several
                # transactions, and then none of them can insert.
                connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE} FOR UPDATE"))
            return work(connection)

    def record_definitions(self, fingerprint: str, definitions: str, *, applied_by: str) -> bool:
        """Record the applied definitions; return False if they were the last applied ones."""
        table = definition_versions
        latest = sa.select(table.c.fingerprint).order_by(table.c.id.desc()).limit(1)
        version = DefinitionVersion(fingerprint, definitions, self._clock(), applied_by)

        def record(connection: sa.Connection) -> bool:
            if connection.execute(latest.with_for_update()).scalar() == fingerprint:
                return False
            connection.execute(sa.insert(table).values(asdict(version)))
            return True

        return self.change(record)

    def definitions_history(self, limit: int = 100) -> list[DefinitionVersion]:
        """List applied definitions, newest first."""
        query = sa.select(definition_versions).order_by(definition_versions.c.id.desc())
        return [DefinitionVersion(*list(row)[1:]) for row in self.fetch(query.limit(limit))]

    def begin_backfill(
        self, fingerprint: str, features: Sequence[str], *, partition: int, position: int, end: int
    ) -> BackfillJob:
        """Begin a backfill, or resume an unfinished one, which keeps its own position."""
        names = sorted(features)
        seed = json.dumps([fingerprint, partition, names])
        identity = hashlib.sha256(seed.encode()).hexdigest()[:32]
        now = self._clock()
        kept = {"position": position, "started_at": now}
        values = {
            "fingerprint": fingerprint,
            "log_partition": partition,
            "features": json.dumps(names),
            "state": "running",
            "end_position": end,
            "updated_at": now,
            "error": None,
        }
        same = backfill_jobs.c.id == identity

        def begin(connection: sa.Connection) -> None:
            present = sa.select(backfill_jobs.c.state).where(same).with_for_update()
            state = connection.execute(present).scalar()
            if state is None:
                row = sa.insert(backfill_jobs).values(id=identity, **values, **kept)
                connection.execute(row)
            else:
                changed = values | kept if state == "done" else values
                connection.execute(sa.update(backfill_jobs).where(same).values(**changed))

        self.change(begin)
        return self._backfill(identity)

    def advance_backfill(self, job: str, position: int) -> None:
        """Record the next offset of a backfill."""
        self._update_backfill(job, position=position)

    def finish_backfill(self, job: str, *, error: str | None = None) -> None:
        """Record the end of a backfill; `error` if it failed."""
        if error is None:
            self._update_backfill(job, state="done", position=backfill_jobs.c.end_position)
        else:
            self._update_backfill(job, state="failed", error=error)

    def backfills(self) -> list[BackfillJob]:
        """List all backfills, newest first."""
        table = backfill_jobs.c
        query = sa.select(backfill_jobs).order_by(table.started_at.desc(), table.id)
        return [_job(row) for row in self.fetch(query)]

    def compact(self) -> bool:
        """Remove the bytes of deleted rows from an SQLite file.

        It returns False while another connection reads older data.
        """
        if self._engine.dialect.name != "sqlite":
            return True
        with (
            _explained(self._engine),
            contextlib.closing(self._engine.raw_connection()) as raw,
        ):
            connection: Any = raw.driver_connection
            connection.execute("VACUUM")
            return empty_write_ahead_log(connection, wait_s=_READERS_S)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _backfill(self, job: str) -> BackfillJob:
        rows = self.fetch(sa.select(backfill_jobs).where(backfill_jobs.c.id == job))
        if not rows:
            raise StorageError(f"no backfill has the id {job!r}")
        return _job(rows[0])

    def _update_backfill(self, job: str, **values: Any) -> None:
        statement = (
            sa.update(backfill_jobs)
            .where(backfill_jobs.c.id == job)
            .values(updated_at=self._clock(), **values)
        )
        if not self.change(lambda connection: connection.execute(statement).rowcount):
            self._backfill(job)  # MySQL does not count updates without a change


def open_metadata(location: str | Path, *, clock: Callable[[], int] = now_ms) -> MetadataStore:
    """Open the metadata; create or upgrade its tables.

    If processes start at once, one upgrades and the others wait. Only a backup leads back to an
    older schema. The location is the path of an SQLite file, or a database URL:
    ``postgresql+psycopg://user:password@host/database``, ``mysql+pymysql://…``,
    ``mariadb+pymysql://…`` or ``sqlite:///path``.

    Raises:
        StorageError: if the database cannot be reached or used, its driver is not installed, or a
            newer version of tactful has upgraded it.
    """
    engine = _connect(location)
    try:
        with _explained(engine):
            _upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return MetadataStore(engine, clock)


def _connect(location: str | Path) -> sa.Engine:
    text = str(location)
    try:
        url = parse_url(text) if "://" in text else sa.URL.create("sqlite", database=text)
    except (sa.exc.ArgumentError, ValueError):
        raise StorageError(
            f"the location of the metadata is not a database URL; write {EXAMPLE_URL} or the path "
            "of an SQLite file"
        ) from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise StorageError("metadata in memory is lost at exit: give the path of a file")
        return _connect_sqlite(url)
    if backend not in SERVERS:
        raise StorageError(f"metadata cannot be kept in {backend}: use SQLite, {SERVER_NAMES}")
    try:
        return connect_server(url)
    except DriverError as error:
        raise StorageError(str(error)) from error


def _connect_sqlite(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": _LOCK_SECONDS})

    # The driver begins transactions at the first write and commits before a CREATE TABLE, so its
    # transactions are switched off.
    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        use_write_ahead_log(connection, timeout_s=_LOCK_SECONDS)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        reads_only = connection.get_execution_options().get("reads_only")
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine


def _upgrade(engine: sa.Engine) -> None:
    with engine.connect().execution_options(reads_only=True) as connection:
        if _schema(connection) == SCHEMA:
            return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    with _alone(engine) as connection:
        version = _schema(connection)
        if version is not None and version not in known:
            raise StorageError(
                f"{_name(engine)}: the metadata has schema {version}, but this version of tactful "
                f"supports {SCHEMA} at most: start the newer version that upgraded it, or "
                "restore the backup from before"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if version != SCHEMA:
            logger.info("the metadata was upgraded from schema %s to %s", version or "none", SCHEMA)


def _schema(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    version = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if version is None else str(version)


@contextlib.contextmanager
def _alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Begin a transaction that excludes upgrades by other processes."""
    with contextlib.ExitStack() as stack:
        if engine.dialect.name != "sqlite":  # there BEGIN IMMEDIATE is exclusive
            # MySQL commits at every CREATE TABLE, so a transaction does not exclude others.
            # PostgreSQL may refuse a table that two transactions create at once.
            lock = hold_named_lock(engine, "tactful schema", timeout_s=_LOCK_SECONDS)
            try:
                stack.enter_context(lock)
            except TimeoutError as error:
                cause = f"{_name(engine)}: another process does not finish its upgrade"
                raise StorageError(cause) from error
        yield stack.enter_context(engine.begin())


@contextlib.contextmanager
def _explained(engine: sa.Engine) -> Iterator[None]:
    """Convert errors of drivers to StorageError, without statement and values."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        cause: object = describe_error(error)
        # SQLite raises exactly this class for a file that is no database.
        in_file = engine.dialect.name == "sqlite"
        damaged = in_file and type(error) is sa.exc.DatabaseError
        cure = ": restore it from a backup" if damaged else ""
        place = Path(_name(engine))
        if in_file and not place.parent.exists():
            cause, cure = f"{place.parent} does not exist", ": name the data directory with --data"
        message = f"{_name(engine)}: the metadata cannot be used: {cause}{cure}"
        raise StorageError(message) from error


def _name(engine: sa.Engine) -> str:
    if engine.dialect.name == "sqlite":
        return str(engine.url.database)
    return without_password(engine.url)


def _job(row: sa.Row[Any]) -> BackfillJob:
    identity, fingerprint, partition, features, *rest = list(row)
    return BackfillJob(identity, fingerprint, partition, tuple(json.loads(features)), *rest)

"""The durable ledger of releases: every pane is drawn once, stored, and only then shown."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import mysql, sqlite

from tactful_privacy._exact import Exact, fraction
from tactful_privacy.errors import (
    BudgetError,
    LedgerError,
    ParameterError,
    UnknownStatisticError,
)
from tactful_privacy.sqlite import use_write_ahead_log
from tactful_privacy.statistic import UNIT, Statistic

logger = logging.getLogger(__name__)

Draw = Callable[[], NDArray[np.int64]]

MAX_PAGE = 1_000

_LOCK_SECONDS = 30
_ATTEMPTS = 5
_MYSQL_LOCK_WAIT_TIMEOUT, _MYSQL_DEADLOCK = 1205, 1213

_tables = sa.MetaData()
_budget = sa.Table(
    "privacy_budget",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("daily_epsilon", sa.String(128), nullable=False),
    mysql_engine="InnoDB",
)
_statistics = sa.Table(
    "privacy_statistics",
    _tables,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("definition", sa.Text(2**24 - 1), nullable=False),
    sa.Column("registered_at", sa.BigInteger, nullable=False),
    mysql_engine="InnoDB",
)
_releases = sa.Table(
    "privacy_releases",
    _tables,
    # This key is what forbids a second draw, whoever tries and whenever.
    sa.Column("statistic", sa.String(128), sa.ForeignKey(_statistics.c.name), primary_key=True),
    sa.Column("pane_start", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("noisy_counts", sa.LargeBinary(2**32 - 1), nullable=False),
    sa.Column("released_at", sa.BigInteger, nullable=False),
    mysql_engine="InnoDB",
)
_noise = sa.Table(
    "privacy_noise",
    _tables,
    # Noise that several releases share. Secret, and drawn once like they are.
    sa.Column("statistic", sa.String(128), sa.ForeignKey(_statistics.c.name), primary_key=True),
    sa.Column("period_start", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("part", sa.String(64), primary_key=True),
    sa.Column("noise", sa.LargeBinary(2**32 - 1), nullable=False),
    mysql_engine="InnoDB",
)


@dataclass(frozen=True, eq=False)
class Release:
    """Noisy counts of one pane as stored, free to be shown.

    Attributes:
        statistic: Name of the statistic.
        start: Start of the pane, epoch milliseconds.
        noisy_counts: One integer for every key of the catalogue in its order, ``[keys]``; may be
            negative.
        released_at: When it was stored, epoch milliseconds.
    """

    statistic: str
    start: int
    noisy_counts: NDArray[np.int64]
    released_at: int


@dataclass(frozen=True)
class Page:
    """Some releases in time order, and the cursor that continues after them (None: no more)."""

    releases: tuple[Release, ...]
    cursor: str | None


class Ledger:
    """Releases and budget in SQLite (default) or MySQL/MariaDB.

    What it holds to, also with many processes on one database and through ``kill -9``:

    * One pane of one statistic has one release. It is committed before it is returned, and what is
      returned is read back from the database. A draw that lost a race or was not committed never
      leaves this class: two draws of one pane could be averaged, and the difference of two draws
      around an erased user would tell who was erased.
    * The registered statistics together cost at most `daily_epsilon` per user and UTC day (the sum
      of sensitivity / scale over all of them: sequential composition, Dwork and Roth 2014, th.
      3.16), because each costs its epsilon for the whole day's table of panes. A definition cannot
      be changed afterwards.

    Durability: SQLite runs with a write-ahead log and ``synchronous=FULL``; on MySQL it rests on
    ``innodb_flush_log_at_trx_commit=1``, the server's default.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        daily_epsilon: Exact | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Open the ledger, creating its tables where they are missing.

        Args:
            location: Path of an SQLite file, or a database URL (``mysql+pymysql://…``).
            daily_epsilon: Budget of one user and one UTC day over all statistics; needed when the
                ledger is new, and must agree with the stored one later.
            clock: Epoch milliseconds, for `released_at`.

        Raises:
            ParameterError: Not such a database, or the budget is missing or not positive.
            BudgetError: The ledger was made with another budget.
        """
        self._engine = _connect(location)
        self._clock = clock
        with self._engine.begin() as connection:
            for table in _tables.sorted_tables:
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
        self.daily_epsilon = self._agree_on_budget(daily_epsilon)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def register(self, statistic: Statistic) -> None:
        """Reserve the statistic's epsilon of every day; again for an equal one does nothing.

        Raises:
            BudgetError: With it, the registered statistics would exceed the budget of a day.
            LedgerError: The name is registered with another definition.
        """

        def reserve(connection: sa.Connection) -> None:
            # The lock makes two registrations at once look at each other's sum.
            connection.execute(sa.select(_budget).with_for_update())
            registered = _load_statistics(connection)
            if statistic.name in registered:
                _check_registered(connection, statistic)
                return
            spent = sum((other.epsilon for other in registered.values()), Fraction(0))
            if spent + statistic.epsilon > self.daily_epsilon:
                raise BudgetError(
                    f"statistic {statistic.name!r} costs epsilon {statistic.epsilon} a day, but of"
                    f" {self.daily_epsilon} for {UNIT} {spent} is taken by"
                    f" {', '.join(sorted(registered)) or 'none'}: lower its epsilon"
                )
            connection.execute(
                sa.insert(_statistics).values(
                    name=statistic.name,
                    fingerprint=statistic.fingerprint,
                    definition=statistic.to_json(),
                    registered_at=self._clock(),
                )
            )
            logger.info("registered statistic %s, epsilon %s", statistic.name, statistic.epsilon)

        self._write(reserve)

    def statistics(self) -> dict[str, Statistic]:
        """Return every registered statistic by name."""
        with self._reading() as connection:
            return _load_statistics(connection)

    def statistic(self, name: str) -> Statistic:
        """Return one registered statistic.

        Raises:
            UnknownStatisticError: There is none of that name.
        """
        with self._reading() as connection:
            return _load_statistic(connection, name)

    def release_once(self, statistic: Statistic, start: int, draw: Draw) -> Release:
        """Return the stored release of a pane; draw and store it first if there is none.

        Args:
            statistic: A registered statistic.
            start: Start of the pane, epoch milliseconds.
            draw: Returns the noisy counts, int64 ``[keys]``; called only when nothing is stored.

        Raises:
            LedgerError: Not registered like this, not the start of a pane, or a draw of wrong
                shape.
        """
        return self.release_many(statistic, {start: draw})[0]

    def release_many(self, statistic: Statistic, draws: Mapping[int, Draw]) -> list[Release]:
        """Do as `release_once` for several panes in one transaction.

        Args:
            statistic: A registered statistic.
            draws: Start of each pane and its draw.

        Returns:
            The stored releases in the order of `draws`.
        """
        for start in draws:
            if start % statistic.pane_ms:
                raise LedgerError(
                    f"{start} is not the start of a pane of {statistic.name!r}"
                    f" ({statistic.pane_ms} ms): overlapping panes would be charged once but"
                    " released twice"
                )
        with self._reading() as connection:
            _check_registered(connection, statistic)
            stored = _load_releases(connection, statistic, draws)
        missing = sorted(draws.keys() - stored.keys())
        if missing:
            rows = [
                {
                    "statistic": statistic.name,
                    "pane_start": start,
                    "noisy_counts": _pack(draws[start](), statistic),
                    "released_at": self._clock(),
                }
                for start in missing
            ]
            self._write(lambda connection: _insert_where_absent(connection, _releases, rows))
            with self._reading() as connection:
                stored |= _load_releases(connection, statistic, missing)
        return [stored[start] for start in draws]

    def noise_once(
        self, statistic: Statistic, period_start: int, draws: Mapping[str, Draw]
    ) -> dict[str, NDArray[np.int64]]:
        """Return the stored noise of some parts of a period; draw and store what is missing first.

        For releases that share noise, as running totals do: a part that was drawn again after a
        crash would be two draws of one secret. What is returned is secret.

        Args:
            statistic: A registered statistic.
            period_start: What the noise belongs to, e.g. the day; epoch milliseconds.
            draws: Name of each part, at most 64 characters, and its draw, int64 ``[keys]``.

        Returns:
            The stored noise of every part.

        Raises:
            LedgerError: Not registered like this, or a draw of wrong shape.
        """
        here = sa.and_(_noise.c.statistic == statistic.name, _noise.c.period_start == period_start)

        def load(connection: sa.Connection, parts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
            query = sa.select(_noise).where(here, _noise.c.part.in_(parts))
            rows = connection.execute(query)
            return {row.part: np.frombuffer(row.noise, "<i8").astype(np.int64) for row in rows}

        with self._reading() as connection:
            _check_registered(connection, statistic)
            stored = load(connection, list(draws))
        missing = sorted(draws.keys() - stored.keys())
        if missing:
            rows = [
                {
                    "statistic": statistic.name,
                    "period_start": period_start,
                    "part": part,
                    "noise": _pack(draws[part](), statistic),
                }
                for part in missing
            ]
            self._write(lambda connection: _insert_where_absent(connection, _noise, rows))
            with self._reading() as connection:
                stored |= load(connection, missing)
        return {part: stored[part] for part in draws}

    def forget_noise(self, statistic: Statistic, before: int) -> None:
        """Delete the noise of periods that start before a time, once all of them is released."""
        old = sa.delete(_noise).where(
            _noise.c.statistic == statistic.name, _noise.c.period_start < before
        )

        def forget(connection: sa.Connection) -> None:
            connection.execute(old)

        self._write(forget)

    def read(
        self,
        name: str,
        *,
        start: int | None = None,
        end: int | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Return released panes with ``start <= pane start < end`` in time order.

        Args:
            name: A registered statistic.
            start: Epoch milliseconds; None for the beginning.
            end: Epoch milliseconds; None for no end.
            cursor: Where a former page ended.
            limit: Most panes of a page, 1 to 1,000.

        Raises:
            UnknownStatisticError: There is no statistic of that name.
            ParameterError: The cursor is not one of ours, or the limit is out of range.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise ParameterError(f"limit is {limit}: give 1 to {MAX_PAGE}")
        column = _releases.c.pane_start
        query = sa.select(_releases).where(_releases.c.statistic == name)
        if start is not None:
            query = query.where(column >= start)
        if end is not None:
            query = query.where(column < end)
        if cursor is not None:
            query = query.where(column > _parse_cursor(cursor))
        with self._reading() as connection:
            statistic = _load_statistic(connection, name)
            rows = connection.execute(query.order_by(column).limit(limit + 1)).all()
        releases = tuple(_unpack(row, statistic) for row in rows[:limit])
        return Page(releases, str(releases[-1].start) if len(rows) > limit else None)

    def _agree_on_budget(self, given: Exact | None) -> Fraction:
        budget = None if given is None else fraction(given, "daily_epsilon")
        if budget is not None:
            if budget <= 0:
                raise ParameterError(f"daily_epsilon is {budget}: it must be above 0")
            row = {"id": 1, "daily_epsilon": str(budget)}
            self._write(lambda connection: _insert_where_absent(connection, _budget, [row]))
        with self._reading() as connection:
            text = connection.execute(sa.select(_budget.c.daily_epsilon)).scalar_one_or_none()
        if text is None:
            raise ParameterError("the ledger is new: give daily_epsilon, the budget of a user-day")
        stored = Fraction(text)
        if budget is not None and budget != stored:
            raise BudgetError(
                f"the ledger was made with daily_epsilon {stored}, not {budget}: the promise to"
                " the users stands; open it without daily_epsilon or with the same"
            )
        return stored

    def _reading(self) -> sa.Connection:
        return self._engine.connect().execution_options(reads_only=True)

    def _write(self, work: Callable[[sa.Connection], None]) -> None:
        """Run one transaction; again if MySQL chose it as the victim of a deadlock."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._engine.begin() as connection:
                    work(connection)
                return
            except sa.exc.OperationalError as error:
                if attempt == _ATTEMPTS or not _may_retry(error):
                    raise


def _connect(location: str | Path) -> sa.Engine:
    text = str(location)
    url = sa.make_url(text if "://" in text else f"sqlite:///{text}")
    backend = url.get_backend_name()
    if backend in ("mysql", "mariadb"):
        return sa.create_engine(url, pool_pre_ping=True)
    if backend != "sqlite":
        raise ParameterError(f"{backend} is not supported: give an SQLite path or a MySQL URL")
    if url.database in (None, "", ":memory:"):
        raise ParameterError("an SQLite ledger in memory forgets what it released: give a path")
    engine = sa.create_engine(url, connect_args={"timeout": _LOCK_SECONDS})

    # The driver's own transactions begin at the first write, too late to read and then write
    # without another writer in between; so it is told to begin none, and we begin them.
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


def _may_retry(error: sa.exc.OperationalError) -> bool:
    code = error.orig.args[0] if error.orig and error.orig.args else None
    return code in (_MYSQL_LOCK_WAIT_TIMEOUT, _MYSQL_DEADLOCK)


def _insert_where_absent(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]
) -> None:
    """Insert rows, leaving those whose primary key exists as they are."""
    if connection.dialect.name == "sqlite":
        connection.execute(sqlite.insert(table).on_conflict_do_nothing(), rows)
    else:
        # Not INSERT IGNORE, which would let truncated values pass as warnings.
        key = next(iter(table.primary_key))
        connection.execute(mysql.insert(table).on_duplicate_key_update({key.name: key}), rows)


def _load_statistics(connection: sa.Connection) -> dict[str, Statistic]:
    rows = connection.execute(sa.select(_statistics.c.name, _statistics.c.definition))
    return {row.name: Statistic.from_json(row.definition) for row in rows}


def _load_statistic(connection: sa.Connection, name: str) -> Statistic:
    query = sa.select(_statistics.c.definition).where(_statistics.c.name == name)
    definition = connection.execute(query).scalar_one_or_none()
    if definition is None:
        raise _unknown(name)
    return Statistic.from_json(definition)


def _unknown(name: str) -> UnknownStatisticError:
    return UnknownStatisticError(f"no statistic {name!r} in the ledger: register it first")


def _check_registered(connection: sa.Connection, statistic: Statistic) -> None:
    query = sa.select(_statistics.c.fingerprint).where(_statistics.c.name == statistic.name)
    fingerprint = connection.execute(query).scalar_one_or_none()
    if fingerprint is None:
        raise _unknown(statistic.name)
    if fingerprint != statistic.fingerprint:
        raise LedgerError(
            f"statistic {statistic.name!r} is registered with another definition: a changed"
            " statistic needs a new name, and its own part of the budget"
        )


def _load_releases(
    connection: sa.Connection, statistic: Statistic, starts: Iterable[int]
) -> dict[int, Release]:
    wanted, found = list(starts), {}
    for begin in range(0, len(wanted), MAX_PAGE):
        query = sa.select(_releases).where(
            _releases.c.statistic == statistic.name,
            _releases.c.pane_start.in_(wanted[begin : begin + MAX_PAGE]),
        )
        for row in connection.execute(query):
            found[row.pane_start] = _unpack(row, statistic)
    return found


def _pack(noisy_counts: NDArray[np.int64], statistic: Statistic) -> bytes:
    if noisy_counts.dtype != np.int64 or noisy_counts.shape != (len(statistic.keys),):
        raise LedgerError(
            f"a draw of {statistic.name!r} is {noisy_counts.dtype} {noisy_counts.shape}:"
            f" it must be int64 ({len(statistic.keys)},), one count for every key"
        )
    return noisy_counts.astype("<i8").tobytes()


def _unpack(row: sa.Row[Any], statistic: Statistic) -> Release:
    noisy_counts = np.frombuffer(row.noisy_counts, dtype="<i8").astype(np.int64)
    if noisy_counts.shape != (len(statistic.keys),):
        raise LedgerError(
            f"pane {row.pane_start} of {statistic.name!r} holds {noisy_counts.size} counts for"
            f" {len(statistic.keys)} keys: the ledger is damaged, restore it from a backup"
        )
    return Release(row.statistic, row.pane_start, noisy_counts, row.released_at)


def _parse_cursor(cursor: str) -> int:
    try:
        return int(cursor)
    except ValueError as error:
        raise ParameterError(f"cursor {cursor!r} is none that a page gave") from error

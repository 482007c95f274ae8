"""The durable ledger of releases: every pane is drawn once, stored, and only then shown."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from tactful_privacy import ledger_grants as grants
from tactful_privacy import ledger_rows as rows
from tactful_privacy import ledger_schema as schema
from tactful_privacy._exact import Exact
from tactful_privacy.budget import (
    ANY,
    Budget,
    Charge,
    date_of,
    total_budget,
)
from tactful_privacy.errors import (
    LedgerError,
    ParameterError,
)
from tactful_privacy.ledger_rows import MAX_PAGE
from tactful_privacy.ledger_rows import Release as Release
from tactful_privacy.query import Answer, Query
from tactful_privacy.statistic import DAY_MS, Statistic

logger = logging.getLogger(__name__)

Draw = Callable[[], NDArray[np.int64]]


_budget, _statistics, _releases = schema.budget, schema.statistics, schema.releases
_noise, _queries = schema.noise, schema.queries


@dataclass(frozen=True)
class Page:
    """Some releases in time order, and the cursor that continues after them (None: no more)."""

    releases: tuple[Release, ...]
    cursor: str | None


class Ledger:
    """Releases and budgets in SQLite (default) or MySQL/MariaDB.

    What it holds to, also with many processes on one database and through ``kill -9``:

    * One pane of one statistic has one release, and one query one answer. It is committed before
      it is returned, and what is returned is read back from the database. A draw that lost a race
      or was not committed never leaves this class: two draws of one pane could be averaged, and
      the difference of two draws around an erased user would tell who was erased.
    * What is granted is within every budget on every UTC day, see `Budget`. A statistic takes its
      loss of every day when it is registered, a query when it is asked, before the draw; whoever
      dies between the two has spent it. Nothing granted is ever given back, and a definition
      cannot be changed afterwards. A day is one of the data, not of the clock: no clock renews it.

    Durability: SQLite runs with a write-ahead log and ``synchronous=FULL``; on MySQL it rests on
    ``innodb_flush_log_at_trx_commit=1``, the server's default.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        daily_epsilon: Exact | None = None,
        budgets: Iterable[Budget] = (),
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Open the ledger, creating its tables or upgrading those of an older version.

        Args:
            location: Path of an SQLite file, or a database URL (``mysql+pymysql://…``).
            daily_epsilon: Budget of one user and one UTC day over everything; needed when the
                ledger is new, and must agree with the stored one later.
            budgets: Further ones, by tenant, purpose and days; one that covers everything may stand
                for `daily_epsilon`. They are kept: one that is left out later still holds. A new
                one must leave room for what is granted already.
            clock: Epoch milliseconds, for what is written and to know which days are over.

        Raises:
            ParameterError: Not such a database, or the budget is missing or not positive.
            BudgetError: The ledger was made with another budget, or has granted more than a new
                one allows.
            LedgerError: The ledger is damaged, out of reach, or of a newer version.
        """
        given = list(budgets)
        if daily_epsilon is not None:
            given.append(total_budget(daily_epsilon))
        if len({budget.key for budget in given}) < len(given):
            raise ParameterError("two budgets are given for the same tenant, purpose and days")
        self._engine = schema.connect(location)
        self._clock = clock
        self._definitions: dict[str, Statistic] = {}
        try:
            with schema.explained():
                schema.upgrade(self._engine)
            self._agree_on_budgets(given)
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @property
    def daily_epsilon(self) -> Fraction:
        """Epsilon of the budget over everything."""
        return self.budgets[0].epsilon

    def register(self, statistic: Statistic) -> None:
        """Do as `register_all` for one statistic."""
        self.register_all([statistic])

    def register_all(self, statistics: Iterable[Statistic], *, first_day: int = 0) -> None:
        """Reserve the loss of every day for all of the statistics, or for none of them.

        Registering an equal one again does nothing, or reserves the days from an earlier
        `first_day` on as well.

        Args:
            statistics: What is to be released.
            first_day: UTC day from which it is reserved and may be released, days since
                1970-01-01. Queries about days before do not stand in the way.

        Raises:
            BudgetError: With them, a budget would be exceeded. The message lists who takes what.
            LedgerError: A name is registered with another definition, or was retired.
        """
        wanted = list(statistics)
        now = self._clock()
        self._write(lambda connection: grants.register(connection, wanted, first_day, now))

    def retire(self, name: str) -> int:
        """End a statistic: what it takes of the days after the last one is free again.

        Processes must have stopped counting it. What was released stays.

        Returns:
            The last UTC day on which it takes part of the budget: today, or that of its last
            release.

        Raises:
            UnknownStatisticError: There is none of that name.
        """
        now = self._clock()
        self._write(lambda connection: grants.retire(connection, name, now))
        column = _statistics.c.last_day
        with self._reading() as connection:
            found = connection.scalar(sa.select(column).where(_statistics.c.name == name))
        return int(found or 0)

    def statistics(self) -> dict[str, Statistic]:
        """Return every registered statistic by name, retired ones too."""
        with self._reading() as connection:
            found = connection.execute(rows.select_statistics).all()
        return {row.name: rows.definition(row) for row in found}

    def statistic(self, name: str) -> Statistic:
        """Return one registered statistic.

        Raises:
            UnknownStatisticError: There is none of that name.
        """
        if name not in self._definitions:  # a definition never changes
            with self._reading() as connection:
                self._definitions[name] = rows.load_statistic(connection, name)
        return self._definitions[name]

    def charges(self) -> list[Charge]:
        """Return what statistics have reserved and queries have spent."""
        with self._reading() as connection:
            return rows.load_charges(connection)

    def released_days(self, first_day: int, last_day: int) -> dict[str, list[int]]:
        """Return the UTC days of which each statistic has released anything, by name.

        Args:
            first_day: First day to look at, days since 1970-01-01.
            last_day: The last one.
        """
        day = (_releases.c.pane_start // DAY_MS).label("day")
        query = (
            sa.select(_releases.c.statistic, day)
            .where(_releases.c.pane_start.between(first_day * DAY_MS, (last_day + 1) * DAY_MS - 1))
            .distinct()
            .order_by(_releases.c.statistic, day)
        )
        found: dict[str, list[int]] = {}
        with self._reading() as connection:
            for row in connection.execute(query):
                found.setdefault(row.statistic, []).append(int(row.day))
        return found

    def last_pane(self, name: str) -> int | None:
        """Return the start of the newest released pane of a statistic, None if there is none."""
        query = sa.select(sa.func.max(_releases.c.pane_start)).where(_releases.c.statistic == name)
        with self._reading() as connection:
            found = connection.scalar(query)
        return None if found is None else int(found)

    def answer_once(self, query: Query, draw: Draw) -> Answer:
        """Return the stored answer of a query; charge, draw and store it first if there is none.

        The charge is committed before the draw. Whoever dies in between has spent it, and may ask
        again: the draw that died was seen by nobody, so the next one is the first.

        Args:
            query: What is asked. Asked by the same name, it must be the same in all.
            draw: Runs the mechanism, int64 ``[n]``; called only when no answer is stored.

        Raises:
            BudgetError: A budget would be exceeded on one of the days.
            LedgerError: The name stands for another query, one of the days is not over by the
                clock, or a draw of wrong shape.
        """
        stored = self._answer(query)
        if stored is None:
            now = self._clock()
            self._write(lambda connection: grants.reserve(connection, query, now))
        elif stored.values is not None:
            return stored
        values = draw()
        if values.dtype != np.int64 or values.ndim != 1:
            raise LedgerError(
                f"the answer of {query.name!r} is {values.dtype} {values.shape}: it must be int64,"
                " of one dimension"
            )
        answer = (
            sa.update(_queries)
            .where(_queries.c.name == query.name, _queries.c.answered_at.is_(None))
            .values(answer=values.astype("<i8").tobytes(), answered_at=self._clock())
        )

        def store(connection: sa.Connection) -> None:
            connection.execute(answer)

        self._write(store)
        found = self._answer(query)
        if found is None or found.values is None:
            raise LedgerError(f"the answer of {query.name!r} was not stored: nothing is shown")
        return found

    def answers(self, first_day: int, last_day: int) -> list[Answer]:
        """Return the queries about any of the days, answered or not, in the order of asking."""
        query = (
            sa.select(_queries)
            .where(_queries.c.first_day <= last_day, _queries.c.last_day >= first_day)
            .order_by(_queries.c.reserved_at, _queries.c.name)
        )
        with self._reading() as connection:
            return [rows.unpack_answer(row) for row in connection.execute(query)]

    def _answer(self, query: Query) -> Answer | None:
        with self._reading() as connection:
            return rows.load_answer(connection, query)

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
            first_day, last_day = rows.check_registered(connection, statistic)
            stored = rows.load_releases(connection, statistic, draws)
        missing = sorted(draws.keys() - stored.keys())
        for start in missing:
            if not first_day <= start // DAY_MS <= last_day:
                raise LedgerError(
                    f"statistic {statistic.name!r} has nothing reserved for"
                    f" {date_of(start // DAY_MS)}: it begins later or is retired"
                )
        if missing:
            new = [
                {
                    "statistic": statistic.name,
                    "pane_start": start,
                    "noisy_counts": rows.pack(draws[start](), statistic),
                    "released_at": self._clock(),
                }
                for start in missing
            ]
            self._write(lambda connection: schema.insert_where_absent(connection, _releases, new))
            with self._reading() as connection:
                stored |= rows.load_releases(connection, statistic, missing)
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
            found = connection.execute(query)
            return {row.part: np.frombuffer(row.noise, "<i8").astype(np.int64) for row in found}

        with self._reading() as connection:
            rows.check_registered(connection, statistic)
            stored = load(connection, list(draws))
        missing = sorted(draws.keys() - stored.keys())
        if missing:
            new = [
                {
                    "statistic": statistic.name,
                    "period_start": period_start,
                    "part": part,
                    "noise": rows.pack(draws[part](), statistic),
                }
                for part in missing
            ]
            self._write(lambda connection: schema.insert_where_absent(connection, _noise, new))
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
        statistic = self.statistic(name)
        with self._reading() as connection:
            found = connection.execute(query.order_by(column).limit(limit + 1)).all()
        releases = tuple(rows.unpack(row, statistic) for row in found[:limit])
        return Page(releases, str(releases[-1].start) if len(found) > limit else None)

    def _agree_on_budgets(self, given: Sequence[Budget]) -> None:
        with self._reading() as connection:
            stored = rows.load_budgets(connection)
        if any(stored.get(budget.key) != budget for budget in given):
            self._write(lambda connection: grants.keep_budgets(connection, given))
            with self._reading() as connection:
                stored = rows.load_budgets(connection)
        total = stored.pop((ANY, ANY, 1), None)
        if total is None:
            raise ParameterError("the ledger is new: give daily_epsilon, the budget of a user-day")
        self.budgets = (total, *(stored[line] for line in sorted(stored)))
        """What holds, the budget over everything first."""

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with (
            schema.explained(),
            self._engine.connect().execution_options(reads_only=True) as connection,
        ):
            yield connection

    def _write(self, work: Callable[[sa.Connection], None]) -> None:
        with schema.explained():
            schema.write(self._engine, work)


def _parse_cursor(cursor: str) -> int:
    try:
        return int(cursor)
    except ValueError as error:
        raise ParameterError(f"cursor {cursor!r} is none that a page gave") from error

"""The durable ledger of releases: a pane is drawn once, stored, then shown."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from tactful_privacy.errors import LedgerError, ParameterError
from tactful_privacy.ledger import fencing, grants, rows, schema
from tactful_privacy.ledger.budget import ANY, Budget, Charge, date_of, total_budget
from tactful_privacy.ledger.fencing import DayClaim as DayClaim
from tactful_privacy.ledger.query import Answer, Query
from tactful_privacy.ledger.rows import MAX_PAGE, SharedNoise
from tactful_privacy.ledger.rows import Draw as Draw
from tactful_privacy.ledger.rows import Release as Release
from tactful_privacy.ledger.statistic import DAY_MS, Statistic
from tactful_privacy.mechanisms._exact import Exact

logger = logging.getLogger(__name__)

_budget, _statistics, _releases = schema.budget, schema.statistics, schema.releases
_queries = schema.queries
_CURSOR = re.compile(r"-?\d{1,18}", re.ASCII)  # fits into 64 bits


@dataclass(frozen=True)
class Page:
    """Releases in time order, and the cursor of the next page (None: no more)."""

    releases: tuple[Release, ...]
    cursor: str | None


class Ledger:
    """Releases and budgets in SQLite (default), PostgreSQL or MySQL/MariaDB.

    Guarantees, also with many processes on one database and through ``kill -9``:

    * One pane of a statistic has one release, and one query has one answer. It is committed before
      it is returned, and the returned value is read back from the database. A draw that lost a race
      or was not committed never leaves this class: two draws of one pane could be averaged, and
      the difference of two draws around an erased user would reveal who was erased.
    * Grants stay within every budget on every UTC day, see `Budget`. A statistic reserves its loss
      of every day when it is registered, a query when it is asked, before the draw; a process that
      dies between the two has spent it. No grant is given back, and a definition cannot be changed
      afterwards. A day is a day of the data, not of the clock: no clock renews it.

    Durability: SQLite runs with a write-ahead log and ``synchronous=FULL``; MySQL needs
    ``innodb_flush_log_at_trx_commit=1``, and PostgreSQL ``synchronous_commit=on``, the defaults.

    Rows by example (tables in `ledger_schema`):

        statistics  "views.hourly", definition as JSON, first_day 0, last_day 2^62
        releases    "views.hourly", 1767225600000, noisy counts int64 [keys]
        queries     "views.hourly: cap of 2026-01-02", first_day = last_day, answer or NULL
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
            location: Path of an SQLite file, or a database URL (``postgresql+psycopg://…``,
                ``mysql+pymysql://…``).
            daily_epsilon: Budget of one user and one UTC day over everything; needed when the
                ledger is new, and must agree with the stored one later.
            budgets: Further budgets by tenant, purpose and days; a budget over everything may
                replace `daily_epsilon`. They are stored: a budget left out later still holds. A
                new budget must leave room for earlier grants.
            clock: Epoch milliseconds, for stored times and to decide which days are over.

        Raises:
            ParameterError: Not such a database, or the budget is missing or not positive.
            BudgetError: The ledger was made with another budget, or has granted more than a new
                budget allows.
            LedgerError: The ledger is damaged, out of reach, or of a newer version.
        """
        given = list(budgets)
        if daily_epsilon is not None:
            given.append(total_budget(daily_epsilon))
        if len({budget.key for budget in given}) < len(given):
            raise ParameterError("two budgets are given for the same tenant, purpose and days")
        self._engine = schema.connect(location)
        self._clock = clock
        self.shared_noise = SharedNoise(self._engine)
        self._definitions: dict[str, Statistic] = {}
        # The fence of this process while it may release panes, else None. Without such a
        # function no lease is in use, and every process may release.
        self.fence: Callable[[], int | None] | None = None
        try:
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
        """Register one statistic, see `register_all`."""
        self.register_all([statistic])

    def register_all(self, statistics: Iterable[Statistic], *, first_day: int = 0) -> None:
        """Reserve the loss of every day for all of the statistics, or for none of them.

        Registering an equal statistic again does nothing, or also reserves the days from an
        earlier `first_day` on.

        Args:
            statistics: The statistics to release.
            first_day: UTC day from which loss is reserved and panes may be released, days since
                1970-01-01. Queries about earlier days do not count against it.

        Raises:
            BudgetError: A budget would be exceeded. The message lists every charge.
            LedgerError: A name is registered with another definition, or was retired.
        """
        wanted = list(statistics)
        now = self._clock()
        schema.write(
            self._engine, lambda connection: grants.register(connection, wanted, first_day, now)
        )

    def retire(self, name: str) -> int:
        """End a statistic and free its budget of the days after its last day.

        Processes must have stopped counting it. Its releases stay. Return the last UTC day on which
        it uses the budget: today, or the day of its last release.
        """
        now = self._clock()
        schema.write(self._engine, lambda connection: grants.retire(connection, name, now))
        column = _statistics.c.last_day
        with schema.reading(self._engine) as connection:
            last_day = connection.scalar(sa.select(column).where(_statistics.c.name == name))
        return int(last_day or 0)

    def statistics(self) -> dict[str, Statistic]:
        """Return every registered statistic by name, retired ones too."""
        with schema.reading(self._engine) as connection:
            stored = connection.execute(rows.select_statistics).all()
        return {row.name: rows.definition(row) for row in stored}

    def statistic(self, name: str) -> Statistic:
        """Return one registered statistic; `UnknownStatisticError` if there is none."""
        if name not in self._definitions:  # a definition never changes
            with schema.reading(self._engine) as connection:
                self._definitions[name] = rows.load_statistic(connection, name)
        return self._definitions[name]

    def charges(self) -> list[Charge]:
        """Return the charges of statistics and queries."""
        with schema.reading(self._engine) as connection:
            return rows.load_charges(connection)

    def released_days(self, first_day: int, last_day: int) -> dict[str, list[int]]:
        """Return the UTC days with a release of each statistic, by name.

        Days are counted since 1970-01-01.
        """
        day = (_releases.c.pane_start // DAY_MS).label("day")
        query = (
            sa.select(_releases.c.statistic, day)
            .where(_releases.c.pane_start.between(first_day * DAY_MS, (last_day + 1) * DAY_MS - 1))
            .distinct()
            .order_by(_releases.c.statistic, day)
        )
        days: dict[str, list[int]] = {}
        with schema.reading(self._engine) as connection:
            for row in connection.execute(query):
                days.setdefault(row.statistic, []).append(int(row.day))
        return days

    def last_pane(self, name: str) -> int | None:
        """Return the start of the newest released pane of a statistic, None without any."""
        query = sa.select(sa.func.max(_releases.c.pane_start)).where(_releases.c.statistic == name)
        with schema.reading(self._engine) as connection:
            newest = connection.scalar(query)
        return None if newest is None else int(newest)

    def answer_once(self, query: Query, draw: Draw) -> Answer:
        """Return the stored answer of a query; without one, charge, draw and store it.

        The charge is committed before the draw. A process that dies in between has spent it, and
        may ask again: nobody saw the lost draw, so the next draw is the first.

        Args:
            query: The query; a name always stands for the same query.
            draw: Runs the mechanism, int64 ``[n]``; called only when no answer is stored.

        Raises:
            BudgetError: A budget would be exceeded on one of the days.
            LedgerError: The name stands for another query, a day is not over by the clock, or the
                draw has a wrong shape.
        """
        stored = self._answer(query)
        if stored is None:
            now = self._clock()
            schema.write(self._engine, lambda connection: grants.reserve(connection, query, now))
        elif stored.values is not None:
            return stored
        values = draw()
        if values.dtype != np.int64 or values.ndim != 1:
            raise LedgerError(
                f"the answer of {query.name!r} is {values.dtype} {values.shape}: it must be int64,"
                " of one dimension"
            )
        # Only an unanswered row is updated: of concurrent draws the first one stays.
        answer = (
            sa.update(_queries)
            .where(_queries.c.name == query.name, _queries.c.answered_at.is_(None))
            .values(answer=values.astype("<i8").tobytes(), answered_at=self._clock())
        )
        schema.write(self._engine, lambda connection: connection.execute(answer))
        stored = self._answer(query)
        if stored is None or stored.values is None:
            raise LedgerError(f"the answer of {query.name!r} was not stored: nothing is shown")
        return stored

    def charge(self, queries: Iterable[Query]) -> None:
        """Charge queries whose answers are drawn and stored elsewhere, each once or none of them.

        Call it before the draw. A day may be charged before it is over. `BudgetError` if a budget
        would be exceeded, `LedgerError` if a name stands for another query.
        """
        now, wanted = self._clock(), list(queries)

        def reserve(connection: sa.Connection) -> None:
            for query in wanted:
                grants.reserve(connection, query, now, ahead=True)

        schema.write(self._engine, reserve)

    def answers(self, first_day: int, last_day: int) -> list[Answer]:
        """Return the queries about the days, answered or not, in the order of reservation."""
        query = (
            sa.select(_queries)
            .where(_queries.c.first_day <= last_day, _queries.c.last_day >= first_day)
            .order_by(_queries.c.reserved_at, _queries.c.name)
        )
        with schema.reading(self._engine) as connection:
            return [rows.unpack_answer(row) for row in connection.execute(query)]

    def is_answered(self, query: Query) -> bool:
        """Return whether the answer of a query is stored."""
        stored = self._answer(query)
        return stored is not None and stored.values is not None

    def _answer(self, query: Query) -> Answer | None:
        with schema.reading(self._engine) as connection:
            return rows.load_answer(connection, query)

    def release_once(self, statistic: Statistic, start: int, draw: Draw) -> Release:
        """Return the stored release of a pane; without one, draw and store it.

        Args:
            statistic: A registered statistic.
            start: Start of the pane, epoch milliseconds.
            draw: Returns the noisy counts, int64 ``[keys]``; called only when nothing is stored.

        Raises:
            LedgerError: The statistic is not registered like this, `start` is not the start of a
                pane, or the draw has a wrong shape.
        """
        return self.release_many(statistic, {start: draw})[0]

    def release_many(
        self, statistic: Statistic, draws: Mapping[int, Draw], *, claim: DayClaim | None = None
    ) -> list[Release]:
        """Release several panes, by their starts, in one transaction; see `release_once`.

        The stored releases are returned in the order of `draws`. Under a lease, with `claim`,
        panes of days that belong to another counter are drawn by nobody here, and left out.

        Raises:
            LedgerFencedError: Under a lease: another process releases these panes now.
        """
        for start in draws:
            if statistic.start_of(start) != start:
                length = statistic.period or f"{statistic.pane_ms} ms"
                raise LedgerError(
                    f"{start} is not the start of a pane of {statistic.name!r} ({length}):"
                    " overlapping panes would be charged once but released twice"
                )
        with schema.reading(self._engine) as connection:
            first_day, last_day = rows.check_registered(connection, statistic)
            stored = rows.load_releases(connection, statistic, draws)
        missing = sorted(draws.keys() - stored.keys())
        for start in missing:
            until = (statistic.end_of(start) - 1) // DAY_MS
            if not first_day <= start // DAY_MS <= until <= last_day:
                raise LedgerError(
                    f"statistic {statistic.name!r} has nothing reserved for"
                    f" {date_of(start // DAY_MS)}: the statistic begins later or is retired"
                )
        if missing:
            # Two processes may draw the same pane. The primary key keeps the first insert; both
            # read it back, so the other draw is never shown.
            new = [
                {
                    "statistic": statistic.name,
                    "pane_start": start,
                    "noisy_counts": rows.pack(draws[start](), statistic),
                    "released_at": self._clock(),
                }
                for start in missing
            ]
            schema.write(
                self._engine,
                lambda connection: fencing.insert_releases(connection, new, claim, self.fence),
            )
            with schema.reading(self._engine) as connection:
                stored |= rows.load_releases(connection, statistic, missing)
        return [stored[start] for start in draws if start in stored]

    def owns_day(self, claim: DayClaim, day: int) -> bool:
        """Return whether a UTC day belongs to a counter, days since 1970-01-01."""
        with schema.reading(self._engine) as connection:
            owners = fencing.day_owners(connection, claim.statistic, [day])
        return owners.get(day) == claim.counter

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
            cursor: Cursor of an earlier page.
            limit: Most panes of a page, 1 to 1,000.

        Raises:
            UnknownStatisticError: No statistic has that name.
            ParameterError: The cursor is not from a page, or the limit is out of range.
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
        with schema.reading(self._engine) as connection:
            page = connection.execute(query.order_by(column).limit(limit + 1)).all()
        releases = tuple(rows.unpack(row, statistic) for row in page[:limit])
        return Page(releases, str(releases[-1].start) if len(page) > limit else None)

    def _agree_on_budgets(self, given: Sequence[Budget]) -> None:
        with schema.reading(self._engine) as connection:
            stored = rows.load_budgets(connection)
        if any(stored.get(budget.key) != budget for budget in given):
            schema.write(self._engine, lambda connection: grants.keep_budgets(connection, given))
            with schema.reading(self._engine) as connection:
                stored = rows.load_budgets(connection)
        total = stored.pop((ANY, ANY, 1), None)
        if total is None:
            raise ParameterError("the ledger is new: give daily_epsilon, the budget of a user-day")
        self.budgets = (total, *(stored[line] for line in sorted(stored)))
        """Budgets in force, the budget over everything first."""


def _parse_cursor(cursor: str) -> int:
    if _CURSOR.fullmatch(cursor) is None:
        raise ParameterError(f"cursor is {cursor!r}: give the cursor of an earlier page")
    return int(cursor)

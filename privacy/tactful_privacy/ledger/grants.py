"""Grants of the ledger: budgets, statistics and queries, each in one transaction.

Every function locks first and then reads, so that concurrent grants see each other and budgets
added by other processes count.
"""

import logging
from collections.abc import Sequence

import sqlalchemy as sa

from tactful_privacy.errors import BudgetError, LedgerError
from tactful_privacy.ledger import rows, schema
from tactful_privacy.ledger.budget import (
    ANY,
    MAX_DAYS,
    Budget,
    Charge,
    date_of,
    refuse_overspending,
)
from tactful_privacy.ledger.query import Query
from tactful_privacy.ledger.statistic import DAY_MS, Statistic

logger = logging.getLogger(__name__)

_statistics, _releases, _queries = schema.statistics, schema.releases, schema.queries


def keep_budgets(connection: sa.Connection, given: Sequence[Budget]) -> None:
    """Store new budgets.

    One that is stored with other terms, or allows less than is granted, raises `BudgetError`; a
    ledger with grants but without the budget over everything raises `LedgerError`.
    """
    schema.lock(connection)
    stored = rows.load_budgets(connection)
    for budget in given:
        before = stored.get(budget.key)
        if before is not None and before != budget:
            raise BudgetError(
                f"the ledger was made with {rows.terms(before)}, not {rows.terms(budget)},"
                f" as {budget}: a promise to users cannot be changed; open the ledger without this"
                " budget or with the same terms"
            )
    taken = rows.load_charges(connection)
    for budget in given:
        if budget.key in stored:
            continue
        if budget.key == (ANY, ANY, 1):
            if rows.holds_anything(connection):
                raise LedgerError(
                    "the ledger holds releases but no budget: it is damaged, restore it from a"
                    " backup"
                )
            row = {"id": 1, "daily_epsilon": str(budget.epsilon)}
            schema.insert_where_absent(connection, schema.budget, [row])
        refuse_overspending([budget], [], taken)
        rows.insert_budget(connection, budget)


def register(
    connection: sa.Connection, wanted: Sequence[Statistic], first_day: int, now: int
) -> None:
    """Reserve the loss of statistics, for all or none; see `Ledger.register_all`."""
    schema.lock(connection)
    known = set(connection.execute(sa.select(_statistics.c.name)).scalars())
    earlier: list[Charge] = []
    for statistic in wanted:
        if statistic.name in known:
            begins, last_day = rows.check_registered(connection, statistic)
            if last_day < schema.FOREVER:
                raise LedgerError(
                    f"statistic {statistic.name!r} was retired on {date_of(last_day)}:"
                    " give its successor a new name"
                )
            if first_day < begins:
                earlier.append(rows.charge(statistic, first_day, begins - 1))
    new = [statistic for statistic in wanted if statistic.name not in known]
    asked = [rows.charge(statistic, first_day, schema.FOREVER) for statistic in new]
    if earlier or asked:
        taken = rows.load_charges(connection, first_day - MAX_DAYS)
        refuse_overspending(rows.load_budgets(connection).values(), taken, [*earlier, *asked])
    for charge in earlier:
        begin = sa.update(_statistics).where(_statistics.c.name == charge.name)
        connection.execute(begin.values(first_day=first_day))
    for statistic in new:
        connection.execute(
            sa.insert(_statistics).values(
                name=statistic.name,
                fingerprint=statistic.fingerprint,
                definition=statistic.to_json(),
                registered_at=now,
                first_day=first_day,
                last_day=schema.FOREVER,
            )
        )
        logger.info("registered statistic %s, %s", statistic.name, statistic.loss)


def retire(connection: sa.Connection, name: str, now: int) -> None:
    """End a statistic today or on the day of its newest release; see `Ledger.retire`."""
    schema.lock(connection)
    statistic = rows.load_statistic(connection, name)
    newest = sa.select(sa.func.max(_releases.c.pane_start)).where(_releases.c.statistic == name)
    start = connection.scalar(newest)
    last = max(now, 0 if start is None else statistic.end_of(start) - 1) // DAY_MS
    connection.execute(
        sa.update(_statistics)
        .where(_statistics.c.name == name, _statistics.c.last_day > last)
        .values(last_day=last)
    )


def reserve(connection: sa.Connection, query: Query, now: int, *, ahead: bool = False) -> None:
    """Charge a query that is not charged yet; `BudgetError` if a budget would be exceeded.

    A day that is not over, unless charged `ahead`, or the name of another query, raises
    `LedgerError`.
    """
    schema.lock(connection)
    if rows.load_answer(connection, query) is not None:
        return  # another process reserved it
    if query.last_day >= now // DAY_MS and not ahead:
        raise LedgerError(
            f"query {query.name!r} is about {date_of(query.last_day)}, which is not over by the"
            " clock: ask later, or check the clock"
        )
    if query.within is None:
        taken = rows.load_charges(connection, query.first_day - MAX_DAYS, query.last_day + MAX_DAYS)
        budgets = rows.load_budgets(connection).values()
        refuse_overspending(budgets, taken, [rows.query_charge(query)])
    else:
        rows.refuse_beyond_reservation(connection, query)
    connection.execute(
        sa.insert(_queries).values(
            name=query.name,
            fingerprint=query.fingerprint,
            definition=query.to_json(),
            first_day=query.first_day,
            last_day=query.last_day,
            reserved_at=now,
        )
    )
    logger.info("reserved query %s, %s", query.name, query.loss)

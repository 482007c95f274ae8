"""What the rows of the ledger mean, and how they are checked when they are read."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from tactful_privacy import ledger_schema as schema
from tactful_privacy.budget import Budget, Charge, refuse_overspending
from tactful_privacy.errors import LedgerError, ParameterError, UnknownStatisticError
from tactful_privacy.query import Answer, Query
from tactful_privacy.statistic import FOUND_KEYS, Statistic

MAX_PAGE = 1_000

_T = TypeVar("_T", Statistic, Query)

_statistics, _releases, _queries = schema.statistics, schema.releases, schema.queries

select_statistics = sa.select(_statistics)


@dataclass(frozen=True, eq=False)
class Release:
    """Noisy counts of one pane as stored, free to be shown.

    Attributes:
        statistic: Name of the statistic.
        start: Start of the pane, epoch milliseconds.
        noisy_counts: One integer for every key of the catalogue in its order, ``[keys]``; may be
            negative. Of `FOUND_KEYS` it is what `found_values` reads.
        released_at: When it was stored, epoch milliseconds.
    """

    statistic: str
    start: int
    noisy_counts: NDArray[np.int64]
    released_at: int


def load_budgets(connection: sa.Connection) -> dict[tuple[str, str, int], Budget]:
    """Return the stored budgets by tenant, purpose and days."""
    of_a_day = connection.execute(sa.select(schema.budgets, sa.literal(1).label("days"))).all()
    of_several = connection.execute(sa.select(schema.span_budgets)).all()
    try:
        budgets = [
            Budget(
                schema.exact(row.epsilon, "budget"),
                schema.exact(row.delta, "budget"),
                row.tenant,
                row.purpose,
                row.composition,
                row.days,
            )
            for row in (*of_a_day, *of_several)
        ]
    except ParameterError as error:
        raise LedgerError(f"the ledger is damaged: {error}; restore it from a backup") from error
    return {budget.key: budget for budget in budgets}


def insert_budget(connection: sa.Connection, budget: Budget) -> None:
    """Store a budget that is new."""
    row = {
        "tenant": budget.tenant,
        "purpose": budget.purpose,
        "epsilon": str(budget.epsilon),
        "delta": str(budget.delta),
        "composition": budget.composition,
    }
    if budget.days == 1:
        connection.execute(sa.insert(schema.budgets).values(row))
    else:
        connection.execute(sa.insert(schema.span_budgets).values(row | {"days": budget.days}))


def terms(budget: Budget) -> str:
    """Return what a budget allows, in words."""
    delta = f", delta {budget.delta}" if budget.delta else ""
    by = "" if budget.composition == "basic" else f" by {budget.composition}"
    name = "daily_epsilon" if budget.days == 1 else "epsilon"
    return f"{name} {budget.epsilon}{delta}{by}"


def holds_anything(connection: sa.Connection) -> bool:
    """Whether anything but budgets is stored."""
    tables = (_statistics, _releases, _queries)
    return any(connection.execute(sa.select(table).limit(1)).first() for table in tables)


def charge(statistic: Statistic, first_day: int, last_day: int) -> Charge:
    """Return what a statistic takes of each day."""
    return Charge(
        statistic.name, statistic.tenant, statistic.purpose, first_day, last_day, statistic.loss
    )


def query_charge(query: Query) -> Charge:
    """Return what a query takes of each of its days."""
    return Charge(
        f"query {query.name}",
        query.tenant,
        query.purpose,
        query.first_day,
        query.last_day,
        query.loss,
    )


def load_charges(
    connection: sa.Connection, first_day: int = 0, last_day: int = schema.FOREVER
) -> list[Charge]:
    """Return what is taken of some days, but for what statistics had reserved for queries."""
    rows = connection.execute(select_statistics).all()
    charges = [charge(definition(row), row.first_day, row.last_day) for row in rows]
    asked = _queries_about(connection, first_day, last_day)
    return charges + [query_charge(query) for query in asked if query.within is None]


def refuse_beyond_reservation(connection: sa.Connection, query: Query) -> None:
    """Raise unless the statistic that has reserved the query's loss has any of it left."""
    statistic = load_statistic(connection, str(query.within))
    choice = statistic.cap_choice
    if choice is None:
        raise LedgerError(f"statistic {statistic.name!r} has reserved nothing for queries")
    others = _queries_about(connection, query.first_day, query.last_day)
    taken = [query_charge(other) for other in others if other.within == query.within]
    reserved = Budget(choice.epsilon)
    refuse_overspending([reserved], taken, [query_charge(query)])


def _queries_about(connection: sa.Connection, first_day: int, last_day: int) -> list[Query]:
    columns = (_queries.c.name, _queries.c.fingerprint, _queries.c.definition)
    about = sa.and_(_queries.c.first_day <= last_day, _queries.c.last_day >= first_day)
    return [_decoded(Query, row) for row in connection.execute(sa.select(*columns).where(about))]


def load_answer(connection: sa.Connection, query: Query) -> Answer | None:
    """Return the row of a query, None if it was not asked; a different one is refused."""
    found = sa.select(_queries).where(_queries.c.name == query.name)
    row = connection.execute(found).one_or_none()
    if row is None:
        return None
    if row.fingerprint != query.fingerprint:
        raise LedgerError(
            f"{query.name!r} is the name of another query in the ledger: a changed one needs a new"
            " name, and its own part of the budget"
        )
    return unpack_answer(row)


def unpack_answer(row: sa.Row[Any]) -> Answer:
    """Return what a row of queries holds."""
    query = _decoded(Query, row)
    if (row.answer is None) != (row.answered_at is None) or len(row.answer or b"") % 8:
        raise LedgerError(f"the answer of {row.name!r} is damaged: restore the ledger")
    values = None if row.answer is None else np.frombuffer(row.answer, "<i8").astype(np.int64)
    return Answer(query, values, row.reserved_at, row.answered_at)


def definition(row: sa.Row[Any]) -> Statistic:
    """Return the statistic that a row defines."""
    return _decoded(Statistic, row)


def _decoded(kind: type[_T], row: Any) -> _T:
    """Return what a row defines, if it is what was written."""
    try:
        found = kind.from_json(row.definition)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LedgerError(
            f"the definition of {row.name!r} is damaged: restore the ledger from a backup"
        ) from error
    if found.fingerprint != row.fingerprint or found.name != row.name:
        raise LedgerError(
            f"the definition of {row.name!r} does not agree with its fingerprint: the ledger is"
            " damaged, restore it from a backup"
        )
    return found


def load_statistic(connection: sa.Connection, name: str) -> Statistic:
    """Return a registered statistic."""
    row = connection.execute(select_statistics.where(_statistics.c.name == name)).one_or_none()
    if row is None:
        raise _unknown(name)
    return definition(row)


def _unknown(name: str) -> UnknownStatisticError:
    return UnknownStatisticError(f"no statistic {name!r} in the ledger: register it first")


def check_registered(connection: sa.Connection, statistic: Statistic) -> tuple[int, int]:
    """Return the first and last day of a statistic; one that is not registered is refused."""
    columns = (_statistics.c.fingerprint, _statistics.c.first_day, _statistics.c.last_day)
    query = sa.select(*columns).where(_statistics.c.name == statistic.name)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise _unknown(statistic.name)
    if row.fingerprint != statistic.fingerprint:
        raise LedgerError(
            f"statistic {statistic.name!r} is registered with another definition: a changed"
            " statistic needs a new name, and its own part of the budget"
        )
    return row.first_day, row.last_day


def load_releases(
    connection: sa.Connection, statistic: Statistic, starts: Iterable[int]
) -> dict[int, Release]:
    """Return the stored releases of some panes by their start."""
    wanted, found = list(starts), {}
    for begin in range(0, len(wanted), MAX_PAGE):
        query = sa.select(_releases).where(
            _releases.c.statistic == statistic.name,
            _releases.c.pane_start.in_(wanted[begin : begin + MAX_PAGE]),
        )
        for row in connection.execute(query):
            found[row.pane_start] = unpack(row, statistic)
    return found


def pack(noisy_counts: NDArray[np.int64], statistic: Statistic) -> bytes:
    """Return a draw as it is stored; of `FOUND_KEYS` it has any length."""
    wrong = noisy_counts.dtype != np.int64 or noisy_counts.ndim != 1
    if statistic.kind == FOUND_KEYS and not wrong:
        return noisy_counts.astype("<i8").tobytes()
    if noisy_counts.dtype != np.int64 or noisy_counts.shape != (len(statistic.keys),):
        raise LedgerError(
            f"a draw of {statistic.name!r} is {noisy_counts.dtype} {noisy_counts.shape}:"
            f" it must be int64 ({len(statistic.keys)},), one count for every key"
        )
    return noisy_counts.astype("<i8").tobytes()


def unpack(row: sa.Row[Any], statistic: Statistic) -> Release:
    """Return what a row of releases holds."""
    noisy_counts = np.frombuffer(row.noisy_counts, dtype="<i8").astype(np.int64)
    if statistic.kind != FOUND_KEYS and noisy_counts.shape != (len(statistic.keys),):
        raise LedgerError(
            f"pane {row.pane_start} of {statistic.name!r} holds {noisy_counts.size} counts for"
            f" {len(statistic.keys)} keys: the ledger is damaged, restore it from a backup"
        )
    return Release(row.statistic, row.pane_start, noisy_counts, row.released_at)

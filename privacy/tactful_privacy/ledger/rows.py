"""Reading and writing of the ledger's rows, with checks for damage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.errors import LedgerError, ParameterError, UnknownStatisticError
from tactful_privacy.ledger import schema
from tactful_privacy.ledger.budget import Budget, Charge, refuse_overspending
from tactful_privacy.ledger.query import Answer, Query
from tactful_privacy.ledger.statistic import FOUND_KEYS, Statistic

MAX_PAGE = 1_000

_T = TypeVar("_T", Statistic, Query)

Draw = Callable[[], NDArray[np.int64]]

_statistics, _releases, _queries = schema.statistics, schema.releases, schema.queries
_noise = schema.noise

select_statistics = sa.select(_statistics)


@dataclass(frozen=True, eq=False)
class Release:
    """Noisy counts of one pane as stored, free to be shown.

    Attributes:
        statistic: Name of the statistic.
        start: Start of the pane, epoch milliseconds.
        noisy_counts: One integer for every key of the catalogue in its order, ``[keys]``; may be
            negative. For `FOUND_KEYS` the bytes that `found_values` decodes.
        released_at: Time of storage, epoch milliseconds.
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
            Budget(row.epsilon, row.delta, row.tenant, row.purpose, row.composition, row.days)
            for row in (*of_a_day, *of_several)
        ]
    except ParameterError as error:
        raise LedgerError(f"the ledger is damaged: {error}; restore it from a backup") from error
    return {budget.key: budget for budget in budgets}


def insert_budget(connection: sa.Connection, budget: Budget) -> None:
    """Store a new budget."""
    row = asdict(budget) | {"epsilon": str(budget.epsilon), "delta": str(budget.delta)}
    if budget.days == 1:
        del row["days"]
    table = schema.budgets if budget.days == 1 else schema.span_budgets
    connection.execute(sa.insert(table).values(row))


def terms(budget: Budget) -> str:
    """Return the terms of a budget in words."""
    delta = f", delta {budget.delta}" if budget.delta else ""
    by = "" if budget.composition == "basic" else f" by {budget.composition}"
    name = "daily_epsilon" if budget.days == 1 else "epsilon"
    return f"{name} {budget.epsilon}{delta}{by}"


def holds_anything(connection: sa.Connection) -> bool:
    """Whether anything but budgets is stored."""
    tables = (_statistics, _releases, _queries)
    return any(connection.execute(sa.select(table).limit(1)).first() for table in tables)


def charge(statistic: Statistic, first_day: int, last_day: int) -> Charge:
    """Return the charge of a statistic on each day."""
    return Charge(
        statistic.name, statistic.tenant, statistic.purpose, first_day, last_day, statistic.loss
    )


def query_charge(query: Query) -> Charge:
    """Return the charge of a query on each of its days."""
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
    """Return the charges on some days, without queries reserved by a statistic."""
    rows = connection.execute(select_statistics).all()
    charges = [charge(definition(row), row.first_day, row.last_day) for row in rows]
    asked = _queries_about(connection, first_day, last_day)
    return charges + [query_charge(query) for query in asked if query.within is None]


def refuse_beyond_reservation(connection: sa.Connection, query: Query) -> None:
    """Raise an error unless the statistic's reservation for queries covers this query."""
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
    """Return the row of a query, None if it was not asked; refuse another definition."""
    named = sa.select(_queries).where(_queries.c.name == query.name)
    row = connection.execute(named).one_or_none()
    if row is None:
        return None
    if row.fingerprint != query.fingerprint:
        raise LedgerError(
            f"{query.name!r} is the name of another query in the ledger: a changed query needs a"
            " new name, and its own part of the budget"
        )
    return unpack_answer(row)


def unpack_answer(row: sa.Row[Any]) -> Answer:
    """Return the answer in a row of queries."""
    if (row.answer is None) != (row.answered_at is None) or len(row.answer or b"") % 8:
        raise LedgerError(f"the answer of {row.name!r} is damaged: restore the ledger")
    values = None if row.answer is None else np.frombuffer(row.answer, "<i8").astype(np.int64)
    return Answer(_decoded(Query, row), values, row.reserved_at, row.answered_at)


def definition(row: sa.Row[Any]) -> Statistic:
    """Return the statistic of a row."""
    return _decoded(Statistic, row)


def _decoded(kind: type[_T], row: Any) -> _T:
    """Decode the definition in a row and check its fingerprint."""
    try:
        decoded = kind.from_json(row.definition)
        fits = decoded.fingerprint == row.fingerprint and decoded.name == row.name
    except (ValueError, *DECODE_ERRORS) as error:
        raise LedgerError(
            f"the definition of {row.name!r} is damaged: restore the ledger from a backup"
        ) from error
    if not fits:
        raise LedgerError(
            f"the definition of {row.name!r} does not agree with its fingerprint: the ledger is"
            " damaged, restore it from a backup"
        )
    return decoded


def load_statistic(connection: sa.Connection, name: str) -> Statistic:
    """Return a registered statistic."""
    row = connection.execute(select_statistics.where(_statistics.c.name == name)).one_or_none()
    if row is None:
        raise _unknown(name)
    return definition(row)


def _unknown(name: str) -> UnknownStatisticError:
    return UnknownStatisticError(f"no statistic {name!r} in the ledger: register it first")


def check_registered(connection: sa.Connection, statistic: Statistic) -> tuple[int, int]:
    """Return the first and last day of a statistic; refuse an unregistered statistic."""
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
    wanted, releases = list(starts), {}
    for begin in range(0, len(wanted), MAX_PAGE):
        query = sa.select(_releases).where(
            _releases.c.statistic == statistic.name,
            _releases.c.pane_start.in_(wanted[begin : begin + MAX_PAGE]),
        )
        for row in connection.execute(query):
            releases[row.pane_start] = unpack(row, statistic)
    return releases


def pack(noisy_counts: NDArray[np.int64], statistic: Statistic) -> bytes:
    """Encode a draw for storage; a draw of `FOUND_KEYS` may have any length."""
    shape = (len(statistic.keys),)
    if statistic.kind == FOUND_KEYS and noisy_counts.ndim == 1:
        shape = noisy_counts.shape
    if noisy_counts.dtype != np.int64 or noisy_counts.shape != shape:
        raise LedgerError(
            f"a draw of {statistic.name!r} is {noisy_counts.dtype} {noisy_counts.shape}:"
            f" it must be int64 ({len(statistic.keys)},), one count for every key"
        )
    return noisy_counts.astype("<i8").tobytes()


def unpack(row: sa.Row[Any], statistic: Statistic) -> Release:
    """Return the release in a row."""
    noisy_counts = np.frombuffer(row.noisy_counts, dtype="<i8").astype(np.int64)
    if statistic.kind != FOUND_KEYS and noisy_counts.shape != (len(statistic.keys),):
        raise LedgerError(
            f"pane {row.pane_start} of {statistic.name!r} holds {noisy_counts.size} counts for"
            f" {len(statistic.keys)} keys: the ledger is damaged, restore it from a backup"
        )
    return Release(row.statistic, row.pane_start, noisy_counts, row.released_at)


def stored_keys(values: Mapping[str, int]) -> NDArray[np.int64]:
    """Encode found keys and their noisy numbers for the ledger, ``[bytes]``.

    ``{"tea": 120}`` is stored as one integer for each byte of its JSON: ``[123, 34, 116, …]``.
    """
    return np.frombuffer(msgspec.json.encode(values), dtype=np.uint8).astype(np.int64)


def found_values(stored: NDArray[np.int64], where: str) -> dict[str, int]:
    """Decode `stored_keys`, largest number first; `LedgerError` for other integers."""
    try:
        text = stored.astype(np.uint8).tobytes()
        values = msgspec.json.decode(text, type=dict[str, int])
    except DECODE_ERRORS as error:
        raise LedgerError(f"{where} is damaged: restore the ledger from a backup") from error
    return dict(sorted(values.items(), key=lambda item: (-item[1], item[0])))


class SharedNoise:
    """Noise shared by several releases, kept until its period is over; secret, unlike releases.

    Each part of a period is drawn once: a second draw after a crash would reveal the secret twice.
    A row for one node of the tree of running totals:

        statistic       period_start   part   noise
        "views.totals"  1767225600000  "1.0"  int64 [keys], little-endian
    """

    def __init__(self, engine: sa.Engine) -> None:
        """Use the database of a ledger."""
        self._engine = engine

    def draw_once(
        self, statistic: Statistic, period_start: int, draws: Mapping[str, Draw]
    ) -> dict[str, NDArray[np.int64]]:
        """Return the stored noise of the parts of a period; draw and store missing parts first.

        The period begins at an epoch millisecond, such as a day. A part has a name of at most 64
        characters and a draw, int64 ``[keys]``; another shape raises `LedgerError`.
        """
        period = sa.and_(
            _noise.c.statistic == statistic.name, _noise.c.period_start == period_start
        )

        def load(connection: sa.Connection, parts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
            result = connection.execute(sa.select(_noise).where(period, _noise.c.part.in_(parts)))
            return {row.part: np.frombuffer(row.noise, "<i8").astype(np.int64) for row in result}

        with schema.reading(self._engine) as connection:
            check_registered(connection, statistic)
            stored = load(connection, list(draws))
        missing = sorted(draws.keys() - stored.keys())
        if missing:
            new = [
                {
                    "statistic": statistic.name,
                    "period_start": period_start,
                    "part": part,
                    "noise": pack(draws[part](), statistic),
                }
                for part in missing
            ]
            schema.write(
                self._engine, lambda connection: schema.insert_where_absent(connection, _noise, new)
            )
            # Read back: another process may have stored its own draw first.
            with schema.reading(self._engine) as connection:
                stored |= load(connection, missing)
        return {part: stored[part] for part in draws}

    def delete_before(self, statistic: Statistic, before: int) -> bool:
        """Destroy the noise of periods that start before a time, after their last release.

        Returns:
            False while its bytes stay on disk, because another connection reads: call it again.
        """
        past = sa.delete(_noise).where(
            _noise.c.statistic == statistic.name, _noise.c.period_start < before
        )
        return schema.destroy(self._engine, past)

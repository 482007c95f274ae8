"""Merge two copies of a ledger, so that no spent budget is lost.

An older copy lacks later releases. A process that continued from it alone would draw the same panes
again, and the two draws could be averaged. So a restore never replaces a ledger by an older copy;
it adds the copy's rows.
"""

import contextlib
import sqlite3
from pathlib import Path

from tactful_privacy.errors import LedgerError
from tactful_privacy.ledger import schema
from tactful_privacy.sqlite import transaction

_WHOLE = (
    *(schema.budget, schema.budgets, schema.span_budgets),
    *(schema.statistics, schema.releases, schema.noise, schema.publishers),
)
_OTHER = "other"


def merge_ledger(into: Path, other: Path) -> int:
    """Add the rows that only another copy holds to a ledger.

    A row whose key both hold stays as it is in `into`: statistics, budgets, releases and shared
    noise never change once stored. A query that only the other copy has answered gets that answer.

    Args:
        into: SQLite file of the ledger to keep; upgraded if it is older.
        other: SQLite file of the copy; upgraded likewise, otherwise unchanged.

    Returns:
        Number of added rows.

    Raises:
        LedgerError: One of them is damaged or of a newer version, or they belong to two different
            installations. Nothing was added then.
    """
    for path in (into, other):
        engine = schema.connect(path)
        try:
            schema.upgrade(engine)
        finally:
            engine.dispose()
    try:
        with contextlib.closing(sqlite3.connect(into, isolation_level=None)) as connection:
            connection.execute(f"ATTACH DATABASE ? AS {_OTHER}", (str(other),))
            return _merge(connection)
    except sqlite3.Error as error:
        raise LedgerError(f"{into} and {other} cannot be merged: {error}") from error


def _merge(connection: sqlite3.Connection) -> int:
    with transaction(connection):
        _refuse_strangers(connection)
        before = connection.total_changes
        for table in (*_WHOLE, schema.queries):
            columns = ", ".join(column.name for column in table.columns)
            connection.execute(
                f"INSERT OR IGNORE INTO main.{table.name} ({columns})"
                f" SELECT {columns} FROM {_OTHER}.{table.name}"
            )
        _take_answers(connection)
        _take_days(connection)
        return connection.total_changes - before


def _refuse_strangers(connection: sqlite3.Connection) -> None:
    """Refuse two ledgers with different definitions of a name or noise of a pane."""
    for table, key, value in (
        (schema.statistics, ("name",), "fingerprint"),
        (schema.queries, ("name",), "fingerprint"),
        (schema.releases, ("statistic", "pane_start"), "noisy_counts"),
        (schema.noise, ("statistic", "period_start", "part"), "noise"),
    ):
        same = " AND ".join(f"a.{column} = b.{column}" for column in key)
        difference = connection.execute(
            f"SELECT a.{key[0]} FROM main.{table.name} a JOIN {_OTHER}.{table.name} b"
            f" ON {same} WHERE a.{value} != b.{value} LIMIT 1"
        ).fetchone()
        if difference is not None:
            raise LedgerError(
                f"the two ledgers differ in {table.name} at {difference[0]!r}: they are not copies"
                " of one ledger, and releasing from one would ignore the other."
                " Move the ledger away that does not belong to this installation"
            )


def _take_answers(connection: sqlite3.Connection) -> None:
    name = schema.queries.name
    connection.execute(
        f"UPDATE main.{name} AS a SET (answer, answered_at) ="
        f" (SELECT answer, answered_at FROM {_OTHER}.{name} b WHERE b.name = a.name)"
        f" WHERE answer IS NULL AND EXISTS (SELECT 1 FROM {_OTHER}.{name} b"
        " WHERE b.name = a.name AND b.answer IS NOT NULL)"
    )


def _take_days(connection: sqlite3.Connection) -> None:
    """Keep the earlier first and last day; both days only move back."""
    name = schema.statistics.name
    connection.execute(
        f"UPDATE main.{name} AS a SET first_day = min(a.first_day, b.first_day),"
        f" last_day = min(a.last_day, b.last_day) FROM {_OTHER}.{name} b"
        " WHERE b.name = a.name AND (b.first_day < a.first_day OR b.last_day < a.last_day)"
    )

"""Brings two copies of a ledger together, so that nothing that was spent is forgotten.

A copy that was made earlier lacks what was released since. Whoever goes on from it alone draws the
same panes again, and the two draws can be averaged. So a ledger is never replaced by an older copy,
only completed by it.
"""

import sqlite3
from pathlib import Path

from tactful_privacy import ledger_schema as schema
from tactful_privacy.errors import LedgerError

_WHOLE = (
    *(schema.budget, schema.budgets, schema.span_budgets),
    *(schema.statistics, schema.releases, schema.noise),
)
_OTHER = "other"


def merge_ledger(into: Path, other: Path) -> int:
    """Add to a ledger what only another copy of it holds.

    Where both hold something under the same key, `into` keeps its own: statistics, budgets,
    releases and shared noise are never changed once they are there. A query that only the other
    copy has answered is answered with that.

    Args:
        into: SQLite file of the ledger that goes on; brought up to date if it is older.
        other: SQLite file of the copy; brought up to date likewise, else unchanged.

    Returns:
        How many rows were added.

    Raises:
        LedgerError: If one of them is damaged or of a newer version, or they are of two different
            installations. Nothing was added then.
    """
    for path in (into, other):
        engine = schema.connect(path)
        try:
            with schema.explained():
                schema.upgrade(engine)
        finally:
            engine.dispose()
    try:
        connection = sqlite3.connect(into, isolation_level=None)
        try:
            connection.execute(f"ATTACH DATABASE ? AS {_OTHER}", (str(other),))
            return _merge(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise LedgerError(f"{into} and {other} cannot be brought together: {error}") from error


def _merge(connection: sqlite3.Connection) -> int:
    connection.execute("BEGIN IMMEDIATE")
    try:
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
        added = connection.total_changes - before
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return added


def _refuse_strangers(connection: sqlite3.Connection) -> None:
    """Refuse two ledgers that give one name different meanings, or other noise to one pane."""
    for table, key, value in (
        (schema.statistics, ("name",), "fingerprint"),
        (schema.queries, ("name",), "fingerprint"),
        (schema.releases, ("statistic", "pane_start"), "noisy_counts"),
        (schema.noise, ("statistic", "period_start", "part"), "noise"),
    ):
        same = " AND ".join(f"a.{column} = b.{column}" for column in key)
        found = connection.execute(
            f"SELECT a.{key[0]} FROM main.{table.name} a JOIN {_OTHER}.{table.name} b"
            f" ON {same} WHERE a.{value} != b.{value} LIMIT 1"
        ).fetchone()
        if found is not None:
            raise LedgerError(
                f"the two ledgers differ in what they hold of {found[0]!r}: they are no copies of"
                " each other, and nothing may be released from either as if the other were not"
                " there. Move the one away that does not belong here"
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
    """Both days of a statistic only ever move back: when it is begun earlier, or retired."""
    name = schema.statistics.name
    connection.execute(
        f"UPDATE main.{name} AS a SET first_day = min(a.first_day, b.first_day),"
        f" last_day = min(a.last_day, b.last_day) FROM {_OTHER}.{name} b"
        " WHERE b.name = a.name AND (b.first_day < a.first_day OR b.last_day < a.last_day)"
    )

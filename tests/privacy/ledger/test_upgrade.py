"""Older ledgers keep every release; damaged ones, and those of a newer version, are refused."""

import sqlite3
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from tactful_privacy.errors import BudgetError, LedgerError
from tactful_privacy.ledger import schema
from tactful_privacy.ledger.budget import Budget
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.query import Query
from tactful_privacy.ledger.statistic import Statistic

HOUR = 3_600_000
HOURLY = Statistic("hourly", ("bread", "milk", "tea"), HOUR, 5, Fraction(1))

# What the first version wrote, fingerprint included.
FIRST_VERSION = [
    "CREATE TABLE privacy_budget (id INTEGER NOT NULL PRIMARY KEY,"
    " daily_epsilon VARCHAR(128) NOT NULL)",
    "CREATE TABLE privacy_statistics (name VARCHAR(128) NOT NULL PRIMARY KEY,"
    " fingerprint VARCHAR(64) NOT NULL, definition TEXT NOT NULL, registered_at BIGINT NOT NULL)",
    "CREATE TABLE privacy_releases (statistic VARCHAR(128) NOT NULL, pane_start BIGINT NOT NULL,"
    " noisy_counts BLOB NOT NULL, released_at BIGINT NOT NULL,"
    " PRIMARY KEY (statistic, pane_start),"
    " FOREIGN KEY(statistic) REFERENCES privacy_statistics (name))",
]
DEFINITION = (
    '{"name": "hourly", "keys": ["bread", "milk", "tea"], "pane_ms": 3600000, "cap": 5,'
    ' "epsilon": "1", "cell_cap": null}'
)


def never() -> NDArray[np.int64]:
    raise AssertionError("a stored pane was drawn again")


def old_ledger(location: str) -> dict[int, list[int]]:
    """Make a ledger of the first version; returns its releases."""
    engine = schema.connect(location)
    values = {n * HOUR: [n, -n, 2**40 + n] for n in range(30)}
    with engine.begin() as connection:
        blob = "BYTEA" if engine.dialect.name == "postgresql" else "BLOB"
        for statement in FIRST_VERSION:
            connection.exec_driver_sql(statement.replace("BLOB", blob))
        connection.execute(sa.text("INSERT INTO privacy_budget VALUES (1, '3/2')"))
        connection.execute(
            sa.text("INSERT INTO privacy_statistics VALUES ('hourly', :f, :d, 5)"),
            {"f": HOURLY.fingerprint, "d": DEFINITION},
        )
        for start, counts in values.items():
            connection.execute(
                sa.text("INSERT INTO privacy_releases VALUES ('hourly', :s, :c, 7)"),
                {"s": start, "c": np.array(counts, "<i8").tobytes()},
            )
    engine.dispose()
    return values


def test_fingerprints_of_older_definitions_are_unchanged() -> None:
    assert HOURLY.to_json() == DEFINITION
    assert Statistic.from_json(DEFINITION) == HOURLY


def test_an_older_ledger_loses_no_release(location: str) -> None:
    values = old_ledger(location)
    for _ in range(2):  # the second time it is up to date
        ledger = Ledger(location)
        assert ledger.budgets == (Budget(Fraction(3, 2)),)
        assert ledger.statistics() == {"hourly": HOURLY}
        ledger.register(HOURLY)
        kept = ledger.release_many(HOURLY, {start: never for start in values})
        assert {r.start: r.noisy_counts.tolist() for r in kept} == values
        assert {r.released_at for r in kept} == {7}
        assert len(ledger.read("hourly", limit=100).releases) == 30
        ledger.close()
    with pytest.raises(BudgetError):
        Ledger(location, daily_epsilon=2)
    ledger = Ledger(location)
    with pytest.raises(BudgetError, match="'hourly' costs epsilon 1"):
        ledger.answer_once(Query("q", 0, 0, Fraction(2, 3)), never)
    ledger.close()


@pytest.mark.slow
def test_a_ledger_of_before_there_were_months_takes_one(location: str) -> None:
    Ledger(location, daily_epsilon=1).close()
    table = schema.span_budgets.name
    change(location, f"DROP TABLE {table}", "UPDATE privacy_schema SET version = 2")
    month = Budget(Fraction(20), days=30)
    for budgets in ([month], []):
        ledger = Ledger(location, budgets=budgets)
        assert ledger.budgets == (Budget(Fraction(1)), month)
        with pytest.raises(BudgetError, match="30 days"):
            ledger.register(HOURLY)
        ledger.close()


@pytest.mark.slow
@pytest.mark.parametrize("done", range(1, 4))
def test_an_upgrade_that_broke_off_is_finished(location: str, done: int) -> None:
    """MySQL commits each change of a table by itself."""
    values = old_ledger(location)
    engine = schema.connect(location)
    with engine.begin() as connection:
        for table in schema.tables.sorted_tables:
            if done > 1:
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
        connection.exec_driver_sql(
            "ALTER TABLE privacy_statistics ADD COLUMN first_day BIGINT NOT NULL DEFAULT 0"
        )
        if done > 2:
            connection.exec_driver_sql(
                "ALTER TABLE privacy_statistics ADD COLUMN last_day BIGINT NOT NULL"
                f" DEFAULT {schema.FOREVER}"
            )
    engine.dispose()
    ledger = Ledger(location)
    kept = ledger.release_many(HOURLY, {start: never for start in values})
    assert {r.start: r.noisy_counts.tolist() for r in kept} == values
    assert ledger.budgets == (Budget(Fraction(3, 2)),)
    ledger.close()


def change(location: str, *statements: str) -> None:
    engine = schema.connect(location)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.fixture
def used(location: str) -> Iterator[str]:
    """Where a ledger with a release and an answered query is kept."""
    ledger = Ledger(location, daily_epsilon=2)
    ledger.register(HOURLY)
    ledger.release_once(HOURLY, 0, lambda: np.arange(3))
    ledger.answer_once(Query("q", 3, 4, Fraction(1, 2)), lambda: np.arange(2))
    ledger.close()
    yield location


@pytest.mark.slow
def test_a_damaged_budget_is_refused(used: str) -> None:
    for epsilon in ("nan", "0", "-1", "1e999999x", "", "1/0"):
        change(used, f"UPDATE privacy_budgets SET epsilon = '{epsilon}'")
        with pytest.raises(LedgerError, match="damaged"):
            Ledger(used)


def test_a_lost_budget_is_not_made_anew(used: str) -> None:
    change(used, "DELETE FROM privacy_budgets", "DELETE FROM privacy_budget")
    with pytest.raises(LedgerError, match="releases but no budget"):
        Ledger(used, daily_epsilon=2)


def test_a_ledger_of_a_newer_version_is_refused(used: str) -> None:
    change(used, "UPDATE privacy_schema SET version = 99")
    with pytest.raises(LedgerError, match="schema 99"):
        Ledger(used)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE privacy_statistics SET definition = '{'",
        "UPDATE privacy_statistics SET definition = '{}'",
        "UPDATE privacy_statistics SET definition = '[1]'",
        "UPDATE privacy_statistics SET definition = REPLACE(definition, 'milk', 'mild')",
        "UPDATE privacy_queries SET definition = REPLACE(definition, '1/2', '1/9')",
        "UPDATE privacy_queries SET fingerprint = 'x'",
    ],
)
def test_a_damaged_definition_grants_nothing(used: str, damage: str) -> None:
    change(used, damage)
    ledger = Ledger(used)
    with pytest.raises(LedgerError, match=r"damaged|does not agree"):
        ledger.register(Statistic("other", ("x",), HOUR, 5, Fraction(1, 10)))
    with pytest.raises(LedgerError, match=r"damaged|does not agree"):
        ledger.answer_once(Query("r", 3, 4, Fraction(1, 10)), never)
    ledger.close()


@pytest.mark.parametrize("damage", ["answer = NULL", "answered_at = NULL", "answer = X'00'"])
def test_a_damaged_answer_is_not_shown_and_not_drawn_again(used: str, damage: str) -> None:
    if used.startswith("postgresql"):
        damage = damage.replace("X'00'", "'\\x00'")
    change(used, f"UPDATE privacy_queries SET {damage}")
    ledger = Ledger(used)
    with pytest.raises(LedgerError, match="damaged"):
        ledger.answer_once(Query("q", 3, 4, Fraction(1, 2)), never)
    ledger.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"not a database, " * 1_000,
        lambda content: content[:5_000],
        lambda content: content[:4_096] + bytes([0xA5]) * (len(content) - 4_096),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, daily_epsilon=2)
    ledger.register(HOURLY)
    ledger.release_many(HOURLY, {n * HOUR: lambda: np.arange(3) for n in range(500)})
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LedgerError, match="nothing is released without it"):
        opened = Ledger(path, daily_epsilon=2)
        opened.register(HOURLY)
        opened.release_many(HOURLY, {n * HOUR: never for n in range(500)})


def test_a_ledger_that_others_hold_is_told_from_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_LOCK_SECONDS", 0.2)
    ledger = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
    ledger.register(HOURLY)
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="locked by other processes"):
        ledger.release_once(HOURLY, 0, lambda: np.arange(3))
    other.execute("ROLLBACK")
    assert ledger.release_once(HOURLY, 0, lambda: np.arange(3)).noisy_counts.tolist() == [0, 1, 2]
    other.close()
    ledger.close()


def test_a_database_out_of_reach_is_a_ledger_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(tmp_path / "no folder" / "ledger.db", daily_epsilon=1)
    with pytest.raises(LedgerError, match="cannot be used") as caught:
        Ledger("mysql+pymysql://root:hunter2@127.0.0.1:9/x", daily_epsilon=1)
    assert "hunter2" not in str(caught.value)

"""Brings two copies of a vault together, and deletes the keys of people known by pseudonyms alone.

What was restored from a backup has to be read once more before the erased are gone from it. So the
keys of the backup come back for as long as that takes, and are dropped then.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from tactful_privacy.errors import VaultError
from tactful_privacy.pseudonyms import Pseudonym

_TABLES = ("people", "pseudonyms")


def merge_vault(into: Path, other: Path) -> None:
    """Add to a vault the keys that only another copy of it holds.

    Where the master key was changed since the copy was made, its keys could not be opened beside
    the others: they are left out. The present vault has those of everybody who was not erased
    since, so nothing is lost but what sealed the records of the erased.

    Args:
        into: file of the vault; nothing else may use it.
        other: file of the copy, which stays as it is.

    Raises:
        VaultError: if one of them is damaged or none.
    """
    try:
        with contextlib.closing(sqlite3.connect(into, isolation_level=None)) as connection:
            connection.execute("ATTACH DATABASE ? AS other", (str(other),))
            connection.execute("BEGIN IMMEDIATE")
            for table in (
                _TABLES if _rotated(connection, "main") == _rotated(connection, "other") else ()
            ):
                connection.execute(
                    f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}"
                )
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise VaultError(f"{into} and {other} cannot be brought together: {error}") from error


def _rotated(connection: sqlite3.Connection, schema: str) -> bytes | None:
    """What proves the master key of a vault; None if it never was another one."""
    made = connection.execute(
        f"SELECT 1 FROM {schema}.sqlite_master WHERE name = 'master'"
    ).fetchone()
    row = (
        made
        and connection.execute(f"SELECT proof FROM {schema}.master WHERE number > 0").fetchone()
    )
    return bytes(row[0]) if row else None


def drop_keys(vault: Path, erased: Iterable[Pseudonym]) -> int:
    """Delete the data keys of people, and overwrite them; how many there were.

    Args:
        vault: file of the vault; nothing else may use it.
        erased: any pseudonym of each.

    Raises:
        VaultError: if it is damaged or none.
    """
    try:
        with contextlib.closing(sqlite3.connect(vault, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TEMP TABLE gone (key_id INTEGER, digest BLOB)")
            connection.executemany("INSERT INTO gone VALUES (?, ?)", erased)
            connection.execute(
                "CREATE TEMP TABLE lost AS SELECT DISTINCT reference FROM pseudonyms p"
                " JOIN gone g ON p.key_id = g.key_id AND p.digest = g.digest"
            )
            for table in _TABLES:
                connection.execute(
                    f"DELETE FROM {table} WHERE reference IN (SELECT reference FROM lost)"
                )
            (count,) = connection.execute("SELECT count(*) FROM lost").fetchone()
            # Whoever remembers keys reads by this number that some are gone.
            connection.execute("UPDATE erased SET number = number + ?", (count,))
            connection.execute("COMMIT")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise VaultError(f"{vault}: keys cannot be deleted: {error}") from error
    return int(count)

"""Merge two copies of a vault, and delete keys by pseudonym.

A restored backup must be read once more to remove erased people from it. So the keys of the backup
return for that time, and are deleted afterwards.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from tactful_privacy.errors import VaultError
from tactful_privacy.people.pseudonyms import Pseudonym

_TABLES = ("people", "pseudonyms")


def merge_vault(into: Path, other: Path) -> None:
    """Add the keys that only another copy holds to a vault.

    If the master key was changed since the copy was made, the copy's keys cannot be unwrapped and
    are left out. The present vault has the keys of everybody not erased since, so only the records
    of erased people stay unreadable.

    Args:
        into: file of the vault; no other process may use it.
        other: file of the copy, which is not changed.

    Raises:
        VaultError: if a file is damaged or is not a vault.
    """
    try:
        with contextlib.closing(sqlite3.connect(into, isolation_level=None)) as connection:
            connection.execute("ATTACH DATABASE ? AS other", (str(other),))
            connection.execute("BEGIN IMMEDIATE")
            same_master = _changed_master(connection, "main") == _changed_master(
                connection, "other"
            )
            for table in _TABLES if same_master else ():
                connection.execute(
                    f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}"
                )
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise VaultError(f"{into} and {other} cannot be merged: {error}") from error


def _changed_master(connection: sqlite3.Connection, schema: str) -> bytes | None:
    """Return the proof of a changed master key; None if it was never changed."""
    query = f"SELECT 1 FROM {schema}.sqlite_master WHERE name = 'master'"
    if connection.execute(query).fetchone() is None:  # a vault of an older version
        return None
    row = connection.execute(f"SELECT proof FROM {schema}.master WHERE number > 0").fetchone()
    return bytes(row[0]) if row else None


def drop_keys(vault: Path, erased: Iterable[Pseudonym]) -> int:
    """Delete and overwrite the data keys of people; return the number of deleted keys.

    Args:
        vault: file of the vault; no other process may use it.
        erased: any pseudonym of each person.

    Raises:
        VaultError: if the file is damaged or is not a vault.
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
            # Processes with cached keys compare this number to notice the deletion.
            connection.execute("UPDATE erased SET number = number + ?", (count,))
            connection.execute("COMMIT")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise VaultError(f"{vault}: keys cannot be deleted: {error}") from error
    return int(count)

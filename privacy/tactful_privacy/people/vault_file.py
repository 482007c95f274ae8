"""Changes to the file of a vault: merge of two copies, deletion of keys, another master key.

A restored backup must be read once more to remove erased people from it. So the keys of the backup
return for that time, and are deleted afterwards.

A change of the master key wraps all keys in one transaction; sealed data stay unchanged. So one
master key always opens the whole vault, even after a crash: the old key before the commit, the new
key after it. Repeat the call after a crash.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from tactful_privacy.errors import VaultError
from tactful_privacy.people.pseudonyms import Pseudonym
from tactful_privacy.people.vault import MasterKey
from tactful_privacy.sqlite import empty_write_ahead_log, transaction, use_write_ahead_log

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
            with transaction(connection):
                present, copied = (_changed_master(connection, s) for s in ("main", "other"))
                for table in _TABLES if present == copied else ():
                    insert = f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}"
                    connection.execute(insert)
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
            emptied = empty_write_ahead_log(connection, wait_s=_WAIT_S)
    except sqlite3.Error as error:
        raise VaultError(f"{vault}: keys cannot be deleted: {error}") from error
    if not emptied:
        raise VaultError(f"{vault}: another process reads it: stop that process, and repeat this")
    return int(count)


_BATCH = 1_000
_WAIT_S = 60.0


def rewrap_vault(
    path: Path,
    old: bytes,
    new: bytes,
    *,
    random: Callable[[int], bytes] = secrets.token_bytes,
    advanced: Callable[[int], object] = lambda count: None,
) -> int:
    """Wrap every data key of a vault by another master key, all keys or none.

    On return the old wrapped keys are overwritten in the file and its write-ahead log; copies
    elsewhere, such as backups and the blocks of a copy-on-write disk, stay. An open vault with the
    old master key refuses to make new keys from then on and must be opened with the new master key.

    Args:
        path: file of the vault.
        old: present master key, 32 bytes.
        new: new master key, 32 bytes.
        random: cryptographically secure bytes.
        advanced: called with the number of keys wrapped since its last call; an exception from it
            rolls back all of them.

    Returns:
        Number of wrapped keys; 0 if the vault has the new master key already.

    Raises:
        ParameterError: if one of the master keys does not have 32 bytes.
        VaultError: if there is no vault, the file cannot be used, neither key unwraps a data key,
            or the old wrapped keys could not be overwritten yet; repeat the call in that case.
    """
    before, after = MasterKey(old, random), MasterKey(new, random)
    if not path.exists():
        raise VaultError(f"{path}: there is no vault")
    try:
        opened = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
        with contextlib.closing(opened) as connection:
            use_write_ahead_log(connection)
            with transaction(connection):
                count = _rewrap(connection, path, before, after, advanced)
            # The write-ahead log holds the old pages, also after a run that died past its commit.
            if not empty_write_ahead_log(connection, wait_s=_WAIT_S):
                raise VaultError(
                    f"{path}: every key is wrapped by the new master key, but the write-ahead log"
                    " still holds the old wrapped keys and another process reads it: stop that"
                    " process, and run this again before you destroy the old master key"
                )
    except sqlite3.Error as error:
        raise VaultError(f"{path}: the keys cannot be wrapped again: {error}") from error
    return count


def _rewrap(
    connection: sqlite3.Connection,
    path: Path,
    before: MasterKey,
    after: MasterKey,
    advanced: Callable[[int], object],
) -> int:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS master (number INTEGER NOT NULL, proof BLOB NOT NULL)"
    )
    proof = connection.execute("SELECT proof FROM master").fetchone()
    if proof is not None and after.proved_by(proof[0]):
        return 0
    if proof is not None and not before.proved_by(proof[0]):
        raise VaultError(f"{path}: neither of the two keys is the master key of this vault")
    last, count = b"", 0
    while rows := connection.execute(
        "SELECT reference, wrapped FROM people WHERE reference > ? ORDER BY reference LIMIT ?",
        (last, _BATCH),
    ).fetchall():
        wrapped = []
        for reference, sealed in rows:
            key = before.unwrap(reference, sealed)
            if key is None:
                raise VaultError(
                    f"{path}: a data key cannot be unwrapped: the old key is not the master key "
                    "of this vault, or the file is damaged"
                )
            wrapped.append((after.wrap(reference, key), reference))
        connection.executemany("UPDATE people SET wrapped = ? WHERE reference = ?", wrapped)
        last = rows[-1][0]
        count += len(rows)
        advanced(len(rows))
    if proof is None:
        connection.execute("INSERT INTO master (number, proof) VALUES (0, ?)", (after.proof(),))
    connection.execute("UPDATE master SET number = number + 1, proof = ?", (after.proof(),))
    return count

"""Replaces the master key of a vault: data keys are wrapped anew, what they sealed stays as it is.

All keys change hands in one transaction. So whenever the process dies, one master key opens the
whole vault: the old one before, the new one afterwards. Nothing has to be mended, only asked again.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path

from tactful_privacy._cipher import MasterKey
from tactful_privacy.errors import VaultError
from tactful_privacy.sqlite import use_write_ahead_log

_TOGETHER = 1_000
_WAIT_S = 60.0


def rewrap_vault(
    path: Path,
    old: bytes,
    new: bytes,
    *,
    random: Callable[[int], bytes] = secrets.token_bytes,
    advanced: Callable[[int], object] = lambda count: None,
) -> int:
    """Wrap every data key of a vault by another master key, all or none of them.

    On return the keys as the old master key opens them are overwritten in the file and its
    write-ahead log; copies elsewhere, such as backups and the blocks of a disk that copies on
    write, stay. Vaults that are open give no new keys under the old master key from then on: they
    refuse, and have to be opened with the new one.

    Args:
        path: file of the vault.
        old: the master key so far, 32 bytes.
        new: the master key from now on, 32 bytes.
        random: cryptographically secure bytes.
        advanced: told how many keys were wrapped since it was told last; all of them are lost if it
            raises.

    Returns:
        How many keys were wrapped anew; 0 if the vault is the new key's already.

    Raises:
        ParameterError: if one of the keys does not have 32 bytes.
        VaultError: if there is no vault, the file cannot be used, a key is wrapped by neither, or
            the keys as they were could not be overwritten yet; then it is to be asked again.
    """
    before, after = MasterKey(old, random), MasterKey(new, random)
    if not path.exists():
        raise VaultError(f"{path}: there is no vault")
    try:
        with contextlib.closing(
            sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
        ) as connection:
            use_write_ahead_log(connection)
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("BEGIN IMMEDIATE")
            try:
                count = _rewrap(connection, path, before, after, advanced)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            # The write-ahead log holds the pages as they were; also those of a run that was killed
            # after it was through.
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise VaultError(
                    f"{path}: every key is wrapped anew, and what the old master key opens is still"
                    " in the write-ahead log, which another process reads: stop it, and say this"
                    " again before the old key is destroyed"
                )
    except sqlite3.Error as error:
        raise VaultError(f"{path}: the keys cannot be wrapped anew: {error}") from error
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
        raise VaultError(f"{path}: neither of the two is the master key of this vault")
    last, count = b"", 0
    while rows := connection.execute(
        "SELECT reference, wrapped FROM people WHERE reference > ? ORDER BY reference LIMIT ?",
        (last, _TOGETHER),
    ).fetchall():
        wrapped = []
        for reference, sealed in rows:
            key = before.unwrap(reference, sealed)
            if key is None:
                raise VaultError(
                    f"{path}: a data key cannot be unwrapped: the old one is not the master key "
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

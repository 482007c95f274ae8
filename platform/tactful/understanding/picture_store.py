"""Pictures of items by the hash of their content, in one SQLite file of the data directory.

An item refers to its picture by `reference_of` its content, so the log holds no bytes of pictures,
and equal pictures are kept once. The kept file is a small JPEG without metadata, which `shrunk`
made of the one that was sent. Pictures that were fetched are kept by their address, too.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tactful.understanding.content_file import ContentFile
from tactful_privacy.sqlite import empty_write_ahead_log, transaction

_FOLDER = "pictures"  # in the data directory

_TABLES = """
    CREATE TABLE IF NOT EXISTS pictures (
        content BLOB NOT NULL PRIMARY KEY,
        used_at INTEGER, -- when a request sent it, or an item last had it; NULL while one has it
        picture BLOB NOT NULL -- last, so that the others are read without it
    );
    CREATE TABLE IF NOT EXISTS fetched (
        address TEXT NOT NULL PRIMARY KEY, content BLOB, problem TEXT NOT NULL, at INTEGER NOT NULL
    );
"""
_UNUSED_MS = 7 * 86_400_000  # an import that is undone brings earlier pictures back
_PROBLEM = "pictures of items cannot be read or written: {}; restore the file from a backup"
_REFERENCE = re.compile("sha256:([0-9a-f]{64})")


class Fetched(NamedTuple):
    """Result of fetching an address."""

    content: bytes | None  # hash of the content; None if it was refused
    problem: str  # reason of the refusal
    at: int  # epoch milliseconds


def picture_path(data: Path) -> Path:
    """Return the file of the pictures in a data directory."""
    return data / _FOLDER / "pictures.db"


def reference_of(content: bytes) -> str:
    """Return what an item holds as `image` for a content of this hash.

    >>> reference_of(bytes(32))[:12]
    'sha256:00000'
    """
    return f"sha256:{content.hex()}"


def content_of(image: object) -> bytes | None:
    """Return the hash of a content that an item refers to; None if it refers to none."""
    match = _REFERENCE.fullmatch(image) if isinstance(image, str) else None
    return None if match is None else bytes.fromhex(match[1])


class PictureStore:
    """The file, for one thread at a time; several processes may write it."""

    def __init__(self, path: Path, *, writes: bool = False) -> None:
        """Open the file, and create it to write; to a reader an absent file is an empty store.

        Raises:
            StorageError: if the file is damaged or cannot be opened.
        """
        self._file = ContentFile(path, _TABLES, _PROBLEM, writes=writes)
        self.close = self._file.close

    def put(self, pictures: Mapping[bytes, bytes], now: int) -> None:
        """Keep pictures by the hashes of their contents; they are on disk on return.

        Raises:
            StorageError: if the file cannot be written.
        """
        rows = [(content, now, picture) for content, picture in pictures.items()]
        connection = self._file.connection
        with self._file.errors(), transaction(connection):
            connection.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?)", rows)

    def use(self, contents: Iterable[bytes], now: int) -> set[bytes]:
        """Return the contents that are kept, and note that they are used now.

        Raises:
            StorageError: if the file cannot be written.
        """
        held = self.held(contents)
        connection = self._file.connection
        with self._file.errors(), transaction(connection):
            connection.executemany(
                "UPDATE pictures SET used_at = ? WHERE content = ?",
                [(now, content) for content in held],
            )
        return held

    def held(self, contents: Iterable[bytes]) -> set[bytes]:
        """Return the contents that are kept.

        Raises:
            StorageError: if the file is damaged.
        """
        wanted = [*dict.fromkeys(contents)]
        return {row[0] for row in self._rows("content FROM pictures WHERE content", wanted)}

    def get(self, contents: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the pictures of some contents, as far as they are kept.

        Raises:
            StorageError: if the file is damaged.
        """
        return dict(self._rows("content, picture FROM pictures WHERE content", contents))

    def note(self, address: str, fetched: Fetched) -> None:
        """Keep the result of fetching an address.

        Raises:
            StorageError: if the file cannot be written.
        """
        connection = self._file.connection
        with self._file.errors(), transaction(connection):
            connection.execute(
                "INSERT OR REPLACE INTO fetched VALUES (?, ?, ?, ?)", (address, *fetched)
            )

    def fetched(self, addresses: Sequence[str]) -> dict[str, Fetched]:
        """Return the results of addresses that were fetched.

        Raises:
            StorageError: if the file is damaged.
        """
        rows = self._rows("address, content, problem, at FROM fetched WHERE address", addresses)
        return {address: Fetched(*rest) for address, *rest in rows}

    def keep_only(self, contents: Collection[bytes], addresses: Collection[str], now: int) -> int:
        """Delete pictures that no item has had for a week, and that no request has sent.

        The week begins with the first call that does not name a picture.

        Args:
            contents: hashes of the contents that items have now.
            addresses: of pictures that items have now; results of others are deleted.
            now: epoch milliseconds.

        Returns:
            The number of deleted pictures.

        Raises:
            StorageError: if the file cannot be written.
        """
        kept, connection = {*contents}, self._file.connection
        with self._file.errors():
            with transaction(connection):
                rows = connection.execute("SELECT content, used_at FROM pictures").fetchall()
                had = [(it,) for it, used_at in rows if it in kept and used_at is not None]
                left = [(now, it) for it, used_at in rows if it not in kept and used_at is None]
                gone = [
                    (it,)
                    for it, used_at in rows
                    if it not in kept and used_at is not None and used_at < now - _UNUSED_MS
                ]
                connection.executemany("UPDATE pictures SET used_at = NULL WHERE content = ?", had)
                connection.executemany("UPDATE pictures SET used_at = ? WHERE content = ?", left)
                connection.executemany("DELETE FROM pictures WHERE content = ?", gone)
                known = connection.execute("SELECT address FROM fetched").fetchall()
                dropped = [row for row in known if row[0] not in addresses]
                connection.executemany("DELETE FROM fetched WHERE address = ?", dropped)
            if gone or dropped:
                empty_write_ahead_log(connection)
        return len(gone)

    def _rows(self, columns: str, keys: Sequence[Any]) -> Iterable[Any]:
        def query(connection: sqlite3.Connection, marks: str, part: Sequence[Any]) -> list[Any]:
            return connection.execute(f"SELECT {columns} IN ({marks})", [*part]).fetchall()

        return self._file.in_parts(keys, query)

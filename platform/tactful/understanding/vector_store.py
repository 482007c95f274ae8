"""Vectors of texts and pictures by encoder and content, in one SQLite file.

A vector is kept by the SHA-256 of what it was made of, so equal contents are encoded once and a
changed one anew. The file names no item. Each batch is on disk when `put` returns, so a killed
encoding goes on where it was.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.understanding.content_file import ContentFile
from tactful_privacy.sqlite import empty_write_ahead_log, transaction

FOLDER = "understanding"
"""Folder of the file in the data directory; all of it can be made anew."""

_TABLE = """
    CREATE TABLE IF NOT EXISTS vectors (
        encoder TEXT NOT NULL, content BLOB NOT NULL, vector BLOB NOT NULL,
        PRIMARY KEY (encoder, content)
    ) WITHOUT ROWID
"""
_PROBLEM = (
    "vectors of items cannot be read or written: {}; stop the server and delete the file, and "
    "`tactful items encode` makes it anew"
)


def content_key(content: bytes) -> bytes:
    """Return the key of a content."""
    return hashlib.sha256(content).digest()


class VectorStore:
    """The file, for one thread at a time; readers continue beside one writer."""

    def __init__(self, path: Path, *, writes: bool = False) -> None:
        """Open the file, and create it to write; to a reader an absent file is an empty store.

        Raises:
            StorageError: if the file is damaged or cannot be opened.
        """
        self._file = ContentFile(path, _TABLE, _PROBLEM, writes=writes)
        self.version = self._file.version
        self.close = self._file.close

    def get(self, encoder: str, keys: Sequence[bytes], dimensions: int) -> NDArray[np.float32]:
        """Return the vector of each key, zero for unknown ones, shape (len(keys), dimensions).

        Raises:
            StorageError: if the file is damaged.
        """
        rows = np.zeros((len(keys), dimensions), np.float32)
        places: dict[bytes, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        for key, vector in self._found(encoder, [*places], "content, vector"):
            if len(vector) == 2 * dimensions:
                rows[places[key]] = np.frombuffer(vector, "<f2")
        return np.nan_to_num(rows, posinf=0.0, neginf=0.0)

    def missing(self, encoder: str, keys: Iterable[bytes]) -> list[bytes]:
        """Return the keys without a vector, each once, in their order.

        Raises:
            StorageError: if the file is damaged.
        """
        wanted = [*dict.fromkeys(keys)]
        held = {row[0] for row in self._found(encoder, wanted, "content")}
        return [key for key in wanted if key not in held]

    def put(self, encoder: str, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Keep vectors; they are on disk on return.

        Raises:
            StorageError: if the file cannot be written.
        """
        packed = vectors.astype("<f2")
        rows = [(encoder, key, row.tobytes()) for key, row in zip(keys, packed, strict=True)]
        connection = self._file.connection
        with self._file.errors(), transaction(connection):
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    def keep_only(self, kept: Mapping[str, Collection[bytes]]) -> int:
        """Delete vectors but those of some keys of each encoder; return how many were deleted.

        Raises:
            StorageError: if the file cannot be written.
        """
        wanted = {encoder: {*keys} for encoder, keys in kept.items()}
        connection = self._file.connection
        with self._file.errors():
            with transaction(connection):
                rows = connection.execute("SELECT encoder, content FROM vectors").fetchall()
                gone = [row for row in rows if row[1] not in wanted.get(row[0], ())]
                connection.executemany(
                    "DELETE FROM vectors WHERE encoder = ? AND content = ?", gone
                )
            if gone:
                empty_write_ahead_log(connection)
        return len(gone)

    def count(self, encoder: str) -> int:
        """Return the number of contents that have a vector by an encoder.

        Raises:
            StorageError: if the file is damaged.
        """
        connection = self._file.read()
        if connection is None:
            return 0
        query = "SELECT count(*) FROM vectors WHERE encoder = ?"
        with self._file.errors():
            return int(connection.execute(query, (encoder,)).fetchone()[0])

    def _found(self, encoder: str, keys: Sequence[bytes], columns: str) -> Iterator[Any]:
        def query(connection: sqlite3.Connection, marks: str, part: Sequence[bytes]) -> list[Any]:
            return connection.execute(
                f"SELECT {columns} FROM vectors WHERE encoder = ? AND content IN ({marks})",
                (encoder, *part),
            ).fetchall()

        return self._file.in_parts(keys, query)

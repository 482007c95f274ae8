"""SQLite file whose rows are found by what they were made of."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tactful.errors import StorageError
from tactful_privacy.sqlite import use_write_ahead_log

_AT_ONCE = 500  # keys of one query

_T = TypeVar("_T")


class ContentFile:
    """The file, for one thread at a time; readers continue beside writers."""

    def __init__(self, path: Path, tables: str, problem: str, *, writes: bool) -> None:
        """Open the file, and create it to write; to a reader an absent file is an empty one.

        Args:
            path: the file.
            tables: statements that create its tables.
            problem: what an error means, with its cure; `{}` stands for the error.
            writes: whether this process adds rows.

        Raises:
            StorageError: if the file is damaged or cannot be opened.
        """
        self._path = path
        self._problem = problem
        self._connection: sqlite3.Connection | None = None
        if writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.errors():
                self._connection = sqlite3.connect(
                    path, timeout=60.0, isolation_level=None, check_same_thread=False
                )
                use_write_ahead_log(self._connection)
                self._connection.executescript(tables)

    @property
    def connection(self) -> sqlite3.Connection:
        """Connection of a file that was opened to write."""
        assert self._connection is not None
        return self._connection

    def read(self) -> sqlite3.Connection | None:
        """Return the connection; None while there is no file."""
        if self._connection is None:
            self._open_to_read()
        return self._connection

    def in_parts(
        self,
        keys: Sequence[_T],
        query: Callable[[sqlite3.Connection, str, Sequence[_T]], list[Any]],
    ) -> Iterator[Any]:
        """Yield the rows of some hundred keys each time.

        `query` is given the connection, question marks for the keys, and the keys.

        Raises:
            StorageError: if the file is damaged.
        """
        connection = self.read()
        if connection is None:
            return
        for begin in range(0, len(keys), _AT_ONCE):
            part = keys[begin : begin + _AT_ONCE]
            with self.errors():
                yield from query(connection, ",".join("?" * len(part)), part)

    def version(self) -> int:
        """Return a number that changes when another process writes; 0 while there is no file."""
        connection = self.read()
        if connection is None:
            return 0
        with self.errors():
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise errors of SQLite as StorageError."""
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {self._problem.format(error)}") from error

    def _open_to_read(self) -> None:
        """Open the file, if there is one by now."""
        if not self._path.is_file():
            return
        with self.errors():
            address = f"{self._path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(
                address, uri=True, timeout=60.0, isolation_level=None, check_same_thread=False
            )
            with closing(connection.execute("SELECT 1 FROM sqlite_master")) as rows:
                if rows.fetchone() is None:
                    connection.close()
                    return
            self._connection = connection

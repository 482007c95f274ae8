"""Rows of a file as columns, and the interface of the readers of each format."""

from __future__ import annotations

import hashlib
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from tactful.client import Kind
from tactful.errors import DatasetError, TactfulError

Column = Sequence[Any]
"""Values of one column: text, numbers, dates, lists; None where there is nothing."""

LOCAL_MS, UTC_MS = "local milliseconds", "milliseconds"
"""Types of columns that hold times as whole numbers: without a time zone, and in UTC."""

SAMPLED_ROWS = 20_000  # most rows from which a mapping is guessed


class Place(msgspec.Struct, frozen=True):
    """Place in a file behind some of its rows.

    Attributes:
        rows: rows before it; of text files lines, with the header and blank ones.
        offset: bytes before it, unpacked; the whole size, if the file cannot grow.
        sha256: SHA-256 of these bytes, in hex.
    """

    rows: int = 0
    offset: int = 0
    sha256: str = ""


class RejectedRow(msgspec.Struct, frozen=True):
    """Row that was not stored, and the reason."""

    row: int  # as `Rows.numbers`
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows of a file.

    Attributes:
        columns: one column for each name in `Reader.columns`, all of one length.
        numbers: number of each row from 1: its line in a text file, its row in a sheet.
        end: place behind the last row.
        rejected: rows between these that could not be read.
    """

    columns: Sequence[Column]
    numbers: Sequence[int]
    end: Place
    rejected: Sequence[RejectedRow] = ()


class ChangedFile(DatasetError):
    """The part of a file that was sent is not what it was."""


class Reader(ABC):
    """Reads one file of one format.

    Attributes:
        path: the file.
        about: the format in words, such as ``CSV (semicolons), UTF-8``.
        columns: names of the columns, each once; an empty name has no header.
        notes: remarks for the user.
        holds: kind of elements, where the format determines it.
        hints: columns of fields, where the format determines them.
        unit, total: unit of progress, ``B`` or ``rows``, and the size in it if known.
        decimal: decimal sign of numbers that could have either.
        types: columns that hold times as numbers, with their type.
        grows: whether rows may be appended to a file that was sent.
    """

    grows: ClassVar[bool] = False
    unit: str = "rows"

    def __init__(self, path: Path, about: str) -> None:
        """Describe a file; the subclass sets `columns`."""
        self.path = path
        self.about = about
        self.columns: list[str] = []
        self.notes: list[str] = []
        self.holds: Kind | None = None
        self.hints: Mapping[str, str] = {}
        self.total: int | None = None
        self.decimal: Literal[".", ","] = "."
        self.types: Mapping[str, str] = {}

    @abstractmethod
    def sample(self) -> list[Column]:
        """Return rows from all over the file as columns."""

    @abstractmethod
    def rows(self, start: Place, count: int) -> Iterator[Rows]:
        """Read the rows behind `start`, at most `count` at a time.

        Raises:
            ChangedFile: if the part before `start` has another hash.
            DatasetError: if the file cannot be read.
        """


class WholeFileReader(Reader):
    """Reader of a format that cannot grow at its end; its identity is that of all bytes."""

    def rows(self, start: Place, count: int) -> Iterator[Rows]:
        """Read the rows behind `start`, if the file is the same."""
        sha256, size = hash_of(self.path), self.path.stat().st_size
        if start.rows and (start.sha256, start.offset) != (sha256, size):
            raise ChangedFile(f"{self.path}: the file is not the one of the last run")
        for rows in self._read(start.rows, count):
            yield Rows(
                rows.columns, rows.numbers, Place(rows.end.rows, size, sha256), rows.rejected
            )

    @abstractmethod
    def _read(self, skip: int, count: int) -> Iterator[Rows]:
        """Read the rows behind the first `skip`; only `rows` of each end counts."""


@dataclass
class RejectedRows:
    """Refused rows: the first of them, and the number of all by reason."""

    first: list[RejectedRow] = field(default_factory=list)
    by_code: Counter[str] = field(default_factory=Counter)
    _SHOWN: ClassVar[int] = 20

    def add(self, rejection: RejectedRow) -> None:
        """Count a rejected row."""
        self.by_code[rejection.code] += 1
        if len(self.first) < self._SHOWN:
            self.first.append(rejection)

    def merge(self, other: RejectedRows) -> None:
        """Count the rejected rows of another place, too."""
        self.by_code += other.by_code
        self.first = sorted([*self.first, *other.first], key=lambda rejection: rejection.row)[
            : self._SHOWN
        ]

    @property
    def count(self) -> int:
        """Number of rejected rows."""
        return self.by_code.total()


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unique_names(names: Sequence[str]) -> list[str]:
    """Number repeated names: ``price``, ``price.2``; empty names may repeat."""
    used: Counter[str] = Counter()
    unique = []
    for name in names:
        used[name] += 1
        unique.append(f"{name}.{used[name]}" if name and used[name] > 1 else name)
    return unique


def as_columns(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Column]:
    """Turn records into columns, with None where a record lacks a name."""
    return [[record.get(name) for record in records] for name in names]


def names_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all records, in the order of appearance."""
    return list(dict.fromkeys(name for record in records for name in record))


def flattened(record: Mapping[str, Any], levels: int = 3) -> dict[str, Any]:
    """Replace objects by their members: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    if not levels or not any(isinstance(value, dict) for value in record.values()):
        return {**record}
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            inner = flattened(value, levels - 1)
            flat.update({f"{name}.{key}": member for key, member in inner.items()})
        else:
            flat[name] = value
    return flat


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Convert errors of reading a file into a `DatasetError` that names it."""
    try:
        yield
    except TactfulError:  # some of them are OSErrors, too
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error

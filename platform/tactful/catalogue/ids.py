"""The ids of a catalogue as files that processes share: row to id, and id to row.

A tuple and a dictionary of a million ids cost every process some 200 MB. Here the ids are joined
in one file, and a table sorted by hash maps an id to its row; both are memory-mapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import chain, compress, pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.util.checked_arrays import is_partition, map_array, require

_BETWEEN = 0xFF
"""A byte that UTF-8 never contains, to join texts by."""

_KINDS = {"text": np.uint8, "ends": np.int64, "hashes": np.uint64, "rows": np.int32}
_AT_ONCE = 8_192
_CACHED = 65_536

_SEPARATOR = bytes([_BETWEEN])
_ESCAPED = _SEPARATOR.decode("utf-8", "surrogateescape")
_UNUSED = blake2b(digest_size=8)
"""To be copied, which takes half the time of making one."""


class ItemIds(Sequence[str]):
    """Ids in row order, each once.

        text b"ab|c|dd" (without bars)   ends [2, 3, 5]   hashes, rows: sorted by hash

    Equal to any sequence of the same ids. Looking up an id costs a binary search.
    """

    def __init__(
        self,
        text: NDArray[np.uint8],
        ends: NDArray[np.int64],
        hashes: NDArray[np.uint64],
        rows: NDArray[np.int32],
    ) -> None:
        """Wrap the arrays; use `of` or `load` instead."""
        # As plain arrays: indexing a ``memmap`` costs five times as much.
        self._text = np.asarray(text)
        self._ends = np.asarray(ends)
        self._hashes = np.asarray(hashes)
        self._rows = np.asarray(rows)

    @classmethod
    def of(cls, item_ids: Sequence[str]) -> ItemIds:
        """Lay out ids.

        Raises:
            ValueError: if an id occurs twice.
        """
        if isinstance(item_ids, ItemIds):
            return item_ids
        encoded = [item_id.encode() for item_id in item_ids]
        hashes = np.array([_hash(item_id) for item_id in encoded], np.uint64)
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        made = cls(
            np.frombuffer(b"".join(encoded), np.uint8),
            np.cumsum([len(item_id) for item_id in encoded], dtype=np.int64),
            hashes[order],
            order,
        )
        same = np.flatnonzero(made._hashes[1:] == made._hashes[:-1])
        for place in same.tolist():
            twice = encoded[order[place]]
            if twice == encoded[order[place + 1]]:
                raise ValueError(f"the item id {twice.decode()!r} occurs twice")
        return made

    def save(self, directory: Path) -> None:
        """Write four arrays into `directory`."""
        for name, array in (
            ("text", self._text),
            ("ends", self._ends),
            ("hashes", self._hashes),
            ("rows", self._rows),
        ):
            np.save(_path(directory, name), array)

    @classmethod
    def load(cls, directory: Path) -> ItemIds:
        """Map the files that `save` wrote.

        Raises:
            ModelError: if a file is missing, or does not fit the others; the message names it.
        """
        ids = cls(*(map_array(_path(directory, name), kind) for name, kind in _KINDS.items()))
        ids._check(directory)
        return ids

    def begin_with(self, others: ItemIds) -> bool:
        """Return whether the first ids are `others`."""
        count, size = len(others), len(others._text)
        return np.array_equal(self._ends[:count], others._ends) and np.array_equal(
            self._text[:size], others._text
        )

    def _check(self, directory: Path) -> None:
        """Check that the arrays fit each other."""
        count, text = len(self), self._text.tobytes()
        starts = np.concatenate([np.zeros(1, np.int64), self._ends])
        require(is_partition(starts, count, len(text)), _path(directory, "ends"), "ends of ids")
        # Continuation bytes of UTF-8 begin with the bits 10: no id may begin with one.
        begins = self._text.take(starts[starts < len(text)])
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{_path(directory, 'text')}: ids are not UTF-8: {error}") from error
        require(bool((begins & 0xC0 != 0x80).all()), _path(directory, "ends"), "half a letter")
        require(
            len(self._rows) == count and np.array_equal(np.sort(self._rows), np.arange(count)),
            _path(directory, "rows"),
            "each row once",
        )
        digests = b"".join(_digest(text[a:b]) for a, b in pairwise(starts.tolist()))
        hashes = np.frombuffer(digests, "<u8").take(self._rows)
        ordered, later = self._hashes, self._hashes[1:]
        require(
            np.array_equal(hashes, ordered) and bool((later >= ordered[:-1]).all()),
            _path(directory, "hashes"),
            "hashes of ids",
        )
        same = np.flatnonzero(later == ordered[:-1])
        distinct = all(
            self._bytes(int(a)) != self._bytes(int(b))
            for a, b in zip(self._rows[same], self._rows[same + 1], strict=True)
        )
        require(distinct, _path(directory, "text"), "an id occurs twice")

    def row(self, item_id: str) -> int | None:
        """Return the row of an id; None for an unknown one."""
        encoded = item_id.encode()
        wanted = np.uint64(_hash(encoded))
        place = int(np.searchsorted(self._hashes, wanted))
        while place < len(self._hashes) and self._hashes[place] == wanted:
            row = int(self._rows[place])
            if self._bytes(row) == encoded:
                return row
            place += 1
        return None

    def rows_of(self, item_ids: Sequence[str]) -> list[int | None]:
        """Return the rows of many ids, None for unknown ones; faster than one by one."""
        if not item_ids or not len(self):
            return [None] * len(item_ids)
        if len(item_ids) > _AT_ONCE:  # other threads may want the interpreter's lock in between
            starts = range(0, len(item_ids), _AT_ONCE)
            return [row for start in starts for row in self.rows_of(item_ids[start:][:_AT_ONCE])]
        encoded = [item_id.encode() for item_id in item_ids]
        wanted = np.frombuffer(b"".join(map(_digest, encoded)), "<u8")
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self) - 1)
        known = self._hashes[places] == wanted
        rows = self._rows[places]
        text = _SEPARATOR.join([*compress(encoded, known.tolist()), b""])
        if self._joined(rows[known]).tobytes() != text:  # two ids have one hash
            return [self.row(item_id) for item_id in item_ids]
        rows[~known] = -1
        return [None if row < 0 else row for row in rows.tolist()]

    def rows_in(self, others: ItemIds) -> NDArray[np.int64]:
        """Return the row of each id in `others`, -1 for an unknown one.

        Much faster than to look them up: both are sorted by their hashes.
        """
        if np.array_equal(self._ends, others._ends) and np.array_equal(self._text, others._text):
            return np.arange(len(self))
        other_rows = np.full(len(self), -1, np.int64)
        if not len(others):
            return other_rows
        for start in range(0, len(self), _AT_ONCE):
            hashes = self._hashes[start : start + _AT_ONCE]
            places = np.minimum(np.searchsorted(others._hashes, hashes), len(others) - 1)
            alike = others._hashes[places] == hashes
            rows = self._rows[start : start + _AT_ONCE][alike]
            matches = others._rows[places[alike]]
            if np.array_equal(self._joined(rows), others._joined(matches)):
                other_rows[rows] = matches
            else:  # two ids have one hash
                for row, item_id in zip(rows.tolist(), self.of_rows(rows), strict=True):
                    known = others.row(item_id)
                    other_rows[row] = -1 if known is None else known
        return other_rows

    def of_rows(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the ids of many rows, each at least 0; faster than one by one."""
        # All are decoded at once: one by one costs five times as much.
        return self._joined(rows).tobytes().decode("utf-8", "surrogateescape").split(_ESCAPED)[:-1]

    def __len__(self) -> int:
        """Number of ids."""
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[str, ...]: ...
    def __getitem__(self, row: int | slice) -> str | tuple[str, ...]:
        """Return the id of a row, or the ids of a slice of rows."""
        if isinstance(row, slice):
            return tuple(self[number] for number in range(*row.indices(len(self))))
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} item ids")
        return self._bytes(row).decode()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids in row order."""
        start = 0
        text = memoryview(self._text.data)  # slices of an array would cost ten times as much
        for end in self._ends.tolist():
            yield str(text[start:end], "utf-8")
            start = end

    def __contains__(self, item_id: object) -> bool:
        """Whether an id is known."""
        return isinstance(item_id, str) and self.row(item_id) is not None

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has the same ids in the same order."""
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to tuples and lists, which hash otherwise

    def _joined(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Join the ids of rows, each followed by the separator."""
        if not len(rows) or not len(self._text):
            return np.full(len(rows), _BETWEEN, np.uint8)
        ends = self._ends[rows]
        sizes = ends - np.where(rows > 0, self._ends[rows - 1], 0) + 1
        stops = np.cumsum(sizes)
        places = np.arange(stops[-1]) + np.repeat(ends + 1 - stops, sizes)
        joined: NDArray[np.uint8] = self._text.take(places, mode="clip")
        joined[stops - 1] = _BETWEEN
        return joined

    def _bytes(self, row: int) -> bytes:
        start = int(self._ends[row - 1]) if row else 0
        return self._text[start : int(self._ends[row])].tobytes()


class CatalogueIds(Sequence[str]):
    """Ids by row: those of an index first, then others."""

    def __init__(self, known: ItemIds, others: tuple[str, ...]) -> None:
        """Append `others` to `known`."""
        self._known = known
        self._others = others

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._known) + len(self._others)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[str, ...]: ...
    def __getitem__(self, row: int | slice) -> str | tuple[str, ...]:
        """Return the item of a row, or the items of a slice of rows."""
        known = len(self._known)
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            if start >= known and step == 1:
                return self._others[start - known : max(stop - known, 0)]
            return tuple(self[number] for number in range(start, stop, step))
        if row < 0:
            row += len(self)
        return self._known[row] if row < known else self._others[row - known]

    def of_rows(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the items of many rows; faster than one by one."""
        known = len(self._known)
        if not len(rows) or rows.max() < known:
            return self._known.of_rows(rows)
        return [
            self._known[row] if row < known else self._others[row - known] for row in rows.tolist()
        ]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the items in row order."""
        return chain(self._known, self._others)


class CatalogueRows:
    """Row of each item, with a cache: most look-ups are of few items."""

    def __init__(
        self, known: ItemIds, others: Mapping[str, int], cached: dict[str, int] | None = None
    ) -> None:
        """Look up `others` first, then `known`; `cached` rows have not moved since."""
        self._known = known
        self.others = others
        self._cached: dict[str, int] = {} if cached is None else cached
        self._count = len(known) + len(others)

    def get(self, item_id: str) -> int | None:
        """Return the row of an item; None if there is no such item."""
        row = self._cached.get(item_id)
        if row is not None:
            # Later catalogues share the cache, and have more items.
            return row if row < self._count else None
        row = self.others.get(item_id)
        if row is None:
            row = self._known.row(item_id)
        if row is not None:
            if len(self._cached) >= _CACHED:
                self._cached.clear()
            self._cached[item_id] = row
        return row

    def of_many(self, item_ids: Iterable[str]) -> list[int | None]:
        """Return the rows of many items, None for unknown ones; faster than one by one."""
        item_ids = [*item_ids]
        rows = [*map(self._cached.get, item_ids)]
        absent = [number for number, row in enumerate(rows) if row is None]
        if absent:
            if len(self._cached) + len(absent) > _CACHED:
                self._cached.clear()
            cached = self._cached if len(absent) <= _CACHED else {}
            known = self._known.rows_of([item_ids[number] for number in absent])
            for number, row in zip(absent, known, strict=True):
                item_id = item_ids[number]
                row = self.others.get(item_id) if row is None else row
                if row is not None:
                    rows[number] = cached[item_id] = row
        count = self._count  # later catalogues share the cache, and have more items
        return [row if row is not None and row < count else None for row in rows]


def _path(directory: Path, name: str) -> Path:
    return directory / f"item_ids_{name}.npy"


def _hash(encoded: bytes) -> int:
    return int.from_bytes(_digest(encoded), "little")


def _digest(encoded: bytes) -> bytes:
    hashed = _UNUSED.copy()
    hashed.update(encoded)
    return hashed.digest()

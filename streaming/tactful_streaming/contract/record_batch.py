"""Batches of log records: columns of offsets and payloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import overload

Record = tuple[int, bytes]  # offset and payload
Row = tuple[bytes, bytes]  # key and value of a record that is written


class Records(Sequence[Record]):
    """Consecutive records of one partition, as a sequence of (offset, payload) pairs.

    The pairs are made on access; the offsets are a range if there is no gap::

        offsets   range(7, 10)
        payloads  [b"…", b"…", b"…"]
    """

    __slots__ = ("offsets", "payloads")

    def __init__(self, offsets: Sequence[int], payloads: Sequence[bytes]) -> None:
        """Hold offsets and payloads of equal number."""
        self.offsets = offsets
        self.payloads = payloads

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.payloads)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Records: ...

    def __getitem__(self, index: int | slice) -> Record | Records:
        """Return a pair, or a part of the records."""
        if isinstance(index, slice):
            return Records(self.offsets[index], self.payloads[index])
        return self.offsets[index], self.payloads[index]

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the pairs."""
        return iter(zip(self.offsets, self.payloads, strict=True))

    def __eq__(self, other: object) -> bool:
        """Whether it holds the same pairs as another sequence."""
        return isinstance(other, Sequence) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]  # mutable, and compared by value


def payloads_of(records: Sequence[Record]) -> Sequence[bytes]:
    """Return the payload of each record."""
    if isinstance(records, Records):
        return records.payloads
    return list(map(itemgetter(1), records))


def from_offset(records: Sequence[Record], offset: int) -> Sequence[Record]:
    """Return those of `records` that are not below `offset`."""
    if not records or records[0][0] >= offset:
        return records
    return [record for record in records if record[0] >= offset]

"""Records of the log as they are handed on: offsets and payloads, without an object for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import overload

Record = tuple[int, bytes]
"""Offset and payload."""

Row = tuple[bytes, bytes]
"""Key and value of a record that is written."""


class Records(Sequence[Record]):
    """A run of one partition, in order. It reads as a sequence of pairs, and makes them then.

    Attributes:
        offsets: offset of each; a range where there is no gap.
        payloads: payload of each.
    """

    __slots__ = ("offsets", "payloads")

    def __init__(self, offsets: Sequence[int], payloads: Sequence[bytes]) -> None:
        """Hold offsets and payloads of equal number."""
        self.offsets = offsets
        self.payloads = payloads

    def __len__(self) -> int:
        """How many."""
        return len(self.payloads)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Records: ...

    def __getitem__(self, index: int | slice) -> Record | Records:
        """A pair, or a part of the run."""
        if isinstance(index, slice):
            return Records(self.offsets[index], self.payloads[index])
        return self.offsets[index], self.payloads[index]

    def __iter__(self) -> Iterator[Record]:
        """The pairs."""
        return iter(zip(self.offsets, self.payloads, strict=True))

    def __eq__(self, other: object) -> bool:
        """Whether it holds the same pairs as another sequence."""
        return isinstance(other, Sequence) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]  # what can be compared by value and changes

    def __repr__(self) -> str:
        """The pairs."""
        return f"Records({[*self]!r})"


def payloads_of(records: Sequence[Record]) -> Sequence[bytes]:
    """Payload of each record."""
    if isinstance(records, Records):
        return records.payloads
    return list(map(itemgetter(1), records))


def from_offset(records: Sequence[Record], offset: int) -> Sequence[Record]:
    """Those of `records` that are not below `offset`."""
    if not records or records[0][0] >= offset:
        return records
    return [record for record in records if record[0] >= offset]

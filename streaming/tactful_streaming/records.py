"""Records of the log as they are handed on: offsets and payloads, without an object for each."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

PADDING: Final = b"\0" * 32
"""What follows the lines of a text, so that machine code may look a little beyond them."""

Record = tuple[int, bytes]
"""Offset and payload."""

Row = tuple[bytes, bytes]
"""Key and value of a record that is written."""


class Lines(Sequence[bytes]):
    """Payloads that lie in one text, each with a line break behind it; then comes the padding.

    Attributes:
        text: the text.
    """

    __slots__ = ("_ends", "text")

    def __init__(self, text: bytes | bytearray, ends: NDArray[np.int64]) -> None:
        """Hold a text; `ends` is where each payload begins, and in the end where one more would."""
        self.text = text
        self._ends = ends

    @classmethod
    def of_lengths(cls, lengths: NDArray[np.int64]) -> Lines:
        """Room for payloads of these lengths, to be written into :attr:`letters`."""
        ends = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths + 1, out=ends[1:])
        text = _uncleared(ends.item(-1) + len(PADDING))
        text[ends.item(-1) :] = PADDING
        return cls(text, ends)

    @property
    def letters(self) -> NDArray[np.uint8]:
        """The bytes of the text."""
        return np.frombuffer(self.text, np.uint8)

    def __len__(self) -> int:
        """How many."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        """A payload, or some of them."""
        places = range(len(self))[index]
        if isinstance(places, int):
            return bytes(self.text[self._ends.item(places) : self._ends.item(places + 1) - 1])
        return [self[place] for place in places]

    def __iter__(self) -> Iterator[bytes]:
        """The payloads."""
        text = bytes(self.text)
        return iter([text[begin : end - 1] for begin, end in pairwise(self._ends.tolist())])


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


def _uncleared(length: int) -> bytearray:
    """Room of which nobody has made zeros, which for megabytes takes longer than to copy them."""
    make = ctypes.pythonapi.PyByteArray_FromStringAndSize
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_char_p, ctypes.c_ssize_t]
    text: bytearray = make(None, length)
    return text


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

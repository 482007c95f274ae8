"""Rows for a topic in one text, without an object for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

Row = tuple[bytes, bytes]
"""Key and value of a record."""

TOGETHER: Final = 2_000
"""Rows that are made and sent on at once: few enough to stay in the processor's cache."""


class PackedRows(Sequence[Row]):
    """Rows whose keys and values lie in one text, each behind the one before.

    It reads as a sequence of pairs, and makes them then.

    Attributes:
        letters: the text.
        ends: zero, then where each key and each value ends.
    """

    __slots__ = ("ends", "letters")

    def __init__(self, letters: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        """Hold a text, and where its ``len(ends) // 2`` rows are."""
        self.letters = letters
        self.ends = ends

    def __len__(self) -> int:
        """How many."""
        return len(self.ends) // 2

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """A row, or some of them."""
        places = range(len(self))[index]
        if not isinstance(places, int):
            return [self[place] for place in places]
        begin, middle, end = self.ends[2 * places : 2 * places + 3].tolist()
        return self.letters[begin:middle].tobytes(), self.letters[middle:end].tobytes()

    def __iter__(self) -> Iterator[Row]:
        """The rows."""
        return iter(self[:])

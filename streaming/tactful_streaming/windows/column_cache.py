"""Numbers of paned windows, kept until an event or the clock changes them.

The popular items of a shop are read with every list, and change with few of the events. A window
in panes reads the same as long as neither its entity has an event nor the newest pane becomes
another, so a number is kept until then and is exactly what reading it again would give.

Numbers of one entity lie side by side, since they are read together and each entity is far from
the next in memory.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.windows.columns import NumberPanes
from tactful_streaming.windows.panes import PanedWindow, slide_of
from tactful_streaming.windows.reads import View

_ENTRY_BYTES: Final = 8


def keeps(view: View) -> bool:
    """Whether numbers of `view` can be kept: they are read from panes, one for each row."""
    return (
        view.is_number
        and isinstance(view.feature.window, PanedWindow)
        and all(isinstance(part, NumberPanes) for part in view.parts)
    )


class KeptNumbers:
    """Where the caches of one table have their numbers.

    Attributes:
        numbers: by row and by cache; NaN where it has to be read, which no number is.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.numbers: Floats = np.zeros((0, 0))

    def widen(self) -> int:
        """Make room for another cache; its number."""
        rows, column = len(self.numbers), int(self.numbers.shape[1])
        self.numbers = np.hstack([self.numbers, np.full((rows, 1), np.nan)])
        return column

    def grow(self, row: int) -> None:
        """Make room for a row and for more behind it."""
        rows, columns = self.numbers.shape
        more = max(row + 1, 3 * rows // 2) - rows
        self.numbers = np.vstack([self.numbers, np.full((more, columns), np.nan)])


class ColumnCache:
    """The numbers of one view as they were last read, by row.

    Attributes:
        column: which of the kept numbers they are.
    """

    def __init__(self, view: View, kept: KeptNumbers) -> None:
        """Begin empty.

        Args:
            view: one that :func:`keeps`.
            kept: where the numbers go.
        """
        assert isinstance(view.feature.window, PanedWindow)
        self._view = view
        self._slide = slide_of(view.feature.window)
        self._pane: int | None = None
        self._asked: int | None = None
        self._kept = kept
        self.column = kept.widen()

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return _ENTRY_BYTES * len(self._kept.numbers)

    def holds(self, at: int) -> bool:
        """Whether the numbers that are kept are those of time `at`."""
        if at // self._slide != self._pane:
            return False
        self._asked = None
        return True

    def read_many(self, rows: Rows, at: int) -> Floats:
        """The numbers of `rows` at time `at`, which is not before the horizon of the table."""
        if not self.holds(at):
            # A single look at another time is answered without giving up what is kept.
            pane = at // self._slide
            if pane != self._asked:
                self._asked = pane
                return self._view.read_many(rows, at)
            self._pane, self._asked = pane, None
            self._kept.numbers[:, self.column] = np.nan
        last = int(rows.max()) if len(rows) else -1
        if last >= len(self._kept.numbers):
            self._kept.grow(last)
        numbers: Floats = self._kept.numbers[rows, self.column]
        unknown = np.isnan(numbers)
        if unknown.any():
            read = rows[unknown]
            numbers[unknown] = self._view.read_many(read, at)
            self._kept.numbers[read, self.column] = numbers[unknown]
        return numbers

    def changed(self, rows: Rows) -> None:
        """Forget the numbers of `rows`."""
        self._kept.numbers[rows[rows < len(self._kept.numbers)], self.column] = np.nan

"""Numbers of paned windows, kept until an event or the clock changes them.

The popular items of a shop are read with every list, and change with few of the events. A window
in panes reads the same as long as neither its entity has an event nor the newest pane becomes
another, so a number is kept until then and is exactly what reading it again would give.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tactful_streaming.panes import Floats, PanedWindow, Rows, window_at
from tactful_streaming.parts import NumberPanes
from tactful_streaming.views import View

_ENTRY_BYTES: Final = 8


def keeps(view: View) -> bool:
    """Whether numbers of `view` can be kept: they are read from panes, one for each row."""
    return (
        view.is_number
        and isinstance(view.feature.window, PanedWindow)
        and all(isinstance(part, NumberPanes) for part in view.parts)
    )


class ColumnCache:
    """The numbers of one view as they were last read, by row."""

    def __init__(self, view: View) -> None:
        """Begin empty; `view` is one that :func:`keeps`."""
        assert isinstance(view.feature.window, PanedWindow)
        self._view = view
        self._window = view.feature.window
        self._panes: tuple[int, int] | None = None
        self._asked: tuple[int, int] | None = None
        self._numbers = np.zeros(0)  # NaN where it has to be read, which no number is

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return _ENTRY_BYTES * len(self._numbers)

    def read_many(self, rows: Rows, at: int) -> Floats:
        """The numbers of `rows` at time `at`, which is not before the horizon of the table."""
        panes = window_at(self._window, at)
        if panes != self._panes:
            # A single look at another time is answered without giving up what is kept.
            if panes != self._asked:
                self._asked = panes
                return self._view.read_many(rows, at)
            self._panes = panes
            self._numbers[:] = np.nan
        self._asked = None
        try:
            numbers = self._numbers.take(rows)
        except IndexError:
            self._grow(max(int(rows.max()) + 1, 3 * len(self._numbers) // 2))
            numbers = self._numbers.take(rows)
        unknown = np.isnan(numbers)
        if unknown.any():
            read = rows[unknown]
            self._numbers[read] = numbers[unknown] = self._view.read_many(read, at)
        return numbers

    def changed(self, rows: Rows) -> None:
        """Forget the numbers of `rows`."""
        self._numbers[rows[rows < len(self._numbers)]] = np.nan

    def _grow(self, capacity: int) -> None:
        more = np.full(capacity - len(self._numbers), np.nan)
        self._numbers = np.concatenate([self._numbers, more])

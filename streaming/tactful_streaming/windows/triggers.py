"""Splits batches at window ends, and emits the values of windows that the watermark passes."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, groupby
from typing import Any, Final, cast

import numpy as np

from tactful_streaming.arrays import Rows
from tactful_streaming.definitions.model import CumulativeWindow, Feature, SessionWindow, Window
from tactful_streaming.windows.pane_columns import (
    AccumulatorPanes,
    PanedColumn,
    PanedWindow,
    oldest_open,
    slide_of,
    window_at,
)
from tactful_streaming.windows.panes import NumberPanes
from tactful_streaming.windows.reads import View
from tactful_streaming.windows.sessions import Closed, Sessions

ALL_ROWS: Final = sys.maxsize
"""Number of rows at once that no window reaches."""

_FOR_EVER: Final = 2**62


class BatchSplitter:
    """Splits a batch at window ends, for the results of events applied one by one.

    A window is emitted when the watermark reaches its end, without later events of the batch. An
    event that changes an emitted window makes it be emitted again at once. So each part of a batch
    ends with such an event.
    """

    def __init__(self, features: Iterable[Feature], allowed_lateness_ms: int) -> None:
        """Prepare to split for the windows of `features`."""
        steps: set[int] = set()
        gaps: set[int] = set()
        for feature in features:
            if isinstance(feature.window, Window) and feature.aggregate != "last_n":
                steps.add(feature.window.slide_ms)
            elif isinstance(feature.window, CumulativeWindow):
                steps.add(feature.window.step_ms)
            elif isinstance(feature.window, SessionWindow):
                gaps.add(feature.window.gap_ms)
        # The end of a step is also the end of every step that divides it.
        self._steps = [s for s in sorted(steps) if not any(s % t == 0 for t in steps if t < s)]
        self._gap = min(gaps, default=None)
        self._emits_again = allowed_lateness_ms > 0
        self.has_windows = bool(steps or gaps)  # whether one of the features has windows that end

    def split(self, timestamps: Rows, watermarks: Rows, before: int) -> list[tuple[int, int]]:
        """Return begin and end of each part.

        `watermarks` are those after each event, and `before` the one before the first.
        """
        count = len(timestamps)
        last = np.zeros(count, np.bool_)
        for step in self._steps:
            if self._emits_again:
                last |= timestamps // step < watermarks // step
            if int(watermarks[-1]) // step != before // step:
                number = watermarks // step
                last[0] |= number[0] != before // step
                last[1:] |= number[1:] != number[:-1]
        if self._emits_again and self._gap is not None:
            last |= timestamps + self._gap <= watermarks
        ends = (np.flatnonzero(last) + 1).tolist()
        if not ends or ends[-1] != count:
            ends.append(count)
        return list(zip([0, *ends[:-1]], ends, strict=True))


@dataclass(frozen=True)
class WindowResult:
    """Values of one feature in one window ``[window_start, window_end)``, epoch milliseconds.

    A window of many rows comes in several results. The rows and their values do not depend on how
    the log was split into batches; their order may.
    """

    feature: str
    entity: str
    window_start: int
    window_end: int
    keys: list[str]  # entity of each row, with state in the window
    groups: list[str] | None  # group of each row; None for a feature without groups
    # Value of each row; None if it is beyond the range of a double since the window was emitted
    # first. Such a row is left out the first time.
    values: list[Any]


def has_windows(view: View) -> bool:
    """Return whether the feature has windows that end."""
    return isinstance(view.columns[0], PanedColumn | Sessions)


@dataclass(frozen=True)
class _Due:
    """A window to emit: its results are computed when they are read."""

    end: int
    start: int
    results: Iterator[WindowResult]


def emit_windows(
    views: Sequence[View],
    keys: Sequence[str | None],
    before: int,
    after: int,
    lateness_ms: int,
    most_rows: int,
) -> Iterator[WindowResult]:
    """Yield windows that ended, and those that changed after their end, by their ends.

    `keys` are those of the rows, and the watermark went from `before` to `after`. A window may
    change for `lateness_ms` after its end. One with more than `most_rows` rows comes as several
    results, so that few values are in memory at once. The state must not change until the end.
    """
    due: list[_Due] = []
    columns = {id(column): column for view in views for column in view.columns}
    closed = {n: c.close(after) for n, c in columns.items() if isinstance(c, Sessions)}
    for view in views:
        if isinstance(view.columns[0], Sessions):
            sessions = [closed[id(column)] for column in view.columns]
            due += _ended_sessions(view, keys, sessions, most_rows)
        else:
            due += _changed_windows(view, keys, before, lateness_ms, most_rows)
            due += _ended_windows(view, keys, before, after, most_rows)
    for column in columns.values():
        if isinstance(column, PanedColumn) and column.changed:
            column.changed = []
    for window in sorted(due, key=lambda window: (window.end, window.start)):
        yield from window.results


def drop_infinite(result: WindowResult) -> WindowResult:
    """Return a result without the rows whose value is infinite."""
    kept = [value is None or abs(value) < math.inf for value in result.values]
    if all(kept):
        return result
    groups = None if result.groups is None else [*compress(result.groups, kept)]
    keys, values = [*compress(result.keys, kept)], [*compress(result.values, kept)]
    return replace(result, keys=keys, groups=groups, values=values)


def next_pending(views: Sequence[View], watermark: int) -> int | None:
    """Return a time before which no window with state ends; None without any."""
    ends: list[int] = []
    for view in views:
        column = view.columns[0]
        if isinstance(column, Sessions):
            ends += [] if (end := column.next_end()) is None else [end]
        elif panes := _panes(view, watermark, _FOR_EVER):
            assert isinstance(column, PanedColumn)
            ends.append(max(panes[0] + 1, watermark // column.slide_ms + 1) * column.slide_ms)
    return min(ends, default=None)


def _ended_windows(
    view: View, keys: Sequence[str | None], before: int, after: int, most_rows: int
) -> Iterator[_Due]:
    column, window = view.columns[0], view.feature.window
    assert isinstance(column, PanedColumn) and isinstance(window, PanedWindow)
    slide = column.slide_ms
    if before // slide == after // slide:
        return
    for end in column.ends(window, _panes(view, before, after), before, after):
        yield _due(view, keys, end, most_rows)


def _changed_windows(
    view: View, keys: Sequence[str | None], before: int, lateness_ms: int, most_rows: int
) -> Iterator[_Due]:
    column, window = view.columns[0], view.feature.window
    assert isinstance(column, PanedColumn) and isinstance(window, PanedWindow)
    changed: dict[int, set[int]] = {}
    for columns in column.changed or ():
        for cell, pane, watermark in zip(*(part.tolist() for part in columns), strict=True):
            first = max(watermark - lateness_ms, 0)
            for end in column.ends(window, [pane], first, min(watermark, before)):
                changed.setdefault(end, set()).add(cell)
    for end, cells in sorted(changed.items()):
        yield _due(view, keys, end, most_rows, cells)


def _ended_sessions(
    view: View,
    keys: Sequence[str | None],
    closed: Sequence[Sequence[Closed]],
    most_rows: int,
) -> Iterator[_Due]:
    for (end, start), group in groupby(zip(*closed, strict=True), key=lambda parts: parts[0][:2]):
        # An entity merged into another has no key any more.
        sessions = [parts for parts in group if keys[parts[0].row] is not None]
        yield _Due(end, start, _session_results(view, keys, sessions, most_rows))


def _session_results(
    view: View,
    keys: Sequence[str | None],
    sessions: Sequence[tuple[Closed, ...]],
    most_rows: int,
) -> Iterator[WindowResult]:
    for begin in range(0, len(sessions), most_rows):
        yield _session_result(view, keys, sessions[begin : begin + most_rows])


def _session_result(
    view: View, keys: Sequence[str | None], sessions: Sequence[tuple[Closed, ...]]
) -> WindowResult:
    end, start = sessions[0][0][:2]
    column = view.columns[0]
    assert isinstance(column, Sessions)
    values = [column.result(parts[0], view.feature) for parts in sessions]
    if len(view.columns) > 1:
        other = view.columns[1]
        assert isinstance(other, Sessions)
        divisors = [other.result(parts[1], view.feature) for parts in sessions]
        values = [value / by for value, by in zip(values, divisors, strict=True)]
    if view.feature.aggregate in ("sum", "mean"):
        values = [
            None if parts[0].again and math.isinf(value) else value
            for parts, value in zip(sessions, values, strict=True)
        ]
    names = _names(keys, [parts[0].row for parts in sessions])
    groups = [parts[0].group or "" for parts in sessions] if view.feature.group_by else None
    return WindowResult(view.feature.name, view.feature.entity, start, end, names, groups, values)


def _due(
    view: View,
    keys: Sequence[str | None],
    end: int,
    most_rows: int,
    cells: Collection[int] | None = None,
) -> _Due:
    """Prepare the paned window that ends at `end`, of some cells or of all with state."""
    window = view.feature.window
    assert isinstance(window, PanedWindow)
    start = window_at(window, end - 1)[0] * slide_of(window)

    def results() -> Iterator[WindowResult]:
        parts = (
            view.window(end, most_rows) if cells is None else view.window_of(cells, end, most_rows)
        )
        for rows, groups, values in parts:
            names = _names(keys, rows.tolist())
            feature = view.feature
            yield WindowResult(feature.name, feature.entity, start, end, names, groups, values)

    return _Due(end, start, results())


def _names(keys: Sequence[str | None], rows: Sequence[int]) -> list[str]:
    names = list(map(keys.__getitem__, rows))
    assert None not in names
    return cast("list[str]", names)


def _panes(view: View, after: int, until: int) -> list[int]:
    """Return panes with state whose windows may end in ``(after, until]``."""
    column, window = view.columns[0], view.feature.window
    assert isinstance(column, NumberPanes | AccumulatorPanes) and isinstance(window, PanedWindow)
    return column.panes_between(int(oldest_open(window, np.array(after))), until // column.slide_ms)

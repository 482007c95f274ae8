"""What the windows hold as the watermark passes their ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, cast

import numpy as np

from tactful_streaming.windows.pane_columns import AccumulatorPanes, NumberPanes, PanedColumn
from tactful_streaming.windows.panes import PanedWindow, oldest_open, slide_of, window_at
from tactful_streaming.windows.reads import View
from tactful_streaming.windows.sessions import Closed, Sessions

_FOR_EVER: Final = 2**62


@dataclass(frozen=True)
class WindowResult:
    """The values of one feature in one window.

    Which rows there are, and their values, do not depend on how the log was cut into batches; the
    order of the rows says nothing.

    Attributes:
        feature: its name.
        entity: the kind of entity it describes.
        window_start: epoch milliseconds.
        window_end: epoch milliseconds; the window is ``[window_start, window_end)``.
        keys: entities that have something in the window.
        groups: group of each row; None for a feature without.
        values: value of each row.
    """

    feature: str
    entity: str
    window_start: int
    window_end: int
    keys: list[str]
    groups: list[str] | None
    values: list[Any]


def has_windows(view: View) -> bool:
    """Whether the feature has windows that end."""
    return isinstance(view.columns[0], PanedColumn | Sessions)


def emit_windows(
    views: Sequence[View], keys: Sequence[str | None], before: int, after: int, lateness_ms: int
) -> list[WindowResult]:
    """Windows whose end the watermark has reached, and those that changed after that.

    Args:
        views: features that fire.
        keys: key of each row.
        before: watermark at the last call.
        after: watermark now.
        lateness_ms: for how long after its end a window may still change.
    """
    fired: list[WindowResult] = []
    closed = {
        id(column): column.close(after)
        for column in {id(column): column for view in views for column in view.columns}.values()
        if isinstance(column, Sessions)
    }
    for view in views:
        if isinstance(view.columns[0], Sessions):
            sessions = [closed[id(column)] for column in view.columns]
            fired += _fire_sessions(view, keys, sessions)
        else:
            fired += _fire_again(view, keys, before, lateness_ms)
            fired += _fire_windows(view, keys, before, after)
    for view in views:
        for column in view.columns:
            if isinstance(column, PanedColumn) and column.changed:
                column.changed = []
    return sorted(fired, key=lambda one: (one.window_end, one.window_start))


def next_pending(views: Sequence[View], watermark: int) -> int | None:
    """Time before which nothing that is there will fire; None if there is nothing."""
    found: list[int] = []
    for view in views:
        column, window = view.columns[0], view.feature.window
        if isinstance(column, Sessions):
            end = column.next_end()
            if end is not None:
                found.append(end)
        else:
            assert isinstance(column, PanedColumn) and isinstance(window, PanedWindow)
            panes = _panes(view, watermark, _FOR_EVER)
            if panes:
                found.append(max(panes[0] + 1, watermark // column.slide_ms + 1) * column.slide_ms)
    return min(found, default=None)


def _fire_windows(
    view: View, keys: Sequence[str | None], before: int, after: int
) -> list[WindowResult]:
    column, window = view.columns[0], view.feature.window
    assert isinstance(column, PanedColumn) and isinstance(window, PanedWindow)
    slide = column.slide_ms
    if before // slide == after // slide:
        return []
    ends = column.ends(window, _panes(view, before, after), before, after)
    return [_fired(view, keys, end, view.window(end)) for end in ends]


def _fire_again(
    view: View, keys: Sequence[str | None], before: int, lateness_ms: int
) -> list[WindowResult]:
    column, window = view.columns[0], view.feature.window
    assert isinstance(column, PanedColumn) and isinstance(window, PanedWindow)
    changed: dict[int, set[int]] = {}
    for cells, panes, watermarks in column.changed or ():
        for cell, pane, watermark in zip(
            cells.tolist(), panes.tolist(), watermarks.tolist(), strict=True
        ):
            first = max(watermark - lateness_ms, 0)
            for end in column.ends(window, [pane], first, min(watermark, before)):
                changed.setdefault(end, set()).add(cell)
    return [
        _fired(view, keys, end, view.window_of(cells, end))
        for end, cells in sorted(changed.items())
    ]


def _fire_sessions(
    view: View, keys: Sequence[str | None], closed: Sequence[Sequence[Closed]]
) -> list[WindowResult]:
    fired: list[WindowResult] = []
    column = view.columns[0]
    assert isinstance(column, Sessions)
    for (end, start), group in groupby(zip(*closed, strict=True), key=lambda one: one[0][:2]):
        # Whoever was merged into another since then has no key any more.
        sessions = [one for one in group if keys[one[0].row] is not None]
        values = [column.result(one[0], view.feature) for one in sessions]
        if len(closed) > 1:
            other = view.columns[1]
            assert isinstance(other, Sessions)
            divisors = [other.result(one[1], view.feature) for one in sessions]
            values = [value / by for value, by in zip(values, divisors, strict=True)]
        names = _names(keys, [one[0].row for one in sessions])
        groups = [one[0].group or "" for one in sessions] if view.feature.group_by else None
        fired.append(
            WindowResult(view.feature.name, view.feature.entity, start, end, names, groups, values)
        )
    return fired


def _fired(
    view: View, keys: Sequence[str | None], end: int, rows: tuple[Any, list[str] | None, list[Any]]
) -> WindowResult:
    window = view.feature.window
    assert isinstance(window, PanedWindow)
    start = window_at(window, end - 1)[0] * slide_of(window)
    names = _names(keys, rows[0].tolist())
    return WindowResult(view.feature.name, view.feature.entity, start, end, names, *rows[1:])


def _names(keys: Sequence[str | None], rows: Sequence[int]) -> list[str]:
    names = list(map(keys.__getitem__, rows))
    assert None not in names
    return cast("list[str]", names)


def _panes(view: View, after: int, until: int) -> list[int]:
    """Panes with something in them whose windows may end in ``(after, until]``."""
    column, window = view.columns[0], view.feature.window
    assert isinstance(column, NumberPanes | AccumulatorPanes) and isinstance(window, PanedWindow)
    return column.panes_between(int(oldest_open(window, np.array(after))), until // column.slide_ms)

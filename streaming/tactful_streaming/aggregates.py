"""One aggregate per feature: applies selected events, answers reads, packs itself for the store."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.definitions import Feature, Window
from tactful_streaming.errors import EngineError
from tactful_streaming.panes import Floats, GroupedPanes, PaneTable, Recency, Rows, oldest_open

Value = float | dict[str, float] | list[tuple[str, int]]
"""A feature as read: a number, a number for each group, or (value, timestamp) newest first."""


@dataclass(frozen=True)
class Selection:
    """Events that count for one feature, in the order of the log.

    Attributes:
        rows: row of the entity of each event.
        timestamps: when each happened, epoch milliseconds.
        watermarks: watermark when each is applied, epoch milliseconds.
        amounts: what each adds to a sum; None for a count.
        texts: group or kept value of each; None where the feature has none.
    """

    rows: Rows
    timestamps: NDArray[np.int64]
    watermarks: NDArray[np.int64]
    amounts: Floats | None
    texts: list[str] | None


@dataclass(frozen=True)
class Outcome:
    """What became of a selection beside being counted.

    Attributes:
        late: events whose last window had ended.
        evicted: groups that had to make room.
    """

    late: int = 0
    evicted: int = 0


class Aggregate(Protocol):
    """State of one feature for all rows of an entity table."""

    def apply(self, selection: Selection) -> Outcome:
        """Count the selected events."""

    def read(self, row: int, at: int) -> Value:
        """Value of one row at time `at`."""

    def resize(self, capacity: int) -> None:
        """Make room for rows below `capacity`."""

    def expire(self, watermark: int) -> None:
        """Forget what no read at or after `watermark` can see, where that is cheap."""

    def clear(self, row: int) -> None:
        """Forget a row."""

    def pack(self, rows: Rows, watermark: int) -> Sequence[Any]:
        """State of each row as something msgpack can hold."""

    def unpack(self, rows: Rows, packed: Sequence[Any]) -> None:
        """Restore what :meth:`pack` gave; the rows are empty."""


class NumericAggregate(Aggregate, Protocol):
    """An aggregate with one number a row."""

    def read_many(self, rows: Rows, at: int) -> Floats:
        """Values of `rows` at time `at`; shape ``(len(rows),)``."""


def make_aggregate(feature: Feature, capacity: int) -> Aggregate:
    """The aggregate that computes `feature`, with room for rows below `capacity`."""
    if feature.aggregate == "last_n":
        assert feature.n is not None
        assert feature.window is None or isinstance(feature.window, Window)
        return LastValues(feature.n, feature.window, capacity)
    if feature.aggregate == "last_time":
        if feature.group_by is None:
            return LastTime(capacity)
        return GroupedLastTime(feature.max_groups, capacity)
    if feature.aggregate not in ("count", "sum") or not isinstance(feature.window, Window):
        raise EngineError(f"{feature.name!r}: the embedded engine cannot compute it yet")
    if feature.group_by is None:
        return WindowedTotal(feature.window, capacity)
    return GroupedTotal(feature.window, feature.max_groups, capacity)


def _panes(window: Window, selection: Selection) -> tuple[Rows, NDArray[np.bool_]]:
    """Pane of each event, and whether its last window was still open when it was applied."""
    panes = selection.timestamps // window.slide_ms
    return panes, panes > selection.watermarks // window.slide_ms - window.panes


class WindowedTotal:
    """Count or sum over a window."""

    def __init__(self, window: Window, capacity: int) -> None:
        """Begin empty."""
        self._window = window
        self._table = PaneTable(window, capacity)

    def apply(self, selection: Selection) -> Outcome:
        """Add the events that are not late."""
        window, rows, amounts = self._window, selection.rows, selection.amounts
        panes, in_time = _panes(window, selection)
        late = len(rows) - int(np.count_nonzero(in_time))
        if late:
            rows, panes = rows[in_time], panes[in_time]
            amounts = amounts[in_time] if amounts is not None else None
        if len(rows):
            self._table.add(rows, panes, np.ones(len(rows)) if amounts is None else amounts)
        return Outcome(late=late)

    def read(self, row: int, at: int) -> float:
        """Total of one row at time `at`."""
        return self._table.read_one(row, at)

    def read_many(self, rows: Rows, at: int) -> Floats:
        """Totals of `rows` at time `at`."""
        return self._table.read(rows, at)

    def resize(self, capacity: int) -> None:
        """Make room for rows below `capacity`."""
        self._table.resize(capacity)

    def expire(self, watermark: int) -> None:
        """Forget panes whose last window has ended."""
        self._table.expire(watermark)

    def clear(self, row: int) -> None:
        """Forget a row."""
        self._table.clear(row)

    def pack(self, rows: Rows, watermark: int) -> list[bytes]:
        """Panes of each row."""
        return self._table.pack(rows)

    def unpack(self, rows: Rows, packed: Sequence[Any]) -> None:
        """Restore the panes of each row."""
        self._table.unpack(rows, packed)


class LastTime:
    """Newest timestamp, epoch milliseconds; 0 where there is none."""

    def __init__(self, capacity: int) -> None:
        """Begin empty."""
        self._times = np.zeros(capacity)

    def apply(self, selection: Selection) -> Outcome:
        """Keep the newest."""
        np.maximum.at(self._times, selection.rows, selection.timestamps)
        return Outcome()

    def read(self, row: int, at: int) -> float:
        """Newest timestamp of one row."""
        return self._times.item(row)

    def read_many(self, rows: Rows, at: int) -> Floats:
        """Newest timestamps of `rows`."""
        return self._times[rows]

    def resize(self, capacity: int) -> None:
        """Make room for rows below `capacity`."""
        self._times = np.concatenate([self._times, np.zeros(capacity - len(self._times))])

    def expire(self, watermark: int) -> None:
        """Nothing ages."""

    def clear(self, row: int) -> None:
        """Forget a row."""
        self._times[row] = 0

    def pack(self, rows: Rows, watermark: int) -> list[float]:
        """Newest timestamp of each row."""
        times: list[float] = self._times[rows].tolist()
        return times

    def unpack(self, rows: Rows, packed: Sequence[Any]) -> None:
        """Restore the newest timestamp of each row."""
        self._times[rows] = packed


class GroupedTotal:
    """Count or sum over a window, for each group."""

    def __init__(self, window: Window, max_groups: int, capacity: int) -> None:
        """Begin empty."""
        self._window = window
        self._max_groups = max_groups
        self._states: list[GroupedPanes | None] = [None] * capacity

    def apply(self, selection: Selection) -> Outcome:
        """Add the events that are not late; evict groups beyond the bound."""
        window, states, max_groups = self._window, self._states, self._max_groups
        panes, in_time = _panes(window, selection)
        count = len(panes)
        amounts = [1] * count if selection.amounts is None else selection.amounts.tolist()
        assert selection.texts is not None
        evicted = 0
        for row, pane, group, amount, watermark, counts in zip(
            selection.rows.tolist(),
            panes.tolist(),
            selection.texts,
            amounts,
            selection.watermarks.tolist(),
            in_time.tolist(),
            strict=True,
        ):
            if not counts:
                continue
            state = states[row]
            if state is None:
                state = states[row] = GroupedPanes()
            groups = state.panes.get(pane)
            if groups is not None and group in groups:
                groups[group] += amount
                state.merged = None
                continue
            if groups is None:
                state.expire(oldest_open(window, watermark))
            if state.add(pane, group, amount) > max_groups:
                evicted += state.bound(max_groups, oldest_open(window, watermark))
        return Outcome(count - int(np.count_nonzero(in_time)), evicted)

    def read(self, row: int, at: int) -> dict[str, float]:
        """Total of each group of one row at time `at`."""
        state = self._states[row]
        return state.read(self._window, at) if state is not None else {}

    def resize(self, capacity: int) -> None:
        """Make room for rows below `capacity`."""
        self._states.extend([None] * (capacity - len(self._states)))

    def expire(self, watermark: int) -> None:
        """Nothing: a row is cleaned when it gets a new pane."""

    def clear(self, row: int) -> None:
        """Forget a row."""
        self._states[row] = None

    def pack(self, rows: Rows, watermark: int) -> list[dict[int, dict[str, float]]]:
        """Panes of each row."""
        oldest = oldest_open(self._window, watermark)
        states = [self._states[row] for row in rows.tolist()]
        return [state.pack(oldest) if state is not None else {} for state in states]

    def unpack(self, rows: Rows, packed: Sequence[Any]) -> None:
        """Restore the panes of each row."""
        for row, panes in zip(rows.tolist(), packed, strict=True):
            self._states[row] = GroupedPanes(panes) if panes else None


class GroupedLastTime:
    """Newest timestamp of each group, epoch milliseconds."""

    def __init__(self, max_groups: int, capacity: int) -> None:
        """Begin empty."""
        self._max_groups = max_groups
        self._states: list[Recency | None] = [None] * capacity

    def apply(self, selection: Selection) -> Outcome:
        """Keep the newest; beyond the bound, groups with the oldest go."""
        states, max_groups = self._states, self._max_groups
        assert selection.texts is not None
        evicted = 0
        for row, group, timestamp in zip(
            selection.rows.tolist(), selection.texts, selection.timestamps.tolist(), strict=True
        ):
            state = states[row]
            if state is None:
                state = states[row] = Recency()
            if state.note(group, timestamp) > max_groups:
                evicted += len(state.evict(max_groups))
        return Outcome(evicted=evicted)

    def read(self, row: int, at: int) -> dict[str, float]:
        """Newest timestamp of each group of one row."""
        state = self._states[row]
        return {group: float(time) for group, time in state.last.items()} if state else {}

    def resize(self, capacity: int) -> None:
        """Make room for rows below `capacity`."""
        self._states.extend([None] * (capacity - len(self._states)))

    def expire(self, watermark: int) -> None:
        """Nothing ages."""

    def clear(self, row: int) -> None:
        """Forget a row."""
        self._states[row] = None

    def pack(self, rows: Rows, watermark: int) -> list[dict[str, int]]:
        """Newest timestamps of each row."""
        states = [self._states[row] for row in rows.tolist()]
        return [state.last if state is not None else {} for state in states]

    def unpack(self, rows: Rows, packed: Sequence[Any]) -> None:
        """Restore the newest timestamps of each row."""
        for row, last in zip(rows.tolist(), packed, strict=True):
            self._states[row] = Recency(last) if last else None


class LastValues:
    """The newest n values with their timestamps; of equally new ones, those that came last."""

    def __init__(self, n: int, window: Window | None, capacity: int) -> None:
        """Begin empty."""
        self._n = n
        self._age_ms = window.size_ms if window is not None else None
        self._states: list[list[tuple[int, str]] | None] = [None] * capacity

    def apply(self, selection: Selection) -> Outcome:
        """Keep the newest n."""
        states, n = self._states, self._n
        assert selection.texts is not None
        for row, text, timestamp in zip(
            selection.rows.tolist(), selection.texts, selection.timestamps.tolist(), strict=True
        ):
            kept = states[row]
            if kept is None:
                states[row] = [(timestamp, text)]
                continue
            if kept[-1][0] <= timestamp:
                kept.append((timestamp, text))
            else:
                insort(kept, (timestamp, text), key=lambda entry: entry[0])
            if len(kept) > n:
                del kept[0]
        return Outcome()

    def read(self, row: int, at: int) -> list[tuple[str, int]]:
        """Values of one row, newest first; with a window, those newer than its size at `at`."""
        kept = self._states[row]
        if not kept:
            return []
        oldest = -1 if self._age_ms is None else at - self._age_ms
        return [(text, timestamp) for timestamp, text in reversed(kept) if timestamp > oldest]

    def resize(self, capacity: int) -> None:
        """Make room for rows below `capacity`."""
        self._states.extend([None] * (capacity - len(self._states)))

    def expire(self, watermark: int) -> None:
        """Nothing: old values are left out when read."""

    def clear(self, row: int) -> None:
        """Forget a row."""
        self._states[row] = None

    def pack(self, rows: Rows, watermark: int) -> list[list[tuple[int, str]]]:
        """Values of each row, oldest first."""
        return [self._states[row] or [] for row in rows.tolist()]

    def unpack(self, rows: Rows, packed: Sequence[Any]) -> None:
        """Restore the values of each row."""
        for row, kept in zip(rows.tolist(), packed, strict=True):
            self._states[row] = [(timestamp, text) for timestamp, text in kept] or None

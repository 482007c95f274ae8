"""Oracle of features: stores every event and reads all of them.

Written from the definitions' meaning alone. It shares no code with the engine but the definitions
and the entries; it has no pane table, no packed state and no micro-batch.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tactful_streaming.contract.log_entries import Entry, Event, Item, Tick, subject_key
from tactful_streaming.definitions.model import (
    CumulativeWindow,
    Definitions,
    Feature,
    ForwardDecay,
    SessionWindow,
    Window,
)

TEXTUAL = ("last_n", "distinct", "top_k")


class Row(NamedTuple):
    """An event that counts for a feature of one entity."""

    timestamp: int
    group: str | None
    value: Any


class WindowRow(NamedTuple):
    """A window's value at its end, or at a change after that."""

    feature: str
    key: str
    group: str | None
    start: int
    end: int
    value: Any


MOST_VERSIONS = 8


class ItemVersions:
    """Item updates that have arrived: the eight newest of each item by their time."""

    def __init__(self) -> None:
        self.newest: dict[str, Item] = {}
        self._versions: dict[str, list[Item]] = {}

    def add(self, item: Item) -> None:
        self.newest[item.item_id] = item
        versions = [*self._versions.get(item.item_id, []), item]
        versions.sort(key=lambda version: version.timestamp)
        self._versions[item.item_id] = versions[-MOST_VERSIONS:]

    def as_of(self, item_id: str | None, timestamp: int) -> Item | None:
        """Newest version up to `timestamp`; of equals, the last to arrive."""
        versions = self._versions.get(item_id, []) if item_id is not None else []
        known = [item for item in versions if item.timestamp <= timestamp]
        return known[-1] if known else None


def reached(event: Event) -> int:
    """Time that an event moves event time to: it cannot be beyond its receipt."""
    return min(time for time in (event.timestamp, event.received_at) if time is not None)


class Oracle:
    def __init__(
        self, definitions: Definitions, lateness: int, delay: int = 0, *, firing: bool = False
    ) -> None:
        self.features, self.lateness, self.delay = definitions.features, lateness, delay
        self.firing = firing
        self.newest, self.late, self.ids = 0, 0, set[str]()
        self.catalogue = ItemVersions()
        self.kept: dict[tuple[str, str], list[Row]] = {}
        self.fired: list[WindowRow] = []
        # Windows that hold something new and have yet to fire: feature, key, group, start, end.
        self._changed: set[tuple[Feature, str, str | None, int, int]] = set()

    @property
    def watermark(self) -> int:
        return max(self.newest - self.delay, 0)

    @property
    def items(self) -> dict[str, Item]:
        return self.catalogue.newest

    def apply(self, entry: Entry) -> None:
        if isinstance(entry, Item):
            self.catalogue.add(entry)
        elif isinstance(entry, Tick):
            self.newest = max(self.newest, entry.timestamp)
        elif isinstance(entry, Event) and entry.event_id not in self.ids:
            self.ids.add(entry.event_id)
            before = self.watermark
            self.newest = max(self.newest, reached(entry))
            for feature in self.features:
                if entry.type in feature.events:
                    self._count(feature, entry, before)
        if self.firing:
            self._fire()

    def read(self, f: Feature, key: str, at: int) -> Any:
        """The value of `f` for one key at request time."""
        rows = self.kept.get((f.name, key), [])
        if f.aggregate == "last_n":
            oldest = at - f.window.size_ms if isinstance(f.window, Window) else -1
            newest = sorted(rows, key=lambda row: row.timestamp)[::-1][: f.n]
            return [(row.value, row.timestamp) for row in newest if row.timestamp > oldest]
        values = {}
        for group in dict.fromkeys(row.group for row in rows):
            inside = rows_read_at(f, [row for row in rows if row.group == group], at)
            if inside:
                values[group] = aggregate(f, inside, at)
        if f.group_by is not None:
            return values
        return values.get(None, [] if f.aggregate == "top_k" else 0.0)

    def _count(self, f: Feature, event: Event, before: int) -> None:
        key = value_of(key_source(f.entity), event, self.catalogue)
        of = value_of(f.of, event, self.catalogue)
        group = value_of(f.group_by, event, self.catalogue)
        if key is None or (f.of and not _counts(f, of)) or (f.group_by and not _is_text(group)):
            return
        row = Row(event.timestamp, str(group) if group is not None else None, of)
        if f.aggregate in TEXTUAL:
            row = row._replace(value=str(of))
        rows = self.kept.setdefault((f.name, key), [])
        if isinstance(f.window, SessionWindow):
            self._end_sessions(f.window.gap_ms, rows, before)
        if self._is_late(f, rows, row):
            self.late += 1
            return
        if self.firing:
            self._note(f, key, rows, row)
        rows.append(row)
        if f.group_by is not None:
            self._evict(f, rows)

    def _is_over(self, end: int) -> bool:
        """Whether a window has fired and can change no more."""
        return end + self.lateness <= self.watermark

    def _is_late(self, f: Feature, rows: Sequence[Row], row: Row) -> bool:
        if not has_windows(f):
            return False
        if isinstance(f.window, SessionWindow):
            return self._is_over(self._session_of(f.window.gap_ms, rows, row)[1])
        return self._is_over(windows_of(f, row.timestamp)[-1][1])

    def _end_sessions(self, gap: int, rows: list[Row], watermark: int) -> None:
        """Drop the sessions that were over before the event came."""
        rows[:] = [
            row for row in rows if self._session_of(gap, rows, row)[1] + self.lateness > watermark
        ]

    def _session_of(self, gap: int, rows: Iterable[Row], row: Row) -> tuple[int, int]:
        """Start and end of the session of its group that `row` belongs to, with `rows`."""
        others = (other.timestamp for other in rows if other.group == row.group)
        times = sorted([row.timestamp, *others])
        first = last = times.index(row.timestamp)
        while first > 0 and times[first] - times[first - 1] <= gap:
            first -= 1
        while last + 1 < len(times) and times[last + 1] - times[last] <= gap:
            last += 1
        return times[first], times[last] + gap

    def _note(self, f: Feature, key: str, rows: Sequence[Row], row: Row) -> None:
        """Note which windows a new row changes; `rows` are those before it."""
        if not has_windows(f):
            return
        if not isinstance(f.window, SessionWindow):
            windows = windows_of(f, row.timestamp)
        else:
            windows = [self._session_of(f.window.gap_ms, rows, row)]
            (start, end) = windows[0]
            # The sessions that it joins into one are no windows any more.
            self._changed = {
                (g, k, group, s, e)
                for g, k, group, s, e in self._changed
                if (g, k, group) != (f, key, row.group) or e < start or end < s
            }
        self._changed |= {(f, key, row.group, s, e) for s, e in windows if not self._is_over(e)}

    def _evict(self, f: Feature, rows: list[Row]) -> None:
        """Keep the `max_groups` newest groups; of equals, the greater texts."""
        last: dict[str, int] = {}
        for timestamp, group, _ in rows:
            assert group is not None
            if not has_windows(f) or not self._is_over(last_end(f, timestamp)):
                last[group] = max(last.get(group, -1), timestamp)
        for _, group in sorted((when, group) for group, when in last.items())[: -f.max_groups]:
            rows[:] = [row for row in rows if row.group != group]

    def _fire(self) -> None:
        due = {window for window in self._changed if window[-1] <= self.watermark}
        self._changed -= due
        for f, key, group, start, end in due:
            rows = [row for row in self.kept[f.name, key] if row.group == group]
            inside = [row for row in rows if start <= row.timestamp < end]
            if inside:
                value = aggregate(f, inside, end - 1)
                self.fired.append(WindowRow(f.name, key, group, start, end, value))


def value_of(source: str | None, event: Event, catalogue: ItemVersions) -> Any:
    """Value of `source` for an event, with the item versions so far."""
    if source is None:
        return None
    if source == "user_id":
        return subject_key(event)
    if source == "category":
        own = event.properties.get("category")
        item = catalogue.newest.get(event.item_id) if event.item_id is not None else None
        return own if isinstance(own, str) else (item.category if item is not None else None)
    if source.startswith("properties."):
        return event.properties.get(source.removeprefix("properties."))
    if source.startswith("item."):
        name = source.removeprefix("item.")
        item = catalogue.as_of(event.item_id, event.timestamp)
        if item is None or name not in ("title", "category", "price", "available"):
            return item.properties.get(name) if item is not None else None
        return getattr(item, name)
    return getattr(event, source)


def key_source(entity: str) -> str:
    return entity if entity == "category" else f"{entity}_id"


def has_windows(f: Feature) -> bool:
    """Whether the feature has windows that end, not an age or a decay."""
    return f.aggregate != "last_n" and not isinstance(f.window, ForwardDecay | None)


def windows_of(f: Feature, timestamp: int) -> list[tuple[int, int]]:
    """Start and end of each window that holds `timestamp`, in order."""
    window = f.window
    if isinstance(window, CumulativeWindow):
        start = timestamp // window.size_ms * window.size_ms
        ends = range(start + window.step_ms, start + window.size_ms + 1, window.step_ms)
        return [(start, end) for end in ends if end > timestamp]
    assert isinstance(window, Window)
    length = window.size_ms
    if window.tail == "approximate":
        length += window.slide_ms
    first = timestamp // window.slide_ms * window.slide_ms + window.slide_ms
    return [(end - length, end) for end in range(first, first + length, window.slide_ms)]


def last_end(f: Feature, timestamp: int) -> int:
    """End of the last window that holds `timestamp`, if nothing else happens."""
    if isinstance(f.window, SessionWindow):
        return timestamp + f.window.gap_ms
    return windows_of(f, timestamp)[-1][1]


def rows_read_at(f: Feature, rows: Sequence[Row], at: int) -> Sequence[Row]:
    """Rows that a read at `at` counts: the window that ends with the pane of `at`."""
    window = f.window
    if window is None:
        return rows
    if isinstance(window, ForwardDecay):
        return rows
    if isinstance(window, SessionWindow):
        times = sorted(row.timestamp for row in rows if row.timestamp <= at)
        if not times or at - times[-1] >= window.gap_ms:
            return []
        first = len(times) - 1
        while first > 0 and times[first] - times[first - 1] <= window.gap_ms:
            first -= 1
        return [row for row in rows if times[first] <= row.timestamp <= at]
    start, end = windows_of(f, at)[0]
    return [row for row in rows if start <= row.timestamp < end]


def aggregate(f: Feature, rows: Sequence[Row], at: int) -> Any:
    """The aggregate of `rows`, of one group and at least one, as seen at `at`."""
    if f.aggregate == "last_time":
        return float(max(row.timestamp for row in rows))
    if f.aggregate == "last":
        newest = max(row.timestamp for row in rows)
        return float([row.value for row in rows if row.timestamp == newest][-1])
    if f.aggregate in ("count", "sum", "mean"):
        if f.aggregate == "mean":  # a common factor of all weights, which may be very small
            at = max(row.timestamp for row in rows)
        count = _weighted(f, [(row.timestamp, 1.0) for row in rows], at)
        if f.aggregate == "count":
            return count
        total = _weighted(f, [(row.timestamp, row.value) for row in rows], at)
        return total if f.aggregate == "sum" else total / count
    values = [row.value for row in rows]
    if f.aggregate in ("min", "max"):
        return float(min(values) if f.aggregate == "min" else max(values))
    if f.aggregate == "distinct":
        return float(len(set(values)))
    if f.aggregate == "top_k":
        counts = {
            value: _weighted(f, [(row.timestamp, 1.0) for row in rows if row.value == value], at)
            for value in values
        }
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[: f.n]
    assert f.aggregate == "quantile" and f.q is not None
    return float(sorted(values)[max(math.ceil(f.q * len(values)), 1) - 1])


def _weighted(f: Feature, amounts: Sequence[tuple[int, float]], at: int) -> float:
    """Sum with decay: within a pane as they came, then pane by pane from the oldest."""
    if isinstance(f.window, ForwardDecay):
        half_life = f.window.half_life_ms
        return math.fsum(amount * 2.0 ** ((time - at) / half_life) for time, amount in amounts)
    decay = f.window.decay if isinstance(f.window, Window) else 1.0
    newest = _pane(f, at)
    panes: dict[int, float] = {}
    for timestamp, amount in amounts:
        pane = _pane(f, timestamp)
        panes[pane] = panes.get(pane, 0.0) + amount
    total = 0.0
    for pane in sorted(panes):
        total += decay ** (newest - pane) * panes[pane]
    return total


def _pane(f: Feature, timestamp: int) -> int:
    if isinstance(f.window, Window):
        return timestamp // f.window.slide_ms
    if isinstance(f.window, CumulativeWindow):
        return timestamp // f.window.step_ms
    return timestamp


def _counts(f: Feature, value: Any) -> bool:
    if f.aggregate in ("sum", "mean", "min", "max", "last", "quantile"):
        return type(value) in (int, float) and math.isfinite(value)
    return _is_text(value)


def _is_text(value: Any) -> bool:
    return type(value) in (str, int)

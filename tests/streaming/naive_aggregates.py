"""Oracle of aggregates: stores every event and reads all of them each time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.streaming.oracle import Row, aggregate, windows_of

from tactful_streaming.definitions.model import (
    CumulativeWindow,
    Feature,
    ForwardDecay,
    SessionWindow,
    Window,
)


class Happening(NamedTuple):
    """An event as features see it."""

    type: str
    key: str
    timestamp: int
    sources: dict[str, Any]


FiredKey = tuple[str, str, str | None, int, int]


@dataclass
class Naive:
    """All features of one kind of entity."""

    features: Sequence[Feature]
    lateness: int = 0
    watermark: int = 0
    late: int = 0
    rows: dict[tuple[str, str], list[Row]] = field(default_factory=dict)
    sessions: dict[tuple[str, str, str | None], list[list[Row]]] = field(default_factory=dict)
    fired: dict[FiredKey, Any] = field(default_factory=dict)
    changed: set[FiredKey] = field(default_factory=set)

    def apply(self, event: Happening, watermark: int) -> None:
        """Count one event; then the watermark moves to `watermark`, and windows fire."""
        for f in self.features:
            value = event.sources.get(f.of) if f.of else 1.0
            group = event.sources.get(f.group_by) if f.group_by else None
            wanted = value is not None and (f.group_by is None or group is not None)
            if event.type in f.events and wanted:
                self._count(f, event.key, Row(event.timestamp, group, value))
        self.watermark = watermark
        self._fire()

    def merge(self, source: str, target: str) -> None:
        for f in self.features:
            self.rows.setdefault((f.name, target), []).extend(self.rows.pop((f.name, source), []))
            for name, key, group in [*self.sessions]:
                if (name, key) == (f.name, source):
                    assert isinstance(f.window, SessionWindow)
                    ones = self._open(f.window.gap_ms, (name, key, group))
                    del self.sessions[name, key, group]
                    self._open(f.window.gap_ms, (name, target, group))
                    for one in ones:
                        self._join(f.window.gap_ms, (name, target, group), one)
            self._evict(f, target)

    def read(self, f: Feature, key: str, at: int) -> Any:
        rows = self.rows.get((f.name, key), [])
        if f.aggregate == "last_n":
            oldest = at - f.window.size_ms if isinstance(f.window, Window) else -1
            newest = sorted(rows, key=lambda row: row.timestamp)[::-1][: f.n]
            return [(row.value, row.timestamp) for row in newest if row.timestamp > oldest]
        found = {}
        decays = isinstance(f.window, ForwardDecay)  # read as of the newest event
        for group in dict.fromkeys(row.group for row in rows):
            inside = self._inside(f, key, group, at)
            if inside:
                last = max(row.timestamp for row in inside)
                found[group] = aggregate(f, inside, max(at, last) if decays else at)
        if f.group_by is not None:
            return found
        return found.get(None, [] if f.aggregate == "top_k" else 0.0)

    def _inside(self, f: Feature, key: str, group: str | None, at: int) -> list[Row]:
        if isinstance(f.window, SessionWindow):
            for one in self.sessions.get((f.name, key, group), []):
                if one[0].timestamp <= at < one[-1].timestamp + f.window.gap_ms:
                    return one
            return []
        rows = [row for row in self.rows.get((f.name, key), []) if row.group == group]
        if isinstance(f.window, Window | CumulativeWindow):
            start, end = windows_of(f, at)[0]
            return [row for row in rows if start <= row.timestamp < end]
        if isinstance(f.window, ForwardDecay) and rows:
            silence = at - max(row.timestamp for row in rows)
            return rows if silence < 64 * f.window.half_life_ms else []
        return rows

    def _count(self, f: Feature, key: str, row: Row) -> None:
        horizon = self.watermark - self.lateness
        if isinstance(f.window, SessionWindow):
            place, gap = (f.name, key, row.group), f.window.gap_ms
            before = [list(one) for one in self._open(gap, place)]
            joined = self._join(gap, place, [row])
            end = joined[-1].timestamp + gap
            if end <= horizon:
                self.sessions[place] = before
                self.late += 1
                return
            self.changed.add((*place, joined[0].timestamp, end))
        elif isinstance(f.window, Window | CumulativeWindow) and f.aggregate != "last_n":
            windows = windows_of(f, row.timestamp)
            if windows[-1][1] <= horizon:
                self.late += 1
                return
            self.changed |= {
                (f.name, key, row.group, start, end) for start, end in windows if end > horizon
            }
        self.rows.setdefault((f.name, key), []).append(row)
        self._evict(f, key)

    def _open(self, gap: int, place: tuple[str, str, str | None]) -> list[list[Row]]:
        """Delete the sessions that are over; return the others."""
        horizon = self.watermark - self.lateness
        kept = [one for one in self.sessions.get(place, []) if one[-1].timestamp + gap > horizon]
        self.sessions[place] = kept
        return kept

    def _join(self, gap: int, place: tuple[str, str, str | None], rows: list[Row]) -> list[Row]:
        apart = []
        for one in self.sessions.get(place, []):
            touches = (
                one[0].timestamp <= rows[-1].timestamp + gap
                and rows[0].timestamp <= one[-1].timestamp + gap
            )
            if touches:
                rows = sorted([*one, *rows], key=lambda row: row.timestamp)
            else:
                apart.append(one)
        self.sessions[place] = sorted([*apart, rows], key=lambda one: one[0].timestamp)
        return rows

    def _evict(self, f: Feature, key: str) -> None:
        """Delete groups, or distinct values, beyond the bound."""
        if not f.bounds_groups or (f.group_by is None and isinstance(f.window, SessionWindow)):
            return
        rows = self.rows[f.name, key]
        last: dict[str, int] = {}
        for row in rows:
            name = str(row.group if f.group_by is not None else row.value)
            last[name] = max(row.timestamp, last.get(name, -1))
        for _, name in sorted((when, name) for name, when in last.items())[: -f.max_groups]:
            if f.group_by is not None:
                self.sessions.pop((f.name, key, name), None)
                rows[:] = [row for row in rows if row.group != name]
            else:
                rows[:] = [row for row in rows if row.value != name]

    def _fire(self) -> None:
        features = {f.name: f for f in self.features}
        due = {place for place in self.changed if place[-1] <= self.watermark}
        self.changed -= due
        for name, key, group, start, end in due:
            f = features[name]
            inside = self._inside(f, key, group, end - 1)
            spans = not isinstance(f.window, SessionWindow) or (
                bool(inside)
                and (inside[0].timestamp, inside[-1].timestamp + f.window.gap_ms) == (start, end)
            )
            if inside and spans:
                self.fired[name, key, group, start, end] = aggregate(f, inside, end - 1)

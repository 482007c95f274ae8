"""The slowest, plainest way to compute the features: keep every event, look at all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tactful_streaming import Definitions, Entry, Event, Feature, Item, subject_key


class Oracle:
    def __init__(self, definitions: Definitions, lateness: int) -> None:
        self.features, self.lateness = definitions.features, lateness
        self.newest, self.late, self.ids = 0, 0, set[str]()
        self.items: dict[str, Item] = {}
        self.kept: dict[tuple[str, str], list[tuple[int, Any, Any]]] = {}

    def apply(self, entry: Entry) -> None:
        if isinstance(entry, Item):
            self.items[entry.item_id] = entry
        elif isinstance(entry, Event) and entry.event_id not in self.ids:
            self.ids.add(entry.event_id)
            self.newest = max(self.newest, entry.timestamp)
            for feature in self.features:
                if entry.type in feature.events:
                    self._count(feature, entry)

    def read(self, f: Feature, key: str, at: int) -> Any:
        rows = self.kept.get((f.name, key), [])
        if f.aggregate == "last_n":
            oldest = at - f.window.size_ms if f.window else -1
            newest = sorted(rows, key=lambda row: row[0])[::-1][: f.n]
            return [(value, timestamp) for timestamp, _, value in newest if timestamp > oldest]
        groups = dict.fromkeys(group for _, group, _ in rows)
        values = {group: self._total(f, [r for r in rows if r[1] == group], at) for group in groups}
        if f.group_by is not None:
            return {group: value for group, value in values.items() if value is not None}
        return values.get(None) or 0.0

    def _count(self, f: Feature, event: Event) -> None:
        key = self._value(f.entity if f.entity == "category" else f"{f.entity}_id", event)
        of, group = self._value(f.of, event), self._value(f.group_by, event)
        if key is None or (f.of and not _counts(f, of)) or (f.group_by and not _is_text(group)):
            return
        if f.window and f.aggregate != "last_n" and not self._is_open(f, event.timestamp):
            self.late += 1
            return
        rows = self.kept.setdefault((f.name, key), [])
        group = str(group) if group is not None else None
        rows.append((event.timestamp, group, 1 if f.aggregate == "count" else of))
        if f.group_by is not None:
            self._evict(f, rows)

    def _evict(self, f: Feature, rows: list[tuple[int, Any, Any]]) -> None:
        last: dict[str, int] = {}
        for timestamp, group, _ in rows:
            if self._is_open(f, timestamp):
                pane = timestamp // f.window.slide_ms if f.window else timestamp
                last[group] = max(last.get(group, -1), pane)
        for _, group in sorted((pane, group) for group, pane in last.items())[: -f.max_groups]:
            rows[:] = [row for row in rows if row[1] != group]

    def _is_open(self, f: Feature, timestamp: int) -> bool:
        if f.window is None:
            return True
        end_of_last_window = (timestamp // f.window.slide_ms + f.window.panes) * f.window.slide_ms
        return end_of_last_window > self.newest - self.lateness

    def _total(self, f: Feature, rows: Sequence[tuple[int, Any, Any]], at: int) -> float | None:
        if f.window is None:
            return float(max(timestamp for timestamp, _, _ in rows))
        panes: dict[int, float] = {}
        newest = at // f.window.slide_ms
        for timestamp, _, amount in rows:
            pane = timestamp // f.window.slide_ms
            if newest - f.window.panes < pane <= newest:
                panes[pane] = panes.get(pane, 0.0) + amount
        total = 0.0
        for pane in sorted(panes):
            total += f.window.decay ** (newest - pane) * panes[pane]
        return total if panes else None

    def _value(self, source: str | None, event: Event) -> Any:
        if source is None:
            return None
        if source == "user_id":
            return subject_key(event)
        if source == "category":
            item = self.items.get(event.item_id) if event.item_id else None
            return event.properties.get("category") or (item.category if item else None)
        if source.startswith("properties."):
            return event.properties.get(source.removeprefix("properties."))
        return getattr(event, source)


def _counts(f: Feature, value: Any) -> bool:
    return type(value) in (int, float) if f.aggregate == "sum" else _is_text(value)


def _is_text(value: Any) -> bool:
    return type(value) in (str, int)

"""From a batch of accepted events to the events that count for each feature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.aggregates import Selection
from tactful_streaming.definitions import Definitions, Feature
from tactful_streaming.entities import EntityTable
from tactful_streaming.entries import Event, subject_key
from tactful_streaming.panes import Floats, Rows


class Plan:
    """Which event types count for which feature, worked out once."""

    def __init__(self, definitions: Definitions) -> None:
        """Prepare for the features of `definitions`."""
        types = sorted({type_ for feature in definitions.features for type_ in feature.events})
        self.codes: Mapping[str, int] = {type_: code for code, type_ in enumerate(types)}
        self.other = len(types)
        self.wanted: Mapping[Feature, NDArray[np.bool_]] = {
            feature: np.array([type_ in feature.events for type_ in [*types, None]])
            for feature in definitions.features
        }
        self.types_of: dict[str, set[str]] = {}
        for feature in definitions.features:
            self.types_of.setdefault(feature.entity, set()).update(feature.events)


class Batch:
    """Accepted events in the order of the log, as columns."""

    def __init__(self, plan: Plan, tables: Mapping[str, EntityTable]) -> None:
        """Begin empty; entities get their rows in `tables`."""
        self._plan = plan
        self._events: list[Event] = []
        self._categories: list[str | None] = []
        self._watermarks: list[int] = []
        self._rows: list[tuple[str, EntityTable, set[str], list[int]]] = [
            (entity, table, plan.types_of[entity], []) for entity, table in tables.items()
        ]

    def __len__(self) -> int:
        """Number of events."""
        return len(self._events)

    def add(self, event: Event, category: str | None, watermark: int) -> None:
        """Add an event of `category`, applied at `watermark`."""
        self._events.append(event)
        self._categories.append(category)
        self._watermarks.append(watermark)
        for entity, table, types, rows in self._rows:
            key = _entity_key(entity, event, category) if event.type in types else None
            rows.append(-1 if key is None else table.row(key))

    def freeze(self) -> Columns:
        """The columns, for selecting."""
        rows = {entity: np.array(rows, np.int64) for entity, _, _, rows in self._rows}
        return Columns(self._plan, self._events, self._categories, self._watermarks, rows)


class Columns:
    """Columns of a batch, and selections from them."""

    def __init__(
        self,
        plan: Plan,
        events: Sequence[Event],
        categories: Sequence[str | None],
        watermarks: Sequence[int],
        rows: Mapping[str, Rows],
    ) -> None:
        """Take the columns of a batch."""
        codes, other = plan.codes, plan.other
        self._plan = plan
        self._events = events
        self._categories = categories
        self._codes = np.array([codes.get(event.type, other) for event in events], np.int64)
        self._timestamps = np.array([event.timestamp for event in events], np.int64)
        self._watermarks = np.array(watermarks, np.int64)
        self._rows = rows
        self._texts: dict[str, list[str | None]] = {}
        self._amounts: dict[str, Floats] = {}

    def touched(self, entity: str) -> tuple[Rows, NDArray[np.int64]]:
        """Rows of `entity` that had events, and their timestamps."""
        rows = self._rows[entity]
        known = rows >= 0
        return rows[known], self._timestamps[known]

    def select(self, feature: Feature) -> Selection | None:
        """Events that count for `feature`, or None if there are none."""
        rows = self._rows[feature.entity]
        chosen = np.flatnonzero(self._plan.wanted[feature][self._codes] & (rows >= 0))
        amounts = None
        if feature.aggregate == "sum" and feature.of is not None:
            amounts = self._amounts_of(feature.of)
            chosen = chosen[~np.isnan(amounts[chosen])]
        texts = None
        source = feature.of if feature.aggregate == "last_n" else feature.group_by
        if source is not None:
            column = self._texts_of(source)
            chosen = np.array([i for i in chosen.tolist() if column[i] is not None], np.int64)
            texts = [text for i in chosen.tolist() if (text := column[i]) is not None]
        if not len(chosen):
            return None
        return Selection(
            rows=rows[chosen],
            timestamps=self._timestamps[chosen],
            watermarks=self._watermarks[chosen],
            amounts=amounts[chosen] if amounts is not None else None,
            texts=texts,
        )

    def _texts_of(self, source: str) -> list[str | None]:
        texts = self._texts.get(source)
        if texts is None:
            if source == "category":
                texts = list(self._categories)
            elif source.startswith("properties."):
                name = source.removeprefix("properties.")
                texts = [_text(event.properties.get(name)) for event in self._events]
            elif source == "user_id":
                texts = [subject_key(event) for event in self._events]
            else:
                texts = [getattr(event, source) for event in self._events]
            self._texts[source] = texts
        return texts

    def _amounts_of(self, source: str) -> Floats:
        amounts = self._amounts.get(source)
        if amounts is None:
            name = source.removeprefix("properties.")
            amounts = np.array([_amount(event.properties.get(name)) for event in self._events])
            self._amounts[source] = amounts
        return amounts


def _entity_key(entity: str, event: Event, category: str | None) -> str | None:
    if entity == "user":
        return subject_key(event)
    if entity == "item":
        return event.item_id
    if entity == "category":
        return category
    return event.session_id


def _text(value: object) -> str | None:
    """A property as group or kept value: text and whole numbers are, nothing else is."""
    if type(value) is str:
        return value
    return str(value) if type(value) is int else None


def _amount(value: object) -> float:
    """A property as amount; NaN where it is no finite number."""
    if type(value) is float and math.isfinite(value):
        return value
    return float(value) if type(value) is int else math.nan

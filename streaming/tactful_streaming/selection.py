"""From a batch of accepted events to the events that count for each feature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.aggregates import Selection
from tactful_streaming.definitions import Definitions, Feature
from tactful_streaming.entries import Event, subject_key
from tactful_streaming.panes import Floats


@dataclass(frozen=True)
class Batch:
    """Accepted events in the order of the log, and what the engine knew when it accepted each.

    Attributes:
        events: the events.
        categories: category of each, its own or that of its item.
        watermarks: watermark when each is applied, epoch milliseconds.
    """

    events: list[Event] = field(default_factory=list)
    categories: list[str | None] = field(default_factory=list)
    watermarks: list[int] = field(default_factory=list)


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


class Columns:
    """A batch as columns, and selections from them."""

    def __init__(self, plan: Plan, batch: Batch) -> None:
        """Lay out the events of `batch`."""
        codes, other = plan.codes, plan.other
        self._plan = plan
        self._events = batch.events
        self._codes = np.array([codes.get(event.type, other) for event in batch.events], np.int64)
        self._timestamps = np.array([event.timestamp for event in batch.events], np.int64)
        self._watermarks = np.array(batch.watermarks, np.int64)
        self._texts: dict[str, list[str | None]] = {"category": batch.categories}
        self._amounts: dict[str, Floats] = {}

    @property
    def timestamps(self) -> NDArray[np.int64]:
        """When each event happened, epoch milliseconds."""
        return self._timestamps

    def keys(self, entity: str) -> list[str | None]:
        """Key of the `entity` of each event; None where no feature of it counts the event."""
        keys = self._texts_of(entity if entity == "category" else f"{entity}_id")
        types = self._plan.types_of[entity]
        if len(types) == self._plan.other:
            return keys
        return [
            key if event.type in types else None
            for key, event in zip(keys, self._events, strict=True)
        ]

    def select(self, feature: Feature, rows: NDArray[np.int64]) -> Selection | None:
        """Events that count for `feature`, or None if there are none.

        Args:
            feature: what is computed.
            rows: row of its entity of each event of the batch, -1 where there is none.
        """
        chosen = np.flatnonzero(self._plan.wanted[feature][self._codes] & (rows >= 0))
        amounts = None
        if feature.aggregate == "sum" and feature.of is not None:
            amounts = self._amounts_of(feature.of)
            chosen = chosen[~np.isnan(amounts[chosen])]
        texts = None
        source = feature.of if feature.aggregate == "last_n" else feature.group_by
        if source is not None:
            column = self._texts_of(source)
            if None in column:
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
            if source.startswith("properties."):
                name = source.removeprefix("properties.")
                texts = [_text(event.properties.get(name)) for event in self._events]
            elif source == "user_id":
                texts = [event.user_id or subject_key(event) for event in self._events]
            elif source == "item_id":
                texts = [event.item_id for event in self._events]
            else:
                texts = [event.session_id for event in self._events]
            self._texts[source] = texts
        return texts

    def _amounts_of(self, source: str) -> Floats:
        amounts = self._amounts.get(source)
        if amounts is None:
            name = source.removeprefix("properties.")
            amounts = np.array([_amount(event.properties.get(name)) for event in self._events])
            self._amounts[source] = amounts
        return amounts


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

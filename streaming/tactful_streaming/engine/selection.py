"""Selection of the events of a batch that count for each shared aggregate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Floats
from tactful_streaming.contract.log_entries import Item
from tactful_streaming.decode.projection import PROPERTIES, Projection
from tactful_streaming.definitions.model import (
    CUSTOM_EVENTS,
    CUSTOM_PREFIX,
    DAY,
    STAGE_EVENTS,
    Feature,
)
from tactful_streaming.patterns.match import Operator
from tactful_streaming.windows.columns import NO_ROWS, Selection
from tactful_streaming.windows.entity_table import EntityTable
from tactful_streaming.windows.shared_aggregate import Source

_ITEM = "item."
_DAY_MS = 86_400_000
_DAYS_TABLE = 1_000  # days between the first and the last event of a batch
_TOO_LARGE = 1 << 1023


class Batch(NamedTuple):
    """Admitted events in the order of the log, with their users and items."""

    events: Sequence[Any]
    users: Sequence[str | None]  # key of the history of each event
    timestamps: NDArray[np.int64]  # when each happened, epoch milliseconds
    watermarks: NDArray[np.int64]  # watermark after each, epoch milliseconds
    # Newest description of the item of each; empty if not needed, or none is known.
    items: Sequence[Item | None] = ()
    # Description of the item at the time of each; empty if not needed.
    versions: Sequence[Item | None] = ()

    def part(self, begin: int, end: int) -> Batch:
        """Return the events from position `begin` up to `end`."""
        if (begin, end) == (0, len(self.events)):
            return self
        return Batch._make(column[begin:end] for column in self)


class _Codes(dict[str, int]):
    """Code of each named type; of other custom types that of ``x.*``, of all others the last."""

    def __init__(self, types: Sequence[str]) -> None:
        super().__init__((type_, code) for code, type_ in enumerate(types))
        self._custom, self._other = self[CUSTOM_EVENTS], len(types)

    def __missing__(self, type_: str) -> int:
        return self._custom if type_.startswith(CUSTOM_PREFIX) else self._other


class Plan:
    """The event types and fields that count for each shared aggregate."""

    def __init__(
        self,
        tables: Mapping[str, EntityTable],
        operators: Sequence[Operator] = (),
        emitted: Iterable[str] = (),
    ) -> None:
        """Prepare for the tables of each entity, for sequences and joins, and what these emit."""
        stores = {entity: table.aggregates for entity, table in tables.items()}
        named = {t for of in stores.values() for store in of for t in store.source.events}
        created = {*emitted, *STAGE_EVENTS}
        types = sorted({*named, CUSTOM_EVENTS, *created})
        self.codes: Mapping[str, int] = _Codes(types)
        custom = {t for t in types if t.startswith(CUSTOM_PREFIX)} - created
        self.of_store: dict[tuple[str, int], tuple[Source, NDArray[np.bool_]]] = {}
        self.codes_of: dict[tuple[str, int], frozenset[int]] = {}  # codes counted
        self.of_entity: dict[str, NDArray[np.bool_]] = {}
        for entity, of in stores.items():
            for number, store in enumerate(of):
                counted = {*store.source.events}
                counted |= custom if CUSTOM_EVENTS in counted else set()
                wanted = np.array([type_ in counted for type_ in [*types, None]])
                self.of_store[entity, number] = store.source, wanted
                self.codes_of[entity, number] = frozenset(np.flatnonzero(wanted).tolist())
                self.of_entity[entity] = wanted | self.of_entity.get(entity, False)
        sources = sources_of(f for table in tables.values() for f in table.features)
        for operator in operators:
            sources |= {entity_source(operator.entity), *operator.sources}
        # Whether the newest description of an event's item is needed.
        self.reads_items = "category" in sources
        # Whether its description at the time of the event is needed.
        self.reads_versions = any(source.startswith(_ITEM) for source in sources)
        if self.reads_items:
            sources.add(PROPERTIES + "category")
        if self.reads_items or self.reads_versions:
            sources.add("item_id")
        self.sources: frozenset[str] = frozenset(sources)  # fields that are read from events


class Columns:
    """A batch as columns, and selections from them."""

    def __init__(self, plan: Plan, projection: Projection, batch: Batch, before: int) -> None:
        """Arrange the events of `batch`; `before` is the watermark before the first."""
        self._plan = plan
        self._projection = projection
        self.batch = batch
        # The watermark before an event counts: it may still join a session that it ends.
        self._watermarks = np.concatenate([np.array([before], np.int64), batch.watermarks[:-1]])
        self.timestamps = batch.timestamps
        self._texts: dict[str, list[str | None]] = {}
        self._amounts: dict[str, Floats] = {}

    @cached_property
    def _codes(self) -> NDArray[np.int64]:
        """Codes of the types of the events."""
        events = self.batch.events
        codes = map(self._plan.codes.__getitem__, map(attrgetter("type"), events))
        return np.fromiter(codes, np.int64, len(events))

    @cached_property
    def _present(self) -> frozenset[int]:
        """Different codes of the events."""
        return frozenset(self._codes.tolist())

    def keys(self, entity: str) -> Sequence[str | None]:
        """Return the key of the `entity` of each event; None if no feature counts it."""
        keys = self.texts(entity_source(entity))
        counts = self._plan.of_entity[entity][self._codes]
        if counts.all():
            return keys
        return [key if wanted else None for key, wanted in zip(keys, counts.tolist(), strict=True)]

    def select(self, entity: str, number: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of the events that count for an aggregate, in order.

        `rows` holds the row of its entity of each event of the batch, -1 where there is none.
        """
        if self._plan.codes_of[entity, number].isdisjoint(self._present):
            return NO_ROWS  # a small batch has few of the types: most aggregates count none of it
        source, wanted = self._plan.of_store[entity, number]
        counts = wanted[self._codes]
        counts &= rows >= 0
        if source.amounts is not None:
            counts &= ~np.isnan(self.amounts(source.amounts))
        if source.texts is not None and None in (texts := self.texts(source.texts)):
            counts &= np.fromiter((text is not None for text in texts), np.bool_, len(texts))
        return np.flatnonzero(counts)

    def selection(
        self, entity: str, number: int, rows: NDArray[np.int64], chosen: NDArray[np.int64]
    ) -> Selection:
        """Return the events at some of the positions of :meth:`select`."""
        source, _ = self._plan.of_store[entity, number]
        amounts = self.amounts(source.amounts) if source.amounts is not None else None
        texts: Any = self.texts(source.texts) if source.texts is not None else None
        events = Selection(rows, self.timestamps, self._watermarks, amounts, texts)
        return events if len(chosen) == len(rows) else events.take(chosen)

    def texts(self, source: str) -> Sequence[str | None]:
        """Return the text of `source` for each event; None if it has none."""
        if source == "user_id":
            return self.batch.users
        if source == DAY:
            return self._days
        if source not in self._texts:
            values = self._read(source)
            if source not in ("item_id", "session_id", "category"):
                values = [value if type(value) is str else _text(value) for value in values]
            self._texts[source] = values
        return self._texts[source]

    @cached_property
    def _days(self) -> list[str | None]:
        """UTC day of each event, such as ``2026-12-01``."""
        numbers = self.timestamps // _DAY_MS
        first, end = int(numbers.min()), int(numbers.max()) + 1
        if end - first > _DAYS_TABLE:
            return list(_day_texts(numbers).tolist())
        days = np.array(_day_texts(np.arange(first, end)).tolist(), object)
        return list(days[numbers - first].tolist())

    def amounts(self, source: str) -> Floats:
        """Return the number of `source` for each event; NaN if it has none."""
        if source not in self._amounts:
            values = self._read(source)
            self._amounts[source] = np.fromiter(map(_amount, values), np.float64, len(values))
        return self._amounts[source]

    def _read(self, source: str) -> list[Any]:
        if source.startswith(_ITEM):
            return [_of_item(version, source) for version in self.batch.versions]
        if source != "category":
            return self._projection.column(self.batch.events, source)
        own = self._projection.column(self.batch.events, PROPERTIES + source)
        if not self.batch.items:
            return [category if type(category) is str else None for category in own]
        return [
            category if type(category) is str else item.category if item is not None else None
            for category, item in zip(own, self.batch.items, strict=True)
        ]


def entity_source(entity: str) -> str:
    """Return the field that holds the key of an entity."""
    return entity if entity == "category" else f"{entity}_id"


def sources_of(features: Iterable[Feature]) -> set[str]:
    """Return the fields of events that features read."""
    features = tuple(features)
    named = {source for f in features for source in (f.of, f.group_by) if source is not None}
    return named | {entity_source(feature.entity) for feature in features}


def _of_item(version: Item | None, source: str) -> Any:
    """Return a field of an item, or one of its properties."""
    if version is None:
        return None
    name = source.removeprefix(_ITEM)
    if name in ("price", "category", "available", "title"):
        return getattr(version, name)
    return version.properties.get(name)


def _day_texts(numbers: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return days since the epoch as texts such as ``2026-12-01``."""
    return np.datetime_as_string(numbers.astype("datetime64[D]"))


def _text(value: object) -> str | None:
    """Return a property as a group or value; None unless it is a text or an integer."""
    if type(value) is str:
        return value
    return str(value) if type(value) is int else None


def _amount(value: object) -> float:
    """Return a property as amount; NaN if it is no finite number."""
    if type(value) is float:
        return value if math.isfinite(value) else math.nan
    return float(value) if type(value) is int and abs(value) < _TOO_LARGE else math.nan

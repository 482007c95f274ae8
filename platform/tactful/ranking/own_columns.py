"""Columns of a shop's own features: those of its ``features.yaml`` that are not packaged.

An ungrouped feature of an item or a category is a column of its candidates; one of the user or the
visit is the same for all of them, for trees that ask for both. One of them that is grouped by
``item_id``, ``category``, ``item.<name>`` or ``properties.<name>`` is a column of the items of each
group: how often the user dealt with the brand of the candidate.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import FeatureSource, RequestContext, read_placed
from tactful.config.settings import PACKAGED_FEATURES
from tactful_streaming.definitions.model import Definitions, Feature
from tactful_streaming.definitions.reader import load_definitions

_NUMBERS = frozenset({"count", "sum", "mean", "min", "max", "distinct", "quantile", "last_time"})
_OF_REQUEST = ("user", "session")
_GROUPS = ("item_id", "category")
_PROPERTIES = ("properties.", "item.")
MOST_COLUMNS = 64
"""Most columns of a shop's own features."""

_DAY = 86_400_000.0


@dataclass(frozen=True)
class OwnColumn:
    """A column of a feature."""

    feature: Feature

    @property
    def name(self) -> str:
        """Name of the column, such as ``item.rating_28d``."""
        return f"{self.feature.entity}.{self.feature.name}"

    @property
    def of_others(self) -> bool:
        """Whether it says what other people did: not for anonymous requests."""
        return self.feature.entity not in _OF_REQUEST


def own_columns(definitions: Definitions) -> tuple[OwnColumn, ...]:
    """Return the columns that definitions add to the packaged ones, at most 64, in their order."""
    packaged = frozenset(packaged_features())
    columns = [
        OwnColumn(feature)
        for feature in definitions.features
        if feature not in packaged and feature.aggregate in _NUMBERS and _has_place(feature)
    ]
    return tuple(columns[:MOST_COLUMNS])


def _has_place(feature: Feature) -> bool:
    if feature.group_by is None:
        return True
    grouped = feature.group_by in _GROUPS or feature.group_by.startswith(_PROPERTIES)
    return grouped and feature.entity in _OF_REQUEST


@functools.cache
def packaged_features() -> tuple[Feature, ...]:
    """Return the features of the packaged file, which a process reads once."""
    return load_definitions(PACKAGED_FEATURES).features


def fill_own(
    columns: Sequence[OwnColumn],
    rows: NDArray[np.int64],  # of the candidates
    context: RequestContext,
    source: FeatureSource,
    catalogue: Catalogue,
    table: NDArray[np.float32],  # filled, shape (len(columns), len(rows))
) -> None:
    """Fill own columns. Times are days since then; NaN where there is no value."""
    table[:] = np.nan
    for place, column in enumerate(columns):
        feature = column.feature
        if feature.entity == "item":
            table[place] = _read(source, column, catalogue.item_places, rows, context.at)
        elif feature.entity == "category":
            number = catalogue.category[rows].astype(np.int64)
            known = np.flatnonzero(number >= 0)
            places = catalogue.category_places
            table[place, known] = _read(source, column, places, number[known], context.at)
        else:
            values = context.user if feature.entity == "user" else context.visit
            if feature.name in values:
                _fill_request(feature, values[feature.name], rows, context, catalogue, table[place])


def _read(
    source: FeatureSource, column: OwnColumn, places: Any, rows: NDArray[np.int64], at: int
) -> NDArray[np.float32]:
    feature = column.feature
    values = read_placed(source, feature.entity, places, rows, [feature.name], at)[:, 0]
    if feature.aggregate == "last_time":
        values = np.where(values > 0, (at - values) / _DAY, np.nan)
    return values.astype(np.float32)


def _fill_request(
    feature: Feature,
    value: Any,
    rows: NDArray[np.int64],
    context: RequestContext,
    catalogue: Catalogue,
    filled: NDArray[np.float32],
) -> None:
    """Fill the column of a feature of the user or the visit."""

    def number(value: Any) -> float:
        if not isinstance(value, int | float):
            return np.nan
        is_time = feature.aggregate == "last_time"
        return (context.at - value) / _DAY if is_time and value else float(value)

    if feature.group_by is None:
        filled[:] = number(value)
        return
    groups: Mapping[str, float] = {key: number(each) for key, each in value.items()}
    if feature.group_by == "item_id":
        found = zip(catalogue.rows.of_many(groups), groups.values(), strict=True)
        known = {row: each for row, each in found if row is not None}
        filled[:] = [known.get(row, 0.0) for row in rows.tolist()]
    elif feature.group_by in ("category", "item.category"):
        by_number = np.zeros(len(catalogue.categories) + 1, np.float32)
        for name, each in groups.items():
            if (place := catalogue.category_numbers.get(name)) is not None:
                by_number[place] = each
        filled[:] = by_number[catalogue.category[rows]]
    else:
        name = feature.group_by.partition(".")[2]
        filled[:] = catalogue.properties.read(name, groups, rows)
    if feature.aggregate == "last_time":
        filled[filled == 0.0] = np.nan

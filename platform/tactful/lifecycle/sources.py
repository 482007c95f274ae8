"""Features of a user that the life cycle is computed from."""

from __future__ import annotations

from typing import Final

from tactful.lifecycle.changes import STAGE
from tactful.lifecycle.profile import DAYS, SPENT
from tactful_streaming.definitions.model import Definitions, Feature

SOURCES: Final = (DAYS, SPENT, STAGE)
"""Names of these features."""

# Aggregate, group and field; None for any field.
_SHAPES = {
    DAYS: ("last_time", "day", None),
    SPENT: ("sum", None, None),
    STAGE: ("last_n", None, "properties.stage"),
}


def sources_of(definitions: Definitions) -> tuple[Feature, ...]:
    """Return the features that the life cycle reads.

    A shop's own features may have the same names and compute something else: they are left out.
    """
    return tuple(filter(_has_shape, definitions.of_entity("user")))


def _has_shape(feature: Feature) -> bool:
    if (shape := _SHAPES.get(feature.name)) is None:
        return False
    aggregate, group_by, of = shape
    same = (feature.aggregate, feature.group_by) == (aggregate, group_by)
    return same and (of is None or feature.of == of)

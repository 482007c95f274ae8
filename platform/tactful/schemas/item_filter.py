"""Conditions on items, as requests send them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Identifier
from tactful.schemas.problems import ProblemError

MOST_CONDITIONS = 64
_DEEPEST = 8

_Value = Annotated[str, Meta(max_length=1_000)] | int | float | bool


class ItemFilter(
    msgspec.Struct,
    kw_only=True,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename=lambda name: name.rstrip("_"),
):
    """A condition on items: of one field, or of other conditions.

    Every given part must hold: ``{"field": "colour", "in": ["red"]}`` passes red items,
    ``{"field": "price", "min": 5, "max": 20}`` items with such a price, and
    ``{"not": {"field": "brand", "in": ["Acme"]}}`` items of any other brand or none.

    Attributes:
        and_: all of these hold.
        or_: at least one of these holds.
        not_: this does not hold.
        field: ``item_id``, ``category``, ``price``, or the name of a property.
        in_: the field has one of these values; of a list one element is enough.
        min: the field is a number of at least this.
        max: the field is a number of at most this.
        known: whether the item has the field.
    """

    and_: Annotated[tuple[ItemFilter, ...], Meta(max_length=MOST_CONDITIONS)] = ()
    or_: Annotated[tuple[ItemFilter, ...], Meta(max_length=MOST_CONDITIONS)] = ()
    not_: ItemFilter | None = None
    field: Identifier | None = None
    in_: Annotated[tuple[_Value, ...], Meta(max_length=1_000)] | None = None
    min: float | None = None
    max: float | None = None
    known: bool | None = None


def check_filter(condition: ItemFilter, where: str = "$.filter") -> None:
    """Refuse a filter that restricts nothing, names no field, or is too large.

    Raises:
        ProblemError: naming the place.
    """
    for number, (place, part, depth) in enumerate(_parts(condition, where, 1)):
        restricts = (part.in_, part.min, part.max, part.known) != (None,) * 4
        if number >= MOST_CONDITIONS or depth > _DEEPEST:
            raise ProblemError(
                "invalid",
                f"a filter has at most {MOST_CONDITIONS} conditions, {_DEEPEST} deep",
                field=where,
            )
        if part.field is None and restricts:
            raise ProblemError("invalid", "name the `field` of the condition", field=place)
        if part.field is not None and not restricts:
            raise ProblemError(
                "invalid", "a `field` needs `in`, `min`, `max` or `known`", field=place
            )
        if part.field is None and not (part.and_ or part.or_ or part.not_):
            raise ProblemError("invalid", "the condition restricts nothing", field=place)
        if part.min is not None and part.max is not None and part.min > part.max:
            raise ProblemError("invalid", "`min` is above `max`", field=place)


def _parts(condition: ItemFilter, place: str, depth: int) -> Iterator[tuple[str, ItemFilter, int]]:
    yield place, condition, depth
    for name, group in (("and", condition.and_), ("or", condition.or_)):
        for number, part in enumerate(group):
            yield from _parts(part, f"{place}.{name}[{number}]", depth + 1)
    if condition.not_ is not None:
        yield from _parts(condition.not_, f"{place}.not", depth + 1)

"""Events by which people deal with items: all of them teach, some more than others."""

from __future__ import annotations

from collections.abc import Iterable

from tactful_streaming.definitions.model import CUSTOM_EVENTS, CUSTOM_PREFIX

STRENGTH = ("purchase", "add_to_cart", "rating", CUSTOM_EVENTS, "click", "view")
"""Event types that deal with an item, the strongest first; ``x.*`` is any type of your own."""

_RANKS = {type_: rank for rank, type_ in enumerate(STRENGTH)}


def is_interaction(type_: str) -> bool:
    """Return whether events of a type deal with an item."""
    return type_ in _RANKS or type_.startswith(CUSTOM_PREFIX)


def rank_of(type_: str) -> int:
    """Return the place of a type in `STRENGTH`; ValueError if it deals with no item."""
    if not is_interaction(type_):
        raise ValueError(f"{type_!r} deals with no item: name one of {', '.join(STRENGTH)}")
    return _RANKS.get(type_, _RANKS[CUSTOM_EVENTS])


def at_least(label: str, types: Iterable[str]) -> frozenset[str]:
    """Return `label` and those of `types` that are stronger; ValueError as `rank_of`."""
    least = rank_of(label)
    stronger = {type_ for type_ in types if is_interaction(type_) and rank_of(type_) < least}
    return frozenset({label, *stronger})

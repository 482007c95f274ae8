"""Places in a message, as a mapping names them, and what stands there.

::

    userId                     a field of the message
    context.page.path          a field within a field
    properties.products.0.sku  an element of a list
    traits."first name"        a name with blanks or dots
    .price                     a field of the element of a list, for rules with `each`
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

_STEP = re.compile(r'"([^"]+)"|([^.\s"]+)')
_MOST_STEPS = 16
_SIGNS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Place:
    """A place in a message, or in an element of one of its lists."""

    text: str  # as the mapping writes it
    steps: tuple[str, ...]
    in_element: bool  # whether it begins in the element

    def read(self, message: Any, element: Any = None) -> Any:
        """Return the value at this place; None if there is none."""
        return _at(element if self.in_element else message, self.steps)

    def is_null(self, message: Any) -> bool:
        """Whether the message holds a null at this place, which removes a value."""
        holder = _at(message, self.steps[:-1])
        name = self.steps[-1] if self.steps else ""
        return isinstance(holder, dict) and name in holder and holder[name] is None


@dataclass(frozen=True)
class Constant:
    """A value that is the same for every message."""

    value: str | int | float | bool

    def read(self, message: Any, element: Any = None) -> Any:
        """Return the value."""
        return self.value


Value = tuple[Place | Constant, ...]
"""Source of a value: the first of these places that holds one."""


def parse_place(text: str, *, plain: bool = False) -> Place:
    """Parse a place; its names are compared as `plain_name` writes them if `plain`.

    >>> parse_place('traits."first name"').steps
    ('traits', 'first name')

    Raises:
        ValueError: if it is no place.
    """
    rest = text.strip()
    in_element = rest.startswith(".")
    rest = rest[1:] if in_element else rest
    steps: list[str] = []
    while rest:
        match = _STEP.match(rest)
        if match is None or len(steps) == _MOST_STEPS:
            raise ValueError(_problem(text))
        steps.append(match[1] or match[2])
        rest = rest[match.end() :]
        if rest and (not rest.startswith(".") or rest == "."):
            raise ValueError(_problem(text))
        rest = rest[1:]
    if not steps and not in_element:
        raise ValueError(_problem(text))
    return Place(text.strip(), tuple(map(plain_name, steps) if plain else steps), in_element)


def read_value(value: Value, message: Any, element: Any = None) -> Any:
    """Return the first value that is not blank; None if all are."""
    for place in value:
        found = place.read(message, element)
        if not is_blank(found):
            return found
    return None


def is_blank(value: Any) -> bool:
    """Whether a value is missing, an empty text, list or object, or a text of blanks."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, list | dict) and not value)


def plain_name(name: str) -> str:
    """Return a name without case, spaces and punctuation.

    >>> plain_name("Product Viewed"), plain_name("add_to_cart"), plain_name("itemId")
    ('productviewed', 'addtocart', 'itemid')
    """
    if name.isascii():
        return _SIGNS.sub("", name).lower()
    return _SIGNS.sub("", unicodedata.normalize("NFKC", name).casefold())


def _at(value: Any, steps: tuple[str, ...]) -> Any:
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and len(step) < 6:
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value


def _problem(text: str) -> str:
    return (
        f"{text!r} is no place: write names separated by dots, as properties.price, with quotes "
        f"around a name that has dots or blanks; at most {_MOST_STEPS} names"
    )

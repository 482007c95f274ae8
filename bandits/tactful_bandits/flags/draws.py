"""Draw of a unit from its attributes: hash attribute, seed, filters, ranges.

The functions follow GrowthBook's published algorithm, including its tolerance of bad input: an
unknown hash version or a missing attribute excludes the unit and raises nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tactful_bandits.assignment.hashing import (
    BUCKETS,
    Range,
    bucket,
    bucket_number,
    choose_range,
    fnv1a_32,
)
from tactful_bandits.assignment.texts import as_text, is_true
from tactful_bandits.errors import DefinitionError

DEFAULT_ATTRIBUTE = "id"
"""Attribute that identifies the unit unless a rule names another."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Seeded hash of one attribute.

    Attributes:
        seed: Text that separates this draw from others.
        attribute: Attribute that identifies the unit.
        fallback: Attribute that replaces it where it is missing; None for none.
        version: Hash version, 1 or 2; another one gives no place.
    """

    seed: str
    attribute: str = DEFAULT_ATTRIBUTE
    fallback: str | None = None
    version: object = 2
    _prefix: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the names and hash the seed once."""
        if not isinstance(self.attribute, str) or not isinstance(self.fallback, str | None):
            raise TypeError("an attribute that identifies a unit is a text")
        object.__setattr__(self, "_prefix", fnv1a_32(self.seed))

    def unit(self, attributes: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return the attribute that identifies the unit and its text, or None."""
        text = unit_text(attributes.get(self.attribute))
        if text is not None:
            return self.attribute, text
        if self.fallback is None:
            return None
        text = unit_text(attributes.get(self.fallback))
        return None if text is None else (self.fallback, text)

    def place(self, unit: str) -> float | None:
        """Return the position of a unit in [0, 1), or None for an unknown hash version."""
        if self.version == 2:
            return bucket_number(self._prefix, unit) / BUCKETS
        try:
            return bucket(self.seed, unit, version=self.version)  # type: ignore[arg-type]
        except DefinitionError:
            return None


@dataclass(frozen=True, slots=True)
class Filter:
    """Slices of a draw; a unit outside all of them is excluded."""

    draw: Draw
    ranges: tuple[Range, ...]

    @classmethod
    def from_payload(cls, data: Mapping[str, Any]) -> "Filter":
        """Read a filter of the published format."""
        draw = Draw(
            str(data.get("seed", "")),
            data.get("attribute") or DEFAULT_ATTRIBUTE,
            version=data.get("hashVersion", 2),
        )
        return cls(draw, as_ranges(data.get("ranges", ())))

    def holds(self, attributes: Mapping[str, Any]) -> bool:
        """Return whether the unit falls into one of the slices."""
        unit = self.draw.unit(attributes)
        place = None if unit is None else self.draw.place(unit[1])
        return place is not None and choose_range(place, self.ranges) is not None


def unit_text(value: object) -> str | None:
    """Return the text of an identifying attribute; None if it is missing or false.

    Empty texts, 0 and false identify nobody, as in JavaScript.
    """
    return as_text(value) if is_true(value) else None


def as_ranges(data: Sequence[Sequence[float]]) -> tuple[Range, ...]:
    """Read ranges of the published format, ``[[0, 0.5], [0.5, 1]]``."""
    return tuple((float(start), float(end)) for start, end in data)


def in_namespace(unit: str, namespace: Sequence[Any]) -> bool:
    """Return whether a unit lies in a namespace ``[name, start, end]`` of hash version 1."""
    name, start, end = namespace
    place = bucket(f"__{name}", unit, version=1)
    return bool(start <= place < end)

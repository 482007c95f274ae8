"""Quality of data: what the fields of events, items and users hold, and what is odd of it."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["fail", "warn"]
Code = Literal[
    "missing", "type", "range", "new_values", "duplicates", "look_alikes", "refused", "empty"
]


class Finding(msgspec.Struct, kw_only=True, frozen=True):
    """Something odd.

    Attributes:
        level: ``fail``, which a check fails for, or ``warn``.
        code: short stable name.
        of: kind of the elements, such as ``view`` or ``item``; empty for all.
        field: field; empty for whole elements.
        message: what is odd, with the numbers.
    """

    level: Level
    code: Code
    of: str = ""
    field: str = ""
    message: str


class FieldQuality(msgspec.Struct, kw_only=True, frozen=True):
    """One field of one kind of elements.

    Attributes:
        of: type of the events, or ``item`` or ``user``.
        field: field, such as ``properties.price``.
        elements: elements of that kind.
        missing: share of them without a value.
        missing_before: the same of the first half.
        missing_after: the same of the second half.
        types: values by type.
        distinct: number of different values; None if there are more than 200.
        lowest: smallest number; None without numbers.
        highest: largest number; None without numbers.
        new_share: share of values in the second half that the first half does not have; None if the
            values are too many to compare.
        new_values: some of these values.
    """

    of: str
    field: str
    elements: int
    missing: float
    missing_before: float
    missing_after: float
    types: dict[str, int]
    distinct: int | None
    lowest: float | None = None
    highest: float | None = None
    new_share: float | None = None
    new_values: list[str] = []


class SourceVolume(msgspec.Struct, kw_only=True, frozen=True):
    """Elements of one source.

    Attributes:
        source: kind of the key, ``platform``, ``file``, or ``import`` and its id.
        before: elements in the first half.
        after: elements in the second half.
    """

    source: str
    before: int
    after: int


class Quality(msgspec.Struct, kw_only=True, frozen=True):
    """Quality of a file, or of the latest events of a shop.

    Attributes:
        passed: whether nothing failed.
        elements: elements that were looked at.
        first_at: earliest time of them, epoch milliseconds; None without any.
        last_at: latest time of them.
        duplicates: elements whose id came before.
        look_alikes: events that are equal to an earlier one but for their id.
        refused: elements that are not accepted, by code.
        sources: volume by source.
        fields: fields, by kind of elements.
        findings: what is odd, failures first.
    """

    passed: bool
    elements: int
    first_at: int | None
    last_at: int | None
    duplicates: int
    look_alikes: int
    refused: dict[str, int]
    sources: list[SourceVolume]
    fields: list[FieldQuality]
    findings: list[Finding]

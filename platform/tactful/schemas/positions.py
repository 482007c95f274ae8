"""Positions: how far into the log something is, partition by partition.

On the wire the position in a log of one partition is a number, in a log of several it is text,
``0:128,3:77``: the offset by partition. Partitions that do not matter are left out. A program keeps
a position as it got it; :func:`latest` and :func:`covers` are all that it may want to know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Position = int | str
"""A position on the wire."""

Offsets = Mapping[int, int]
"""A position taken apart: by partition, the offset behind what is meant."""

_TEXT = re.compile(r"\d{1,6}:\d{1,18}(,\d{1,6}:\d{1,18})*", re.ASCII)


def parse(position: Position) -> dict[int, int]:
    """Take a position apart.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(position, int):
        return {0: position}
    if position == "":
        return {}
    if not _TEXT.fullmatch(position):
        raise ValueError("a position is given back as it was received")
    parts = (part.split(":") for part in position.split(","))
    return {int(number): int(offset) for number, offset in parts}


def as_text(offsets: Offsets) -> str:
    """The position in a log of several partitions."""
    return ",".join(f"{number}:{offset}" for number, offset in sorted(offsets.items()))


def merged(positions: Iterable[Offsets]) -> dict[int, int]:
    """The furthest of several positions, by partition."""
    furthest: dict[int, int] = {}
    for offsets in positions:
        for number, offset in offsets.items():
            furthest[number] = max(offset, furthest.get(number, 0))
    return furthest


def latest(positions: Iterable[Position]) -> Position:
    """The position behind everything that `positions` are behind; 0 for none."""
    several = [position for position in positions if position != ""]
    numbers = [position for position in several if isinstance(position, int)]
    if len(numbers) == len(several):
        return max(numbers, default=0)
    return as_text(merged(map(parse, several)))


def reaches(offsets: Offsets, wanted: Offsets) -> bool:
    """Whether `offsets` are as far as `wanted` in every partition that it names."""
    return all(offsets.get(number, 0) >= offset for number, offset in wanted.items())


def covers(position: Position, wanted: Position) -> bool:
    """Whether everything before `wanted` lies before `position`, too."""
    return reaches(parse(position), parse(wanted))
